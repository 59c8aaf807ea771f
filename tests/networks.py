"""Random networks made of every kind of layer that a chain reads."""

import copy
import warnings
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import fx, nn
from torch.nn.utils import parametrizations

MOST_VALUES = 150  # of any activation: a bound of 150 neurons takes a fraction of a second


class Apply(nn.Module):
    """A function as a module."""

    def __init__(self, function, *parts):
        super().__init__()
        self.function, self.parts = function, nn.ModuleList(parts)

    def forward(self, x):
        return self.function(x, *self.parts)


class Block(nn.Module):
    """x + W φ(V x)."""

    def __init__(self, width, activation=F.relu):
        super().__init__()
        self.first, self.second, self.activation = nn.Linear(width, width), nn.Linear(width, width), activation

    def forward(self, x):
        return x + self.second(self.activation(self.first(x)))


class ConvolutionBlock(nn.Module):
    """φ(skip(x) + conv(φ(norm(conv x)))), as in a ResNet."""

    def __init__(self, channels, out, stride, activation):
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv2d(channels, out, 3, stride, 1), settled(nn.BatchNorm2d(out)), activation),
            nn.Conv2d(out, out, 3, 1, 1),
        )
        self.skip = nn.Identity() if stride == 1 and channels == out else nn.Conv2d(channels, out, 1, stride)
        self.activation = activation

    def forward(self, x):
        return self.activation(self.skip(x) + self.body(x))


class Normalise(nn.Module):
    """(x − mean) / std for each channel, or each entry of a vector."""

    def __init__(self, channels=2, spatial=2):
        super().__init__()
        self.register_buffer("mean", torch.linspace(0.4, 0.5, channels).reshape(-1, *[1] * spatial))
        self.register_buffer("std", torch.linspace(0.2, 0.3, channels).reshape(-1, *[1] * spatial))

    def forward(self, x):
        return (x - self.mean) / self.std


class GroupSort(nn.Module):
    """Each two neighbours, sorted."""

    def forward(self, x):
        return x.unflatten(1, (-1, 2)).sort(dim=2).values.flatten(1)


class MaxMin(nn.Module):
    """Maxima and minima of two halves."""

    def forward(self, x):
        a, b = x.chunk(2, dim=1)
        return torch.cat([torch.maximum(a, b), torch.minimum(a, b)], dim=1)


def settled(norm):
    """A batch norm with statistics that are not the initial ones."""
    with torch.no_grad():
        norm.running_mean.uniform_(-1, 1)
        norm.running_var.uniform_(0.5, 2)
        norm.weight.uniform_(-2, 2)
        norm.bias.uniform_(-1, 1)
    return norm


def mlp(*widths, activation=nn.ReLU):
    """Linear layers with activations between them."""
    layers = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), activation()]
    return nn.Sequential(*layers[:-1])


class Network(NamedTuple):
    """A model in evaluation mode, the shape of one input, and the names of its layers."""

    model: nn.Module
    shape: tuple[int, ...]
    layers: tuple[str, ...]


Make = Callable[[tuple[int, ...], "Dice"], nn.Module]


class Dice:
    """Choices from a seed."""

    def __init__(self, seed):
        self.generator = torch.Generator().manual_seed(seed)

    def one_of(self, *choices):
        return choices[int(torch.randint(len(choices), (1,), generator=self.generator))]

    def number(self, low, high):
        return low + (high - low) * float(torch.rand((), generator=self.generator))

    def chance(self, share):
        return self.number(0, 1) < share


