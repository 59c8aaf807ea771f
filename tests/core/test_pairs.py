"""The Lipschitz training set: starts, climbs with known limits, the tournament, and what never happens."""

import itertools
import math
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from cheaplip import CLIP, Box, PairSet
from cheaplip.quotient import distance, quotient
from penalties import SHAPES, STEPS, fast, inputs, seeds, tanh_net

NORMS = [1, 2, math.inf]
STARTS = ["noise", "data", "batch", "uniform"]
MATRIX = [[1.0, -2.0, 0.5, 3.0], [0.0, 1.5, -1.0, 2.0], [2.0, 0.3, 1.2, -0.7]]


def flat_model(shape: tuple[int, ...]):
    """A smooth model of inputs of any rank."""
    net = tanh_net(math.prod(shape[1:]), 8, 2)
    return lambda x: net(x.reshape(len(x), -1))


def climb(clip: CLIP, model, steps: int) -> float:
    for _ in range(steps):
        clip(model)
    return clip.largest.item()


def operator_norm(matrix: Tensor, norm_in: float, norm_out: float) -> float:
    """The exact norm: the unit ball's extreme points for 1 and inf, the dual problem's or the SVD for 2."""
    if norm_in == 2 == norm_out:
        return torch.linalg.matrix_norm(matrix, ord=2).item()
    if norm_in == 2:  # the dual map has the same norm
        return operator_norm(matrix.T, 1 if norm_out == math.inf else math.inf, 2)
    columns = matrix.shape[1]
    signs = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=columns)))
    corners = torch.eye(columns) if norm_in == 1 else signs
    return distance(corners @ matrix.T, norm_out).max().item()


# Climbing towards known constants


@pytest.mark.parametrize("norm_out", NORMS, ids=lambda norm: f"out {norm}")
@pytest.mark.parametrize("norm_in", NORMS, ids=lambda norm: f"in {norm}")
def test_power_step_finds_the_operator_norm_of_an_affine_map(norm_in, norm_out):
    matrix, shift = torch.tensor(MATRIX), torch.tensor([1.0, -2.0, 3.0])
    clip = CLIP(PairSet(inputs(64, 4), renew=0), norm_in=norm_in, norm_out=norm_out)
    largest = climb(clip, lambda x: x @ matrix.T + shift, 30)
    assert largest == pytest.approx(operator_norm(matrix, norm_in, norm_out), rel=1e-3)


@pytest.mark.parametrize(
    ("step", "step_size", "steps"), [("power", None, 20), ("gradient", 0.02, 200), ("quotient", 0.01, 200)], ids=STEPS
)
def test_every_step_finds_the_spectral_norm(step, step_size, steps):
    matrix = torch.tensor(MATRIX)
    clip = CLIP(PairSet(inputs(64, 4), size=8, step=step, step_size=step_size, renew=0))
    largest = climb(clip, lambda x: x @ matrix.T, steps)
    assert largest == pytest.approx(torch.linalg.matrix_norm(matrix, ord=2).item(), rel=2e-2)


@fast
@given(seeds, st.sampled_from(STEPS), st.sampled_from(NORMS), st.sampled_from(NORMS))
def test_quotients_never_exceed_the_operator_norm(seed, step, norm_in, norm_out):
    matrix = torch.randn(3, 4, generator=torch.Generator().manual_seed(seed))
    clip = CLIP(PairSet(inputs(64, 4, seed=seed), size=8, step=step), norm_in=norm_in, norm_out=norm_out)
    bound = operator_norm(matrix, norm_in, norm_out)
    for _ in range(5):
        clip(lambda x: x @ matrix.T)
        assert clip.largest.item() <= bound * (1 + 1e-3)


def test_absolute_value_has_constant_one():
    first, second = nn.Linear(1, 2, bias=False), nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        first.weight.copy_(torch.tensor([[1.0], [-1.0]]))
        second.weight.fill_(1.0)
    clip = CLIP(PairSet(2 * inputs(64, 1) - 1))
    assert climb(clip, nn.Sequential(first, nn.ReLU(), second), 20) == pytest.approx(1.0, rel=1e-3)


