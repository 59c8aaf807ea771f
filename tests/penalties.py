"""Small penalties and models for tests of the core, and what such tests measure of them."""

import itertools

import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from cheaplip import CLIP, Box, PairSet
from cheaplip.quotient import quotient

STEPS = ["power", "gradient", "quotient"]
AGGREGATES = ["max", "softmax", "mean"]
FORMS = ["own pass", "shared pass"]
SHAPES = [(64,), (64, 3), (64, 1, 8, 8), (64, 2, 3, 4, 5)]
REMEDY = "use clip(model), which gives the pairs a pass of their own, instead of clip.joint(model, x)"
fast = settings(deadline=None, max_examples=25, derandomize=True)
seeds = st.integers(0, 2**16)


def inputs(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def seeded(build, seed: int = 0) -> nn.Module:
    """A model whose weights depend on the seed alone."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build()


def tanh_net(*sizes: int, seed: int = 0) -> nn.Sequential:
    def build() -> nn.Sequential:
        layers = [layer for n, m in itertools.pairwise(sizes) for layer in (nn.Linear(n, m), nn.Tanh())]
        return nn.Sequential(*layers[:-1])

    return seeded(build, seed)


def small_clip(*, size: int = 8, lam: float = 0.5, domain: Box | None = None, **options) -> CLIP:
    own = {name: options.pop(name) for name in ("aggregate", "every", "norm_in", "norm_out") if name in options}
    return CLIP(PairSet(inputs(64, 3), size=size, domain=domain, **options), lam=lam, **own)


def penalty_of(clip: CLIP, form: str, model, x: Tensor) -> Tensor:
    """One call in either form, and in the shared one the backward pass that moves the pairs."""
    if form == "own pass":
        return clip(model)
    output, penalty = clip.joint(model, x)
    (output.square().mean() + penalty).backward()
    return penalty.detach()


def quotients_of(clip: CLIP, model) -> Tensor:
    u, v = clip.pairs.u, clip.pairs.v
    return quotient(model(u), model(v), u, v, norm_in=clip.norm_in, norm_out=clip.norm_out)


def measured(clip: CLIP, model) -> Tensor:
    """The penalty at the present pairs, which do not move."""
    clip.eval()
    penalty = clip(model)
    clip.train()
    return penalty


def gradients(loss: Tensor, model: nn.Module) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(model.parameters()), retain_graph=True))


class BatchNormModel(nn.Module):
    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Dropout(dropout))
        self.head = nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


class Count(nn.Module):
    """Counts the passes and the inputs its model has seen."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.rows = model, []

    def forward(self, x: Tensor) -> Tensor:
        self.rows.append(len(x))
        return self.model(x)


class Recurrent(nn.Module):
    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 4, num_layers=2, dropout=dropout, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.lstm(x)[0][:, -1]


class Attention(nn.Module):
    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, dropout=dropout, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x, need_weights=False)[0].flatten(1)


class Centre(nn.Module):
    """Subtracts the batch's mean, in every mode."""

    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(dim=0)


class CentreInTraining(nn.Module):
    """Subtracts the batch's mean, in train mode only."""

    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(dim=0) if self.training else x


class FunctionalDropout(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return functional.dropout(x, 0.5, self.training)


class DropoutAcrossTime(nn.Module):
    """Dropout on a tensor whose first dimension is not the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(x.transpose(0, 1)).transpose(0, 1)


def scaled_identity(factor: float) -> nn.Linear:
    layer = nn.Linear(3, 3)
    with torch.no_grad():
        layer.weight.copy_(factor * torch.eye(3))
    return layer


def dropout_net(layer: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 64), layer, nn.Tanh(), nn.Linear(64, 2)).train()
