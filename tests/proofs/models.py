"""Random models: a seed → a model with weights, the shape of an input, a domain and a norm.

``FAMILY`` seeds in a row share an architecture, which is traced once: tracing takes many times as long as all else.
Each seed draws new weights, from ordinary to hostile ones, a domain and a norm. A model depends on its seed alone.
"""

import copy
import functools
import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from cheaplip import Ball, Box
from networks import Apply
from proofs.layers import ACTIVATIONS, ANYWHERE, IN_PLACE, NEED_A_DOMAIN, OF_RANK, UNUSUAL, Dice

FAMILY = 50
MOST_VALUES = 150  # of any activation: a bound of 150 neurons takes a fraction of a second
SHAPES = (
    (1,),
    (2,),
    (3,),
    (5,),
    (7,),
    (1, 9),
    (2, 6),
    (3, 1),
    (1, 6, 6),
    (2, 5, 5),
    (3, 4, 7),
    (2, 1, 1),
    (1, 3, 3, 3),
    (2, 2, 3, 2),
)


class Architecture(NamedTuple):
    """A model in evaluation mode with its first weights, the shape of one input, and the names of its layers."""

    model: nn.Module
    shape: tuple[int, ...]
    layers: tuple[str, ...]


class RandomModel(NamedTuple):
    """What is asked about: a model, a domain (None: all of space) and a norm.

    Attributes:
        seed: makes it again.
        weights: the name of their kind.
    """

    seed: int
    model: nn.Module
    shape: tuple[int, ...]
    layers: tuple[str, ...]
    weights: str
    domain: Box | Ball | None
    norm: float

    def __str__(self):
        size = "×".join(map(str, self.shape))
        kind = next((str(p.dtype).removeprefix("torch.") for p in self.model.parameters()), "no weights")
        domain = describe(self.domain)
        return f"{' → '.join(self.layers)} ({size}, {kind}, {self.weights} weights, {domain}, norm {self.norm:g})"


def describe(domain):
    return "everywhere" if domain is None else f"{type(domain).__name__}({domain.extra_repr()})"


