"""Judges in float64: the largest slope and quotient of a model that can be found, and changes of class near an input.

They see the model as a function. What they find is compared with a claim by :func:`exceeds`, which repeats the
measurement with random rounding: only what stands out from the rounding counts.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from networks import exact_copy

ROUNDING = 1 + 1e-9
_UNBOUNDED = (-2, 2)  # powers of ten of the inputs where there is no domain


class Finding(NamedTuple):
    """A number that the constant cannot be smaller than, and how to measure it again.

    Attributes:
        measure: computes what the number is the size of: a Jacobian, or a difference over a distance.
        size: a norm.
    """

    value: float
    how: str
    measure: Callable[[], Tensor]
    size: Callable[[Tensor], Tensor]

    def sure(self) -> tuple[float, float]:
        """The number once more, and how far off rounding can have made it, from measurements with random rounding."""
        runs = []
        for seed in range(6):
            with RandomRounding(seed):
                runs.append(self.measure())
        mean = torch.stack(runs).mean(dim=0)
        return float(self.size(mean)), 4 * max(float(self.size(run - mean)) for run in runs)


class RandomRounding(TorchDispatchMode):
    """Change every result of an operation by a few units in the last place, at random."""

    def __init__(self, seed):
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        views = any(r.alias_info is not None and not r.alias_info.is_write for r in function._schema.returns)
        for one in [] if views else result if isinstance(result, tuple) else [result]:  # batch norm returns several
            if isinstance(one, Tensor) and one.dtype == torch.float64 and one.numel():
                noise = torch.rand(one.shape, generator=self.generator, dtype=torch.float64) - 0.5
                one.mul_(1 + 2.0**-50 * noise)
        return result


class Attached(TorchFunctionMode):
    """Let a gradient pass where a model detaches a value: a derivative is that of what the model computes."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        detaches = function in (Tensor.detach, torch.detach, torch.ops.aten.detach.default)
        return args[0] if detaches else function(*args, **(kwargs or {}))


def exceeds(finding: Finding, claim: float) -> bool:
    """Tell whether a finding is above a claim by more than its rounding can explain."""
    if not finding.value > claim * ROUNDING:
        return False
    value, doubt = finding.sure()
    return value - doubt > claim * ROUNDING  # false where either is NaN


def falls_short(finding: Finding, claim: float) -> bool:
    """Tell whether a finding is below a claim by more than its rounding can explain."""
    if not finding.value * (1 + 1e-6) < claim:
        return False
    value, doubt = finding.sure()
    return (value + doubt) * (1 + 1e-6) < claim


class Exact:
    """A model in float64, which never sees the caller's own tensor; rows that are not finite are left to the caller."""

    def __init__(self, model: nn.Module):
        self.model = exact_copy(model).requires_grad_(False).eval()

    def __call__(self, x: Tensor) -> Tensor:
        return self.model(x.clone() if not x.requires_grad else x * 1.0)

    def flat(self, x: Tensor) -> Tensor:
        return self(x).reshape(len(x), -1)


