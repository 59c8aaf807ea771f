"""Layers that have a constant, or a smaller one, on a bounded domain alone: gates, products, attention, norms."""

import copy
import functools
import math
import re

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from cheaplip import Ball, Box, LipschitzBound, UnsupportedLayerError, bracket
from cheaplip.lipschitz import read
from cheaplip.lipschitz.bounds.best import upper_bound
from cheaplip.lipschitz.bounds.products import norm_product
from cheaplip.lipschitz.bounds.ranges import enclose, slope_ranges
from networks import Apply


class SqueezeAndExcitation(nn.Module):
    """Each channel times a gate, which depends on the means of all channels."""

    def __init__(self, channels):
        super().__init__()
        self.first, self.second = nn.Linear(channels, 2), nn.Linear(2, channels)

    def forward(self, x):
        gate = torch.sigmoid(self.second(F.relu(self.first(x.mean(dim=(2, 3))))))
        return x * gate[:, :, None, None]


class Attention(nn.Module):
    """Self-attention of one head, written out."""

    def __init__(self, width):
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))

    def forward(self, x):
        scores = self.query(x) @ self.key(x).transpose(1, 2) / math.sqrt(x.shape[-1])
        return scores.softmax(dim=-1) @ self.value(x)


class Heads(nn.Module):
    """Self-attention of two heads, by torch's own function."""

    def __init__(self, width, **options):
        super().__init__()
        self.inner, self.options = nn.Linear(width, 3 * width), options

    def forward(self, x):
        parts = self.inner(x).unflatten(2, (3, 2, -1)).permute(2, 0, 3, 1, 4)
        found = F.scaled_dot_product_attention(*parts.unbind(0), **self.options)
        return found.transpose(1, 2).flatten(2)


TOKENS = (3, 4)
BOUNDED = {
    "product": ((4,), lambda: Apply(lambda x, a: x * a(x), nn.Linear(4, 4))),
    "gate": ((4,), lambda: Apply(lambda x, a, b: a(x) * torch.sigmoid(b(x)), nn.Linear(4, 5), nn.Linear(4, 5))),
    "one gate for all": ((4,), lambda: Apply(lambda x: x * torch.sigmoid(x[:, :1]))),
    "glu": ((6,), lambda: nn.Sequential(nn.Linear(6, 8), nn.GLU(), nn.Linear(4, 2))),
    "square": ((4,), lambda: Apply(lambda x: x**2)),
    "exponential": ((4,), lambda: Apply(torch.exp)),
    "reciprocal": ((4,), lambda: Apply(lambda x: 1 / (3 + x.abs()))),
    "quotient": ((4,), lambda: Apply(lambda x, a: a(x) / (2 + x.sum(dim=1, keepdim=True).abs()), nn.Linear(4, 4))),
    "squeeze and excitation": ((3, 4, 4), lambda: SqueezeAndExcitation(3)),
    "matrix product": ((3, 4), lambda: Apply(lambda x: x @ x.transpose(1, 2))),
    "attention written out": (TOKENS, lambda: Attention(4)),
    "attention of two heads": (TOKENS, lambda: Heads(4)),
    "causal attention": (TOKENS, lambda: Heads(4, is_causal=True)),
    "attention with a mask": (
        TOKENS,
        lambda: Heads(4, attn_mask=torch.tensor([[True, True, False], [True] * 3, [False, True, True]])),
    ),
    "attention with a bias": (TOKENS, lambda: Heads(4, attn_mask=torch.arange(9.0).reshape(3, 3) / 4, scale=1.3)),
    "multi-head attention": (
        TOKENS,
        lambda: Apply(lambda x, a: a(x, x, x, need_weights=False)[0], nn.MultiheadAttention(4, 2, batch_first=True)),
    ),
    "transformer layer": (TOKENS, lambda: nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True)),
    "transformer layer, norms first": (
        TOKENS,
        lambda: nn.TransformerEncoderLayer(4, 2, 8, activation="gelu", batch_first=True, norm_first=True),
    ),
}
GLOBAL = {
    "layer norm": ((5,), lambda: nn.LayerNorm(5, eps=1e-2)),
    "rms norm": ((5,), lambda: nn.RMSNorm(5, eps=1e-2)),
    "group norm": ((4, 3), lambda: nn.GroupNorm(2, 4, eps=1e-2)),
}
DOMAINS = {
    "unit box": lambda shape: Box(0.0, 1.0),
    "wide box": lambda shape: Box(-3.0, 2.0),
    "small ball": lambda shape: Ball(torch.linspace(-1, 2, math.prod(shape)).reshape(shape), 0.05),
}
pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop")
every_layer = pytest.mark.parametrize("name", {**BOUNDED, **GLOBAL}, scope="module")  # in turn: reading takes longest
every_domain = pytest.mark.parametrize("where", DOMAINS)
NORM_2_ALONE = ("two heads", "causal", "with a", "multi-head", "transformer")


@functools.cache
def made(name):
    shape, make = {**BOUNDED, **GLOBAL}[name]
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = make().eval()
    return copy.deepcopy(model).double(), shape, read(model, shape)