@pytest.mark.parametrize("seed", range(3))
def test_one_dimensional_net_reaches_its_steepest_slope(seed):
    net = tanh_net(1, 16, 16, 1, seed=seed)
    grid = torch.linspace(-2, 2, 4001).reshape(-1, 1).requires_grad_()
    (slopes,) = torch.autograd.grad(net(grid).sum(), grid)
    steepest = slopes.abs().max().item()
    pairs = PairSet(4 * inputs(64, 1) - 2, domain=Box(-2.0, 2.0), distances=(0.001, 0.3, 0.05))
    largest = climb(CLIP(pairs), net, 100)
    assert 0.98 * steepest <= largest <= 1.001 * steepest


@pytest.mark.parametrize(("step", "step_size"), [("power", 0.1), ("gradient", 0.1), ("quotient", 0.5)], ids=STEPS)
def test_a_pair_walks_to_the_steepest_place_without_a_tournament(step, step_size):
    pairs = PairSet(1 + inputs(64, 1), size=1, step=step, step_size=step_size, renew=0, distances=(0.1, 0.2, 0.15))
    assert climb(CLIP(pairs), torch.tanh, 1) < 0.6
    assert climb(CLIP(pairs), torch.tanh, 100) > 0.99


def test_two_points_have_the_quotient_of_the_two_points():
    x = torch.tensor([[0.0, 0.0], [3.0, 4.0]])
    pairs = PairSet(x, size=64, start="data", distances=(0.1, 10.0, 0.5))
    clip = CLIP(pairs, aggregate="max").eval()
    clip(lambda x: x.square().sum(dim=1, keepdim=True))
    assert clip.largest.item() == pytest.approx(5.0)


def test_a_constant_model_leaves_every_pair_finite():
    pairs = PairSet(inputs(64, 3), size=8)
    assert climb(CLIP(pairs), lambda x: 0 * x, 3) == 0.0
    assert bool(torch.isfinite(pairs.u).all() and torch.isfinite(pairs.v).all())


@pytest.mark.parametrize("norm_in", NORMS, ids=str)
@pytest.mark.parametrize("step", STEPS)
def test_equal_ends_stay_finite(step, norm_in):
    pairs = PairSet(inputs(64, 3), size=4, step=step, renew=0)
    pairs.v.copy_(pairs.u)
    climb(CLIP(pairs, norm_in=norm_in), tanh_net(3, 8, 2), 3)
    assert bool(torch.isfinite(pairs.u).all() and torch.isfinite(pairs.v).all())


@pytest.mark.parametrize("step", STEPS)
def test_equal_ends_stay_finite_under_a_callable_norm(step):
    pairs = PairSet(inputs(64, 3), size=4, step=step, renew=0)
    pairs.v[0] = pairs.u[0]
    norm = lambda difference: difference.square().sum(dim=1).sqrt()  # noqa: E731
    climb(CLIP(pairs, norm_in=norm, norm_out=norm), tanh_net(3, 8, 2), 3)
    assert bool(torch.isfinite(pairs.u).all() and torch.isfinite(pairs.v).all())


# Algorithm 1, exactly


