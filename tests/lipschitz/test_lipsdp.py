import math
from fractions import Fraction
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cheaplip.lipschitz.bounds import lipsdp
from cheaplip.lipschitz.bounds.descent import descend
from cheaplip.lipschitz.bounds.elimination import Elimination
from cheaplip.lipschitz.bounds.layer import Layer, eliminate, top_eigenvalue
from cheaplip.lipschitz.bounds.lipsdp import certify, closed_form, optimise, pair_bounds, product
from proofs.semidefinite import semidefinite_optimum

SLOPES = [
    pytest.param((0.0, 1.0), id="relu"),
    pytest.param((0.0, 0.25), id="sigmoid"),
    pytest.param((0.2, 1.0), id="leaky"),
    pytest.param((-0.13, 1.13), id="gelu"),
    pytest.param((0.999, 1.0), id="nearly linear"),
]


def network(sizes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(n_out, n_in, generator=generator, dtype=torch.float64) / n_in**0.5
        for n_in, n_out in pairwise(sizes)
    ]


def uniform(weights, low=0.0, high=1.0):
    return [(torch.tensor(low), torch.tensor(high))] * (len(weights) - 1)


def mixed(weights, seed=0):
    """Slopes as intervals leave them: some neurons dead, some active, some free, some neither."""
    generator = torch.Generator().manual_seed(seed)
    slopes = []
    for weight in weights[:-1]:
        kinds = torch.randint(5, (len(weight),), generator=generator)
        table = torch.tensor([(0, 0), (1, 1), (0, 1), (0.4, 0.400001), (-0.1, 0.7)], dtype=torch.float64)[kinds]
        slopes.append((table[:, 0], table[:, 1]))
    return slopes


def spectral(matrix):
    return float(torch.linalg.matrix_norm(matrix, 2))


def steepest_jacobian(weights, slopes, rounds=20, seed=0):
    """The largest ‖W_L D … D W_1‖ that climbing over the slopes finds: each neuron in turn takes its better end."""
    generator = torch.Generator().manual_seed(seed)
    ranges = [
        (torch.as_tensor(low).double().expand(len(w)), torch.as_tensor(high).double().expand(len(w)))
        for w, (low, high) in zip(weights, slopes, strict=False)
    ]
    best = 0.0
    for _ in range(rounds):
        chosen = [
            torch.where(torch.rand(len(low), generator=generator) < 0.5, low, high).requires_grad_()
            for low, high in ranges
        ]
        for _ in range(8):
            jacobian = weights[0]
            for d, weight in zip(chosen, weights[1:], strict=True):
                jacobian = weight @ (d.unsqueeze(1) * jacobian)
            norm = torch.linalg.matrix_norm(jacobian, 2)
            best = max(best, float(norm.detach()))
            if not chosen:
                break
            gradients = torch.autograd.grad(norm, chosen)
            chosen = [
                torch.where(g > 0, high, low).requires_grad_() for g, (low, high) in zip(gradients, ranges, strict=True)
            ]
    return best


def all_bounds(weights, slopes):
    closed = closed_form(weights, slopes)
    best = optimise(weights, slopes, start=closed, seconds=5)
    return [certify(weights, slopes, best).value, certify(weights, slopes, closed).value, product(weights, slopes)]


@pytest.mark.parametrize("slopes", SLOPES)
@pytest.mark.parametrize(
    "sizes", [(4, 8, 3), (3, 6, 9, 12), (12, 5, 12), (2, 10, 12, 8, 2), (1, 7, 1), (5, 1, 4)], ids=str
)
def test_steepest_jacobian_found_is_below_every_bound_and_they_are_ordered(sizes, slopes):
    weights = network(sizes, len(sizes))
    found = steepest_jacobian(weights, uniform(weights, *slopes), rounds=5)
    best, closed, trivial = all_bounds(weights, uniform(weights, *slopes))
    assert found <= best <= closed <= trivial * (1 + 1e-9)
    assert best <= 1.5 * found


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.lists(st.integers(1, 9), min_size=2, max_size=5), st.integers(0, 1000), st.floats(-12, 12))
def test_sound_for_any_shape_any_slopes_any_scale(sizes, seed, decade):
    weights = [10**decade * weight for weight in network(sizes, seed)]
    slopes = mixed(weights, seed)
    found = steepest_jacobian(weights, slopes, rounds=4, seed=seed)
    bounds = all_bounds(weights, slopes)
    assert all(found <= bound for bound in bounds)
    assert bounds[0] <= bounds[1]


