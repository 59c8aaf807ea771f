"""The bound in Fourier space: against dense matrices, Jacobians, and cases with known answers."""

import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from cheaplip import Box, bracket
from cheaplip.lipschitz import read
from cheaplip.lipschitz.bounds import lipsdp
from cheaplip.lipschitz.bounds.best import upper_bound
from cheaplip.lipschitz.bounds.fourier.bound import FourierBound
from cheaplip.lipschitz.bounds.fourier.eigenvectors import largest_ratio
from cheaplip.lipschitz.bounds.fourier.torus import Torus, transfer
from cheaplip.lipschitz.bounds.products import norm_product
from cheaplip.lipschitz.bounds.ranges import slope_ranges
from cheaplip.lipschitz.reading.operations import Convolution
from networks import MaxMin


class Block(nn.Module):
    """A residual block with batch norm, with or without an activation behind the sum."""

    def __init__(self, channels, out, stride=1, activation=True):
        super().__init__()
        self.first = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.norm = nn.BatchNorm2d(out)
        self.second = nn.Conv2d(out, out, 3, 1, 1)
        self.skip = nn.Identity() if out == channels and stride == 1 else nn.Conv2d(channels, out, 1, stride)
        self.activation = nn.ReLU() if activation else nn.Identity()

    def forward(self, x):
        return self.activation(self.skip(x) + self.second(torch.relu(self.norm(self.first(x)))))


def conv(channels, out, size, *, mode="zeros", **options):
    return nn.Conv2d(channels, out, size, padding_mode=mode, **options)


MODELS = {
    "padded": lambda: (nn.Sequential(conv(1, 3, 3, padding=1), nn.ReLU(), conv(3, 4, 3, padding=1), nn.ReLU()), 6),
    "circular": lambda: (
        nn.Sequential(conv(1, 3, 3, padding=1, mode="circular"), nn.ReLU(), conv(3, 4, 3, padding=1, mode="circular")),
        6,
    ),
    "strided": lambda: (
        nn.Sequential(conv(1, 4, 4, stride=2, padding=1), nn.ReLU(), conv(4, 6, 4, stride=2, padding=1), nn.ReLU()),
        8,
    ),
    "stride 3, no padding": lambda: (nn.Sequential(conv(1, 4, 3, stride=3), nn.Tanh(), conv(4, 3, 2, stride=2)), 13),
    "even kernel, uneven padding": lambda: (
        nn.Sequential(nn.ZeroPad2d((1, 0, 2, 1)), conv(1, 3, 2, padding=1), nn.ReLU(), conv(3, 3, 4, padding=2)),
        5,
    ),
    "dilated, grouped": lambda: (
        nn.Sequential(conv(1, 4, 3, padding=2, dilation=2), nn.ELU(), conv(4, 4, 3, padding=1, groups=2)),
        7,
    ),
    "convolutions side by side": lambda: (
        nn.Sequential(conv(1, 3, 3, padding=1), conv(3, 3, 3, padding=1), nn.LeakyReLU(0.3), conv(3, 2, 1)),
        5,
    ),
    "no slope of 0": lambda: (
        nn.Sequential(conv(1, 3, 3, padding=1), nn.LeakyReLU(0.9), conv(3, 3, 3, padding=2), nn.LeakyReLU(2.0)),
        5,
    ),
    "max pooling": lambda: (
        nn.Sequential(conv(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), conv(4, 4, 3, padding=1), nn.ReLU()),
        6,
    ),
    "overlapping pooling": lambda: (
        nn.Sequential(conv(1, 4, 3, padding=1), nn.MaxPool2d(3, 2, 1), conv(4, 4, 3, padding=1), nn.AvgPool2d(2)),
        8,
    ),
    "residual": lambda: (nn.Sequential(conv(1, 3, 3, padding=1), nn.ReLU(), Block(3, 3), Block(3, 4, stride=2)), 6),
    "residual, nothing behind the sum": lambda: (
        nn.Sequential(conv(1, 3, 3, padding=1), Block(3, 3, activation=False), Block(3, 3, activation=False)),
        5,
    ),
    "softmax over channels": lambda: (nn.Sequential(conv(1, 3, 3, padding=1), nn.Softmax(1), conv(3, 2, 3)), 5),
}


