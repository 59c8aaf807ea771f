"""Layers and small networks that several tests use."""

import copy
import warnings
from itertools import pairwise

import torch
import torch.nn.functional as F  # noqa: N812
from torch import fx, nn


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