@pytest.mark.parametrize("sizes", [(5, 3), (3, 5), (1, 4), (4, 1)], ids=str)
def test_affine_map_has_its_spectral_norm(sizes):
    (weight,) = network(sizes)
    bound = certify([weight], [], [])
    assert spectral(weight) <= bound.value <= spectral(weight) * (1 + 1e-9)
    assert bound.reason == ""


def test_linear_neurons_leave_the_norm_of_the_product():
    weights = network((4, 9, 8, 7, 3))
    exact = spectral(weights[3] @ weights[2] @ weights[1] @ weights[0])
    slopes = uniform(weights, 1.0, 1.0)
    assert exact <= certify(weights, slopes, closed_form(weights, slopes)).value <= exact * (1 + 1e-9)


def test_dead_layer_makes_the_network_constant():
    weights = network((4, 9, 3))
    slopes = uniform(weights, 0.0, 0.0)
    assert certify(weights, slopes, closed_form(weights, slopes)).value < 1e-100


def test_absolute_value_is_one_where_the_product_says_two():
    weights = [torch.tensor([[1.0], [-1.0]]), torch.tensor([[1.0, 1.0]])]
    best, _, trivial = all_bounds(weights, uniform(weights))
    assert trivial == pytest.approx(2, rel=1e-9)
    assert 1 <= best <= 2**0.5 * (1 + 1e-3)  # LipSDP does not see that only one of the two is ever active


def test_orthogonal_network_has_constant_one():
    weights = [torch.linalg.qr(weight)[0] for weight in network((6, 6, 6, 6, 6))]
    assert 1 <= all_bounds(weights, uniform(weights))[0] <= 1 + 1e-6


@pytest.mark.parametrize("slopes", SLOPES)
def test_both_orders_of_elimination_have_the_same_optimum(slopes):
    weights = network((6, 12, 9, 4), 3)
    transposed = [weight.mT.contiguous() for weight in reversed(weights)]
    values = []
    for some in (weights, transposed):
        multipliers = optimise(some, uniform(some, *slopes), accuracy=1e-6)
        values.append(certify(some, uniform(some, *slopes), multipliers).value)
    assert values[0] == pytest.approx(values[1], rel=1e-5)


@pytest.mark.parametrize("slopes", [(0.0, 1.0), (0.2, 1.0), (-0.13, 1.13)], ids=["relu", "leaky", "gelu"])
@pytest.mark.parametrize("sizes", [(2, 8, 6, 2), (3, 6, 6, 6, 3), (8, 16, 4)], ids=str)
def test_optimum_is_that_of_a_semidefinite_program(sizes, slopes):
    weights = network(sizes, 7)
    pytest.importorskip("cvxpy")
    expected = semidefinite_optimum(weights, uniform(weights, *slopes))
    found = certify(weights, uniform(weights, *slopes), optimise(weights, uniform(weights, *slopes))).value
    assert expected * (1 - 1e-5) <= found <= expected * 1.001


def test_no_search_where_the_first_guess_is_the_optimum(monkeypatch):
    weights = [network((4, 9))[0], torch.eye(9, dtype=torch.float64)]
    monkeypatch.setattr(lipsdp, "follow_path", None)
    best = certify(weights, uniform(weights), optimise(weights, uniform(weights))).value
    assert best == pytest.approx(spectral(weights[0]), rel=1e-4)


def test_descent_for_large_networks_comes_close_to_newton():
    weights = network((10, 30, 30, 5), 1)
    slopes = uniform(weights)
    newton = certify(weights, slopes, optimise(weights, slopes, seconds=20)).value
    problem = Elimination.of(weights, slopes)
    multipliers = descend(problem, problem.ordered(closed_form(weights, slopes)), accuracy=1e-5, deadline=math.inf)
    assert certify(weights, slopes, problem.ordered(multipliers)).value == pytest.approx(newton, rel=0.01)


