"""Norms and difference quotients: known values, invariances, and no NaN anywhere."""

import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cheaplip.quotient import at_least_float32, check_norm, distance, quotient

NORMS = [1, 2, math.inf]
fast = settings(deadline=None, max_examples=50, derandomize=True)
seeds = st.integers(0, 2**16)
norms = st.sampled_from(NORMS)


def euclidean(difference: Tensor) -> Tensor:
    return difference.flatten(1).square().sum(dim=1).sqrt()


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("norm", "expected"), [(1, 7.0), (2, 5.0), (math.inf, 4.0)], ids=["1", "2", "inf"])
def test_distance_of_a_known_vector(norm, expected):
    assert distance(torch.tensor([[3.0, -4.0]]), norm).tolist() == [expected]


@pytest.mark.parametrize("shape", [(5,), (5, 3), (5, 1, 8, 8), (5, 2, 3, 4, 5)], ids=lambda shape: f"rank{len(shape)}")
@pytest.mark.parametrize("norm", NORMS, ids=str)
def test_distance_runs_over_all_but_the_batch_dimension(shape, norm):
    x = normal(0, *shape)
    torch.testing.assert_close(distance(x, norm), torch.stack([row.reshape(-1).norm(norm) for row in x]))


def test_distance_defaults_to_euclidean():
    assert distance(torch.tensor([[3.0, 4.0]])).tolist() == [5.0]


def test_distance_takes_a_callable_norm():
    assert distance(torch.tensor([[3.0, 4.0]]), lambda d: 2 * d.norm(dim=1)).tolist() == [10.0]


def test_distance_refuses_a_norm_that_returns_another_shape():
    with pytest.raises(ValueError, match=re.escape("a norm must map (2, 3) to (2,), got (2, 3)")):
        distance(torch.ones(2, 3), torch.abs)


@pytest.mark.parametrize("norm", [1, 2, 2.0, math.inf], ids=str)
def test_check_norm_accepts_the_three_orders(norm):
    assert check_norm(norm, "norm_in") == float(norm)


def test_check_norm_returns_a_callable_as_it_is():
    assert check_norm(euclidean, "norm_in") is euclidean


@pytest.mark.parametrize("norm", [3, 0, -1, True, "2", None, math.nan], ids=repr)
def test_check_norm_refuses_anything_else(norm):
    message = f"norm_in: expected 1, 2, inf or a callable from differences (B, *shape) to norms (B,), got {norm!r}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        check_norm(norm, "norm_in")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
    ids=str,
)
def test_at_least_float32(given, expected):
    assert at_least_float32(torch.ones(2, dtype=given)).dtype == expected


def test_quotient_of_two_points():
    u, v = torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 4.0]])
    fu, fv = torch.tensor([[1.0]]), torch.tensor([[11.0]])
    assert quotient(fu, fv, u, v).tolist() == [2.0]


@pytest.mark.parametrize(
    ("norm_in", "norm_out", "expected"),
    [(2, 2, 13 / 5), (1, math.inf, 12 / 7), (math.inf, 1, 17 / 4), (1, 1, 17 / 7), (math.inf, math.inf, 3.0)],
    ids=["2-2", "1-inf", "inf-1", "1-1", "inf-inf"],
)
def test_quotient_of_two_points_in_other_norms(norm_in, norm_out, expected):
    u, fu = torch.tensor([[3.0, 4.0]]), torch.tensor([[5.0, -12.0]])
    value = quotient(fu, 0 * fu, u, 0 * u, norm_in=norm_in, norm_out=norm_out)
    assert value.item() == pytest.approx(expected)


def test_quotient_of_the_absolute_value_is_one_on_either_side():
    u, v = torch.tensor([[2.0], [-1.0]]), torch.tensor([[0.5], [-4.0]])
    assert quotient(u.abs(), v.abs(), u, v).tolist() == [1.0, 1.0]


@fast
@given(seeds, norms, norms)
def test_quotient_is_symmetric_in_the_pair(seed, norm_in, norm_out):
    u, v, fu, fv = normal(seed, 4, 8, 3)
    torch.testing.assert_close(
        quotient(fu, fv, u, v, norm_in=norm_in, norm_out=norm_out),
        quotient(fv, fu, v, u, norm_in=norm_in, norm_out=norm_out),
        rtol=0,
        atol=0,
    )


@fast
@given(seeds, norms, norms, st.floats(-100, 100))
def test_quotient_scales_with_the_function(seed, norm_in, norm_out, factor):
    u, v, fu, fv = normal(seed, 4, 8, 3)
    torch.testing.assert_close(
        quotient(factor * fu, factor * fv, u, v, norm_in=norm_in, norm_out=norm_out),
        abs(factor) * quotient(fu, fv, u, v, norm_in=norm_in, norm_out=norm_out),
    )