@pytest.mark.parametrize("norm_out", NORMS, ids=lambda norm: f"out {norm}")
@pytest.mark.parametrize("norm_in", NORMS, ids=lambda norm: f"in {norm}")
@pytest.mark.parametrize("domain", [None, Box(0.0, 1.0)], ids=["free", "box"])
def test_quotient_step_is_algorithm_one(domain, norm_in, norm_out):
    tau, model = 0.3, tanh_net(3, 8, 2)
    pairs = PairSet(inputs(64, 3), size=16, domain=domain, step="quotient", step_size=tau, renew=0)
    u, v = pairs.u.clone().requires_grad_(), pairs.v.clone().requires_grad_()
    level = quotient(model(u), model(v), u, v, norm_in=norm_in, norm_out=norm_out)
    gradient_u, gradient_v = torch.autograd.grad(level.sum(), (u, v))
    with torch.no_grad():
        expected = [end + tau * level[:, None] * gradient for end, gradient in ((u, gradient_u), (v, gradient_v))]
    box = Box() if domain is None else domain
    if domain is not None:
        assert not box.contains(torch.cat(expected))  # the projection has something to do
    CLIP(pairs, norm_in=norm_in, norm_out=norm_out)(model)
    torch.testing.assert_close(pairs.u, box.project(expected[0]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(pairs.v, box.project(expected[1]), rtol=1e-4, atol=1e-5)


def test_quotient_step_has_unit_step_size_unless_told():
    assert PairSet(inputs(64, 3), step="quotient").step_size == 1.0


def test_gradient_step_moves_each_end_by_the_step_size():
    pairs = PairSet(inputs(64, 3), size=8, step="gradient", step_size=1e-3, distances=(1e-3, 10.0, 0.05), renew=0)
    u, v = pairs.u.clone(), pairs.v.clone()
    CLIP(pairs)(tanh_net(3, 8, 2))
    for end, before in ((pairs.u, u), (pairs.v, v)):
        moved = (end - before).norm(dim=1)
        torch.testing.assert_close(moved, (1e-3 * pairs.scale).expand(8), rtol=1e-2, atol=0)


# What never happens


@pytest.mark.parametrize("shared", [False, True], ids=["own pass", "shared pass"])
@fast
@given(seeds, st.sampled_from(STARTS), st.sampled_from(STEPS), st.sampled_from(NORMS))
def test_pairs_never_leave_the_domain(shared, seed, start, step, norm_in):
    box = Box(torch.tensor([0.0, 0.2, 0.4]), torch.tensor([0.5, 1.0, 0.6]))
    x = box.project(inputs(64, 3, seed=seed))
    pairs = PairSet(x, size=8, domain=box, start=start, step=step, grace=1, renew=3, step_size=0.5)
    clip, model = CLIP(pairs, norm_in=norm_in), tanh_net(3, 8, 2, seed=seed)
    assert box.contains(pairs.u)
    assert box.contains(pairs.v)
    for _ in range(4):
        if shared:
            output, penalty = clip.joint(model, x)
            (output.square().mean() + penalty).backward()
        else:
            clip(model)
        assert box.contains(pairs.u)
        assert box.contains(pairs.v)


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("step", ["power", "gradient"])
def test_distances_stay_within_bounds(step, start):
    domain = Box(-1e3, 1e3) if start == "uniform" else None
    pairs = PairSet(inputs(64, 3), size=32, start=start, step=step, grace=2, renew=4, domain=domain)
    clip, model = CLIP(pairs), tanh_net(3, 8, 2)
    for _ in range(10):
        clip(model)
        lengths = (pairs.u - pairs.v).norm(dim=1) / pairs.scale
        assert bool(((lengths >= 0.005 * (1 - 1e-2)) & (lengths <= 0.3 * (1 + 1e-2)) | (pairs.age == 0)).all())


@pytest.mark.parametrize(("length", "bound"), [(1e-3, 0.005), (0.2, None), (3.0, 0.3)], ids=["close", "between", "far"])
def test_a_power_step_brings_a_pair_back_within_bounds(length, bound):
    pairs = PairSet(inputs(64, 3), size=8, renew=0)
    direction = pairs.v - pairs.u
    pairs.v.copy_(pairs.u + length * pairs.scale * direction / direction.norm(dim=1, keepdim=True))
    CLIP(pairs)(tanh_net(3, 8, 2))
    expected = (length if bound is None else bound) * pairs.scale
    torch.testing.assert_close((pairs.u - pairs.v).norm(dim=1), expected.expand(8), rtol=1e-3, atol=0)


@pytest.mark.parametrize(("length", "bound"), [(1e-4, 0.005), (3.0, 0.3)], ids=["close", "far"])
def test_a_gradient_step_brings_a_pair_back_within_bounds(length, bound):
    pairs = PairSet(inputs(64, 3), size=8, step="gradient", step_size=1e-4, renew=0)
    direction = pairs.v - pairs.u
    pairs.v.copy_(pairs.u + length * pairs.scale * direction / direction.norm(dim=1, keepdim=True))
    CLIP(pairs)(tanh_net(3, 8, 2))
    torch.testing.assert_close((pairs.u - pairs.v).norm(dim=1), (bound * pairs.scale).expand(8), rtol=1e-3, atol=0)


@pytest.mark.parametrize("start", STARTS)
def test_the_two_ends_of_a_new_pair_differ(start):
    pairs = PairSet(inputs(500, 100), size=300, domain=Box(0.0, 1.0), start=start)
    assert bool((pairs.u != pairs.v).flatten(1).any(dim=1).all())


def test_a_pair_squeezed_together_is_the_first_to_be_replaced():
    pairs = PairSet(inputs(64, 3), size=4, grace=3, renew=1)
    pairs.v[2] = pairs.u[2]
    climb(CLIP(pairs), tanh_net(3, 8, 2), 3)
    assert pairs.age.tolist() == [3, 3, 0, 3]
    assert (pairs.u[2] - pairs.v[2]).norm() > 0


def test_the_global_generator_is_left_alone():
    before = torch.random.get_rng_state()
    for start in STARTS:
        pairs = PairSet(inputs(64, 3), domain=Box(0.0, 1.0), start=start, grace=0)
        pairs.renew_(torch.rand(32, generator=torch.Generator()), inputs(4, 3))
        pairs.redraw_()
        climb(CLIP(pairs), tanh_net(3, 8, 2), 2)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_randomness_comes_from_the_generator_given():
    x = inputs(64, 3)
    one, other = (PairSet(x, generator=torch.Generator().manual_seed(5)) for _ in range(2))
    another = PairSet(x, generator=torch.Generator().manual_seed(6))
    assert torch.equal(one.u, other.u)
    assert torch.equal(one.v, other.v)
    assert not torch.equal(one.u, another.u)


def test_the_generator_given_is_the_one_used():
    generator = torch.Generator().manual_seed(5)
    before = generator.get_state()
    assert PairSet(inputs(64, 3), generator=generator).generator is generator
    assert not torch.equal(generator.get_state(), before)


def test_without_a_generator_two_sets_are_equal():
    assert torch.equal(PairSet(inputs(64, 3)).v, PairSet(inputs(64, 3)).v)


def test_the_data_are_left_alone():
    x = inputs(64, 3)
    before = x.clone()
    climb(CLIP(PairSet(x, size=64, grace=0, renew=8)), tanh_net(3, 8, 2), 3)
    assert torch.equal(x, before)


# Starts, ranks and types


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"rank{len(shape) - 1}")
@pytest.mark.parametrize("start", STARTS)
def test_every_start_takes_inputs_of_any_rank(start, shape):
    pairs = PairSet(inputs(*shape), size=5, domain=Box(0.0, 1.0), start=start, grace=0, renew=2)
    assert len(pairs) == 5
    climb(CLIP(pairs), flat_model(shape), 3)
    assert pairs.u.shape == pairs.v.shape == (5, *shape[1:])
    assert bool(torch.isfinite(pairs.u).all() and torch.isfinite(pairs.v).all())


def rows_of(x: Tensor, rows: Tensor) -> bool:
    """Whether each row is one of ``x``."""
    return bool((rows[:, None] == x[None]).flatten(2).all(dim=2).any(dim=1).all())


def test_noise_start_is_an_input_and_its_noisy_copy():
    x = inputs(64, 3)
    pairs = PairSet(x, distances=(0.01, 0.5, 0.2))
    assert rows_of(x, pairs.u)
    torch.testing.assert_close((pairs.u - pairs.v).norm(dim=1), (0.2 * pairs.scale).expand(32))


def test_data_start_is_two_inputs():
    x = inputs(64, 3)
    pairs = PairSet(x, start="data")
    assert rows_of(x, torch.cat([pairs.u, pairs.v]))


def test_batch_start_is_an_input_and_its_nearest_neighbour():
    x = torch.tensor([[0.0], [1.0], [10.0], [12.0], [20.0], [23.0]]).repeat(40, 1)
    pairs = PairSet(x, start="batch", size=40)
    nearest = {0.0: 1.0, 1.0: 0.0, 10.0: 12.0, 12.0: 10.0, 20.0: 23.0, 23.0: 20.0}
    assert [nearest[u] for u in pairs.u.flatten().tolist()] == pairs.v.flatten().tolist()


def test_uniform_start_is_spread_over_the_domain():
    pairs = PairSet(inputs(64, 3), size=2000, domain=Box(0.0, 4.0), start="uniform", distances=(0.01, 0.5, 0.2))
    torch.testing.assert_close(pairs.u.mean(dim=0), torch.full((3,), 2.0), atol=0.15, rtol=0)
    assert pairs.u.max() > 3.9
    assert (pairs.u - pairs.v).norm(dim=1).max() <= 0.2 * pairs.scale * 1.001


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize(
    ("given", "expected"),
    [(torch.float16, torch.float32), (torch.bfloat16, torch.float32), (torch.float64, torch.float64)],
    ids=str,
)
def test_pairs_are_kept_in_at_least_float32(given, expected, start):
    pairs = PairSet(inputs(64, 3).to(given), domain=Box(0.0, 1.0), start=start)
    assert pairs.u.dtype == pairs.v.dtype == expected


def test_scale_is_the_median_distance_between_two_inputs():
    assert PairSet(torch.tensor([[0.0], [1.0], [3.0]])).scale.item() == 2.0


@pytest.mark.parametrize("x", [torch.ones(1, 2), torch.ones(5, 2)], ids=["one input", "equal inputs"])
def test_scale_is_one_where_there_is_nothing_to_measure(x):
    assert PairSet(x).scale.item() == 1.0


# The tournament


def aged(size: int = 6, age: int = 10, **options) -> PairSet:
    pairs = PairSet(inputs(64, 3), size=size, **{"grace": 10, **options})
    pairs.age.fill_(age)
    return pairs


def changed(pairs: PairSet, before: Tensor) -> list[int]:
    return (pairs.u != before).any(dim=1).nonzero().flatten().tolist()


@pytest.mark.parametrize(("renew", "expected"), [(0, []), (1, [3]), (2, [1, 3]), (9, [0, 1, 2, 3, 4, 5])], ids=str)
def test_the_weakest_pairs_are_replaced(renew, expected):
    pairs = aged(renew=renew)
    before = pairs.u.clone()
    pairs.renew_(torch.tensor([5.0, 2.0, 4.0, 1.0, 3.0, 6.0]))
    assert changed(pairs, before) == expected
    assert pairs.age.tolist() == [0 if i in expected else 10 for i in range(6)]


def test_pairs_younger_than_grace_are_never_replaced():
    pairs = aged(renew=6, grace=10)
    pairs.age.copy_(torch.tensor([10, 9, 11, 0, 1, 25]))
    before = pairs.u.clone()
    pairs.renew_(torch.arange(6.0))
    assert changed(pairs, before) == [0, 2, 5]


def test_a_weak_young_pair_does_not_shield_a_stronger_old_one():
    pairs = aged(renew=1, grace=10)
    pairs.age[0] = 0
    before = pairs.u.clone()
    pairs.renew_(torch.arange(6.0))
    assert changed(pairs, before) == [1]


def test_climbing_ages_every_pair_and_the_first_leaves_at_grace():
    pairs = PairSet(inputs(64, 3), size=4, grace=3, renew=1)
    clip, model, ages = CLIP(pairs), tanh_net(3, 8, 2), []
    for _ in range(4):
        clip(model)
        ages.append(sorted(pairs.age.tolist()))
    assert ages == [[1, 1, 1, 1], [2, 2, 2, 2], [0, 3, 3, 3], [0, 1, 4, 4]]


def test_newcomers_start_at_the_steepest_inputs_along_their_pulls():
    pairs = aged(renew=2)
    x, pulls = inputs(5, 3, seed=1), torch.zeros(5, 3)
    pulls[1, 0], pulls[4, 2] = 3.0, -2.0
    pulls[0, 1] = 1.0
    pairs.renew_(torch.tensor([5.0, 1.0, 4.0, 2.0, 6.0, 7.0]), x, pulls)
    length = pairs.distances[2] * pairs.scale
    assert torch.equal(pairs.u[[1, 3]], x[[1, 4]])
    torch.testing.assert_close(pairs.v[1] - pairs.u[1], torch.tensor([1.0, 0.0, 0.0]) * length)
    torch.testing.assert_close(pairs.v[3] - pairs.u[3], torch.tensor([0.0, 0.0, -1.0]) * length)


def test_newcomers_without_pulls_start_at_the_inputs_given():
    pairs = aged(renew=6)
    x = inputs(3, 3, seed=1)
    pairs.renew_(torch.arange(6.0), x)
    assert rows_of(x, pairs.u)


def test_newcomers_without_inputs_start_at_the_data():
    x = inputs(64, 3)
    pairs = aged(renew=6)
    pairs.u.zero_()
    pairs.renew_(torch.arange(6.0))
    assert rows_of(x, pairs.u)


def test_fewer_inputs_than_places_replace_only_the_weakest():
    pairs = aged(renew=4)
    before = pairs.u.clone()
    pairs.renew_(torch.arange(6.0), inputs(2, 3, seed=1), torch.ones(2, 3))
    assert changed(pairs, before) == [0, 1]


@pytest.mark.parametrize("pulls", [None, torch.ones(4, 3)], ids=["random", "steepest"])
def test_newcomers_from_inputs_outside_the_domain_are_projected(pulls):
    pairs = aged(renew=6, domain=Box(0.0, 1.0))
    pairs.renew_(torch.arange(6.0), inputs(4, 3) + 0.5, pulls)
    assert pairs.domain.contains(pairs.u)
    assert pairs.domain.contains(pairs.v)


def test_redraw_replaces_every_pair():
    pairs = aged()
    before = pairs.u.clone()
    pairs.redraw_()
    assert changed(pairs, before) == list(range(6))
    assert pairs.age.tolist() == [0] * 6


# State


def test_state_is_in_buffers_alone():
    pairs = PairSet(inputs(64, 3), domain=Box(0.0, 1.0))
    assert not list(pairs.parameters())
    assert dict(pairs.named_buffers()).keys() >= {"u", "v", "age", "scale"}
    assert pairs.state_dict().keys() == {"u", "v", "age", "scale", "_extra_state"}


def test_to_moves_every_floating_buffer():
    pairs = PairSet(inputs(64, 3), domain=Box(torch.zeros(3), torch.ones(3))).to(torch.float64)
    assert {buffer.dtype for name, buffer in pairs.named_buffers() if name != "age"} == {torch.float64}
    climb(CLIP(pairs), tanh_net(3, 8, 2).double(), 2)
    assert pairs.u.dtype == torch.float64


@pytest.mark.parametrize("start", STARTS)
def test_resuming_draws_the_same_newcomers(start):
    model = tanh_net(3, 8, 2)
    build = lambda: PairSet(inputs(64, 3), size=8, domain=Box(0.0, 1.0), start=start, grace=1, renew=2)  # noqa: E731
    one, other = build(), build()
    climb(CLIP(one), model, 4)
    state = {name: value.clone() for name, value in one.state_dict().items()}
    climb(CLIP(one), model, 4)
    other.load_state_dict(state)
    climb(CLIP(other), model, 4)
    assert torch.equal(one.u, other.u)
    assert torch.equal(one.v, other.v)
    assert torch.equal(one.age, other.age)


def test_repr_shows_the_options():
    text = repr(PairSet(inputs(64, 3), size=4))
    assert "size=4, start='noise', step='power', renew=1, grace=40" in text


# Errors


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        ([[1.0]], TypeError, "x: expected a tensor of inputs (B, *input), got list"),
        (
            torch.ones(2, 3, dtype=torch.long),
            TypeError,
            "x: expected floating-point inputs, got torch.int64: pairs move continuously, so convert the inputs "
            "(x.float()), or for tokens pass their embeddings",
        ),
        (torch.tensor(1.0), ValueError, "x: expected a batch of at least one input, got shape ()"),
        (torch.ones(0, 3), ValueError, "x: expected a batch of at least one input, got shape (0, 3)"),
        (
            torch.tensor([[1.0, math.nan]]),
            ValueError,
            "x: expected finite inputs, got NaN or Inf: clean the data first",
        ),
        (torch.tensor([[math.inf]]), ValueError, "x: expected finite inputs, got NaN or Inf: clean the data first"),
    ],
    ids=["list", "integers", "scalar", "empty", "NaN", "Inf"],
)
def test_inputs_are_checked(x, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        PairSet(x)


_DISTANCES = "distances: expected (smallest, largest, newcomers') with 0 < smallest <= newcomers' <= largest, got "


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "size: expected at least one pair, got 0"),
        ({"size": -3}, "size: expected at least one pair, got -3"),
        ({"start": "data+noise"}, "start: expected one of noise, data, batch, uniform, got 'data+noise'"),
        ({"step": "newton"}, "step: expected one of power, gradient, quotient, got 'newton'"),
        ({"step_size": 0.0}, "step_size: expected a positive number, got 0.0"),
        ({"step_size": -1.0}, "step_size: expected a positive number, got -1.0"),
        ({"step_size": math.nan}, "step_size: expected a positive number, got nan"),
        ({"step_size": math.inf}, "step_size: expected a positive number, got inf"),
        ({"distances": (0.0, 1.0, 0.5)}, _DISTANCES + "(0.0, 1.0, 0.5)"),
        ({"distances": (0.1, 1.0, 2.0)}, _DISTANCES + "(0.1, 1.0, 2.0)"),
        ({"distances": (0.1, 1.0, 0.01)}, _DISTANCES + "(0.1, 1.0, 0.01)"),
        ({"distances": (0.1, math.inf, 1.0)}, _DISTANCES + "(0.1, inf, 1.0)"),
        ({"distances": (0.1, 1.0)}, _DISTANCES + "(0.1, 1.0)"),
        ({"renew": -1}, "renew: expected 0 or more, got -1"),
        ({"grace": -1}, "grace: expected 0 or more, got -1"),
        (
            {"domain": Box(0.0, 0.5)},
            "x has values from 0 to 1, outside the domain Box(0, 0.5): widen the domain, or normalise inside the model",
        ),
        (
            {"domain": Box(torch.zeros(2), 1.0)},
            "box.low of shape (2,) does not broadcast to an input of shape (3,)",
        ),
        (
            {"start": "uniform"},
            "cannot sample uniformly from an unbounded box: expected finite low and high, got Box(-inf, inf)",
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_options_are_checked(options, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        PairSet(torch.tensor([[0.0, 0.5, 1.0], [1.0, 0.0, 0.5]]), **options)


def test_a_misspelt_option_is_refused():
    with pytest.raises(TypeError, match="grase"):
        PairSet(inputs(4, 3), grase=3)


def test_options_are_keyword_only():
    with pytest.raises(TypeError):
        PairSet(inputs(4, 3), 8)


def test_steps_that_were_left_out_are_made_up_for():
    """Four steps at once: a way twice as long, four newcomers' worth, four steps of age."""
    x = inputs(16, 3)
    for stride, length in ((1, 0.025), (4, 0.05)):
        pairs = PairSet(x, size=16, renew=1, grace=4, distances=(0.001, 10.0, 0.01))
        centre = (pairs.u + pairs.v) / 2
        pull = torch.cat([torch.ones(16, 3), torch.ones(16, 3)])
        pairs.move_(torch.ones(16), pull, stride=stride)
        moved = ((pairs.u + pairs.v) / 2 - centre).norm(dim=1)
        torch.testing.assert_close(moved, length * pairs.scale.expand(16), rtol=1e-4, atol=1e-6)
        assert pairs.age.eq(stride).all()
        pairs.renew_(torch.arange(16.0), stride=stride)
        assert int(pairs.age.eq(0).sum()) == (4 if stride == 4 else 0)


def test_at_most_a_quarter_is_renewed_at_once():
    pairs = PairSet(inputs(16, 3), size=16, renew=2, grace=0)
    pairs.age += 1
    pairs.renew_(torch.arange(16.0), stride=8)
    assert int(pairs.age.eq(0).sum()) == 4
