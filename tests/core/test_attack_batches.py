"""Attacks in batches that fit the memory, and that can be stopped between two passes of the model."""

import math
import os
import signal
import threading
import time

import pytest
import torch
from torch import nn

from cheaplip import Box
from cheaplip.robustness import attack
from cheaplip.robustness.batches import fitting_batch_size, in_parts

BOX = Box(0.0, 1.0)


def inputs(count, *shape):
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(0))


def linear(classes=4, features=6):
    model = nn.Linear(features, classes)
    with torch.no_grad():
        model.weight.copy_(torch.randn(model.weight.shape, generator=torch.Generator().manual_seed(1)))
        model.bias.zero_()
    return model


def test_a_small_model_gets_a_thousand_inputs():
    assert fitting_batch_size(linear(), inputs(3, 6)) == 1000


def test_a_batch_keeps_less_than_the_budget():
    wide = nn.Sequential(nn.Linear(6, 1 << 20), nn.Tanh(), nn.Linear(1 << 20, 2))  # 4 MiB an input
    assert fitting_batch_size(wide, inputs(2, 6)) in (255, 256)


def test_a_single_input_is_a_batch():
    assert fitting_batch_size(linear(), inputs(1, 6)) == 1


@pytest.mark.parametrize("most", [1, 3, 8])
def test_a_batch_that_does_not_fit_is_attacked_in_halves(most):
    sizes = []

    def stage(x, y):
        if len(x) > most:
            raise torch.OutOfMemoryError
        sizes.append(len(x))
        return x + y[:, None]

    x, y = inputs(8, 6), torch.arange(8)
    assert torch.equal(in_parts(stage, x, y), x + y[:, None])
    assert sum(sizes) == 8
    assert max(sizes) <= most


def test_an_input_that_does_not_fit_is_an_error():
    def stage(x, y):
        raise torch.OutOfMemoryError

    with pytest.raises(torch.OutOfMemoryError):
        in_parts(stage, inputs(2, 6), torch.zeros(2))


class Stop(Exception):  # noqa: N818
    """Stops an attack."""


@pytest.mark.parametrize("name", ["pgd-sign", "pgd", "autoattack"])
def test_what_progress_raises_within_a_batch_stops_the_attack(name, monkeypatch):
    monkeypatch.setattr("cheaplip.robustness.batches._SECONDS", 0.0)
    reports = []

    def progress(done, total):
        reports.append((done, total))
        if len(reports) == 5:  # the passes of a single batch
            raise Stop

    model, x = linear(), inputs(20, 6)
    with pytest.raises(Stop):
        attack(name, model, x, model(x).argmax(1), epsilon=1e-4, domain=BOX, progress=progress)
    assert len(set(reports)) == 1
    assert model.training


def test_ctrl_c_is_answered_in_the_middle_of_autoattack():
    """As the command line does it: the signal is remembered, and the next report stops the attack."""
    requested = threading.Event()
    previous = signal.signal(signal.SIGINT, lambda *_: requested.set())

    def progress(done, total):
        if requested.is_set():
            raise KeyboardInterrupt

    model, x = linear(), inputs(200, 6)
    sent = []

    def press():
        sent.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    def attack_again_and_again():  # a single run may be over before the signal comes
        while True:
            attack("autoattack", model, x, model(x).argmax(1), epsilon=1e-4, domain=BOX, progress=progress)

    timer = threading.Timer(0.3, press)
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            attack_again_and_again()
        assert time.monotonic() - sent[0] < 3
    finally:
        timer.cancel()
        signal.signal(signal.SIGINT, previous)


def test_the_size_of_a_batch_does_not_change_what_sign_pgd_finds():
    model, x = linear(), inputs(30, 6)
    y = model(x).argmax(1)
    found = [attack("pgd-sign", model, x, y, epsilon=0.3, domain=BOX, batch_size=size) for size in (None, 7)]
    assert torch.equal(found[0].correct, found[1].correct)
    assert math.isclose(found[0].accuracy, found[1].accuracy)