ACTIVATIONS: dict[str, Make] = {
    "relu": lambda s, d: nn.ReLU(),
    "relu6": lambda s, d: nn.ReLU6(),
    "leaky relu": lambda s, d: nn.LeakyReLU(d.number(-1.5, 1.5)),
    "sigmoid": lambda s, d: nn.Sigmoid(),
    "tanh": lambda s, d: nn.Tanh(),
    "elu": lambda s, d: nn.ELU(d.number(0.2, 2)),
    "celu": lambda s, d: nn.CELU(d.number(0.2, 2)),
    "selu": lambda s, d: nn.SELU(),
    "softplus": lambda s, d: nn.Softplus(d.number(0.5, 4)),
    "gelu": lambda s, d: nn.GELU(),
    "gelu by tanh": lambda s, d: nn.GELU(approximate="tanh"),
    "silu": lambda s, d: nn.SiLU(),
    "hardtanh": lambda s, d: nn.Hardtanh(-d.number(0, 1), d.number(0, 1) + 0.1),
    "clamp": lambda s, d: Apply(lambda x: x.clamp(min=-0.2)),
    "absolute value": lambda s, d: Apply(torch.abs),
}

ANYWHERE: dict[str, Make] = {
    **ACTIVATIONS,
    "softmax": lambda s, d: nn.Softmax(dim=1),
    "amax": lambda s, d: Apply(lambda x: x.amax(dim=-1, keepdim=True)),
    "dropout": lambda s, d: nn.Dropout(0.3),
    "identity": lambda s, d: nn.Identity(),
    "scale and shift": lambda s, d: Apply(lambda x: 0.3 - 1.7 * x),
    "flip": lambda s, d: Apply(lambda x: x.flip(-1)),
    "slice": lambda s, d: Apply(lambda x: x[..., :-1]),
    "skip": lambda s, d: Apply(lambda x: x - 0.5 * torch.tanh(x)),
    "mean broadcast": lambda s, d: Apply(lambda x: x + x.mean(dim=-1, keepdim=True)),
    "side by side": lambda s, d: Apply(lambda x: torch.cat([x, F.relu(x)], dim=1)),
}

VECTORS: dict[str, Make] = {
    "linear": lambda s, d: nn.Linear(s[0], d.one_of(1, 3, 8, 16), bias=d.chance(0.7)),
    "spectral norm": lambda s, d: parametrizations.spectral_norm(nn.Linear(s[0], d.one_of(2, 3, 8))),
    "weight norm": lambda s, d: parametrizations.weight_norm(nn.Linear(s[0], d.one_of(3, 8))),
    "orthogonal": lambda s, d: parametrizations.orthogonal(nn.Linear(s[0], d.one_of(3, s[0]))),
    "batch norm": lambda s, d: settled(nn.BatchNorm1d(s[0])),
    "residual": lambda s, d: Block(s[0], d.one_of(F.relu, torch.tanh, F.silu, F.gelu)),
    "group sort": lambda s, d: nn.Sequential(nn.Linear(s[0], 6), GroupSort()),
    "max min": lambda s, d: nn.Sequential(nn.Linear(s[0], 6), MaxMin()),
    "input scaling": lambda s, d: Normalise(s[0], 0),
    "unflatten": lambda s, d: nn.Sequential(nn.Linear(s[0], 24), nn.Unflatten(1, (2, 3, 4))),
    "as a signal": lambda s, d: nn.Sequential(nn.Linear(s[0], 20), nn.Unflatten(1, (2, 10))),
}


