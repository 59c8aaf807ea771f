"""A bracket is believed for the model, the domain and the value that it was proved for, and for no other."""

import copy
import pickle
import re
from dataclasses import replace

import pytest
import torch
from torch import nn

from cheaplip import Ball, Box, Certified, bracket, certified_accuracy, certified_interval, certified_radius
from cheaplip.certificate import certified_predictions
from cheaplip.lipschitz import Bracket, read
from cheaplip.lipschitz.bracket import pairwise
from networks import mlp

WIDTHS = (3, 6, 3)
ANOTHER = "the weights have changed since, or it is another model; bracket it again"


class Shifted(nn.Module):
    """A network with a tensor and numbers as plain attributes."""

    def __init__(self, power=1):
        super().__init__()
        self.inner = mlp(*WIDTHS, activation=lambda: nn.LeakyReLU(0.1))
        self.shift, self.factor, self.power = torch.tensor([0.1, 0.2, 0.3]), 2.0, power

    def forward(self, x):
        for _ in range(self.power):
            x = x * self.factor - self.shift
        return self.inner(x)


def made(kind=Shifted, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return kind().eval()


def quick(model, domain=None):
    return bracket(model, domain, (3,), method="norms", steps=0)


@pytest.fixture(scope="module")
def proved():
    model = made()
    return model, torch.rand(5, 3, generator=torch.Generator().manual_seed(0)), quick(model, Box(0.0, 1.0))


CALLS = {
    "radius": lambda model, x, b, **pairs: certified_radius(model, x, b, **pairs),
    "predictions": lambda model, x, b, **pairs: certified_predictions(model, x, b, **pairs),
    "accuracy": lambda model, x, b, **pairs: certified_accuracy(model, [(x, torch.zeros(5).long())], b, 0.1, **pairs),
    "module": lambda model, x, b, **pairs: Certified(model, b, **pairs),
    "interval": lambda model, x, b: certified_interval(model, x, b, 0.1),
}


def assert_refused(model, x, b, message, call="radius", **pairs):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        CALLS[call](model, x, b, **pairs)
    assert "\n" not in str(caught.value)


def all_weights(model):
    for p in model.parameters():
        p.data.mul_(1.009)


def dead_neuron(model):
    model.inner[0].bias.data[0] = -100.0
    model.inner[2].weight.data[:, 0] *= 1000


CHANGES = {
    "weights times 1.009": all_weights,
    "one weight, last bits": lambda model: model.inner[0].weight.data[0, 0].mul_(1 + 2**-20),
    "a dead neuron times 1000": dead_neuron,
    "a bias": lambda model: model.inner[2].bias.data.add_(1.0),
    "an option of a layer": lambda model: setattr(model.inner[1], "negative_slope", 0.2),
    "a layer": lambda model: model.inner.__setitem__(1, nn.ELU()),
    "a number": lambda model: setattr(model, "factor", 2.5),
    "a number of repetitions": lambda model: setattr(model, "power", 2),
    "a tensor that is no buffer, in place": lambda model: model.shift.mul_(2),
    "a tensor that is no buffer": lambda model: setattr(model, "shift", torch.zeros(3)),
    "weights swapped": lambda model: model.inner[0].weight.data.copy_(model.inner[0].weight.data.flip(0)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_model_is_refused(change, proved):
    model, x, b = proved
    changed = copy.deepcopy(model)
    CHANGES[change](changed)
    assert_refused(changed, x, b, ANOTHER)


@pytest.mark.parametrize("call", CALLS)
def test_every_certificate_looks_at_the_fingerprint(call, proved, pairs):
    model, x, b = proved
    changed = copy.deepcopy(model)
    all_weights(changed)
    assert_refused(changed, x, b, ANOTHER, call)
    if call != "interval":
        assert_refused(model, x, b, "got a plain tensor", call, pairs=torch.zeros(3, 3))


def test_a_model_that_was_trained_on_is_refused():
    model = made()
    x, b = torch.rand(5, 3), quick(model)
    assert bool((certified_radius(model, x, b) > 0).any())
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    model(x).square().sum().backward()
    optimizer.step()
    assert_refused(model, x, b, ANOTHER)


def test_batch_norm_is_part_of_the_model():
    def network():
        return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 3))

    model = made(network)
    x, b = torch.rand(5, 3), quick(model)
    for change in (
        lambda norm: norm.running_var.mul_(1.009),
        lambda norm: norm.running_mean.add_(1e-3),
        lambda norm: setattr(norm, "eps", 1e-3),
    ):
        changed = copy.deepcopy(model)
        change(changed[1])
        assert_refused(changed, x, b, ANOTHER)
    model.train()(torch.randn(8, 3))  # moves the running statistics
    assert_refused(model.eval(), x, b, ANOTHER)


def test_another_model_and_another_shape_are_refused(proved):
    model, x, b = proved
    assert_refused(made(seed=1), x, b, ANOTHER)
    assert_refused(nn.Sequential(model, nn.Softmax(dim=1)), x, b, ANOTHER)
    averaged = nn.Sequential(nn.AdaptiveAvgPool1d(3), nn.Flatten(), made()).eval()
    wide = bracket(averaged, shape=(1, 6), method="norms", steps=0)
    u, v = (torch.zeros(1, 9, dtype=torch.float64) for _ in range(2))
    with pytest.raises(ValueError, match=re.escape(ANOTHER)):
        certified_radius(averaged, torch.zeros(1, 1, 9), replace(wide, witness=(u, v)))


@pytest.mark.parametrize(
    "copied",
    [
        copy.deepcopy,
        lambda model: pickle.loads(pickle.dumps(model)),
        lambda model: copy.deepcopy(model).double(),
        lambda model: copy.deepcopy(model).train(),
        lambda model: copy.deepcopy(model).requires_grad_(False),
        lambda model: nn.Sequential(copy.deepcopy(model)),
        lambda model: copy.deepcopy(model).double().float(),
    ],
    ids=["copied", "pickled", "in float64", "in training mode", "frozen", "wrapped", "converted and back"],
)
def test_the_same_model_in_another_form_is_accepted(copied, proved):
    model, x, b = proved
    torch.testing.assert_close(certified_radius(copied(model), x, b), certified_radius(model, x, b))


def test_weights_that_lost_digits_are_refused(proved):
    model, x, b = proved
    assert_refused(copy.deepcopy(model).half().float(), x, b, ANOTHER)


def test_a_weight_that_the_output_does_not_use_may_change(proved):
    class WithSpare(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.spare = mlp(*WIDTHS), nn.Linear(3, 3)

        def forward(self, x):
            return self.inner(x)

    model = made(WithSpare)
    x, b = torch.rand(5, 3), quick(model)
    before = certified_radius(model, x, b)
    nn.init.ones_(model.spare.weight)
    assert torch.equal(certified_radius(model, x, b), before)


DOMAINS = {
    "a larger box": Box(-1.0, 2.0),
    "no domain": None,
    "a ball": Ball(torch.full((3,), 0.5), 2.0),
    "a box of another rank": Box(torch.zeros(3), torch.full((3,), 1.5)),
}


@pytest.mark.parametrize("name", DOMAINS)
def test_another_domain_is_refused(name, proved):
    model, x, b = proved
    assert_refused(model, x, replace(b, domain=DOMAINS[name]), "bracket: expected the domain that it was proved for")


def test_a_domain_that_was_moved_in_place_is_refused():
    model = made()
    x = torch.rand(5, 3)
    for domain, change in (
        (Box(torch.zeros(3), torch.ones(3)), lambda domain: domain.high.fill_(5.0)),
        (Ball(torch.full((3,), 0.5), 2.0), lambda domain: domain.center.fill_(0.6)),
        (Ball(torch.full((3,), 0.5), 2.0), lambda domain: setattr(domain, "radius", 9.0)),
    ):
        b = quick(model, domain)
        change(domain)
        assert_refused(model, x, b, "bracket: expected the domain that it was proved for")


def test_a_smaller_upper_end_is_refused_and_a_larger_one_is_not(proved):
    model, x, b = proved
    for upper in (0.999 * b.upper, 0.0, -1.0, float("-inf")):
        assert_refused(model, x, replace(b, upper=upper), "bracket: expected the proved upper end")
    assert_refused(model, x, replace(b, upper=float("nan")), "nothing is certified")
    assert bool((certified_radius(model, x, replace(b, upper=2 * b.upper)) <= certified_radius(model, x, b)).all())


def test_the_norm_is_part_of_the_proof(proved):
    model, x, _ = proved
    b = bracket(model, Box(0.0, 1.0), (3,), float("inf"), method="norms", steps=0)
    assert_refused(model, x, replace(b, norm=2.0), "bracket: expected the proved upper end")


def test_a_bracket_made_by_hand_is_refused(proved):
    model, x, b = proved
    by_hand = Bracket(b.lower, b.witness, b.upper, b.method, b.norm, b.seconds, "", b.domain)
    assert_refused(model, x, by_hand, "bracket: expected one that cheaplip.bracket made, got one without a fingerprint")


def test_a_bracket_is_a_value(proved):
    model, x, b = proved
    for other in (copy.deepcopy(b), pickle.loads(pickle.dumps(b))):
        assert torch.equal(certified_radius(model, x, other), certified_radius(model, x, b))


@pytest.fixture(scope="module")
def pairs():
    return pairwise(made(), Box(0.0, 1.0), (3,), seconds=0.1)


PAIRS = {
    "zeros": (lambda pairs: torch.zeros(3, 3), "got a plain tensor"),
    "a plain copy": (lambda pairs: torch.tensor(pairs.tolist()), "got a plain tensor"),
    "half of them": (lambda pairs: 0.5 * pairs, "got a plain tensor"),
    "zeros, in place": (lambda pairs: pairs.clone().zero_(), "got smaller values"),
    "one entry, in place": (lambda pairs: pairs.clone().index_put_((torch.tensor(0),), pairs[1] / 2), "smaller values"),
    "rounded": (lambda pairs: (pairs.clone().mul_(1 / 3)).to(torch.float16), "got smaller values"),
    "of another model": (
        lambda pairs: pairwise(made(seed=1), Box(0.0, 1.0), (3,), seconds=0.1),
        ANOTHER[:20],
    ),
    "of a smaller domain": (
        lambda pairs: pairwise(made(), Box(0.2, 0.8), (3,), seconds=0.1),
        "pairs: expected bounds that hold in the bracket's domain, Box(0, 1), got bounds for Box(0.2, 0.8)",
    ),
    "of a small ball": (
        lambda pairs: pairwise(made(), Ball(torch.full((3,), 0.5), 0.1), seconds=0.1),
        "pairs: expected bounds that hold in the bracket's domain",
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_bounds_of_pairs_that_were_not_proved_for_this_are_refused(name, proved, pairs):
    model, x, b = proved
    make, message = PAIRS[name]
    assert_refused(model, x, b, message, pairs=make(pairs))


def test_bounds_of_pairs_hold_in_smaller_domains_and_as_copies(proved, pairs):
    model, x, b = proved
    expected = certified_radius(model, x, b, pairs=pairs)
    for same in (pairs.clone(), pairs.to("cpu"), copy.deepcopy(pairs), pickle.loads(pickle.dumps(pairs))):
        assert torch.equal(certified_radius(model, x, b, pairs=same), expected)
    everywhere = pairwise(model, shape=(3,), seconds=0.1)
    assert bool((certified_radius(model, x, b, pairs=everywhere) > 0).any())
    inside = quick(model, Box(0.0, 0.5))
    assert bool((certified_radius(model, x / 2, inside, pairs=pairs) > 0).any())
    ball = quick(model, Ball(torch.full((3,), 0.5), 0.4))
    assert certified_radius(model, torch.full((1, 3), 0.5), ball, pairs=pairs).item() > 0


def test_the_digest_follows_the_weights_and_costs_no_copy():
    model = made()
    chain = read(model, (3,))
    before = chain.digest()
    assert chain.digest() == before == read(copy.deepcopy(model), (3,)).digest()
    all_weights(model)
    assert chain.digest() != before
