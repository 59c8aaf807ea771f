"""No rounding makes a bound too small: weights that cancel, that are huge or tiny, folded layers, denormal numbers.

The judge is exact: fractions, or mpmath with sixty digits.
"""

import math
from fractions import Fraction

import pytest
import torch
from torch import nn

from cheaplip import Box, LipschitzBound, bracket
from cheaplip.errors import UnsupportedLayerError
from cheaplip.lipschitz import read
from cheaplip.lipschitz.bounds import lipsdp
from cheaplip.lipschitz.bounds.best import upper_bound
from cheaplip.lipschitz.bounds.exact import exact_constant
from cheaplip.lipschitz.bounds.ranges import enclose, slope_ranges
from cheaplip.lipschitz.bracket import pairwise
from cheaplip.lipschitz.reading.operations import Convolution, Matrix
from cheaplip.lipschitz.rounding import product_up
from cheaplip.lipschitz.spectral import convolution_norm, matrix_norm
from networks import settled

mpmath = pytest.importorskip("mpmath")

METHODS = ("exact", "lipsdp", "closed-form", "norms")


def network(*matrices, activation=nn.ReLU, biases=None):
    """Linear layers with these weights, in float64."""
    layers = []
    for at, rows in enumerate(matrices):
        weight = torch.tensor(rows, dtype=torch.float64)
        layer = nn.Linear(*reversed(weight.shape), bias=biases is not None).double()
        layer.weight.data = weight
        if biases is not None:
            layer.bias.data = torch.tensor(biases[at], dtype=torch.float64)
        layers += [layer] if at == len(matrices) - 1 or activation is None else [layer, activation()]
    return nn.Sequential(*layers).eval()


def true_norm(weight):
    """The spectral norm to sixty digits."""
    with mpmath.workdps(60):
        matrix = mpmath.matrix(weight.tolist())
        gram = matrix * matrix.T if matrix.rows <= matrix.cols else matrix.T * matrix
        return mpmath.sqrt(max(mpmath.eigsy(gram, eigvals_only=True)))


BIG = 2.0**27 + 1  # its square, 2**54 + 2**28 + 1, is no float64
CANCELLING = {
    "merged": ([[BIG], [1.0]], [[BIG, -(2.0**54 + 2.0**28)]], None, 1.0),
    "between activations": ([[BIG], [1.0]], [[BIG, -(2.0**54 + 2.0**28)]], nn.ReLU, 1.0),
    "one and a half": ([[BIG], [1.0], [0.5]], [[BIG, -(2.0**54 + 2.0**28), 1.0]], nn.ReLU, 1.5),
    "two inputs": ([[BIG, 0.0], [1.0, 0.0]], [[BIG, -(2.0**54 + 2.0**28)]], nn.ReLU, 1.0),
    "float32": ([[4097.0], [1.0]], [[4097.0, -16785408.0]], nn.ReLU, 1.0),
}


@pytest.mark.parametrize("name", CANCELLING)
def test_weights_that_cancel_leave_what_is_left(name):
    first, second, activation, truth = CANCELLING[name]
    chain = read(network(first, second, activation=activation), (len(first[0]),))
    for method in METHODS:
        assert upper_bound(chain, 2, None, method, seconds=1.0).value >= truth, method
    for norm in (1, math.inf):
        assert upper_bound(chain, norm).value >= truth
    found = exact_constant(chain)
    assert truth <= found.upper <= truth * (1 + 1e-12)
    assert found.value == pytest.approx(truth, rel=1e-12)
    assert upper_bound(chain, 2, seconds=10.0).method == "exact"


SIZES = [1e200, 1e-200, 1e160, 1e-160, 1e-300, 2.0**-1060]


@pytest.mark.parametrize("size", SIZES)
def test_sizes_that_cancel_out_do_not_matter(size):
    """W₁ times a number and W₂ divided by it: the same function, as ReLU scales."""
    unit = 2.0 ** min(1000, round(math.log2(size)))
    inverse = min(2.0**1020, 1 / unit)
    first = torch.tensor([[1.0, 2.0], [-3.0, 0.5], [0.25, -1.0]], dtype=torch.float64)
    second = torch.tensor([[1.0, -1.0, 2.0]], dtype=torch.float64)
    ordinary = read(network(first.tolist(), second.tolist()), (2,))
    scaled = read(network((first * unit).tolist(), (second * inverse).tolist()), (2,))
    factor = unit * inverse
    truth = exact_constant(ordinary).value * factor
    for method in METHODS:
        expected = upper_bound(ordinary, 2, None, method, seconds=20.0).value * factor
        found = upper_bound(scaled, 2, None, method, seconds=20.0).value
        assert truth <= found == pytest.approx(expected, rel=1e-3), method
    assert float(LipschitzBound(network((first * unit).tolist(), (second * inverse).tolist()))().detach()) >= truth