def made(name, head=True):
    torch.manual_seed(sum(map(ord, name)))
    body, size = MODELS[name]()
    model = body.double().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.uniform_(module.running_var, 0.5, 2)
    shape = (1, size, size)
    if head:
        count = model(torch.zeros(1, *shape, dtype=torch.float64)).numel()
        model = nn.Sequential(model, nn.Flatten(), nn.Linear(count, 3).double())
    return model, shape


def largest_jacobian(model, shape, count=30, scale=2.0):
    """The largest norm of a Jacobian at random points: a lower bound of the constant."""
    generator = torch.Generator().manual_seed(0)
    x = scale * torch.randn(count, *shape, dtype=torch.float64, generator=generator)
    jacobians = torch.func.vmap(torch.func.jacrev(lambda one: model(one[None])[0].flatten()))(x)
    return float(torch.linalg.matrix_norm(jacobians.detach().reshape(count, -1, math.prod(shape)), 2).max())


@pytest.mark.parametrize("head", [True, False], ids=["vector", "image"])
@pytest.mark.parametrize("name", MODELS)
def test_it_lies_between_the_jacobians_and_the_product_of_norms(name, head):
    model, shape = made(name, head)
    chain = read(model, shape)
    closed, choices = FourierBound(chain).closed_form()
    best, _ = FourierBound(chain).optimise(seconds=0.3)
    assert largest_jacobian(model, shape) <= best * (1 + 1e-9)
    assert best <= closed * (1 + 1e-9)
    assert FourierBound(chain).certify(choices) == pytest.approx(closed, rel=1e-9)


@pytest.mark.parametrize("name", ["padded", "strided", "circular", "residual"])
def test_the_closed_form_is_at_most_the_product_of_norms(name):
    chain = read(*made(name))
    assert FourierBound(chain).closed_form()[0] <= norm_product(chain) * 1.02  # the torus is larger than the image


def test_a_linear_network_has_its_own_norm():
    torch.manual_seed(0)
    model = nn.Sequential(conv(2, 3, 3, padding=1, mode="circular"), conv(3, 2, 3, padding=1, mode="circular")).double()
    shape = (2, 5, 5)
    truth = largest_jacobian(model, shape, count=1)
    assert FourierBound(read(model, shape)).closed_form()[0] == pytest.approx(truth, rel=1e-6)


def test_one_channel_of_absolute_values_is_exact():
    """|x| keeps every distance that does not cross 0, so the constant is the norm of the kernel: 3 everywhere."""
    layer = nn.Conv2d(1, 1, 1, bias=False)
    nn.init.constant_(layer.weight, 3.0)

    class Absolute(nn.Module):
        def forward(self, x):
            return torch.abs(layer(x))

    model = nn.Sequential(Absolute())
    model[0].layer = layer
    assert FourierBound(read(model, (1, 4, 4))).optimise(seconds=0.5)[0] == pytest.approx(3.0, rel=1e-5)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("dilation", [1, 2])
