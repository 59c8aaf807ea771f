"""Reading a model: every supported layer is read as what it computes; all else is refused by path and type."""

import copy
import functools
import math
import re

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn
from torch.nn.utils import parametrizations

from cheaplip import UnsupportedLayerError
from cheaplip.lipschitz import read, register_layer
from cheaplip.lipschitz.bounds.products import norm_product
from cheaplip.lipschitz.bounds.ranges import enclose
from cheaplip.lipschitz.reading.layers import registered
from cheaplip.lipschitz.reading.operations import LipschitzMap
from networks import Apply, Block, GroupSort, MaxMin, Normalise, settled


class Twice(nn.Sequential):
    """A Sequential whose forward is not a Sequential's."""

    def forward(self, x):
        return super().forward(super().forward(x))


class Hooked(nn.Linear):
    def __init__(self):
        super().__init__(4, 4)
        self.register_forward_hook(lambda module, args, output: 3 * output)


class Householder(nn.Module):
    """Reflects pairs of channels where they lie on one side of a line, as orthogonal networks write it."""

    def __init__(self):
        super().__init__()
        self.theta = nn.Parameter(torch.tensor([0.4, 1.9]))

    def forward(self, x):
        theta = self.theta.view(1, -1, 1, 1)
        a, b = x.split(x.shape[1] // 2, 1)
        side = a * torch.sin(0.5 * theta) - b * torch.cos(0.5 * theta)
        other = a * torch.cos(theta) + b * torch.sin(theta), a * torch.sin(theta) - b * torch.cos(theta)
        first = a * (side <= 0) + other[0] * (side > 0)
        return torch.cat([first, b * (side <= 0) + other[1] * (side > 0)], dim=1)


def drawn(layer):
    """A layer with weights that are not the initial ones."""
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.uniform_(-1.5, 1.5)
    return layer


def neighbours(x):
    """Maxima and minima of two neighbouring channels, in their place."""
    pairs = x.view(x.shape[0], -1, 2, *x.shape[2:])
    return torch.cat([pairs.max(dim=2, keepdim=True)[0], pairs.min(dim=2, keepdim=True)[0]], dim=2).view(x.shape)


VECTOR, SIGNAL, IMAGE, VOLUME = (4,), (2, 9), (2, 7, 7), (2, 3, 4, 3)

LAYERS = {
    "linear": (VECTOR, lambda: nn.Linear(4, 3)),
    "linear without bias": (VECTOR, lambda: nn.Linear(4, 3, bias=False)),
    "linear over the last dimension": (SIGNAL, lambda: nn.Linear(9, 3)),
    "matrix product": (VECTOR, lambda: Apply(lambda x, a: x @ a.weight.T, nn.Linear(4, 3))),
    "conv1d": (SIGNAL, lambda: nn.Conv1d(2, 3, 3, stride=2, padding=1)),
    "conv2d": (IMAGE, lambda: nn.Conv2d(2, 3, 3)),
    "conv2d with everything": (IMAGE, lambda: nn.Conv2d(2, 4, 2, stride=2, padding=2, dilation=3, groups=2)),
    "conv2d same": (IMAGE, lambda: nn.Conv2d(2, 3, 4, padding="same")),
    "conv2d not square": (IMAGE, lambda: nn.Conv2d(2, 3, (1, 3), stride=(2, 1), padding=(0, 1))),
    "conv2d circular": (IMAGE, lambda: nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular")),
    "conv2d circular strided": (IMAGE, lambda: nn.Conv2d(2, 3, 3, padding=2, stride=2, padding_mode="circular")),
    "conv2d reflected": (IMAGE, lambda: nn.Conv2d(2, 3, 3, padding=2, padding_mode="reflect")),
    "conv2d replicated": (IMAGE, lambda: nn.Conv2d(2, 3, 3, padding=1, padding_mode="replicate")),
    "average pooling": (IMAGE, lambda: nn.AvgPool2d(2)),
    "average pooling, overlapping": (IMAGE, lambda: nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)),
    "average pooling 1d": (SIGNAL, lambda: nn.AvgPool1d(3, ceil_mode=True)),
    "adaptive average pooling": (IMAGE, lambda: nn.AdaptiveAvgPool2d((3, 2))),
    "global average": (IMAGE, lambda: Apply(lambda x: x.mean(dim=(2, 3)))),
    "max pooling": (IMAGE, lambda: nn.MaxPool2d(2)),
    "max pooling, overlapping": (IMAGE, lambda: nn.MaxPool2d(3, stride=1, padding=1)),
    "max pooling, dilated": (IMAGE, lambda: nn.MaxPool2d(2, stride=1, dilation=2, ceil_mode=True)),
    "max pooling 1d": (SIGNAL, lambda: nn.MaxPool1d(3, stride=2)),
    "max pooling, windows side by side": (IMAGE, lambda: nn.MaxPool2d((4, 3))),
    "max pooling, windows apart": (IMAGE, lambda: nn.MaxPool2d((2, 5), stride=(3, 1), dilation=(2, 1))),
    "max pooling, large windows": (IMAGE, lambda: nn.MaxPool2d((1, 7), stride=1)),
    "max pooling to a pixel": (IMAGE, lambda: nn.AdaptiveMaxPool2d(1)),
    "batch norm 1d": (VECTOR, lambda: settled(nn.BatchNorm1d(4))),
    "batch norm 2d": (IMAGE, lambda: settled(nn.BatchNorm2d(2))),
    "conv and batch norm": (IMAGE, lambda: nn.Sequential(nn.Conv2d(2, 3, 3), settled(nn.BatchNorm2d(3)))),
    "linear and batch norm": (VECTOR, lambda: nn.Sequential(nn.Linear(4, 3), settled(nn.BatchNorm1d(3)))),
    "flatten": (IMAGE, lambda: nn.Sequential(nn.Flatten(), nn.Linear(98, 2))),
    "view": (IMAGE, lambda: Apply(lambda x: x.view(x.size(0), -1)[:, 3:20])),
    "transpose": (SIGNAL, lambda: Apply(lambda x, a: a(x.transpose(1, 2)).permute(0, 2, 1), nn.Linear(2, 3))),
    "unsqueeze": (VECTOR, lambda: Apply(lambda x: x.unsqueeze(1).squeeze(1).unflatten(1, (2, 2)))),
    "dropout": (VECTOR, lambda: nn.Sequential(nn.Dropout(0.5), nn.Linear(4, 3))),
    "functional dropout": (VECTOR, lambda: Apply(lambda x: F.dropout(x, training=False))),
    "identity": (VECTOR, lambda: nn.Identity()),
    "residual": (VECTOR, lambda: nn.Sequential(Block(4), Block(4, torch.tanh), nn.Linear(4, 2))),
    "negative residual": (VECTOR, lambda: Apply(lambda x, a: 2 - torch.sub(x, a(x), alpha=0.5), nn.Linear(4, 4))),
    "dense block": (VECTOR, lambda: Apply(lambda x, a: torch.cat([x, F.relu(a(x))], dim=1), nn.Linear(4, 3))),
    "stack": (VECTOR, lambda: Apply(lambda x: torch.stack([x, F.relu(x)], dim=2))),
    "broadcast sum": (VECTOR, lambda: Apply(lambda x: x + x.sum(dim=1, keepdim=True) / 4)),
    "in place": (VECTOR, lambda: Apply(lambda x, a: F.relu_(a(x)).add_(1).mul_(-2), nn.Linear(4, 4))),
    "one module, called twice": (VECTOR, lambda: Apply(lambda x, a: a(torch.tanh(a(x))), nn.Linear(4, 4))),
    "sequential with a forward of its own": (VECTOR, lambda: Twice(nn.Linear(4, 4), nn.ReLU())),
    "hook": (VECTOR, Hooked),
    "input normalisation": (IMAGE, lambda: nn.Sequential(Normalise(), nn.Conv2d(2, 3, 3))),
    "spectral norm": (VECTOR, lambda: parametrizations.spectral_norm(nn.Linear(4, 3))),
    "weight norm": (VECTOR, lambda: parametrizations.weight_norm(nn.Linear(4, 3))),
    "orthogonal": (VECTOR, lambda: parametrizations.orthogonal(nn.Linear(4, 4))),
    "parameter as a scale": (VECTOR, lambda: Apply(lambda x, a: x * a.bias.exp(), nn.Linear(4, 4))),
    "relu": (VECTOR, nn.ReLU),
    "relu6": (VECTOR, nn.ReLU6),
    "leaky relu": (VECTOR, lambda: nn.LeakyReLU(0.1)),
    "steep leaky relu": (VECTOR, lambda: nn.LeakyReLU(-1.5)),
    "sigmoid": (VECTOR, nn.Sigmoid),
    "tanh": (VECTOR, nn.Tanh),
    "elu": (VECTOR, lambda: nn.ELU(1.7)),
    "celu": (VECTOR, lambda: nn.CELU(0.6)),
    "selu": (VECTOR, nn.SELU),
    "softplus": (VECTOR, lambda: nn.Softplus(2.0)),
    "gelu": (VECTOR, nn.GELU),
    "gelu by tanh": (VECTOR, lambda: nn.GELU(approximate="tanh")),
    "silu": (VECTOR, nn.SiLU),
    "hardtanh": (VECTOR, lambda: nn.Hardtanh(-0.3, 0.6)),
    "clamp": (VECTOR, lambda: Apply(lambda x: x.clamp(min=0.2))),
    "absolute value": (VECTOR, lambda: Apply(torch.abs)),
    "softmax": (VECTOR, lambda: nn.Softmax(dim=1)),
    "group sort": (VECTOR, lambda: nn.Sequential(nn.Linear(4, 4), GroupSort(), nn.Linear(4, 2))),
    "maximum and minimum": (VECTOR, lambda: nn.Sequential(nn.Linear(4, 4), MaxMin())),
    "amax": (SIGNAL, lambda: Apply(lambda x: x.amax(dim=2))),
    "max over a dimension": (SIGNAL, lambda: Apply(lambda x: x.max(dim=2).values)),
    "zero padding": (IMAGE, lambda: nn.ZeroPad2d((1, 2, 0, 1))),
    "constant padding": (IMAGE, lambda: nn.Sequential(nn.ConstantPad2d(1, 0.7), nn.Conv2d(2, 2, 3))),
    "upsampling": (IMAGE, lambda: nn.Upsample(scale_factor=2)),
    "prelu": (VECTOR, lambda: nn.Sequential(nn.Linear(4, 4), nn.PReLU(4), nn.Linear(4, 2))),
    "prelu of channels": (IMAGE, lambda: drawn(nn.PReLU(2))),
    "prelu of one slope": (IMAGE, lambda: nn.PReLU(init=-1.5)),
    "rrelu": (VECTOR, nn.RReLU),
    "mish": (VECTOR, nn.Mish),
    "hardswish": (VECTOR, nn.Hardswish),
    "hardsigmoid": (VECTOR, nn.Hardsigmoid),
    "log sigmoid": (VECTOR, nn.LogSigmoid),
    "continuous threshold": (VECTOR, lambda: nn.Threshold(0.2, 0.2)),
    "tanhshrink": (VECTOR, nn.Tanhshrink),
    "log softmax": (VECTOR, lambda: nn.LogSoftmax(dim=1)),
    "softmin": (VECTOR, lambda: nn.Softmin(dim=1)),
    "log-sum-exp": (SIGNAL, lambda: Apply(lambda x: x.logsumexp(dim=2))),
    "euclidean norm": (SIGNAL, lambda: Apply(lambda x: x.norm(dim=2, keepdim=True))),
    "sine": (VECTOR, lambda: Apply(torch.sin)),
    "transposed conv1d": (SIGNAL, lambda: nn.ConvTranspose1d(2, 3, 3, stride=2, padding=1, output_padding=1)),
    "transposed conv2d": (IMAGE, lambda: nn.ConvTranspose2d(2, 3, 3, padding=1)),
    "transposed conv2d with everything": (
        IMAGE,
        lambda: nn.ConvTranspose2d(2, 4, (3, 2), (2, 3), (1, 2), (1, 0), groups=2, dilation=(2, 3)),
    ),
    "transposed conv2d without overlap": (IMAGE, lambda: nn.ConvTranspose2d(2, 3, 2, stride=2, bias=False)),
    "transposed conv3d": (VOLUME, lambda: nn.ConvTranspose3d(2, 2, 2, stride=2)),
    "conv3d": (VOLUME, lambda: nn.Conv3d(2, 3, 2, padding=1, stride=(1, 2, 1))),
    "average pooling 3d": (VOLUME, lambda: nn.AvgPool3d(2, stride=1)),
    "max pooling 3d": (VOLUME, lambda: nn.MaxPool3d(2, stride=1, padding=1)),
    "batch norm 3d": (VOLUME, lambda: settled(nn.BatchNorm3d(2))),
    "adaptive average pooling 3d": (VOLUME, lambda: nn.AdaptiveAvgPool3d((2, 3, 1))),
    "adaptive max pooling 1d": (SIGNAL, lambda: nn.AdaptiveMaxPool1d(4)),
    "adaptive max pooling": (IMAGE, lambda: nn.AdaptiveMaxPool2d((3, 2))),
    "adaptive max pooling 3d": (VOLUME, lambda: nn.AdaptiveMaxPool3d(2)),
    "linear upsampling": (SIGNAL, lambda: nn.Upsample(scale_factor=2, mode="linear")),
    "bilinear upsampling": (IMAGE, lambda: nn.Upsample(scale_factor=1.7, mode="bilinear")),
    "bilinear upsampling, corners aligned": (IMAGE, lambda: nn.Upsample((9, 5), mode="bilinear", align_corners=True)),
    "trilinear upsampling": (VOLUME, lambda: nn.Upsample(scale_factor=2, mode="trilinear")),
    "pixel shuffle": ((4, 3, 3), lambda: nn.PixelShuffle(2)),
    "pixel unshuffle": ((1, 4, 6), lambda: nn.PixelUnshuffle(2)),
    "channel shuffle": ((4, 3, 3), lambda: nn.ChannelShuffle(2)),
    "patches": (IMAGE, lambda: nn.Unfold(3, padding=1, stride=2)),
    "patches summed": ((8, 9), lambda: nn.Fold((4, 4), 2)),
    "windows": (SIGNAL, lambda: Apply(lambda x: x.unfold(2, 3, 2))),
    "roll": (IMAGE, lambda: Apply(lambda x: x.roll((1, 2), (2, 3)))),
    "repeat": (SIGNAL, lambda: Apply(lambda x: x.repeat(1, 2, 1))),
    "each repeated": (SIGNAL, lambda: Apply(lambda x: x.repeat_interleave(2, dim=1))),
    "cumulative sum": (SIGNAL, lambda: Apply(lambda x: x.cumsum(2))),
    "lower triangle": ((3, 3), lambda: Apply(torch.tril)),
    "index": (SIGNAL, lambda: Apply(lambda x: x[:, :, [5, 0, 0]])),
    "index select": (SIGNAL, lambda: Apply(lambda x: x.index_select(1, torch.tensor([1, 0, 1])))),
    "masked fill": (VECTOR, lambda: Apply(lambda x: x.masked_fill(torch.tensor([True, False, False, True]), 0.5))),
    "where a mask holds": (VECTOR, lambda: Apply(lambda x: torch.where(torch.arange(4) > 1, 2 * x, 3 - x))),
    "where a mask holds, a constant": (VECTOR, lambda: Apply(lambda x: torch.where(torch.arange(4) > 1, x, 0.7))),
    "class token": (
        SIGNAL,
        lambda: Apply(lambda x, a: torch.cat([a.bias.expand(len(x), 1, 9), x], dim=1), nn.Linear(2, 9)),
    ),
    "stack with a constant": (VECTOR, lambda: Apply(lambda x: torch.stack([x, torch.ones_like(x)], dim=1))),
    "einsum": (SIGNAL, lambda: Apply(lambda x, a: torch.einsum("bct,ot->boc", x, a.weight), nn.Linear(9, 3))),
    "einsum, constant first": (
        VECTOR,
        lambda: Apply(lambda x, a: torch.einsum("oi,bi->bo", a.weight, x), nn.Linear(4, 3)),
    ),
    "product with a stack": (SIGNAL, lambda: Apply(lambda x, a: x.unflatten(2, (3, 3)) @ a.weight, nn.Conv1d(3, 2, 3))),
    "stack times input": (SIGNAL, lambda: Apply(lambda x, a: a.weight @ x.unflatten(2, (3, 3)), nn.Conv1d(4, 2, 3))),
    "instance norm of running statistics": (
        IMAGE,
        lambda: settled(nn.InstanceNorm2d(2, affine=True, track_running_stats=True)),
    ),
    "layer norm": (VECTOR, lambda: drawn(nn.LayerNorm(4))),
    "layer norm of a token": (SIGNAL, lambda: drawn(nn.LayerNorm(9))),
    "rms norm": (SIGNAL, lambda: drawn(nn.RMSNorm(9, eps=1e-3))),
    "group norm": ((4, 3, 3), lambda: drawn(nn.GroupNorm(2, 4))),
    "instance norm": (IMAGE, lambda: drawn(nn.InstanceNorm2d(2, affine=True))),
    "maximum of two": (VECTOR, lambda: Apply(lambda x: torch.maximum(x, x.flip(1) / 2))),
    "maximum and a constant": (VECTOR, lambda: Apply(lambda x: torch.maximum(x, torch.full((4,), 0.3)))),
    "minimum and a constant": (VECTOR, lambda: Apply(lambda x: torch.minimum(torch.full((4,), 0.3), x))),
    "max min of neighbours": ((4, 2, 2), lambda: Apply(neighbours)),
    "max min of images": ((4, 2, 2), MaxMin),
    "descending sort of two": (SIGNAL, lambda: Apply(lambda x: x.sort(dim=1, descending=True).values)),
    "sort of all": (VECTOR, lambda: Apply(lambda x: x.sort(dim=1).values)),
    "maxout": ((6,), lambda: Apply(lambda x: x.unflatten(1, (2, 3)).amax(dim=2))),
    "crelu": (VECTOR, lambda: Apply(lambda x: torch.cat([F.relu(x), F.relu(-x)], dim=1))),
    "crelu, negative first": (VECTOR, lambda: Apply(lambda x: torch.cat([F.relu(-x), F.relu(x)], dim=1))),
    "softshrink": (VECTOR, lambda: nn.Softshrink(0.3)),
    "softsign": (VECTOR, nn.Softsign),
    "the larger, chosen": (VECTOR, lambda: Apply(lambda x: torch.where(x[:, :2] > x[:, 2:], x[:, :2], x[:, 2:]))),
    "the smaller, chosen": (VECTOR, lambda: Apply(lambda x: torch.where(x[:, :2] > x[:, 2:], x[:, 2:], x[:, :2]))),
    "positive part, chosen": (VECTOR, lambda: Apply(lambda x: torch.where(x > 0.0, x, 0.0))),
    "householder": ((4, 2, 2), Householder),
    "nothing but the batch sliced": (VECTOR, lambda: Apply(lambda x: x[:, 1:3])),
}

every_layer = pytest.mark.parametrize("name", LAYERS, scope="module")  # in turn, as reading takes longest


@functools.cache
def made(name):
    """The model in float64, one input's shape, and the chain read from the model in float32."""
    shape, make = LAYERS[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = make().eval()
    return copy.deepcopy(model).double(), shape, read(model, shape)


def inputs(shape, count=6, seed=0, dtype=torch.float64):
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@every_layer
def test_the_chain_computes_what_the_model_computes(name):
    exact, shape, chain = made(name)
    x = inputs(shape)
    expected = exact(x)
    torch.testing.assert_close(chain(x), expected, rtol=1e-9, atol=1e-9)
    assert chain.out_shape == expected.shape[1:]


@every_layer
def test_no_quotient_is_above_the_product_of_norms(name):
    exact, shape, chain = made(name)
    bounds = {norm: norm_product(chain, norm) for norm in (1, 2, math.inf)}
    for seed, near in ((0, 1.0), (1, 1e-3), (2, 10.0)):
        u = inputs(shape, 200, seed)
        step = near * inputs(shape, 200, seed + 10)
        if seed == 2:  # along single entries, where norm 1 has its extremes
            step = step * torch.nn.functional.one_hot(step.flatten(1).abs().argmax(1), step[0].numel()).reshape(
                step.shape
            )
        change = (exact(u + step) - exact(u)).detach()
        for norm, bound in bounds.items():
            rise, run = (z.flatten(1).norm(norm, dim=1) for z in (change, step))
            assert float((rise / run).max()) <= bound * (1 + 1e-9), norm


# torch's own derivative of hardsigmoid is 1/6 in float32
@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("name", [name for name in LAYERS if name not in ("in place", "hardsigmoid")], scope="module")
def test_no_slope_is_above_the_product_of_norms(name):
    exact, shape, chain = made(name)
    x = inputs(shape, 4)
    jacobian = torch.stack([torch.func.jacrev(lambda z: exact(z[None])[0])(one) for one in x])
    jacobian = jacobian.reshape(len(x), -1, x[0].numel())
    for norm in (1, 2, math.inf):
        largest = torch.linalg.matrix_norm(jacobian.detach(), norm).max()
        assert float(largest) <= norm_product(chain, norm) * (1 + 1e-9)


@every_layer
def test_the_enclosure_holds_the_output(name):
    exact, shape, chain = made(name)
    x = inputs(shape)
    low, high = enclose(chain, x)
    out = exact(x).detach()
    assert bool((low <= out).all() & (out <= high).all())
    assert float((high - low).max()) < 1e-10 * (1 + float(out.abs().max()))


@pytest.mark.parametrize(
    ("name", "exact"),
    [
        ("max pooling", 1.0),
        ("max pooling, windows side by side", 1.0),
        ("max pooling to a pixel", 1.0),
        ("max pooling, overlapping", 3.0),  # the middle of a 3 × 3 window lies in nine windows
        ("average pooling", 0.5),
        ("identity", 1.0),
        ("softmax", 0.5),
        ("sigmoid", 0.25),
        ("steep leaky relu", 1.5),
        ("global average", 1 / 7),
        ("max min of images", 1.0),
        ("max min of neighbours", 1.0),
        ("descending sort of two", 1.0),
        ("sort of all", 1.0),
        ("maxout", 1.0),
        ("crelu", 1.0),
        ("householder", 1.0),
        ("the larger, chosen", 1.0),
        ("pixel shuffle", 1.0),
        ("hardswish", 1.5),
        ("log softmax", 2.0),  # √n
        ("prelu of one slope", 1.5),
        ("adaptive max pooling 1d", math.sqrt(2)),
    ],
)
def test_known_constants(name, exact):
    assert norm_product(made(name)[2]) == pytest.approx(exact, rel=1e-9)


@every_layer
@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_dense_matrices_reproduce_the_jacobian(name):
    exact, shape, chain = made(name)
    if any(isinstance(link.operation, LipschitzMap) for link in chain.links):
        with pytest.raises(UnsupportedLayerError, match="is neither affine nor elementwise"):
            chain.dense()
        return
    weights, slopes = chain.dense()
    assert all(w.dtype == torch.float64 for w in weights)
    assert len(slopes) == len(weights) - 1
    assert all(low.shape == high.shape == (len(w),) for w, (low, high) in zip(weights[:-1], slopes, strict=True))
    if any(bool((low != high).any()) for low, high in slopes):
        return  # a nonlinear model's Jacobian depends on the input
    jacobian = torch.func.jacrev(lambda z: exact(z[None])[0].flatten())(inputs(shape)[0]).flatten(1)
    product = weights[0]
    for weight in weights[1:]:
        product = weight @ product
    torch.testing.assert_close(product, jacobian, rtol=1e-9, atol=1e-9)


def test_dense_of_a_residual_network_carries_the_input_along():
    model = nn.Sequential(Block(3), nn.Linear(3, 2)).eval()
    weights, [(low, high)] = read(model, (3,)).dense()
    first, second, last = (m.weight.double() for m in (model[0].first, model[0].second, model[1]))
    torch.testing.assert_close(weights[0], torch.cat([first, torch.eye(3).double()]))
    torch.testing.assert_close(weights[1], torch.cat([last @ second, last], dim=1))
    assert low.tolist() == [0, 0, 0, 1, 1, 1]
    assert high.tolist() == [1] * 6


def test_dense_merges_adjacent_affine_maps_and_ends_with_the_identity():
    model = nn.Sequential(nn.Flatten(), nn.Linear(6, 5), settled(nn.BatchNorm1d(5)), nn.Linear(5, 4), nn.Tanh()).eval()
    weights, slopes = read(model, (2, 3)).dense()
    assert [tuple(w.shape) for w in weights] == [(4, 6), (4, 4)]
    assert torch.equal(weights[1], torch.eye(4, dtype=torch.float64))
    assert len(slopes) == 1


def test_dense_follows_the_parameters():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    chain = read(model, (3,))
    weights, _ = chain.dense()
    (weights[0].sum() + 2 * weights[1].sum()).backward()
    assert torch.equal(model[0].weight.grad, torch.ones(4, 3))
    assert torch.equal(model[2].weight.grad, 2 * torch.ones(2, 4))
    with torch.no_grad():
        model[0].weight.fill_(7.0)
    assert bool((chain.dense()[0][0] == 7).all())


def test_dense_refuses_what_has_no_slopes_and_what_is_too_large():
    with pytest.raises(UnsupportedLayerError, match=r"^layer '0' \(max pooling\) is neither affine nor elementwise"):
        read(nn.Sequential(nn.MaxPool2d(2, padding=1), nn.Flatten()), IMAGE).dense()
    with pytest.raises(
        UnsupportedLayerError, match=r"^layer '0' \(Convolution\) would need a matrix of .* the limit of 10"
    ):
        read(nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU()), IMAGE).dense(limit=10)


class Branch(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else 2 * x


class Counting(nn.Module):
    """Has state that no trace sees."""

    calls = 0

    def forward(self, x):
        self.calls += 1
        return self.calls * x


class Remembering(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("last", torch.zeros(4))

    def forward(self, x):
        self.last.copy_(x.mean(dim=0))
        return x + self.last


REFUSED = {
    "power": (VECTOR, lambda: Apply(lambda x: x**3), "layer 'model' (Apply, aten.pow.Tensor_Scalar)"),
    "rms norm of no eps": (VECTOR, lambda: nn.RMSNorm(4), "its eps depends on the type of the numbers"),
    "threshold that jumps": (VECTOR, lambda: nn.Threshold(0.1, 2.0), "it jumps from 2 to 0.1"),
    "a choice that may jump": (VECTOR, lambda: Apply(lambda x: torch.where(x > 1, x, 0 * x)), "may jump"),
    "gated by a comparison": (VECTOR, lambda: Apply(lambda x: x * (x > 1)), "may jump"),
    "einsum over the batch": (VECTOR, lambda: Apply(lambda x: torch.einsum("bi->i", x)), "must keep the batch"),
    "einsum of two": (SIGNAL, lambda: Apply(lambda x: torch.einsum("bij,bkj->bik", x, x)), "write it as a matmul"),
    "attention with dropout": (
        SIGNAL,
        lambda: Apply(lambda x: F.scaled_dot_product_attention(x, x, x, dropout_p=0.5)),
        "drops weights at random",
    ),
    "batch statistics": (VECTOR, lambda: nn.BatchNorm1d(4, track_running_stats=False), "statistics from the batch"),
    "own batch statistics": (VECTOR, lambda: Apply(lambda x: x - x.mean(dim=0)), "works along the batch"),
    "sum of everything": (VECTOR, lambda: Apply(lambda x: x + x.sum()), "aten.sum"),
    "softmax over the batch": (VECTOR, lambda: nn.Softmax(dim=0), "works along the batch"),
    "batch moved": (SIGNAL, lambda: Apply(lambda x: x.transpose(0, 1)), "works along the batch"),
    "batch reshaped": (SIGNAL, lambda: Apply(lambda x: x.reshape(-1, 9)), "moves the batch"),
    "batch flipped": (VECTOR, lambda: Apply(lambda x: x + x.flip(0)), "works along the batch"),
    "unbatched convolution": ((7, 7), lambda: nn.Conv2d(5, 3, 3), "treats the batch as another dimension"),
    "different for each row": (VECTOR, lambda: Apply(lambda x: x * torch.arange(5.0)[:, None]), "differently"),
    "dropout always on": (VECTOR, lambda: Apply(lambda x: F.dropout(x, training=True)), "aten.native_dropout"),
    "noise": (VECTOR, lambda: Apply(lambda x: x + torch.randn(4)), "it is random"),
    "rounding": (VECTOR, lambda: Apply(torch.round), "aten.round"),
    "hard shrinkage jumps": (
        VECTOR,
        lambda: nn.Hardshrink(),
        "layer 'model' (Hardshrink, aten.where.ScalarSelf) is not supported: it jumps",
    ),
    "embedding": (VECTOR, lambda: Apply(lambda x: x.long().float()), "its result is not floating-point"),
    "indices": (SIGNAL, lambda: Apply(lambda x: x + x.sort(dim=2).indices), "only the first has a Lipschitz constant"),
    "control flow": (VECTOR, Branch, "cannot be traced"),
    "hidden state": (VECTOR, Counting, "does not compute what its traced graph computes"),
    "changing buffers": (VECTOR, Remembering, "changes to ['last']"),
    "window of padding": ((2, 1, 1), lambda: nn.MaxPool2d(2, 1, 1, 2), "a window lies in the padding alone"),
    "two outputs": (VECTOR, lambda: Apply(lambda x: (x, x)), "got 2 outputs"),
}


UNTRACED = ("batch statistics", "hidden state") if torch.__version__.startswith("2.6.") else ()


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    shape, make, message = REFUSED[name]
    message = "cannot be traced" if name in UNTRACED else message  # torch 2.6 refuses these itself
    with pytest.raises(UnsupportedLayerError, match=re.escape(message)):
        read(make().eval(), shape)


class Rotate(nn.Module):
    def forward(self, x):
        return torch.fft.fft(x, norm="ortho").real


def test_a_registered_layer_is_bounded_by_its_own_constant(monkeypatch):
    monkeypatch.setattr(registered, "_REGISTERED", {})
    model = nn.Sequential(nn.Linear(4, 4), Rotate(), nn.Linear(4, 2)).eval()
    with pytest.raises(UnsupportedLayerError, match=r"^layer '1' \(Rotate, "):
        read(model, VECTOR)
    register_layer(Rotate, lambda layer: 1.0)
    chain = read(model, VECTOR)
    x = inputs(VECTOR)
    torch.testing.assert_close(chain(x), copy.deepcopy(model).double()(x))
    norms = math.prod(float(torch.linalg.matrix_norm(model[i].weight.detach().double(), 2)) for i in (0, 2))
    assert norm_product(chain) == pytest.approx(norms)
    assert norm_product(chain, math.inf) == math.inf


def test_a_registered_layer_may_be_called_twice(monkeypatch):
    monkeypatch.setattr(registered, "_REGISTERED", {})
    register_layer(MaxMin, lambda layer: 1.0)
    shared = MaxMin()
    model = nn.Sequential(nn.Linear(4, 4), shared, nn.Linear(4, 4), shared).eval()
    chain = read(model, VECTOR)
    assert [type(link.operation).__name__ for link in chain.links] == ["Matrix", "LipschitzMap"] * 2
    x = inputs(VECTOR)
    torch.testing.assert_close(chain(x), copy.deepcopy(model).double()(x))


def test_a_registered_bound_that_is_no_number_is_refused(monkeypatch):
    monkeypatch.setattr(registered, "_REGISTERED", {})
    register_layer(Rotate, lambda layer: math.nan)
    with pytest.raises(ValueError, match=r"^layer '0': expected a registered bound of 0 or more in norm 2, got nan$"):
        norm_product(read(nn.Sequential(Rotate()), VECTOR))


def test_reading_leaves_the_model_as_it_was():
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), settled(nn.BatchNorm1d(4)), nn.Linear(4, 2)).train()
    model[1].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.random.get_rng_state()
    read(model, VECTOR)
    assert [m.training for m in model] == [True, False, True, True]
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert torch.equal(torch.random.get_rng_state(), state)