def test_what_underflows_is_not_zero_and_what_overflows_is_infinite_with_the_reason():
    tiny = read(network([[1e-200]], [[1e-200]]), (1,))
    large = read(network([[1e200]], [[1e200]]), (1,))
    for norm in (1, 2, math.inf):
        for method in (*METHODS, None) if norm == 2 else ("absolute", "norms", None):
            assert 0 < upper_bound(tiny, norm, None, method, seconds=1.0).value < 1e-100
            found = upper_bound(large, norm, None, method, seconds=1.0)
            assert (found.value, found.method) == (math.inf, "none")
            assert "above the largest float64" in found.reason
    assert upper_bound(read(network([[0.0]], [[0.0]]), (1,)), 2).value == 0


def test_products_round_upwards_and_an_unknown_factor_stays_unknown():
    generator = torch.Generator().manual_seed(0)
    for _ in range(300):
        exponents = torch.randint(-150, 150, (3,), generator=generator).tolist()
        factors = [10.0**e * x for e, x in zip(exponents, torch.rand(3, generator=generator).tolist(), strict=True)]
        exact = math.prod(map(Fraction, factors))
        if product_up(*factors) == math.inf:
            assert exact > 1.79e308
            continue
        found = Fraction(product_up(*factors))
        assert exact <= found <= exact * (1 + Fraction(1, 10**15)) + Fraction(1e-323)
    assert product_up(1e-200, 1e-200) == 5e-324
    assert product_up(1e200, 1e200, 1e-200) == pytest.approx(1e200)
    assert product_up(0.0, math.inf) == product_up(math.nan, 0.0) == math.inf
    assert product_up(0.0, 1e300) == 0


@pytest.mark.parametrize("exponent", [0, -154, 154, -200, 200, -300, 300, -316])
def test_the_spectral_norm_is_never_below_its_sixty_digits(exponent):
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)
        rows, columns = torch.randint(1, 6, (2,), generator=generator).tolist()
        weight = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
        if seed == 3:  # of rank 1, nearly
            weight = weight[:1] * weight[:, :1] + 1e-9 * weight
        weight = weight * 10.0 ** (exponent // 2) * 10.0 ** (exponent - exponent // 2)
        exact, found = true_norm(weight), mpmath.mpf(float(matrix_norm(weight)))
        assert exact <= found <= exact * (1 + mpmath.mpf(1e-12)) + 1e-322
        kernel = weight.reshape(rows, columns, 1, 1)
        options = {"stride": (1, 1), "dilation": (1, 1), "groups": 1}
        found = mpmath.mpf(float(convolution_norm(kernel, (3, 3), **options)))
        assert exact <= found <= exact * (1 + mpmath.mpf(1e-12)) + 1e-322


def test_norms_of_any_size_keep_their_gradient():
    weight = torch.tensor([[3e200, 4e200]], dtype=torch.float64, requires_grad=True)
    norm = matrix_norm(weight)
    norm.backward()
    assert weight.grad.flatten().tolist() == pytest.approx([0.6, 0.8])
    assert float(norm.detach()) == pytest.approx(5e200)
    assert float(matrix_norm(torch.full((3, 3), 1.7e308, dtype=torch.float64))) == math.inf


@pytest.mark.parametrize("size", [1e-200, 1e-170, 1.0, 1e200])
def test_slopes_over_a_domain_of_any_size(size):
    """The hidden neuron switches inside the box, however small the box or the row is."""
    side = torch.tensor(size, dtype=torch.float64)
    for box, row in ((Box(-side, side), 1.0), (Box(-1.0, 1.0), size)):
        model = network([[row, row]], [[1.0]], biases=[[0.0], [0.0]])
        chain = read(model, (2,))
        ranges = slope_ranges(chain, box)
        low, high = ranges[1]
        assert (float(low), float(high)) == (0, 1)
        assert upper_bound(chain, 2, box, seconds=10.0).value >= math.sqrt(2) * row
        assert exact_constant(chain, box).value == pytest.approx(math.sqrt(2) * row)


def test_a_folded_batch_norm_whose_bias_cancels_is_enclosed():
    """shift − mean · scale is far smaller than its terms, so that its rounding is far larger than its own ulp."""
    model = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1, eps=0.0)).double().eval()
    with torch.no_grad():
        model[0].weight.fill_(1.0)
        model[0].bias.fill_(1e5 / 3)
        model[1].running_mean.fill_(1e5)
        model[1].running_var.fill_(9.0)
        model[1].weight.fill_(7.0)
        model[1].bias.fill_(7e5 * 2 / 9)
    x = torch.tensor([[0.1]], dtype=torch.float64)
    low, high = enclose(read(model, (1,)), x)
    exact = Fraction(0.1) + Fraction(model[0].bias.item()) - Fraction(1e5)
    exact = exact * 7 / 3 + Fraction(model[1].bias.item())
    assert Fraction(low.item()) <= exact <= Fraction(high.item())
    assert high - low < 1e-8


