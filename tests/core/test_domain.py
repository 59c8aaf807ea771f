"""The box: projection, membership, sampling, and errors that name what is wrong."""

import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cheaplip import Ball, Box

fast = settings(deadline=None, max_examples=50, derandomize=True)
seeds = st.integers(0, 2**16)
SHAPES = [(), (3,), (1, 8, 8), (2, 3, 4, 5)]


def tensor_box() -> Box:
    return Box(torch.tensor([0.0, -1.0, -math.inf]), torch.tensor([1.0, 2.0, 0.5]))


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        (Box(0.0, 1.0), [[0.0, 0.5, 1.0]]),
        (Box(0, 1), [[0.0, 0.5, 1.0]]),
        (Box(low=0.0), [[0.0, 0.5, 7.0]]),
        (Box(high=0.0), [[-3.0, 0.0, 0.0]]),
        (Box(), [[-3.0, 0.5, 7.0]]),
        (tensor_box(), [[0.0, 0.5, 0.5]]),
        (Box(torch.tensor([0.0, 1.0, 2.0]), 5.0), [[0.0, 1.0, 5.0]]),
    ],
    ids=["scalars", "integers", "low only", "high only", "all of space", "tensors", "tensor and scalar"],
)
def test_project_clamps_each_entry(box, expected):
    assert box.project(torch.tensor([[-3.0, 0.5, 7.0]])).tolist() == expected


@fast
@given(seeds, st.floats(0.01, 10))
def test_project_is_idempotent(seed, spread):
    x = spread * torch.randn(6, 3, generator=torch.Generator().manual_seed(seed))
    for box in (Box(0.0, 1.0), tensor_box()):
        once = box.project(x)
        assert torch.equal(box.project(once), once)


@fast
@given(seeds, st.floats(0.01, 10))
def test_project_lands_inside(seed, spread):
    x = spread * torch.randn(6, 3, generator=torch.Generator().manual_seed(seed))
    for box in (Box(0.1, 0.7), tensor_box()):
        assert box.contains(box.project(x))


@fast
@given(seeds)
def test_project_never_moves_two_points_apart(seed):
    x, y = 3 * torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(seed))
    box = tensor_box()
    assert bool(((box.project(x) - box.project(y)).norm(dim=1) <= (x - y).norm(dim=1) + 1e-6).all())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("box", [Box(0.0, 1.0), tensor_box()], ids=["scalars", "tensors"])
def test_project_keeps_the_type(box, dtype):
    assert box.project(torch.rand(2, 3).to(dtype)).dtype == dtype


@pytest.mark.parametrize(
    ("value", "inside"),
    [(0.0, True), (1.0, True), (0.5, True), (-1e-3, False), (1.001, False), (math.nan, False), (math.inf, False)],
    ids=str,
)
def test_contains(value, inside):
    assert Box(0.0, 1.0).contains(torch.tensor([[0.5, value]])) is inside


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_contains_its_own_bounds_in_every_type(dtype):
    assert Box(0.1, 0.7).contains(torch.tensor([[0.1, 0.7]], dtype=dtype))


@pytest.mark.parametrize(
    ("box", "bounded"),
    [(Box(0.0, 1.0), True), (Box(), False), (Box(low=0.0), False), (Box(high=0.0), False), (tensor_box(), False)],
    ids=["both", "none", "low", "high", "one entry"],
)
def test_bounded(box, bounded):
    assert box.bounded is bounded


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"rank{len(shape)}")
def test_sample_has_the_shape_and_lies_inside(shape):
    box = Box(-1.0, 2.0)
    x = box.sample(50, shape, generator=torch.Generator().manual_seed(0))
    assert x.shape == (50, *shape)
    assert box.contains(x)