def points(domain, shape, count, generator):
    """Inputs in the domain: some inside, some on its border; without a bounded domain of sizes from 0.01 to 100."""
    x = torch.randn(count, *shape, generator=generator, dtype=torch.float64)
    low, high = _UNBOUNDED
    sizes = 10 ** (low + (high - low) * torch.rand(count, generator=generator, dtype=torch.float64))
    x = sizes.reshape(-1, *[1] * len(shape)) * x
    if domain is None:
        return x
    if domain.bounded:
        x[: count - count // 4] = domain.sample(count - count // 4, shape, generator=generator, dtype=torch.float64)
    x = domain.project(x)
    return x[torch.isfinite(x).flatten(1).all(dim=1)]


def largest_slope(f: Exact, x: Tensor, norm: float) -> Finding | None:
    """The largest norm of a Jacobian, at the given points and at some that climb from the best."""
    found = _slopes(f, x, norm)
    if found is None:
        return None
    best, at = found.max(dim=0)
    return Finding(
        float(best), "slope", lambda: _jacobians(f, x[at][None])[0], lambda j: torch.linalg.matrix_norm(j, norm)
    )


def _slopes(f, x, norm):
    jacobians = _jacobians(f, x)
    if jacobians is None:
        return None
    finite = torch.isfinite(jacobians).flatten(1).all(dim=1)
    norms = torch.linalg.matrix_norm(jacobians.nan_to_num(0, 0, 0), norm)
    return torch.where(finite, norms, -1.0)


def _jacobians(f, x):
    outputs = f.flat(x[:2]).shape[1]  # some models take pairs of inputs only
    x = x[: max(2, 400 // outputs)]
    many = x.repeat_interleave(outputs, dim=0).requires_grad_()
    with torch.enable_grad(), Attached():
        y = f.flat(many)
        if not y.requires_grad:
            return None
        picked = y.gather(1, torch.arange(len(many)).remainder(outputs)[:, None]).sum()
        (rows,) = torch.autograd.grad(picked, many)
    return rows.reshape(len(x), outputs, -1)


@torch.no_grad()
def largest_quotient(f: Exact, x: Tensor, domain, norm: float, halvings: int = 12) -> Finding | None:
    """The largest quotient of pairs, far and near; the best are halved towards the steeper half."""
    half = len(x) // 2
    u, v = x[:half], x[half : 2 * half]
    u, v = torch.cat([u, u]), torch.cat([v, u + 1e-3 * (v - u)])
    if not len(u):
        return None
    fu, fv = f.flat(torch.cat([u, v])).chunk(2)
    value = _quotients(fu, fv, u, v, norm)
    top = value.topk(min(8, len(value))).indices
    u, v, fu, fv = u[top], v[top], fu[top], fv[top]
    best = (value.max(), u[:1], v[:1])
    for _ in range(halvings):
        middle = (u + v) / 2
        fm = f.flat(middle)
        first, second = _quotients(fu, fm, u, middle, norm), _quotients(fm, fv, middle, v, norm)
        left = first > second
        u, v, fu, fv = _halves(left, u, middle, v, fu, fm, fv)
        value = torch.maximum(first, second)
        at = value.argmax()
        if value[at] > best[0]:
            best = (value[at], u[at : at + 1], v[at : at + 1])
    value, u, v = best
    return _pair(f, u, v, norm, "quotient")._replace(value=float(value))


@torch.no_grad()
def largest_jump(f: Exact, x: Tensor, norm: float, halvings: int = 30) -> Finding | None:
    """The quotient of the pair that halving finds which bends most: at a jump, the bend stays as the pair shrinks."""
    half = len(x) // 2
    u, v = x[:half], x[half : 2 * half]
    if not half:
        return None
    fu, fv, fm = f.flat(torch.cat([u, v, (u + v) / 2])).chunk(3)
    for step in range(halvings):
        middle = (u + v) / 2
        quarters = f.flat(torch.cat([(u + middle) / 2, (middle + v) / 2]))
        early, late = quarters.chunk(2)
        first, second = _bend(fu, early, fm, norm), _bend(fm, late, fv, norm)
        left = first > second
        inner = torch.where(left[:, None], early, late)
        u, v, fu, fv = _halves(left, u, middle, v, fu, fm, fv)
        fm = inner
        if step == 0:  # go on with the few that bend most
            few = torch.maximum(first, second).topk(min(4, half)).indices
            u, v, fu, fv, fm = u[few], v[few], fu[few], fv[few], fm[few]
    best = _quotients(fu, fv, u, v, norm).argmax()
    return _pair(f, u[best : best + 1], v[best : best + 1], norm, "jump")


def _halves(left, u, middle, v, fu, fm, fv):
    """The half of each pair that is chosen, and the outputs at its ends."""
    inputs = left.reshape(-1, *[1] * (u.dim() - 1))
    return (
        torch.where(inputs, u, middle),
        torch.where(inputs, middle, v),
        torch.where(left[:, None], fu, fm),
        torch.where(left[:, None], fm, fv),
    )


def _bend(start, middle, end, norm):
    """How far a model's outputs are from a straight line."""
    return (start + end - 2 * middle).norm(norm, dim=1).nan_to_num(-1, -1, -1)


def _quotients(fu, fv, u, v, norm):
    rounding = 1e-14 * (fu.abs() + fv.abs()).norm(norm, dim=1)
    quotients = ((fu - fv).norm(norm, dim=1) - rounding) / (u - v).flatten(1).norm(norm, dim=1)
    return quotients.nan_to_num(-1.0, -1.0, -1.0)


@torch.no_grad()
def _pair(f, u, v, norm, how):
    run = (u - v).flatten(1).norm(norm, dim=1)

    @torch.no_grad()
    def measure():
        fu, fv = f.flat(torch.cat([u, v])).chunk(2)
        return ((fu - fv) / run)[0]

    return Finding(float(_length(measure(), norm)), how, measure, lambda d: _length(d, norm))


def _length(d, norm):
    """The norm of a vector whose squares may underflow or overflow."""
    peak = d.abs().amax().clamp_min(torch.finfo(d.dtype).tiny)
    return (d / peak).norm(norm) * peak


def witness(f: Exact, u: Tensor, v: Tensor, norm: float) -> Finding:
    """The quotient of a pair in float64."""
    return _pair(f, u[None].double(), v[None].double(), norm, "witness")


def changed_class(f: Exact, x: Tensor, radius: Tensor, domain, generator) -> float | None:
    """The distance of an input of another class within the certified radius; None if none is found.

    Steps against the lead of the class, in the direction of its gradient and along random rays.
    """
    for at, r in zip(x.double(), radius.tolist(), strict=True):
        if not r > 0:
            continue
        start = at[None].clone().requires_grad_()
        with torch.enable_grad():
            logits = f.flat(start)
            first, second = logits[0].topk(2).indices.tolist()
            lead = logits[0, first] - logits[0, second]
            (slope,) = torch.autograd.grad(lead, start) if lead.requires_grad else (torch.zeros_like(start),)
        rays = torch.randn(16, *at.shape, generator=generator, dtype=torch.float64)
        rays = torch.cat([-slope, rays]).nan_to_num(0, 0, 0)
        single = [1] * at.dim()
        rays = rays / rays.flatten(1).abs().amax(dim=1).clamp_min(1e-300).reshape(-1, *single)  # or squares underflow
        rays = rays / rays.flatten(1).norm(dim=1).clamp_min(1.0).reshape(-1, *single)
        near = at + 0.999 * min(r, 1e3) * rays
        near = near if domain is None else domain.project(near)
        with torch.no_grad():
            y = f.flat(near)
        ahead = y[:, first, None] - torch.cat([y[:, :first], y[:, first + 1 :]], dim=1)
        worst = ahead.min(dim=1).values
        who = int(worst.argmin())
        if float(worst[who]) < 0:
            pair = near[who : who + 1]
            lost = Finding(-float(worst[who]), "class", partial(_lead_lost, f, pair, first), torch.Tensor.abs)
            if exceeds(lost, 0.0):
                return float((pair[0] - at).norm())
    return None


@torch.no_grad()
def _lead_lost(f, x, first):
    y = f.flat(x)[0]
    return torch.cat([y[:first], y[first + 1 :]]).max() - y[first]
