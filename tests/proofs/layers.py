"""Every kind of layer that models are made of, by name: each makes a layer for the shape of its input."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn
from torch.nn.utils import parametrizations

from networks import Apply, Block, ConvolutionBlock, GroupSort, MaxMin, Normalise, settled

Make = Callable[[tuple[int, ...], "Dice"], nn.Module]


class Dice:
    """Choices from a seed."""

    def __init__(self, seed):
        self.generator = torch.Generator().manual_seed(seed)

    def one_of(self, *choices):
        return choices[int(torch.randint(len(choices), (1,), generator=self.generator))]

    def number(self, low, high):
        return low + (high - low) * float(torch.rand((), generator=self.generator, dtype=torch.float64))

    def chance(self, share):
        return self.number(0, 1) < share

    def normal(self, *shape):
        return torch.randn(shape, generator=self.generator, dtype=torch.float64)


def single(value):
    """Round a number to float32: PyTorch's derivative of CELU rounds alpha so."""
    return float(torch.tensor(value, dtype=torch.float32))


def pairs_sorted(x):
    """The entries of each input sorted in twos, through a reshape of the whole batch; an odd number stays as it is."""
    return x if x[0].numel() % 2 else x.reshape(-1, 2).sort(dim=1).values.reshape(x.shape)


ACTIVATIONS: dict[str, Make] = {
    "relu": lambda s, d: nn.ReLU(),
    "relu6": lambda s, d: nn.ReLU6(),
    "leaky relu": lambda s, d: nn.LeakyReLU(d.number(-1.5, 1.5)),
    "sigmoid": lambda s, d: nn.Sigmoid(),
    "tanh": lambda s, d: nn.Tanh(),
    "elu": lambda s, d: nn.ELU(d.number(0.2, 2)),
    "celu": lambda s, d: nn.CELU(single(d.number(0.2, 2))),
    "selu": lambda s, d: nn.SELU(),
    "softplus": lambda s, d: nn.Softplus(d.number(0.5, 4), 80.0),
    "gelu": lambda s, d: nn.GELU(),
    "gelu by tanh": lambda s, d: nn.GELU(approximate="tanh"),
    "silu": lambda s, d: nn.SiLU(),
    "hardtanh": lambda s, d: nn.Hardtanh(-d.number(0, 1), d.number(0, 1) + 0.1),
    "clamp": lambda s, d: Apply(lambda x: x.clamp(min=-0.2)),
    "absolute value": lambda s, d: Apply(torch.abs),
    "prelu": lambda s, d: nn.PReLU(d.one_of(1, s[0]), init=d.number(-1.5, 1.5)),
    "mish": lambda s, d: nn.Mish(),
    "hardswish": lambda s, d: nn.Hardswish(),
    "log sigmoid": lambda s, d: nn.LogSigmoid(),
    "softshrink": lambda s, d: nn.Softshrink(d.number(0, 1)),
    "softsign": lambda s, d: nn.Softsign(),
    "rrelu": lambda s, d: nn.RReLU(),
    "threshold": lambda s, d: nn.Threshold(0.1, 0.1),
}
"""Not hardsigmoid: torch's own derivative of it is rounded to float32, which the judges would take for a slope."""


def _assigned(x):
    x = x.clone()
    x[..., 0] = 0.5
    return x


def _centred(x):
    x -= 0.3
    return x


NEED_A_DOMAIN = {
    *("square", "exponential", "quotient", "gate", "product", "glu"),
    *("matrix product", "attention", "causal attention", "multi-head attention"),
    *("glu of channels", "glu of image channels", "swiglu"),
}
"""Layers that have no constant on all of space, or not in every norm."""

IN_PLACE: dict[str, Make] = {
    "relu in place": lambda s, d: nn.ReLU(inplace=True),
    "leaky relu in place": lambda s, d: nn.LeakyReLU(d.number(0, 1), inplace=True),
    "elu in place": lambda s, d: nn.ELU(inplace=True),
    "input used after relu in place": lambda s, d: Apply(lambda x: F.relu(x, inplace=True) + 100 * x),
    "input used before relu in place": lambda s, d: Apply(lambda x: 2.0 * x + F.relu(x, inplace=True)),
    "centred in place": lambda s, d: Apply(_centred),
    "scaled in place": lambda s, d: Apply(lambda x: torch.cat([x.mul_(3.0), x], dim=1)),
    "clamped copy": lambda s, d: Apply(lambda x: x.clone().clamp_(min=0)),
    "assigned slice": lambda s, d: Apply(_assigned),
}