def test_the_exact_constant_takes_weights_as_they_are_stored():
    folded = nn.Sequential(nn.Linear(2, 3), settled(nn.BatchNorm1d(3)), nn.ReLU(), nn.Linear(3, 1)).eval()
    found = upper_bound(read(folded, (2,)), 2, seconds=1.0)
    assert found.value < math.inf
    assert found.reason.startswith("exact: layer '1' (Matrix) has weights that are rounded when it is read")


@pytest.mark.parametrize("scale", [1.0, 2.0**40, 2.0**-40, 2.0**300])
def test_regions_do_not_depend_on_the_scale_of_the_inputs(scale):
    """Thin and tiny regions: f(x / s) has as many as f(x), and 1/s times its constant."""
    generator = torch.Generator().manual_seed(3)
    first, second, third = (torch.randn(*s, generator=generator, dtype=torch.float64) for s in ((4, 2), (3, 4), (2, 3)))
    biases = [torch.randn(n, generator=generator, dtype=torch.float64).tolist() for n in (4, 3, 2)]
    matrices = [(first / scale).tolist(), second.tolist(), third.tolist()]
    found = exact_constant(read(network(*matrices, biases=biases), (2,)))
    matrices[0] = first.tolist()
    ordinary = exact_constant(read(network(*matrices, biases=biases), (2,)))
    assert found.regions == ordinary.regions
    assert found.upper * scale == pytest.approx(ordinary.upper, rel=1e-12)
    assert ordinary.value <= ordinary.upper <= ordinary.value * (1 + 1e-12)


def test_a_region_without_an_interior_does_not_count():
    """relu(x) − relu(−x) = x: both are active at 0 alone, where the Jacobian would be 2."""
    found = exact_constant(read(network([[1.0, 1.0], [-1.0, -1.0]], [[1.0, -1.0]]), (2,)))
    assert found.upper == pytest.approx(math.sqrt(2), rel=1e-12)


def test_a_thin_region_counts():
    """Between 1 and 1 + 1e-14, the function climbs by 1e6 times what it does elsewhere."""
    model = network([[1.0], [1.0]], [[1e6, -1e6]], biases=[[-1.0, -(1.0 + 1e-14)], [0.0]])
    assert exact_constant(read(model, (1,))).value == pytest.approx(1e6)
    both = network([[1.0, 0.0], [1.0, 0.0]], [[1e6, -1e6]], biases=[[-1.0, -(1.0 + 1e-14)], [0.0]])
    assert exact_constant(read(both, (2,))).upper == pytest.approx(1e6)


def test_the_trainable_bound_knows_what_merging_rounds_off():
    first, second, *_ = CANCELLING["merged"]
    model = nn.Sequential(network(first, second, activation=None), nn.ReLU(), network([[1.0]])).double()
    assert float(LipschitzBound(model, (1,))().detach()) >= 1


def test_the_differences_of_outputs_of_any_size():
    model = network([[1e200, 0.0], [0.0, 1e200]], [[1e-200, 0.0], [0.0, 1e-200]])
    bounds = pairwise(model, shape=(2,), seconds=1.0)
    assert float(bounds[0, 1]) == pytest.approx(math.sqrt(2), rel=1e-3)
    assert float(bounds[0, 1]) >= math.sqrt(2)
    assert bounds.diagonal().tolist() == [0, 0]
    infinite = pairwise(network([[1e200], [1e200]], [[1e200, 0.0], [0.0, 1e200]]), shape=(1,), seconds=1.0)
    assert infinite.tolist() == [[0, math.inf], [math.inf, 0]]


def test_a_periodic_convolution_whose_taps_cancel():
    """On one pixel, all three taps of the filter meet the same entry: 2**60 + 1 − 2**60 = 1."""
    weight = torch.tensor([[[2.0**60, 1.0, -(2.0**60)]]], dtype=torch.float64)
    operation = Convolution(lambda: weight, None, ((1, 1),), (1,), (1,), 1, circular=True)
    assert operation.lipschitz(2, (1, 1)) >= 1


