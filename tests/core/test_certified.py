"""``Certified`` holds for what it was made for: changed weights, types, domains and states are refused."""

import copy
import io
import pickle
import re

import pytest
import torch
from torch import nn

from cheaplip import Ball, Box, Certified, bracket
from cheaplip.certificate.content import checksum
from cheaplip.errors import CertificateError

CHANGED = "a certificate holds for the weights, the domain and the bounds it was made for, got changed "
OTHER = "state: expected that of a certificate for this model and domain, got another one's "


def network(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = nn.Linear(6, 12), nn.BatchNorm1d(12), nn.ELU(), nn.Linear(12, 8), nn.LeakyReLU(0.2), nn.Linear(8, 4)
        return nn.Sequential(*layers).eval()


def certified(model=None, domain=None):
    model = network() if model is None else model
    return Certified(model, bracket(model, domain or Box(0.0, 1.0), (6,), steps=2, seconds=0.1))


@pytest.fixture(scope="module")
def original():
    return certified()


@pytest.fixture
def served(original):
    return copy.deepcopy(original)


X = torch.rand(20, 6, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    "convert",
    [
        lambda served: served.half(),
        lambda served: served.float().double(),
        lambda served: served.half().double(),
        lambda served: served.bfloat16().double(),
        lambda served: served.to(torch.float16).to(torch.float64),
        lambda served: nn.ModuleList([served]).half().double()[0],
    ],
    ids=["half", "float-double", "half-double", "bfloat16-double", "to", "inside-another"],
)
def test_weights_that_were_rounded_are_refused(convert, served):
    with pytest.raises(CertificateError, match="a certificate holds for the weights"):
        convert(served)(X)


def test_weights_in_float64_are_the_same_weights(served):
    expected = served(X)
    for got, same in zip(served.double()(X), expected, strict=True):
        assert torch.equal(got, same)


@torch.no_grad()
def negate(model):
    model[0].weight.neg_()


@torch.no_grad()
def swap_rows(model):
    model[0].weight.data = model[0].weight[[1, 0, *range(2, 12)]]


def change_through_data(model):
    model[5].bias.data[0] += 1e-6


def change_statistics(model):
    model[1].running_var.mul_(1.01)


def replace_parameter(model):
    model[3].weight = nn.Parameter(2 * model[3].weight.detach(), requires_grad=False)


def load_others(model):
    model.load_state_dict(network(1).state_dict())


CHANGES = [negate, swap_rows, change_through_data, change_statistics, replace_parameter, load_others]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_weights_that_were_changed_are_refused_at_call_and_save(change, served):
    served(X)
    change(served.model)
    for use in (
        lambda: served(X),
        served.state_dict,
        lambda: served.state_dict(prefix="inner."),
    ):
        with pytest.raises(CertificateError, match=f"^{re.escape(CHANGED)}weights: bracket the model as it is now"):
            use()
    assert not torch.equal(served.model.double()(X.double()), network().double()(X.double()))


def test_a_changed_module_is_neither_copied_nor_exported(served):
    negate(served.model)
    for use in (lambda: copy.deepcopy(served), lambda: torch.export.export(served, (X,), strict=False)):
        with pytest.raises(CertificateError, match=f"^{re.escape(CHANGED)}weights"):
            use()


def test_a_changed_module_that_is_compiled_certifies_nothing(served):
    compiled = torch.compile(served, backend="eager", fullgraph=True)
    assert torch.equal(compiled(X)[1], served(X)[1])
    assert bool((compiled(X)[1] > 0).any())
    negate(served.model)
    assert not compiled(X)[1].any()


@pytest.mark.parametrize(
    "domain", [Box(0.0, torch.full((6,), 0.3)), Ball(torch.full((6,), 0.3), 2.0)], ids=["box", "ball"]
)
def test_a_domain_that_was_changed_is_refused(domain):
    served = certified(domain=domain)
    served(X)
    next(iter(served.domain.buffers())).add_(0.1)
    with pytest.raises(CertificateError, match=re.escape(f"{CHANGED}domain")):
        served(X)


def test_bounds_that_were_changed_are_refused(served):
    served.lipschitz.div_(2)
    with pytest.raises(CertificateError, match=re.escape(f"{CHANGED}bounds")):
        served(X)


def test_its_own_state_is_loaded(served):
    expected = served(X)
    again = certified()
    again.load_state_dict(served.state_dict())
    assert torch.equal(again(X)[1], expected[1])
    nested = nn.ModuleDict({"inner": certified()})
    nested.load_state_dict(nn.ModuleDict({"inner": served}).state_dict())
    assert torch.equal(nested["inner"](X)[1], expected[1])


def without_fingerprint(state):
    return {name: value for name, value in state.items() if name != "fingerprint"}


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda: certified(domain=Box(0.0, 2.0)).state_dict(), f"{OTHER}domain"),
        (lambda: certified(domain=Ball(torch.zeros(6), 1.0)).state_dict(), f"{OTHER}domain"),
        (lambda: certified(network(1)).state_dict(), f"{OTHER}weights"),
        (lambda: {**certified().state_dict(), "lipschitz": torch.full((4, 4), 0.1).double()}, f"{OTHER}bounds"),
        (
            lambda: {**certified().state_dict(), "model.5.bias": torch.zeros(4)},
            f"{CHANGED}weights",
        ),
        (lambda: without_fingerprint(certified().state_dict()), "state: expected that of a Certified, with its finger"),
        (lambda: network().state_dict(), "state: expected that of a Certified, with its fingerprint, got"),
    ],
    ids=["box", "ball", "model", "bounds", "weight", "no-fingerprint", "bare-model"],
)
@pytest.mark.parametrize("strict", [True, False], ids=["strict", "not-strict"])
def test_another_state_is_refused(other, message, strict, served):
    with pytest.raises(CertificateError, match=f"^{re.escape(message)}"):
        served.load_state_dict(other(), strict=strict)


