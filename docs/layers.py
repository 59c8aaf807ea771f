"""Write the table of layers into docs/layers.md: how close the bound of each comes to its Lipschitz constant.

python docs/layers.py
"""

import math
import re
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from cheaplip import Box, UnsupportedLayerError, bracket
from cheaplip.lipschitz import read
from cheaplip.lipschitz.reading.operations import LipschitzMap

PAGE = Path(__file__).with_name("layers.md")
MARKED = re.compile(r"(<!-- table: layers -->\n).*?(<!-- end -->)", re.DOTALL)
HEAD = ("layer", "on all of space", "in [−1, 1]", "LipSDP")
EXACT, TIGHT = 1.001, 1.1  # the largest upper / lower that is called so


class Apply(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[..., Tensor], *parts: nn.Module) -> None:
        super().__init__()
        self.function, self.parts = function, nn.ModuleList(parts)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, *self.parts)


def max_min(x: Tensor) -> Tensor:
    """Put maxima and minima of the two halves side by side."""
    a, b = x.chunk(2, dim=1)
    return torch.cat([torch.maximum(a, b), torch.minimum(a, b)], dim=1)


def group_sort(x: Tensor) -> Tensor:
    """Sort each two neighbours."""
    return x.unflatten(1, (-1, 2)).sort(dim=2).values.flatten(1)


def attention(x: Tensor) -> Tensor:
    """Attend from each row to all."""
    return F.scaled_dot_product_attention(x, x, x)


def excited(x: Tensor, layer: nn.Module) -> Tensor:
    """Multiply each channel by a gate that depends on all means."""
    gate: Tensor = torch.sigmoid(layer(x.mean(dim=(2, 3))))
    return x * gate[:, :, None, None]