def inside(domain, shape, count=300, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = domain.sample(count, shape, generator=generator, dtype=torch.float64)
    if isinstance(domain, Box):  # a third of the entries at its faces
        low, high = domain.bounds(torch.device("cpu"), torch.float64)
        side = torch.randint(6, x.shape, generator=generator)
        x = torch.where(side == 0, low, torch.where(side == 1, high, x))
    return x


@every_layer
@every_domain
def test_no_quotient_and_no_slope_is_above_the_bound(name, where):
    exact, shape, chain = made(name)
    domain = DOMAINS[where](shape)
    x = inside(domain, shape)
    ranges = slope_ranges(chain, domain)
    u, v = x[:150], x[150:]
    near = u + 1e-3 * (v - u)
    jacobian = torch.stack([torch.func.jacrev(lambda z: exact(z[None])[0])(one) for one in x[:10]]).detach()
    for norm in (1, 2, math.inf):
        if norm != 2 and any(word in name for word in NORM_2_ALONE):
            continue
        bound = norm_product(chain, norm, ranges)
        assert bound < math.inf
        for other in (v, near):
            rise = (exact(other) - exact(u)).detach().flatten(1).norm(norm, dim=1)
            run = (other - u).flatten(1).norm(norm, dim=1)
            assert float((rise / run).max()) <= bound * (1 + 1e-9)
        slopes = torch.linalg.matrix_norm(jacobian.reshape(10, -1, x[0].numel()), norm)
        assert float(slopes.max()) <= bound * (1 + 1e-9)


@every_layer
def test_chain_and_enclosure_hold_the_output(name):
    exact, shape, chain = made(name)
    for size in (0.01, 1.0, 30.0):
        x = size * torch.randn(8, *shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        out = exact(x).detach()
        torch.testing.assert_close(chain(x).detach(), out, rtol=1e-9, atol=1e-9)
        low, high = enclose(chain, x)
        assert bool((low <= out).all() & (out <= high).all())
        assert float((high - low).max()) < 1e-6 * (1 + float(out.abs().max()))


@every_layer
@every_domain
def test_the_values_over_a_domain_are_enclosed(name, where):
    _, shape, chain = made(name)
    domain = DOMAINS[where](shape)
    x = inside(domain, shape, 400, seed=5)
    low, high = x.amin(dim=0, keepdim=True), x.amax(dim=0, keepdim=True)
    boxes = [(low, high)]
    values = [x]
    for link in chain.links:
        boxes.append(link.operation.interval(*(boxes[i] for i in link.arguments)))
        values.append(link.operation(*(values[i] for i in link.arguments)))
        assert bool((boxes[-1][0] <= values[-1]).all() & (values[-1] <= boxes[-1][1]).all()), link


@pytest.mark.parametrize("name", BOUNDED, scope="module")
def test_nothing_is_proved_on_all_of_space_and_the_remedy_is_named(name):
    found = upper_bound(made(name)[2], 2)
    assert found.value == math.inf
    assert re.search(r"bounded domain.*domain=Box\(0.0, 1.0\)", found.reason)


def test_the_message_names_the_layer():
    class Gate(nn.Module):
        def forward(self, x):
            return x * torch.sigmoid(x)

    model = nn.Sequential(nn.Linear(3, 4), nn.Sequential(Gate(), nn.Linear(4, 2))).eval()
    b = bracket(model, shape=(3,), steps=2, seconds=1.0)
    assert b.upper == math.inf
    assert b.reason == (
        "no Lipschitz constant in norm 2 is known for layer '1.0' (the product of two values that depend on the input; "
        "on all of space it has no Lipschitz constant: give a bounded domain, such as domain=Box(0.0, 1.0))"
    )
    assert bracket(model, Box(0.0, 1.0), shape=(3,), steps=2, seconds=1.0).gap < 10
    with pytest.raises(UnsupportedLayerError, match=r"layer '1\.0'"):
        LipschitzBound(model, (3,))


@pytest.mark.parametrize(
    ("name", "where", "exact"),
    [
        ("square", "wide box", 6.0),
        ("exponential", "unit box", math.e),
        ("layer norm", "wide box", 10.0),  # 1 / √ε, where all entries are the same
        ("rms norm", "wide box", 10.0),
    ],
)
def test_known_constants(name, where, exact):
    _, shape, chain = made(name)
    domain = DOMAINS[where](shape)
    assert norm_product(chain, 2, slope_ranges(chain, domain)) == pytest.approx(exact, rel=1e-9)


def test_layer_norm_is_flatter_where_entries_are_apart():
    _, shape, chain = made("layer norm")
    domain = DOMAINS["small ball"](shape)
    assert norm_product(chain, 2, slope_ranges(chain, domain)) < 1.6 < norm_product(chain)


def test_layer_norm_without_eps_needs_entries_that_are_apart():
    chain = read(nn.LayerNorm(4, eps=0.0, elementwise_affine=False), (4,))
    found = upper_bound(chain, 2)
    assert found.value == math.inf
    assert "give an eps above 0" in found.reason
    assert upper_bound(chain, 2, Ball(torch.arange(4.0), 0.1)).value < 2