@fast
@given(seeds, st.floats(-10, 10))
def test_quotient_ignores_a_shift_of_the_output(seed, shift):
    u, v, fu, fv = normal(seed, 4, 8, 3)
    torch.testing.assert_close(quotient(fu + shift, fv + shift, u, v), quotient(fu, fv, u, v), rtol=1e-9, atol=1e-9)


@fast
@given(seeds)
def test_quotient_of_a_linear_map_is_at_most_its_spectral_norm(seed):
    u, v = normal(seed, 2, 16, 5)
    weight = normal(seed + 1, 3, 5)
    bound = torch.linalg.matrix_norm(weight, ord=2)
    assert bool((quotient(u @ weight.T, v @ weight.T, u, v) <= bound * (1 + 1e-9)).all())


@fast
@given(seeds, norms)
def test_quotient_of_an_isotropic_map_is_its_factor(seed, norm):
    u, v = normal(seed, 2, 8, 3)
    value = quotient(2.5 * u, 2.5 * v, u, v, norm_in=norm, norm_out=norm)
    torch.testing.assert_close(value, torch.full_like(value, 2.5))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
    ids=str,
)
def test_quotient_is_computed_in_at_least_float32(given, expected):
    u = torch.ones(2, 3, dtype=given)
    assert quotient(u, 0 * u, u, 0 * u).dtype == expected


def test_quotient_of_half_precision_does_not_overflow():
    fu, u = torch.full((1, 4), 6e4, dtype=torch.float16), torch.ones(1, 4, dtype=torch.float16)
    assert quotient(fu, -fu, u, 0 * u).item() == pytest.approx(12e4, rel=1e-3)


def test_quotient_ignores_autocast():
    seen = []

    def norm(difference):
        seen.append((torch.is_autocast_enabled("cpu"), difference.dtype))
        return difference.norm(dim=1)

    u = torch.ones(2, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        quotient(u, 0 * u, u, 0 * u, norm_in=norm, norm_out=norm)
    assert seen == [(False, torch.float32)] * 2


@pytest.mark.parametrize("norm", [*NORMS, euclidean], ids=["1", "2", "inf", "callable"])
def test_quotient_of_equal_ends_is_zero(norm):
    u = torch.rand(2, 3)
    assert quotient(2 * u, 2 * u, u, u.clone(), norm_in=norm, norm_out=norm).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("norm", [*NORMS, euclidean], ids=["1", "2", "inf", "callable"])
def test_gradient_at_equal_ends_is_zero(norm):
    u, weight = torch.rand(2, 3, requires_grad=True), torch.rand(3, 2, requires_grad=True)
    v = u.detach().clone().requires_grad_()
    quotient(u @ weight, v @ weight, u, v, norm_in=norm, norm_out=norm).sum().backward()
    for leaf in (u, v, weight):
        assert leaf.grad.tolist() == torch.zeros_like(leaf).tolist()


@pytest.mark.parametrize("norm", [*NORMS, euclidean], ids=["1", "2", "inf", "callable"])
def test_equal_ends_do_not_disturb_the_gradient_of_other_pairs(norm):
    u, v = torch.tensor([[1.0, 2.0], [1.0, 2.0]]), torch.tensor([[1.0, 2.0], [0.0, 5.0]])
    weight = torch.tensor([[1.0, 3.0], [2.0, -1.0]])
    together, alone = weight.clone().requires_grad_(), weight.clone().requires_grad_()
    quotient(u @ together, v @ together, u, v, norm_in=norm, norm_out=norm).sum().backward()
    quotient(u[1:] @ alone, v[1:] @ alone, u[1:], v[1:], norm_in=norm, norm_out=norm).sum().backward()
    torch.testing.assert_close(together.grad, alone.grad)


@pytest.mark.parametrize("norm", NORMS, ids=str)
def test_gradient_where_only_the_outputs_are_equal_is_finite(norm):
    u, v = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 5.0]])
    weight = torch.zeros(2, 2, requires_grad=True)
    value = quotient(u @ weight, v @ weight, u, v, norm_in=norm, norm_out=norm)
    value.sum().backward()
    assert value.tolist() == [0.0]
    assert bool(torch.isfinite(weight.grad).all())


def test_gradient_of_the_quotient_is_exact():
    u, v = normal(1, 2, 4, 3).requires_grad_()
    weight = normal(2, 3, 2)
    assert torch.autograd.gradcheck(lambda a, b: quotient((a @ weight).tanh(), (b @ weight).tanh(), a, b), (u, v))