UNUSUAL: dict[str, Make] = {
    "celu of a negative alpha": lambda s, d: nn.CELU(-single(d.number(0.2, 2))),
    "softplus of a low threshold": lambda s, d: nn.Softplus(d.number(0.5, 2), d.number(0.5, 3)),
    "negative circular padding": lambda s, d: Apply(lambda x: F.pad(x, (-1, 1), mode="circular")),
    "great constant added and taken away": lambda s, d: Apply(lambda x: x + 1e10 - 1e10),
    "hooked linear": lambda s, d: _hooked(nn.Linear(s[-1], d.one_of(2, 5))),
    "branch on the batch": lambda s, d: Apply(lambda x: x if x.shape[0] > 1 else 3.0 * x),
    "branch on tracing": lambda s, d: Apply(lambda x: x if torch.compiler.is_compiling() else 3.0 * x),
    "detached": lambda s, d: Apply(lambda x: x + 2.0 * x.detach()),
    "largest index": lambda s, d: Apply(lambda x: x + x.argmax(dim=-1, keepdim=True)),
    "power": lambda s, d: Apply(lambda x: x**3),
    "jump": lambda s, d: Apply(lambda x: x * (x > 0.3)),
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
    "rectified both": lambda s, d: Apply(lambda x: torch.cat([F.relu(x), F.relu(-x)], dim=1)),
    "halves sorted": lambda s, d: MaxMin(),
    "the larger": lambda s, d: Apply(lambda x: torch.maximum(x, x.flip(-1) / 2)),
    "the smaller, chosen": lambda s, d: Apply(lambda x: torch.where(x < x.flip(1), x, x.flip(1))),
    "maximum and a constant": lambda s, d: Apply(lambda x: torch.maximum(x, torch.full_like(x, 0.2))),
    "descending sort": lambda s, d: Apply(lambda x: x.sort(dim=-1, descending=True).values),
    "smallest": lambda s, d: Apply(lambda x: x.min(dim=-1, keepdim=True).values),
    "log softmax": lambda s, d: nn.LogSoftmax(dim=1),
    "log-sum-exp": lambda s, d: Apply(lambda x: x.logsumexp(dim=-1, keepdim=True)),
    "euclidean norm": lambda s, d: Apply(lambda x: x.norm(dim=-1, keepdim=True)),
    "sine": lambda s, d: Apply(torch.sin),
    "mask": lambda s, d: Apply(lambda x: x.masked_fill(torch.arange(x.shape[-1]) % 2 == 0, 0.5)),
    "index": lambda s, d: Apply(lambda x: x[..., [0, -1, 0]]),
    "roll": lambda s, d: Apply(lambda x: x.roll(1, -1)),
    "repeated entries": lambda s, d: Apply(lambda x: x.repeat_interleave(2, dim=1)),
    "constant beside": lambda s, d: Apply(lambda x: torch.cat([torch.ones_like(x[..., :1]), x], dim=-1)),
    "cumulative sum": lambda s, d: Apply(lambda x: x.cumsum(-1)),
    "pairs reshaped": lambda s, d: Apply(pairs_sorted),
    "layer norm": lambda s, d: nn.LayerNorm(s[-1], eps=d.one_of(1e-5, 0.1)),
    "rms norm": lambda s, d: nn.RMSNorm(s[-1], eps=d.one_of(1e-5, 0.1)),
    "square": lambda s, d: Apply(lambda x: x**2),
    "exponential": lambda s, d: Apply(torch.exp),
    "quotient": lambda s, d: Apply(lambda x: x / (1.5 + x.abs().sum(dim=-1, keepdim=True))),
    "gate": lambda s, d: Apply(lambda x: x * torch.sigmoid(x.flip(1))),
    "product": lambda s, d: Apply(lambda x: x * (x.flip(1) - 0.4)),
    "one layer twice": lambda s, d: Apply(lambda x, a: a(x) - a(0.5 * x), nn.PReLU(init=d.number(-1.5, 1.5))),
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
    "einsum": lambda s, d: Apply(lambda x, a: torch.einsum("bi,oi->bo", x, a.weight), nn.Linear(s[0], 3)),
    "glu": lambda s, d: nn.Sequential(nn.Linear(s[0], 8), nn.GLU()),
    "swiglu": lambda s, d: Apply(
        lambda x, a, b: F.silu(a(x)) * b(x), nn.Linear(s[0], 4), nn.Linear(s[0], 4, bias=False)
    ),
    "shared linear": lambda s, d: Apply(lambda x, a: a(F.relu(a(x))), nn.Linear(s[0], s[0])),
    "as tokens": lambda s, d: nn.Sequential(nn.Linear(s[0], 12), nn.Unflatten(1, (3, 4))),
    "input scaling": lambda s, d: Normalise(s[0], 0),
    "unflatten": lambda s, d: nn.Sequential(nn.Linear(s[0], 24), nn.Unflatten(1, (2, 3, 4))),
    "as a signal": lambda s, d: nn.Sequential(nn.Linear(s[0], 20), nn.Unflatten(1, (2, 10))),
}


def _hooked(layer):
    """A layer whose output a hook doubles."""
    layer.register_forward_hook(lambda module, inputs, output: 2.0 * output)
    return layer