def save_and_load(served):
    file = io.BytesIO()
    torch.save(served, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize(
    "again",
    [save_and_load, copy.deepcopy, lambda served: pickle.loads(pickle.dumps(served))],
    ids=["torch-save", "deepcopy", "pickle"],
)
def test_a_copy_says_the_same_and_has_its_own_weights(again, served):
    copied = again(served)
    expected = served(X)
    for got, same in zip(copied(X), expected, strict=True):
        assert torch.equal(got, same)
    negate(served.model)
    assert torch.equal(copied(X)[1], expected[1])
    negate(copied.model)
    with pytest.raises(CertificateError, match=re.escape(CHANGED)):
        copied(X)


@pytest.mark.parametrize("change", [{"negative_slope": 5.0}, {"negative_slope": 0.21}], ids=str)
def test_an_attribute_that_was_changed_is_refused_in_a_copy(change, served):
    expected = served(X)
    vars(served.model[4]).update(change)
    assert torch.equal(served(X)[1], expected[1])  # it computes what it was made for
    with pytest.raises(CertificateError, match="computes something else than when the certificate was made"):
        copy.deepcopy(served)


def test_a_tensor_that_is_a_plain_attribute_is_part_of_the_model():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.scale = nn.Linear(6, 3), torch.tensor(2.0)

        def forward(self, x):
            return self.scale * self.layer(x)

    model = Scaled()
    served = Certified(model, bracket(model, shape=(6,), steps=2, seconds=0.1))
    served(X)
    served.model.scale.mul_(2)
    with pytest.raises(CertificateError, match=re.escape(f"{CHANGED}weights")):
        served(X)


@pytest.mark.parametrize("size", [1, 2, 4095, 4096, 4097, 20_000])
def test_a_checksum_notices_each_change(size):
    values = torch.randn(size, generator=torch.Generator().manual_seed(0))
    seen = {int(checksum([values]))}
    changes = [-values, 2 * values, values / 4, values.flip(0) + 1, values + 1e-7 * values.abs().amax(), values[:-1]]
    for place in (0, size // 2, size - 1):
        other = values.clone()
        other[place] = torch.nextafter(other[place], torch.tensor(9.0))
        changes.append(other)
    if size > 1:
        changes += [values.roll(1), torch.where(torch.arange(size) < 2, -values, values)]
    distinct = {tuple(change.tolist()) for change in changes}
    seen |= {int(checksum([torch.tensor(change)])) for change in distinct}
    assert len(seen) == 1 + len(distinct)
    assert int(checksum([values.double()])) == int(checksum([values]))
    assert int(checksum([values, values[:0]])) != int(checksum([values]))