def test_a_transfer_function_is_the_convolution_on_the_torus(stride, dilation):
    """The Gram matrix of all frequencies has the trace of the dense matrix's, times the aliases that are averaged."""
    weight = torch.randn(3, 2, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    convolution = Convolution(lambda: weight, None, ((1, 0), (0, 2)), (stride, stride), (dilation, dilation), 1)
    torus = Torus((6, 6))
    matrices, _ = transfer(convolution, torus)
    x = torch.randn(1, 2, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    waves = torch.fft.rfft2(x[0]).flatten(1).T.unsqueeze(2)
    image = torch.fft.irfft2((matrices[:, 0] @ waves)[..., 0].T.reshape(3, 6, 4), s=(6, 6))
    padded = nn.functional.pad(x, (6, 6, 6, 6), mode="circular")
    direct = nn.functional.conv2d(padded, weight, dilation=dilation)[0, :, 6 - 1 : 12 - 1, 6:12]
    torch.testing.assert_close(image, direct)


@pytest.mark.parametrize("name", ["padded", "circular", "strided", "residual"])
def test_unrolled_with_the_same_multipliers_it_is_equal_on_a_torus_and_close_elsewhere(name):
    model, shape = made(name)
    chain = read(model, shape)
    bound = FourierBound(chain)
    value, choices = bound.optimise(seconds=1.0)
    weights, slopes = chain.dense()
    weights = [weight.detach() for weight in weights]
    start = lipsdp.from_joint(weights, bound.unrolled(choices, slopes))
    unrolled = lipsdp.certify(weights, slopes, start).value
    assert unrolled <= value * (1 + 1e-6)
    if name == "circular":
        assert unrolled == pytest.approx(value, rel=1e-6)
    assert value <= 1.15 * unrolled


def test_a_domain_narrows_the_slopes():
    model, shape = made("padded")
    model[0][1] = nn.Sigmoid()
    chain = read(model, shape)
    whole = FourierBound(chain).closed_form()[0]
    inside = FourierBound(chain, slope_ranges(chain, Box(-0.01, 0.01))).closed_form()[0]
    assert inside < whole


def test_training_against_it_finds_no_hole():
    """After training that makes the bound small at a fixed scale of the outputs, Jacobians still stay below it."""
    model, shape = made("strided")
    chain = read(model, shape)
    bound = FourierBound(chain)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    generator = torch.Generator().manual_seed(3)
    for _ in range(40):
        x = torch.randn(16, *shape, dtype=torch.float64, generator=generator)
        with torch.no_grad():
            _, choices = bound.closed_form()
        top = torch.linalg.eigvalsh(bound.walk(choices).run())[:, -1].max()
        loss = top.sqrt() / model(x).std(dim=0).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    value, _ = bound.optimise(seconds=0.5)
    assert largest_jacobian(model, shape, count=100) <= value * (1 + 1e-9)


def test_the_best_bound_of_a_convolutional_network_uses_it():
    torch.manual_seed(0)
    model = nn.Sequential(
        conv(1, 8, 3, padding=1), nn.ReLU(), conv(8, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(8 * 36, 4),
    )  # fmt: skip
    chain = read(model, (1, 12, 12))
    best = upper_bound(chain, 2, seconds=2.0)
    assert best.method in ("fourier", "lipsdp")  # which is at most the one in Fourier space, and starts from it
    assert best.value < 0.8 * norm_product(chain)
    b = bracket(model, shape=(1, 12, 12), seconds=4.0, method="fourier")
    assert b.lower <= b.upper
    assert b.method == "fourier"


def test_average_pooling_is_read_as_the_convolution_that_it_is():
    model = nn.Sequential(conv(1, 3, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2, padding=1), conv(3, 2, 3, padding=1))
    chain = read(model, (1, 10, 10))
    pooling = next(link.operation for link in chain.links if getattr(link.operation, "convolution", None) is not None)
    x = torch.randn(2, 3, 10, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(pooling.convolution(x), pooling(x))
    assert FourierBound(chain).closed_form()[0] < norm_product(chain)


def test_average_pooling_with_uneven_divisors_is_no_convolution():
    model = nn.Sequential(nn.AvgPool2d(2, padding=1, count_include_pad=False), nn.Conv2d(1, 2, 3))
    assert all(getattr(link.operation, "convolution", None) is None for link in read(model, (1, 10, 10)).links)


def test_products_on_a_domain_count_by_their_constants():
    class Gate(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(1, 2, 3, padding=1)

        def forward(self, x):
            return self.first(x) * torch.sigmoid(self.second(x))

    model = nn.Sequential(Gate(), nn.Flatten(), nn.Linear(50, 3)).double()
    chain = read(model, (1, 5, 5))
    domain = Box(0.0, 1.0)
    value = upper_bound(chain, 2, domain, "fourier", seconds=1.0).value
    x = torch.rand(20, 1, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    jacobians = torch.func.vmap(torch.func.jacrev(lambda one: model(one[None])[0]))(x).detach().reshape(20, 3, -1)
    product = norm_product(chain, 2, slope_ranges(chain, domain))
    assert float(torch.linalg.matrix_norm(jacobians, 2).max()) <= value <= 1.2 * product  # the torus is wider


def test_all_pairs_of_outputs_are_bounded_at_once():
    model, shape = made("strided")
    chain = read(model, shape)
    bounds = FourierBound(chain).pairs(seconds=0.5)
    whole = FourierBound(chain).optimise(seconds=0.5)[0]
    assert bounds.shape == (3, 3)
    assert bool((bounds <= math.sqrt(2) * whole * (1 + 1e-3)).all())
    for i, j in ((0, 1), (0, 2), (1, 2)):
        difference = nn.Sequential(model, nn.Linear(3, 1, bias=False).double())
        with torch.no_grad():
            difference[1].weight.copy_(torch.eye(3)[i] - torch.eye(3)[j])
        assert largest_jacobian(difference, shape) <= float(bounds[i, j])


def test_a_convolution_of_an_image_in_another_shape_is_mapped_as_a_matrix():
    model = nn.Sequential(nn.Unflatten(1, (1, 3)), nn.Conv3d(1, 2, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten())
    model = model.double()
    value = FourierBound(read(model, (3, 4, 7))).closed_form()[0]
    assert largest_jacobian(model, (3, 4, 7)) <= value


@pytest.mark.parametrize(
    ("weights", "exact"),
    [([1.0, 1.0], 1.0), ([1.0, -1.0], 1.0), ([1.0, 1.0, 1.0, 1.0], 1.0), ([2.0, 1.0, 1.0], 2.0), ([3.0, -4.0], 4.0)],
)
def test_maxima_over_windows_have_the_constants_of_their_slopes(weights, exact):
    """max(x, −x) = |x| has slopes of ±1, where the norms' product is √2."""
    model = nn.Sequential(
        nn.Linear(1, len(weights)), nn.Unflatten(1, (1, -1)), nn.MaxPool1d(len(weights)), nn.Flatten()
    )
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor(weights)[:, None])
    chain = read(model.eval(), (1,))
    assert norm_product(chain) > 1.1 * exact
    assert upper_bound(chain, 2, method="lipsdp", seconds=2.0).value == pytest.approx(exact, rel=1e-3)


def test_the_search_does_not_stop_at_the_border_of_what_is_feasible():
    """The best multipliers of |x| are nearly the smallest feasible ones, which depend on the layers before."""
    torch.manual_seed(0)
    layers = [layer for a, b in pairwise([8, *[16] * 8, 3]) for layer in (nn.Linear(a, b), MaxMin())][:-1]
    chain = read(nn.Sequential(*layers).double(), (8,))
    best = upper_bound(chain, 2, method="lipsdp", seconds=60).value  # by Newton's method
    bound = FourierBound(chain)
    assert bound.closed_form()[0] <= 2 * best  # the product of norms is 7.3 times the best
    assert best <= bound.optimise(seconds=60)[0] <= 1.03 * best


@pytest.mark.parametrize(("count", "size", "rank"), [(30, 6, 6), (20, 4, 1), (1, 200, 200), (1, 200, 3), (1, 300, 0)])
def test_the_largest_ratio_is_the_largest_eigenvalue(count, size, rank):
    torch.manual_seed(0)
    roots = torch.randn(count, size, rank, dtype=torch.complex128 if count > 1 else torch.float64)
    gram, shape = roots @ roots.mH, torch.rand(size, dtype=torch.float64) + 0.1
    among = torch.arange(size) != 2
    balanced = (gram / (shape.sqrt().unsqueeze(1) * shape.sqrt()))[:, among][:, :, among]
    largest = float(torch.linalg.eigvalsh(balanced).max())
    assert float(largest_ratio(gram, shape, among)) == pytest.approx(largest, rel=1e-6, abs=1e-12)
