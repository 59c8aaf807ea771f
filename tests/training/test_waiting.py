"""No training step waits for the device: nothing in it reads a number from a tensor.

The certified methods are not among these: their bound is proved in each step, and chooses by its numbers.
"""

import dataclasses

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from cheaplip.data import load
from cheaplip.training.loop import Training
from training_runs import QUICK

WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "unique_dim", "_unique2")


class Waits(TorchDispatchMode):
    """Lists the operators that wait for the device: those whose result decides what Python does next."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, operator, types, arguments=(), options=None):
        name = operator.__name__.split(".")[0]
        if name in WAITS:
            self.found.append(name)
        elif name == "index" and any(i is not None and i.dtype == torch.bool for i in arguments[1]):
            self.found.append("index by a mask")
        return operator(*arguments, **(options or {}))


@pytest.fixture(scope="module")
def digits():
    return load("digits")


def test_reading_a_number_counts():
    with Waits() as waits:
        x = torch.ones(3)
        float(x[0])
        bool(x[0] > 0)
        x[x > 0]
    assert waits.found == ["_local_scalar_dense", "_local_scalar_dense", "index by a mask"]


@pytest.mark.parametrize("augment", [None, "crop,flip"], ids=["", "augmented"])
@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"method": "plain"}, id="plain"),
        pytest.param({"method": "clip"}, id="clip"),
        pytest.param({"method": "clip", "every": 3}, id="clip every 3"),
        pytest.param({"method": "clip", "form": "separate"}, id="clip separate"),
        pytest.param({"method": "clip", "target_lipschitz": 1.0, "target": None}, id="clip to a constant"),
        pytest.param({"method": "weight"}, id="weight"),
        pytest.param({"method": "scale-free"}, id="scale-free"),
        pytest.param({"method": "scale-free", "every": 3}, id="scale-free every 3"),
        pytest.param({"method": "scale-free", "target": 0.9}, id="scale-free to a target"),
        pytest.param({"method": "adversarial", "adversarial_steps": 2}, id="adversarial"),
    ],
)
def test_no_step_waits_for_the_device(options, augment, digits):
    """Steps after the first, in which a batch is checked once: with pairs that move, and with pairs that rest."""
    training = Training(dataclasses.replace(QUICK, augment=augment, **options), digits)
    training.run_epoch(lambda: training.step == 2)
    with Waits() as waits:
        training.run_epoch(lambda: training.step == 6)
    assert waits.found == ["_local_scalar_dense"]  # when the epoch is left, the loss is checked once