def random_model(seed: int) -> RandomModel:
    """Make the model of a seed. It shares its module with the other seeds of its family: use one at a time."""
    architecture, weights = _family(seed // FAMILY)
    dice = Dice(seed + (1 << 40))
    architecture.model.load_state_dict(weights)
    kind = dice.one_of(*["ordinary"] * 8, *WEIGHTS)
    draw_weights_(architecture.model, kind, dice)
    domain = _domain(architecture.shape, dice)
    norm = dice.one_of(2, 2, 2, 2, 2, 1, math.inf)
    return RandomModel(seed, *architecture, kind, domain, norm)


@functools.lru_cache(maxsize=1)
def _family(number: int) -> tuple[Architecture, dict[str, Tensor]]:
    architecture = random_architecture(number)
    return architecture, copy.deepcopy(architecture.model.state_dict())


def random_architecture(number: int, *, readable: bool = False) -> Architecture:
    """Draw two to seven layers of any kind; every fifth is a perceptron; some are as torch.export sees them.

    Args:
        number: the seed.
        readable: only layers that cheaplip can bound on all of space in every norm, and only float32.
    """
    dice = Dice(number)
    with torch.random.fork_rng():
        torch.manual_seed(number)
        if not readable and dice.chance(0.2):
            return _perceptron(dice)
        shape = dice.one_of(*SHAPES)
        wanted = dice.one_of(2, 3, 4, 5, 6, 7)
        names, layers = _random_layers(torch.zeros(2, *shape), dice, wanted, [] if readable else [IN_PLACE, UNUSUAL])
        if not readable and dice.chance(0.1):
            names, layers = [*names, "one number"], [*layers, Apply(lambda x: x.flatten(1).mean(dim=1))]
        model = nn.Sequential(*layers).eval()
        dtype = dice.one_of(*[torch.float32] * 11, *[torch.float64] * 7, torch.float16, torch.bfloat16)
        dtype = torch.float32 if readable else dtype
        if dtype == torch.float32 and dice.chance(0.2) and not {*names} & {"branch on the batch", "branch on tracing"}:
            return Architecture(_exported(model, shape), shape, tuple(names))
    return Architecture(model.to(dtype), shape, tuple(names))


def _perceptron(dice):
    """One to three inputs, one or two hidden layers of piecewise linear neurons: few enough for rational arithmetic."""
    width, names, layers = dice.one_of(1, 1, 2, 3), [], []
    shape = (width,)
    for _ in range(dice.one_of(1, 1, 2)):
        after = dice.one_of(2, 3, 5)
        activation = dice.one_of("relu", "relu", "leaky relu", "relu in place")
        names += ["linear", activation]
        layers += [nn.Linear(width, after), {**ACTIVATIONS, **IN_PLACE}[activation](shape, dice)]
        width = after
    layers.append(nn.Linear(width, dice.one_of(1, 2, 3)))
    model = nn.Sequential(*layers).eval().to(dice.one_of(torch.float32, torch.float64))
    return Architecture(model, shape, (*names, "linear"))


def _random_layers(x, dice, wanted, others, *, inner=False):
    names, layers, first = [], [], x
    while len(layers) < wanted:
        affine, special = OF_RANK[x.dim() - 1]
        table = dice.one_of(special, special, ANYWHERE)
        table = dice.one_of(*others) if others and dice.chance(0.2) else table
        name = affine if dice.chance(0.25) else dice.one_of(*table)
        if not others and name in NEED_A_DOMAIN:
            continue
        try:
            if not inner and dice.chance(0.12):
                name = dice.one_of("inner layers added", "inner layers beside")
                layer = _joined(name, x, dice, others)
            else:
                layer = {**ANYWHERE, **IN_PLACE, **UNUSUAL, **special}[name](tuple(x.shape[1:]), dice).eval()
            y = layer(x.clone())
            if bool(torch.isfinite(y).all()):  # else a window of padding alone, whose derivative writes anywhere
                _check_backward(nn.Sequential(*layers, layer), first)
        except (RuntimeError, ValueError, IndexError, NotImplementedError):
            continue  # too small for the kernel, or an odd number to sort in pairs, or autograd cannot undo it
        if y.dim() in (2, 3, 4, 5) and 0 < y[0].numel() <= MOST_VALUES and bool(torch.isfinite(y).all()):
            names.append(name)
            layers.append(layer)
            x = y.detach()
    return names, layers


def _joined(name, x, dice, others):
    """Inner layers whose result is added to their input, or stands beside it."""
    _, layers = _random_layers(x, dice, dice.one_of(1, 2, 3), others, inner=True)
    if nn.Sequential(*layers)(x.clone()).dim() != x.dim():
        raise ValueError("the inner layers change the number of dimensions: the sum would mix the batch")
    if name == "inner layers added":
        return Apply(lambda x, inner: 1.0 * x + inner(x), nn.Sequential(*layers))
    return Apply(lambda x, inner: torch.cat([1.0 * x, inner(x)], dim=1), nn.Sequential(*layers))


def _check_backward(model, x):
    """Raise a RuntimeError where autograd cannot go back through the layers, as after some changes in place."""
    start = x.clone().requires_grad_()
    torch.autograd.grad(model(start * 1.0).sum(), start, allow_unused=True)


def _exported(model, shape):
    """As torch.export sees it, for batches of any size."""
    batch = torch.export.Dim("batch")
    return torch.export.export(model, (torch.zeros(3, *shape),), dynamic_shapes=({0: batch},)).module()


def readable_network(number: int) -> Architecture:
    """A network of layers that cheaplip can read, with weights of a random size."""
    architecture = random_architecture(number, readable=True)
    draw_weights_(architecture.model, "ordinary", Dice(number))
    return architecture


WEIGHTS = (
    *("tiny", "huge", "mixed scales", "cancelling", "dead neurons", "zero rows", "duplicate rows", "one huge row"),
    *("integers", "zero", "nearly a power of two", "not finite"),
)
"""Kinds of weights besides ordinary ones."""
_REACH = {torch.float16: 2.0, torch.bfloat16: 12.0, torch.float32: 12.0, torch.float64: 90.0}
"""How many powers of ten up and down weights go."""


@torch.no_grad()
def draw_weights_(model: nn.Module, kind: str, dice: Dice) -> None:
    """Replace all weights, and the statistics of batch norm."""
    gain = 10 ** dice.number(-1, 1)
    for parameter in model.parameters():
        if parameter.is_floating_point():
            fan_in = parameter[0].numel() if parameter.dim() > 1 else 4
            drawn = gain * dice.normal(*parameter.shape) / math.sqrt(max(1, fan_in))
            drawn = _hostile(drawn, kind, dice, _REACH[parameter.dtype])
            most = torch.finfo(parameter.dtype).max
            parameter.copy_(drawn if kind == "not finite" else drawn.clamp(-most, most))
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.copy_(dice.normal(*buffer.shape))
        elif name.endswith("running_var"):
            buffer.copy_(0.1 + dice.normal(*buffer.shape) ** 2)
            if kind in ("tiny", "zero rows", "zero"):
                buffer.mul_(dice.one_of(0.0, 1e-12))


def _hostile(drawn: Tensor, kind: str, dice: Dice, reach: float) -> Tensor:
    rows = torch.arange(len(drawn)) if drawn.dim() else torch.zeros(())
    some = (rows % 2 == 1).reshape(-1, *[1] * (drawn.dim() - 1)) if drawn.dim() else rows > 0
    if kind == "tiny":
        return drawn * 10 ** -dice.number(reach / 3, reach)
    if kind == "huge":
        return drawn * 10 ** dice.number(reach / 3, reach)
    if kind == "mixed scales":
        return drawn * 10 ** dice.number(-reach / 2, reach / 2)
    if kind == "cancelling" and drawn.dim() == 1:
        return drawn + 10 ** dice.number(0, reach) * dice.one_of(1, -1)
    if kind == "cancelling":  # each odd row and column nearly undoes the one before it
        size = 10 ** dice.number(0, reach)
        return drawn.new_tensor(size).where(~some, -size) * (1 + 1e-7 * drawn)
    if kind == "dead neurons" and drawn.dim() == 1:
        return torch.where(some, -1e3 * drawn.abs() - 1e3, drawn)
    if kind == "zero rows":
        return torch.where(some, 0.0, drawn)
    if kind == "duplicate rows" and len(drawn) > 1:
        return torch.cat([drawn[: -(-len(drawn) // 2)]] * 2)[: len(drawn)]
    if kind == "one huge row" and drawn.dim():
        drawn[0] *= 10 ** (reach / 2)
    if kind == "not finite":
        drawn.flatten()[0] = dice.one_of(math.nan, math.inf, -math.inf)
    if kind == "integers":
        return (3 * drawn).round()
    if kind == "nearly a power of two":
        return drawn.sign() * 2.0 ** dice.one_of(10, 27, 53) + drawn.sign().roll(1, -1)
    return 0 * drawn if kind == "zero" else drawn


def _domain(shape: tuple[int, ...], dice: Dice) -> Box | Ball | None:
    kind = dice.one_of(
        *["everywhere"] * 3, *["box"] * 3, "tiny", "huge", "point", "flat", "sides", "sides", "half open", "ball"
    )
    if kind == "everywhere":
        return None
    middle = dice.number(-1, 1)
    if kind == "ball":
        return Ball(dice.normal(*shape).float(), 10 ** dice.number(-3, 1))
    if kind == "point":
        return Box(middle, math.nextafter(middle, math.inf))
    if kind in ("box", "tiny", "huge"):
        sizes = {"box": (-2, 1), "tiny": (-12, -5), "huge": dice.one_of((2, 8), (2, 8), (100, 307))}
        half = 10 ** dice.number(*sizes[kind])
        return Box(middle - half, middle + half)
    low = dice.normal(*dice.one_of(shape, shape[-1:]))
    high = low + 10 ** (2 * dice.normal(*low.shape) - 1).clamp(-3, 2)
    if kind == "flat":
        thin = torch.nextafter(low, torch.full_like(low, math.inf))
        return Box(low, torch.where(torch.arange(low.shape[-1]) % 2 == 0, thin, high))
    if kind == "half open":
        low[..., 0] = -math.inf
        high[..., -1] = math.inf
    return Box(low, high) if dice.chance(0.5) else Box(low.float(), high.float() + 1e-3)
