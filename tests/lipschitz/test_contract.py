"""The contract of every bound, lower ≤ Lip(f) ≤ upper: on random networks of all layers, and on trained ones."""

import math

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from cheaplip import CLIP, Ball, Box, LipschitzBound, PairSet, UnsupportedLayerError, bracket
from cheaplip.lipschitz import read
from cheaplip.lipschitz.bounds.best import upper_bound
from cheaplip.lipschitz.bounds.exact import exact_constant
from cheaplip.lipschitz.bracket import pairwise
from networks import Block, ConvolutionBlock, exact_copy, mlp
from proofs.models import readable_network

METHODS = ("lipsdp", "fourier", "closed-form", "norms", "autolip", "zou", "seqlip", "combettes-pesquet")
ROUNDING = 1 + 1e-9  # of the Jacobians below; quotients of near pairs lose more, which is subtracted


def largest_slopes(model, domain, shape, norm, seed):
    """Among random pairs, far and near, the largest quotient; among random points, the largest norm of a Jacobian."""
    exact = exact_copy(model)
    domain = Box(-2.0, 2.0) if domain is None else domain
    generator = torch.Generator().manual_seed(seed)
    u, v = (domain.sample(200, shape, generator=generator, dtype=torch.float64) for _ in range(2))
    v = torch.cat([v[:100], u[100:] + 1e-3 * (v[100:] - u[100:])])
    with torch.no_grad():
        fu, fv = exact(u).flatten(1), exact(v).flatten(1)
    rounding = 1e-13 * (1 + fu.abs() + fv.abs()).norm(norm, dim=1)
    quotient = ((fu - fv).norm(norm, dim=1) - rounding) / (u - v).flatten(1).norm(norm, dim=1)
    jacobians = torch.stack([jacobian(exact, one) for one in u[:20]])
    return float(quotient.max()), float(torch.linalg.matrix_norm(jacobians, norm).max())


def jacobian(model, x):
    """The Jacobian at one input, (outputs, inputs), from a batch of 1: with more, torch's derivative of instance norm
    in evaluation mode is wrong."""
    found = torch.autograd.functional.jacobian(lambda one: model(one[None])[0], x)
    return found.detach().reshape(-1, x.numel())


def check_contract(model, domain, shape, norm=2, seed=0, seconds=0.05):
    """Both ends, every method by itself for some seconds, and the exact constant where it is known."""
    b = bracket(model, domain, shape, norm, steps=4, seconds=10 * seconds)
    assert 0 <= b.lower <= b.upper < math.inf
    quotient, slope = largest_slopes(model, domain, shape, norm, seed)
    truth = max(b.lower, quotient / ROUNDING, slope / ROUNDING)
    assert truth <= b.upper
    chain = read(model, shape)
    if b.method == "exact":
        exact = exact_constant(chain, domain)
        assert truth <= exact.upper
        truth = max(truth, exact.value)
    for method in METHODS if norm == 2 else ("absolute", "norms", "autolip"):
        assert truth <= upper_bound(chain, norm, domain, method, seconds=seconds).value, method


def check_differences(model, domain, shape, seed, seconds):
    """The bound of every f_i − f_j."""
    out = model(torch.zeros(2, *shape)).shape[1:]
    if len(out) == 1 and out[0] > 1:
        i, j = torch.randint(out[0], (2,), generator=torch.Generator().manual_seed(seed)).tolist()
        bounds = pairwise(model, domain, shape, seconds=seconds)
        difference = nn.Sequential(exact_copy(model), nn.Linear(out[0], 1, bias=False).double())
        with torch.no_grad():
            difference[1].weight.copy_(torch.eye(out[0])[i] - torch.eye(out[0])[j])
        assert max(largest_slopes(difference, domain, shape, 2, seed)) <= float(bounds[i, j]) * ROUNDING + 1e-300


def check_random(seed, seconds=0.05):
    model, shape, _ = readable_network(seed)
    domain = [None, Box(-1.0, 1.0), Ball(torch.full(shape, 0.3), 0.05), None, Box(torch.full(shape, 0.4), 0.6)][
        seed % 5
    ]
    norm = [2, 2, 2, 1, math.inf, 2, 2][seed % 7]
    check_contract(model, domain, shape, norm, seed, seconds)
    if seed % 3 == 0:
        check_differences(model, domain, shape, seed, seconds)
    if domain is None and norm == 2:
        try:
            trainable = LipschitzBound(model, shape)
        except UnsupportedLayerError:
            return
        assert max(largest_slopes(model, None, shape, 2, seed)) <= float(trainable().detach()) * ROUNDING


@pytest.mark.parametrize("seed", range(24))
def test_random_networks(seed):
    check_random(seed)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_five_hundred_random_networks():
    for seed in range(1000, 1500):
        try:
            check_random(seed, seconds=0.3)
        except Exception as error:
            raise AssertionError(f"network {seed}: {readable_network(seed).layers}") from error


TRAINED = {
    "mlp": lambda activation: nn.Sequential(nn.Flatten(), mlp(64, 24, 16, 10, activation=activation)),
    "residual": lambda activation: nn.Sequential(
        nn.Flatten(), nn.Linear(64, 16), Block(16, activation()), Block(16, activation()), nn.Linear(16, 10)
    ),
    "cnn": lambda activation: nn.Sequential(
        *(nn.Conv2d(1, 4, 3, padding=1), activation(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3), activation()),
        *(nn.Flatten(), nn.Linear(16, 10)),
    ),
    "resnet": lambda activation: nn.Sequential(
        nn.Conv2d(1, 3, 3, 2, 1),
        ConvolutionBlock(3, 3, 1, activation()),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(12, 10),
    ),
}


def trained_by_clip(make, activation, seed):
    """A small network after 60 steps with CLIP, and its pairs."""
    from sklearn.datasets import load_digits

    data = load_digits()
    x, y = torch.tensor(data.images / 16, dtype=torch.float32).unsqueeze(1), torch.tensor(data.target)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = make(activation)
        clip = CLIP(PairSet(x, size=8, domain=Box(0.0, 1.0)), lam=0.05)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        for _ in range(60):
            batch = torch.randint(len(x), (64,))
            optimizer.zero_grad()
            (cross_entropy(model(x[batch]), y[batch]) + clip(model)).backward()
            optimizer.step()
    return model.eval(), clip.pairs


@pytest.mark.parametrize(
    ("name", "activation"),
    [("mlp", nn.ReLU), ("residual", nn.GELU), ("cnn", nn.ReLU), ("resnet", nn.SiLU)],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_networks_trained_with_clip(name, activation):
    model, pairs = trained_by_clip(TRAINED[name], activation, 0)
    box = Box(0.0, 1.0)
    check_contract(model, box, (1, 8, 8))
    bound = upper_bound(read(model, (1, 8, 8)), 2, box, seconds=0.2).value
    quotients = pairs.quotients(exact_copy(model), ends=pairs.ends().double()).detach()
    assert float(quotients.max()) <= bound * ROUNDING


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh, nn.GELU, nn.SiLU, nn.ELU], ids=lambda a: a.__name__)
@pytest.mark.parametrize("name", TRAINED)
def test_more_networks_trained_with_clip(name, activation):
    for seed in range(3):
        model, _ = trained_by_clip(TRAINED[name], activation, seed)
        domain = [None, Box(0.0, 1.0), Ball(torch.full((1, 8, 8), 0.5), 0.1)][seed]
        check_contract(model, domain, (1, 8, 8), seconds=0.3)
        check_contract(model, Box(0.0, 1.0), (1, 8, 8), math.inf, seconds=0.3)