def test_why_a_better_method_did_not_apply_is_said_beside_a_finite_bound():
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2)).eval()
    b = bracket(model, shape=(2,), steps=1, seconds=1.0)
    assert b.upper < math.inf
    assert b.reason.startswith("exact: layer '1' is not piecewise linear")
    pooled = nn.Sequential(
        nn.MaxPool1d(2, padding=1), nn.Flatten(), nn.Linear(5, 20), nn.ReLU(), nn.Linear(20, 2)
    ).eval()
    found = upper_bound(read(pooled, (1, 8)), 2, seconds=1.0)
    assert found.reason == "lipsdp: only the norms are known of layer '0'"


def test_methods_that_would_take_too_long_are_left_out_with_the_reason(monkeypatch):
    chain = read(nn.Sequential(nn.Linear(8, 30), nn.ReLU(), nn.Linear(30, 2)).eval(), (8,))
    monkeypatch.setattr(lipsdp, "_EIGENVALUE_RATE", 1.0)
    found = upper_bound(chain, 2, seconds=2.0)
    assert found.method == "norms"
    assert found.reason.startswith("lipsdp: it needs about 27520 s, got ")


def test_the_enumeration_of_regions_keeps_its_time():
    chain = read(network([[1.0, 2.0], [3.0, -1.0]], [[1.0, 1.0]]), (2,))
    with pytest.raises(ValueError, match=r"^expected a network whose regions can be enumerated in 0 s, got 0 by then"):
        exact_constant(chain, seconds=0.0)


class Squared(nn.Module):
    """Computes its weight, which overflows."""

    def __init__(self, size):
        super().__init__()
        self.root = nn.Parameter(torch.full((size, size), 1e200, dtype=torch.float64))

    def forward(self, x):
        return x @ (self.root * self.root)


def test_weights_that_overflow_when_a_model_computes_them_are_refused():
    with pytest.raises(UnsupportedLayerError, match="layer 'model' has a weight or constant that is NaN or infinite"):
        read(Squared(2), (2,))


def test_weights_that_overflow_before_outputs_that_are_finite_are_named():
    chain = read(nn.Sequential(Squared(1), nn.Hardtanh()), (1,))
    with pytest.raises(UnsupportedLayerError, match=r"layer '0' \(Matrix\) has a weight that, computed in float64, is"):
        exact_constant(chain)
    found = upper_bound(chain, 2, seconds=1.0)
    assert found.value == math.inf
    assert found.reason.endswith("layer '0' (its weight, computed in float64, is not finite)")


def test_networks_trained_to_break_the_bound_do_not():
    """Weights climb the ratio of a Jacobian's norm, at the steepest of some inputs, to the bound."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 4), nn.LeakyReLU(-0.5), nn.Linear(4, 2)).double()
    bound = LipschitzBound(model)
    optimizer = torch.optim.Adam([*model.parameters(), *bound.parameters()], lr=0.05)
    x = torch.randn(16, 3, dtype=torch.float64)
    for _ in range(60):
        steepest = torch.linalg.matrix_norm(torch.func.vmap(torch.func.jacrev(model))(x), 2).max()
        optimizer.zero_grad()
        (-(steepest / bound()).log()).backward()
        optimizer.step()
    model.requires_grad_(False)
    jacobians = torch.func.vmap(torch.func.jacrev(model))(x)
    at = int(torch.linalg.matrix_norm(jacobians, 2).argmax())
    slopes = torch.where(model[1](model[0](x[at])) > 0, 1.0, -0.5).double().tolist()
    with mpmath.workdps(60):
        first, second, last = (mpmath.matrix(model[i].weight.tolist()) for i in (0, 1, 3))
        product = last * mpmath.diag(slopes) * second * first
        truth = mpmath.sqrt(max(mpmath.eigsy(product * product.T, eigvals_only=True)))
    chain = read(model, (3,))
    assert float(truth) > 0.6 * float(bound().detach())  # the training came close
    assert truth <= mpmath.mpf(float(bound().detach()))
    for method in METHODS:
        assert truth <= mpmath.mpf(upper_bound(chain, 2, None, method, seconds=5.0).value), method


def test_rows_of_tiny_weights_have_a_norm():
    weight = torch.full((1, 4), 1e-170, dtype=torch.float64)
    assert float(Matrix(lambda: weight, None).row_norms((4,))) == pytest.approx(2e-170)