def _convolution(kind, shape, dice):
    channels, *size = shape
    kernel, dilation = dice.one_of(1, 2, 3), dice.one_of(1, 1, 2)
    span = dilation * (kernel - 1) + 1
    mode = dice.one_of("zeros", "zeros", "circular", "reflect", "replicate")
    padding = min(dice.one_of(0, 1, 2), min(size) - 1 if mode != "zeros" else 2)
    padding = max(padding, -(-(span - min(size)) // 2) if mode == "zeros" else padding)
    groups = dice.one_of(1, channels)
    out = groups * dice.one_of(1, 2) if groups > 1 else dice.one_of(2, 4)
    return kind(
        *(channels, out, kernel, dice.one_of(1, 1, 2), padding),
        dilation=dilation,
        groups=groups,
        bias=dice.chance(0.7),
        padding_mode=mode,
    )


SIGNALS: dict[str, Make] = {
    "conv1d": lambda s, d: _convolution(nn.Conv1d, s, d),
    "average pooling 1d": lambda s, d: nn.AvgPool1d(2, d.one_of(1, 2), d.one_of(0, 1)),
    "max pooling 1d": lambda s, d: nn.MaxPool1d(d.one_of(2, 3), d.one_of(1, 2), 1, d.one_of(1, 2)),
    "batch norm of channels": lambda s, d: settled(nn.BatchNorm1d(s[0])),
    "linear over the last dimension": lambda s, d: nn.Linear(s[-1], d.one_of(3, 6)),
    "transpose": lambda s, d: Apply(lambda x: x.transpose(1, 2)),
}

IMAGES: dict[str, Make] = {
    "conv2d": lambda s, d: _convolution(nn.Conv2d, s, d),
    "average pooling": lambda s, d: nn.AvgPool2d(d.one_of(2, 3), d.one_of(1, 2), 1, count_include_pad=d.chance(0.5)),
    "adaptive average pooling": lambda s, d: nn.AdaptiveAvgPool2d(d.one_of(1, (2, 1))),
    "max pooling": lambda s, d: nn.MaxPool2d(
        d.one_of(2, 3), d.one_of(1, 2), 1, d.one_of(1, 2), ceil_mode=d.chance(0.5)
    ),
    "batch norm of images": lambda s, d: settled(nn.BatchNorm2d(s[0])),
    "convolution block": lambda s, d: ConvolutionBlock(
        s[0], d.one_of(2, s[0]), d.one_of(1, 2), d.one_of(nn.ReLU(), nn.GELU(), nn.Tanh())
    ),
    "constant padding": lambda s, d: nn.ConstantPad2d((1, 0, 0, 1), 0.7),
    "upsampling": lambda s, d: nn.Upsample(scale_factor=2),
    "input normalisation": lambda s, d: Normalise(s[0], 2),
}

FLAT: dict[str, Make] = {
    "flatten": lambda s, d: nn.Flatten(),
    "view": lambda s, d: Apply(lambda x: x.reshape(x.shape[0], -1)),
}
OF_RANK = {1: ("linear", VECTORS), 2: ("conv1d", {**SIGNALS, **FLAT}), 3: ("conv2d", {**IMAGES, **FLAT})}


def random_network(seed: int) -> Network:
    """A network of two to seven random layers, its weights of a random size; every fourth as torch.export sees it."""
    dice = Dice(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        shape = dice.one_of((1,), (2,), (5,), (1, 9), (2, 6), (1, 6, 6), (2, 5, 5))
        names, layers = _random_layers(shape, dice)
        model = nn.Sequential(*layers).eval()
        gain = 10 ** dice.number(-1, 1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(gain)
    return Network(_exported(model, shape) if seed % 4 == 3 else model, shape, tuple(names))


def _random_layers(shape, dice):
    names, layers, x = [], [], torch.zeros(2, *shape)
    wanted = dice.one_of(2, 3, 4, 5, 6, 7)
    while len(layers) < wanted:
        affine, special = OF_RANK[x.dim() - 1]
        table = dice.one_of(special, special, ANYWHERE)
        name = affine if dice.chance(0.25) else dice.one_of(*table)
        try:
            layer = {**ANYWHERE, **special}[name](tuple(x.shape[1:]), dice).eval()
            y = layer(x)
        except (RuntimeError, ValueError):  # too small for the kernel, or an odd number to sort in pairs
            continue
        if 0 < y[0].numel() <= MOST_VALUES and bool(torch.isfinite(y).all()):
            names.append(name)
            layers.append(layer)
            x = y.detach()
    return names, layers


def _exported(model, shape):
    """As torch.export sees it, for batches of any size."""
    batch = torch.export.Dim("batch")
    return torch.export.export(model, (torch.zeros(3, *shape),), dynamic_shapes=({0: batch},)).module()


def exact_copy(model):
    """The model in float64."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's own, on copying what torch.export returns
        exact = copy.deepcopy(model).double()
    if isinstance(exact, fx.GraphModule):
        for node in exact.graph.find_nodes(op="call_function", target=torch.ops.aten._assert_tensor_metadata.default):
            exact.graph.erase_node(node)  # insists on float32
        exact.recompile()
    return exact
