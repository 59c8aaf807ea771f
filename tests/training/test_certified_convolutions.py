"""Certified training of convolutional networks makes use of any hole in the bound; none is found."""

import pytest
import torch
from torch import nn

from cheaplip import LipschitzBound, bracket
from cheaplip.lipschitz import read
from cheaplip.lipschitz.bounds.best import upper_bound
from cheaplip.training.methods.certified import hinge, orthogonal_

SHAPE = (1, 8, 8)


def network(activation):
    """Too large to be written out as matrices in each step, so that it is bounded in Fourier space."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), activation(), nn.Conv2d(16, 40, 4, stride=2, padding=1), activation(),
        nn.Flatten(), nn.Linear(640, 32), activation(), nn.Linear(32, 10),
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
def test_certified_training_finds_no_hole_in_the_bound_of_convolutions(activation):
    """Jacobians at data, and quotients that are searched for, stay below both bounds, which are close to them."""
    pytest.importorskip("sklearn", reason="needs the extra cli, for digits")
    from sklearn.datasets import load_digits

    digits = load_digits()
    x, y = torch.tensor(digits.images[:, None] / 16, dtype=torch.float32), torch.tensor(digits.target)
    model, generator = network(activation), torch.Generator().manual_seed(0)
    orthogonal_(model, 0)
    bound = LipschitzBound(model, SHAPE)
    assert max(multipliers.numel() for multipliers in bound.parameters()) <= 40  # one for each channel, not neuron
    groups = [{"params": model.parameters(), "lr": 3e-3}, {"params": bound.parameters(), "lr": 1e-2}]
    optimizer = torch.optim.Adam(groups)
    for _ in range(8):
        for batch in torch.randperm(len(x), generator=generator).split(128):
            loss = hinge(model(x[batch]), y[batch], bound().float(), margin=1.0)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    model, x = model.double().eval(), x[:300].double()
    assert (model(x).argmax(dim=1) == y[:300]).float().mean() > 0.9
    jacobians = torch.func.vmap(torch.func.jacrev(lambda one: model(one[None])[0]))(x).detach().flatten(2)
    at_data = float(torch.linalg.matrix_norm(jacobians, 2).max())
    searched = bracket(model, x=x, method="norms", seconds=5.0).lower
    fourier = upper_bound(read(model, SHAPE), 2, method="fourier", seconds=5.0)
    for value in (bound().item(), fourier.value):
        assert max(at_data, searched) <= value < 1.2 * searched