VECTOR, SIGNAL, IMAGE, VOLUME = (4,), (2, 6), (2, 4, 4), (2, 3, 3, 3)
LAYERS: dict[str, tuple[tuple[int, ...], Callable[[], nn.Module]]] = {
    "`Linear`": (VECTOR, lambda: nn.Linear(4, 3)),
    "`Conv1d`": (SIGNAL, lambda: nn.Conv1d(2, 3, 3, padding=1)),
    "`Conv2d`": (IMAGE, lambda: nn.Conv2d(2, 3, 3, padding=1)),
    "`Conv2d`, circular": (IMAGE, lambda: nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular")),
    "`Conv2d` of a large image": ((3, 24, 24), lambda: nn.Conv2d(3, 8, 3, padding=1)),
    "`Conv3d`": (VOLUME, lambda: nn.Conv3d(2, 2, 2)),
    "`ConvTranspose1d`, `2d`, `3d`": (IMAGE, lambda: nn.ConvTranspose2d(2, 3, 3, 2, 1, 1)),
    "`BatchNorm`, `InstanceNorm` with running statistics": (IMAGE, lambda: nn.BatchNorm2d(2)),
    "`einsum`, `matmul` with a constant": (
        SIGNAL,
        lambda: Apply(lambda x, a: torch.einsum("bct,ot->boc", x, a.weight), nn.Linear(6, 3)),
    ),
    "reshaping, indexing, masks, `roll`, `PixelShuffle`": (
        IMAGE,
        lambda: Apply(lambda x: x[:, :, [1, 0, 3]].roll(1, 2)),
    ),
    "padding with zeros or constants": (IMAGE, lambda: nn.ConstantPad2d(1, 0.5)),
    "padding by reflection, by copies": (IMAGE, lambda: nn.ReflectionPad2d(1)),
    "`repeat`, `expand`": (VECTOR, lambda: Apply(lambda x: x.repeat(1, 3))),
    "`Unfold`, overlapping": (IMAGE, lambda: nn.Unfold(3)),
    "`AvgPool`, without overlap": (IMAGE, lambda: nn.AvgPool2d(2)),
    "`AvgPool`, overlapping": (IMAGE, lambda: nn.AvgPool2d(3, stride=1, padding=1)),
    "`Upsample`, nearest": (IMAGE, lambda: nn.Upsample(scale_factor=2)),
    "`Upsample`, linear": (IMAGE, lambda: nn.Upsample(scale_factor=2, mode="bilinear")),
    "`Upsample`, bicubic": (IMAGE, lambda: nn.Upsample(scale_factor=2, mode="bicubic")),
    "`cat` of one value's parts, of constants": (
        VECTOR,
        lambda: Apply(lambda x: torch.cat([x[:, 2:], x[:, :2]], dim=1)),
    ),
    "residual block": (VECTOR, lambda: Apply(lambda x, a, b: x + b(F.relu(a(x))), nn.Linear(4, 8), nn.Linear(8, 4))),
    "`ReLU`, `LeakyReLU`, `Hardtanh`, `abs`": (VECTOR, nn.ReLU),
    "`Sigmoid`, `Tanh`, `Softsign`": (VECTOR, nn.Sigmoid),
    "`ELU`, `SELU`, `CELU`": (VECTOR, nn.SELU),
    "`GELU`, `SiLU`, `Mish`": (VECTOR, nn.GELU),
    "`Hardswish`, `Hardsigmoid`": (VECTOR, nn.Hardswish),
    "`PReLU`, `RReLU`": (VECTOR, lambda: nn.PReLU(4)),
    "`LogSigmoid`, `Softshrink`, `Tanhshrink`": (VECTOR, nn.LogSigmoid),
    "`Softplus(threshold=80)`": (VECTOR, lambda: nn.Softplus(threshold=80.0)),
    "`Softplus()`": (VECTOR, nn.Softplus),
    "`Hardshrink`": (VECTOR, nn.Hardshrink),
    "`Threshold(t, t)`": (VECTOR, lambda: nn.Threshold(0.1, 0.1)),
    "`Threshold(t, v)`": (VECTOR, lambda: nn.Threshold(0.1, 0.2)),
    "MaxMin": (VECTOR, lambda: Apply(max_min)),
    "GroupSort in twos": (VECTOR, lambda: Apply(group_sort)),
    "sorting of more": (VECTOR, lambda: Apply(lambda x: x.sort(dim=1).values)),
    "maximum of two values": (VECTOR, lambda: Apply(lambda x: torch.maximum(x[:, :2], x[:, 2:]))),
    "maxout": ((6,), lambda: Apply(lambda x: x.unflatten(1, (2, 3)).amax(dim=2))),
    "CReLU": (VECTOR, lambda: Apply(lambda x: torch.cat([F.relu(x), F.relu(-x)], dim=1))),
    "`MaxPool`, without overlap": (IMAGE, lambda: nn.MaxPool2d(2)),
    "`MaxPool`, overlapping; `AdaptiveMaxPool`": (IMAGE, lambda: nn.MaxPool2d(3, stride=1)),
    "`Softmax`, `Softmin`": (VECTOR, lambda: nn.Softmax(dim=1)),
    "`LogSoftmax`": (VECTOR, lambda: nn.LogSoftmax(dim=1)),
    "`logsumexp`": (VECTOR, lambda: Apply(lambda x: x.logsumexp(dim=1, keepdim=True))),
    "Euclidean norm": (VECTOR, lambda: Apply(lambda x: x.norm(dim=1, keepdim=True))),
    "`LayerNorm`, `GroupNorm`, `InstanceNorm`": (VECTOR, lambda: nn.LayerNorm(4)),
    "`RMSNorm` with an eps": (VECTOR, lambda: nn.RMSNorm(4, eps=1e-5)),
    "`BatchNorm` without running statistics": (VECTOR, lambda: nn.BatchNorm1d(4, track_running_stats=False)),
    "square, `exp`": (VECTOR, lambda: Apply(lambda x: x**2)),
    "product of two values, gate, `GLU`": (VECTOR, lambda: nn.GLU()),
    "squeeze and excitation": (IMAGE, lambda: Apply(excited, nn.Linear(2, 2))),
    "quotient of two values": (VECTOR, lambda: Apply(lambda x: x / (2 + x.abs().sum(dim=1, keepdim=True)))),
    "matrix product of two values": ((2, 3), lambda: Apply(lambda x: x @ x.transpose(1, 2))),
    "attention": ((3, 4), lambda: Apply(attention)),
    "`MultiheadAttention`": (
        (3, 4),
        lambda: Apply(lambda x, a: a(x, x, x, need_weights=False)[0], nn.MultiheadAttention(4, 2, batch_first=True)),
    ),
    "`TransformerEncoderLayer`": ((3, 4), lambda: nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)),
    "choice by a comparison": (VECTOR, lambda: Apply(lambda x: x * (x > 0.5))),
    "rounding, `argmax`": (VECTOR, lambda: Apply(torch.round)),
    "`Dropout`, active in evaluation mode": (VECTOR, lambda: Apply(lambda x: F.dropout(x, training=True))),
}


def filled(page: str) -> str:
    """Put the present table into the text of the page, between its markers."""
    return MARKED.sub(lambda found: f"{found[1]}\n{table()}\n{found[2]}", page)


def table() -> str:
    """Make the table, with a row for each layer."""
    rows = [HEAD, ("---",) * len(HEAD), *(row(name) for name in LAYERS)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in rows)


def row(name: str) -> tuple[str, ...]:
    """Describe a layer, in a cell for each column."""
    shape, make = LAYERS[name]
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, of layers that are traced
        torch.manual_seed(0)
        model = make().eval()
        try:
            chain = read(model, shape)
        except UnsupportedLayerError:
            return name, "refused", "refused", "–"
        written = all(not isinstance(link.operation, LipschitzMap) for link in chain.links)
        return name, verdict(model, None, shape), verdict(model, Box(-1.0, 1.0), shape), "yes" if written else "no"


def verdict(model: nn.Module, domain: Box | None, shape: tuple[int, ...]) -> str:
    """Compare the upper end of the bracket with the lower one."""
    found = bracket(model, domain, shape, steps=20, seconds=None)
    if found.upper == math.inf:
        return "refused"
    return "exact" if found.gap <= EXACT else "tight" if found.gap <= TIGHT else "loose"


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