@pytest.mark.parametrize("sizes", [(6, 8, 7, 4), (2, 8, 7, 4), (5, 3)], ids=str)
def test_every_pair_of_outputs_is_bounded(sizes):
    weights = network(sizes, 2)
    slopes = uniform(weights)
    bounds = pair_bounds(weights, slopes, seconds=5)
    whole = certify(weights, slopes, optimise(weights, slopes)).value
    assert torch.equal(bounds, bounds.mT)
    assert not bounds.diagonal().any()
    for i, j in torch.combinations(torch.arange(4 if len(sizes) > 2 else 3)).tolist():
        row = (weights[-1][i] - weights[-1][j]).unsqueeze(0)
        alone = certify([*weights[:-1], row], slopes, optimise([*weights[:-1], row], slopes)).value
        assert steepest_jacobian([*weights[:-1], row], slopes, rounds=5) <= bounds[i, j]
        assert float(bounds[i, j]) == pytest.approx(alone, rel=0.01)
        assert bounds[i, j] <= 2**0.5 * whole * (1 + 1e-3)


def test_rounding_margin_keeps_each_step_above_exact_arithmetic():
    # one neuron, one input: G' = w² ((α+β)² t² / (2t − g) − 2αβt), exactly
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        w, g, t, low = (torch.rand(1, generator=generator, dtype=torch.float64) + 0.01 for _ in range(4))
        t = t + 0.5001 * g
        low, high = low - 0.5, low + 0.3
        layer = Layer.of(w.reshape(1, 1), low, high)
        done = eliminate(g.reshape(1, 1), layer, t, rigorous=True)
        w, g, t, low, high = (Fraction(float(value)) for value in (w, g, t, low, high))
        exact = w**2 * ((low + high) ** 2 * t**2 / (2 * t - g) - 2 * low * high * t)
        assert done is not None
        assert exact <= Fraction(float(done.gram)) <= exact * Fraction(1 + 1e-9) + Fraction(1e-12)


def test_largest_eigenvalue_is_rounded_up():
    for seed in range(20):
        (root,) = network((6, 6), seed)
        gram = root @ root.mT
        top = float(torch.linalg.eigvalsh(gram)[-1])
        assert top < top_eigenvalue(gram) < top * (1 + 1e-9)
    assert top_eigenvalue(torch.full((2, 2), math.nan)) == math.inf


def test_infeasible_multipliers_prove_nothing_and_say_where():
    weights = network((3, 5, 4, 2))
    multipliers = closed_form(weights, uniform(weights))
    multipliers[1] = multipliers[1] * 1e-3
    assert certify(weights, uniform(weights), multipliers) == (
        math.inf,
        "hidden layer 2: 2T − G is not certainly positive definite for these multipliers",
    )


def test_deep_and_badly_scaled_networks_stay_finite():
    weights = [(-1) ** k * 1e30 ** (-1) ** k * weight for k, weight in enumerate(network([6] * 41))]
    slopes = uniform(weights)
    value = certify(weights, slopes, closed_form(weights, slopes)).value
    assert steepest_jacobian(weights, slopes, rounds=2) <= value < math.inf
    too_large = [1e200 * weight for weight in network((3, 3, 3))]
    assert certify(too_large, slopes[:1], closed_form(too_large, slopes[:1])) == (
        math.inf,
        "the bound is above the largest float64",
    )


@pytest.mark.parametrize(
    ("weights", "slopes", "message"),
    [
        pytest.param([torch.ones(2, 2)], [(0.0, 1.0)], "got 1 weights and 1 pairs", id="too many slopes"),
        pytest.param([torch.ones(2)], [], r"weight 1: expected a matrix .*, got shape \(2,\)", id="vector"),
        pytest.param(
            [torch.ones(2, 2), torch.ones(1, 3)],
            [(0.0, 1.0)],
            r"weight 2: expected a matrix \(n_out, n_in\), with n_in = 2, the rows of weight 1, got shape \(1, 3\)",
            id="shapes",
        ),
        pytest.param([torch.tensor([[math.nan]])], [], "weight 1: expected finite numbers, got NaN", id="NaN"),
        pytest.param(
            [torch.ones(2, 2), torch.ones(1, 2)],
            [(1.0, 0.0)],
            "slopes of hidden layer 1: expected finite numbers with low <= high",
            id="slopes the wrong way round",
        ),
    ],
)
def test_bad_input(weights, slopes, message):
    with pytest.raises(ValueError, match=message):
        closed_form(weights, slopes)