def _transposed(kind, shape, dice):
    groups, stride = dice.one_of(1, shape[0]), dice.one_of(1, 2, 2, 3)
    return kind(
        *(shape[0], groups * dice.one_of(1, 2), dice.one_of(1, 2, 3), stride),
        padding=dice.one_of(0, 1),
        output_padding=dice.one_of(0, stride - 1),
        groups=groups,
        bias=dice.chance(0.7),
        dilation=dice.one_of(1, 1, 2),
    )


def _attention(x, projection, *, is_causal=False):
    parts = projection(x).chunk(3, dim=-1)
    return F.scaled_dot_product_attention(*parts, is_causal=is_causal)


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
        *(channels, out, kernel, dice.one_of(1, 1, 2, 3), padding),
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
    "transposed conv1d": lambda s, d: _transposed(nn.ConvTranspose1d, s, d),
    "adaptive max pooling 1d": lambda s, d: nn.AdaptiveMaxPool1d(d.one_of(2, 3)),
    "linear upsampling": lambda s, d: nn.Upsample(scale_factor=1.5, mode="linear", align_corners=d.chance(0.5)),
    "windows": lambda s, d: Apply(lambda x: x.unfold(2, 2, 1).flatten(2)),
    "group norm": lambda s, d: nn.GroupNorm(d.one_of(1, s[0]), s[0], eps=d.one_of(1e-5, 0.1)),
    "matrix product": lambda s, d: Apply(lambda x: x @ x.transpose(1, 2)),
    "attention": lambda s, d: Apply(_attention, nn.Linear(s[-1], 3 * d.one_of(1, 2))),
    "causal attention": lambda s, d: Apply(partial(_attention, is_causal=True), nn.Linear(s[-1], 3 * d.one_of(1, 2))),
    "glu of channels": lambda s, d: nn.GLU(1),
    "shared conv1d": lambda s, d: Apply(lambda x, a: a(F.relu(a(x))), nn.Conv1d(s[0], s[0], 3, 1, 1)),
    "multi-head attention": lambda s, d: Apply(
        lambda x, a: a(x, x, x, need_weights=False)[0], nn.MultiheadAttention(s[-1], 1, batch_first=True)
    ),
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
    "transposed conv2d": lambda s, d: _transposed(nn.ConvTranspose2d, s, d),
    "adaptive max pooling": lambda s, d: nn.AdaptiveMaxPool2d(d.one_of(2, (2, 3))),
    "bilinear upsampling": lambda s, d: nn.Upsample(
        scale_factor=d.one_of(1.5, 2.0), mode="bilinear", align_corners=d.chance(0.5)
    ),
    "interpolation": lambda s, d: Apply(
        partial(
            F.interpolate,
            size=d.one_of((3, 5), (2, 2), (1, 4)),
            mode=d.one_of("nearest", "nearest-exact", "bilinear", "bicubic", "area"),
        )
    ),
    "shared conv2d": lambda s, d: Apply(lambda x, a: a(F.relu(a(x))), nn.Conv2d(s[0], s[0], 3, 1, 1)),
    "glu of image channels": lambda s, d: nn.GLU(1),
    "pixel unshuffle": lambda s, d: nn.PixelUnshuffle(2),
    "patches": lambda s, d: nn.Unfold(2, padding=d.one_of(0, 1), stride=d.one_of(1, 2)),
    "instance norm": lambda s, d: nn.InstanceNorm2d(s[0], affine=d.chance(0.5)),
    "running instance norm": lambda s, d: settled(nn.InstanceNorm2d(s[0], affine=True, track_running_stats=True)),
    "as a volume": lambda s, d: Apply(lambda x: x.unsqueeze(1)),
}

VOLUMES: dict[str, Make] = {
    "conv3d": lambda s, d: nn.Conv3d(s[0], d.one_of(1, 2), d.one_of(1, 2), d.one_of(1, 2), 1),
    "transposed conv3d": lambda s, d: _transposed(nn.ConvTranspose3d, s, d),
    "average pooling 3d": lambda s, d: nn.AvgPool3d(2, d.one_of(1, 2), 1),
    "max pooling 3d": lambda s, d: nn.MaxPool3d(2, d.one_of(1, 2), 1),
    "batch norm of volumes": lambda s, d: settled(nn.BatchNorm3d(s[0])),
    "trilinear upsampling": lambda s, d: nn.Upsample(scale_factor=1.5, mode="trilinear"),
}

FLAT: dict[str, Make] = {
    "flatten": lambda s, d: nn.Flatten(),
    "view": lambda s, d: Apply(lambda x: x.reshape(x.shape[0], -1)),
}
OF_RANK = {1: ("linear", VECTORS), 2: ("conv1d", {**SIGNALS, **FLAT}), 3: ("conv2d", {**IMAGES, **FLAT})}
OF_RANK[4] = ("conv3d", {**VOLUMES, **FLAT})
"""For inputs of 1 to 4 dimensions, the name of the affine layer and the table of all layers."""