def test_sample_is_uniform_between_tensor_bounds():
    low, high = torch.tensor([0.0, -4.0]), torch.tensor([1.0, 4.0])
    x = Box(low, high).sample(4000, (2,), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(x.mean(dim=0), (low + high) / 2, atol=0.15, rtol=0)
    torch.testing.assert_close(x.std(dim=0), (high - low) / math.sqrt(12), rtol=0.05, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_sample_has_the_type_asked_for(dtype):
    assert Box(0.0, 1.0).sample(2, (3,), generator=torch.Generator(), dtype=dtype).dtype == dtype


def test_sample_repeats_with_the_generator():
    box = Box(0.0, 1.0)
    one, other = (box.sample(5, (3,), generator=torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(one, other)


def test_sample_leaves_the_global_generator_alone():
    before = torch.random.get_rng_state()
    Box(0.0, 1.0).sample(5, (3,), generator=torch.Generator())
    assert torch.equal(torch.random.get_rng_state(), before)


def test_sample_of_an_unbounded_box_is_refused():
    message = "cannot sample uniformly from an unbounded box: expected finite low and high, got Box(0, inf)"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Box(low=0.0).sample(1, (3,), generator=torch.Generator())


@pytest.mark.parametrize(
    ("low", "high"),
    [(1.0, 0.0), (1.0, 1.0), (math.nan, 1.0), (0.0, math.nan)],
    ids=["swapped", "empty", "low NaN", "high NaN"],
)
def test_bounds_out_of_order_are_refused(low, high):
    message = f"expected low < high everywhere in the box, got low={low}, high={high}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Box(low, high)


def test_one_entry_out_of_order_is_refused():
    with pytest.raises(ValueError, match="expected low < high everywhere in the box, got low="):
        Box(torch.tensor([0.0, 2.0]), torch.tensor([1.0, 1.0]))


@pytest.mark.parametrize("shape", [(2, 3), (3,), (4, 2, 3)], ids=str)
def test_check_shape_accepts_inputs_the_bounds_broadcast_to(shape):
    Box(torch.zeros(3), 1.0).check_shape(shape)


@pytest.mark.parametrize("shape", [(), (2,), (3, 2)], ids=str)
def test_check_shape_refuses_other_inputs(shape):
    message = f"box.low of shape (3,) does not broadcast to an input of shape {shape}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Box(torch.zeros(3), 1.0).check_shape(shape)


def test_check_shape_names_the_bound_that_does_not_fit():
    with pytest.raises(ValueError, match=r"^box\.high of shape \(3,\) does not broadcast"):
        Box(0.0, torch.ones(3)).check_shape((2,))


def test_bounds_are_buffers_without_state():
    box = tensor_box()
    assert dict(box.named_buffers()).keys() == {"low", "high"}
    assert not list(box.parameters())
    assert not box.state_dict()


def test_bounds_follow_the_module_to_another_type():
    assert tensor_box().to(torch.float64).low.dtype == torch.float64


@pytest.mark.parametrize(
    ("box", "text"),
    [(Box(0.0, 1.0), "Box(0, 1)"), (Box(), "Box(-inf, inf)"), (tensor_box(), "Box(low: (3,), high: (3,))")],
    ids=["scalars", "all of space", "tensors"],
)
def test_repr_shows_the_bounds(box, text):
    assert repr(box) == text


def ball() -> Ball:
    return Ball(torch.tensor([0.2, -0.4, 1.0]), 0.5)


@fast
@given(seeds, st.floats(0.01, 100))
def test_ball_projects_to_the_nearest_point(seed, spread):
    x = spread * torch.randn(6, 3, generator=torch.Generator().manual_seed(seed))
    once = ball().project(x)
    assert ball().contains(once)
    offset = (x - ball().center).norm(dim=1, keepdim=True)
    nearest = torch.where(offset <= 0.5, x, ball().center + 0.5 * (x - ball().center) / offset)
    torch.testing.assert_close(once, nearest)
    torch.testing.assert_close(ball().project(once), once)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_ball_samples_uniformly_inside(dtype):
    x = ball().sample(4000, (3,), generator=torch.Generator().manual_seed(0), dtype=dtype)
    assert x.dtype == dtype
    assert ball().contains(x)
    radii = (x - ball().center).norm(dim=1)
    assert float((radii < 0.25).double().mean()) == pytest.approx(1 / 8, abs=0.02)
    torch.testing.assert_close(x.mean(dim=0), ball().center.to(dtype), atol=0.02, rtol=0)


def test_ball_of_numbers_is_an_interval():
    interval = Ball(torch.tensor(0.5), 0.25)
    x = torch.tensor([0.0, 0.6, 2.0])
    torch.testing.assert_close(interval.project(x), torch.tensor([0.25, 0.6, 0.75]))
    assert interval.contains(interval.sample(20, (), generator=torch.Generator().manual_seed(0)))
    assert not interval.contains(x)


@pytest.mark.parametrize(("x", "inside"), [([0.2, -0.4, 1.5], True), ([0.2, 0.2, 1.0], False), ([math.nan] * 3, False)])
def test_ball_contains(x, inside):
    assert ball().contains(torch.tensor([x])) is inside


def test_ball_is_bounded_and_shows_itself():
    assert ball().bounded
    assert repr(ball()) == "Ball(center: (3,), radius: 0.5)"
    assert not ball().state_dict()


@pytest.mark.parametrize(
    ("center", "radius", "kind", "message"),
    [
        (0.0, 1.0, TypeError, "center: expected a floating-point tensor, one input, got float"),
        (torch.zeros(2).long(), 1.0, TypeError, "center: expected a floating-point tensor, one input, got torch.int64"),
        (torch.tensor([math.inf]), 1.0, ValueError, "center: expected finite numbers, got NaN or Inf"),
        (torch.zeros(2), 0.0, ValueError, "radius: expected a positive finite number, got 0.0"),
        (torch.zeros(2), math.nan, ValueError, "radius: expected a positive finite number, got nan"),
    ],
    ids=["a number", "integers", "infinite", "no radius", "radius NaN"],
)
def test_bad_balls_are_refused(center, radius, kind, message):
    with pytest.raises(kind, match=f"^{re.escape(message)}$"):
        Ball(center, radius)


def test_ball_refuses_inputs_of_another_shape():
    with pytest.raises(ValueError, match=re.escape("ball.center of shape (3,) is not one input of shape (1, 3)")):
        ball().check_shape((1, 3))
