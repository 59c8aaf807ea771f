"""Accuracy under noise and attack: adapters to foolbox and AutoAttack, and the paper's own PGD."""

import importlib
import logging
import math
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize, pad
from torch.random import fork_rng

from cheaplip.domain import Box
from cheaplip.errors import CheaplipWarning
from cheaplip.model import Model
from cheaplip.modes import evaluation_mode
from cheaplip.quotient import at_least_float32, distance

__all__ = ["ATTACKS", "AttackResult", "accuracy", "applicable", "attack", "check_classifier"]

ATTACKS: tuple[str, ...] = ("noise", "fgsm", "pgd-sign", "pgd", "autoattack")

_STEPS = 100
_SQUARE_FAILS = (12, 14, 18, 19, 24)  # sides of an image that the first stripes of pyautoattack's Square overrun


@dataclass(frozen=True)
class AttackResult:
    r"""What an attack made of its inputs.

    Attributes:
        inputs: (N, \*input); perturbed, except where the class was wrong to begin with.
        correct: (N,), bool; classified correctly, both before the attack and at ``inputs``.
    """

    inputs: Tensor
    correct: Tensor

    @property
    def accuracy(self) -> float:
        """The fraction still classified correctly, in [0, 1]."""
        return float(self.correct.double().mean())


def attack(
    name: str,
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    epsilon: float,
    domain: Box,
    seed: int = 0,
    batch_size: int = 1000,
    progress: Callable[[int, int], None] | None = None,
) -> AttackResult:
    r"""Move each correctly classified input by at most ε in the L2 norm, inside the box, to change its class.

    - ``"noise"``: x + ε·N(0, 1), as in the paper: neither clipped to the box nor kept in the ball. Not a worst case.
    - ``"fgsm"``: foolbox's L2 fast gradient, one step of length ε.
    - ``"pgd-sign"``: the paper's. 100 steps of ε/8 along the sign of the gradient, each scaled back to the sphere of
      radius ε, until the class changes; clipped to the box only at the end. Weak: report a strong attack beside it.
    - ``"pgd"``: foolbox's L2 projected gradient descent, 100 steps of ε/40 from a random start; the last step counts.
    - ``"autoattack"``: AutoAttack's standard set, APGD-CE, targeted APGD-DLR, targeted FAB, and Square with 5,000
      queries, each on what the others left; min(9, classes - 1) targets. The targeted DLR loss needs four classes:
      with three, the untargeted one runs instead; with two, none. Square moves windows of an image: inputs other than
      square images are laid out as one, row by row, with padding where it needs more room. Where Square, without
      gradients, breaks what the others could not, a CheaplipWarning says so.

    An attack proves what it breaks and nothing about the rest: its accuracy bounds the robust accuracy from above.
    The model runs in evaluation mode; its modes, its ``.grad`` and the global random state are left as they were.

    Args:
        name: one of :data:`ATTACKS`.
        model: from inputs (B, \*input) to logits (B, classes).
        x, y: inputs (N, \*input) inside ``domain``, and their integer labels (N,).
        epsilon: radius of the ball, or standard deviation of the noise; at 0, ``x`` comes back as it is.
        domain: where the inputs live; for AutoAttack, one range for all features, possibly infinite.
        seed, batch_size: the same seed gives the same result, at the same number of inputs attacked at once.
        progress: called with (done, total) before each batch, and at the end.

    Raises:
        ValueError: an argument is out of range, or the output isn't (B, classes).
        ImportError: the attack's library is missing; the message names the install.
        RuntimeError: the attack left the ball or the box, or returned NaN.

    Reference:
        Croce and Hein 2020 (AutoAttack); Madry et al. 2018 (PGD); Bungert et al. 2021, Section 4 (``"pgd-sign"``).

    Example:
        >>> x, y = torch.tensor([[0.9, 0.1], [0.6, 0.5]]), torch.tensor([0, 0])
        >>> attack("pgd-sign", torch.nn.Identity(), x, y, epsilon=0.2, domain=Box(0.0, 1.0)).correct
        tensor([ True, False])
    """
    _check_arguments(name, x, y, epsilon, domain, batch_size)
    x, y = x.detach(), y.long()
    with evaluation_mode(model), fork_rng(range(torch.cuda.device_count())), torch.enable_grad():
        torch.manual_seed(seed)  # foolbox and AutoAttack draw from the global generator
        clean = _predict(model, x, batch_size) == y
        inputs, correct, withstood = x.clone(), clean.clone(), [int(clean.sum())]
        if name == "noise":
            inputs[clean] += epsilon * torch.randn_like(x)[clean]
        parts = _parts(name, model, x, epsilon, domain, seed) if epsilon else []
        total = max(len(parts), 1) * len(x)
        for stage, part in enumerate(parts, start=1):
            for rows in torch.split(correct.nonzero().squeeze(1), batch_size) if withstood[-1] else ():
                if progress is not None:
                    progress(stage * len(x) - int(correct[rows[0] :].sum()), total)
                inputs[rows] = _inside(name, part(x[rows], y[rows]), x[rows], epsilon, domain)
                correct[rows] = _predict(model, inputs[rows], batch_size) == y[rows]
            withstood.append(int(correct.sum()))
        if len(parts) > 1 and withstood[-2] - withstood[-1] > max(1, 0.002 * len(x)):
            _warn(
                f"Square, which uses no gradients, broke {withstood[-2] - withstood[-1]} inputs that AutoAttack's "
                "gradient attacks could not: the model masks its gradients, so gradient attacks overrate it; "
                "remove what masks them, such as a final activation or rounding"
            )
        if progress is not None:
            progress(total, total)
        return AttackResult(inputs, clean & (_predict(model, inputs, batch_size) == y))


def applicable(domain: Box) -> tuple[str, ...]:
    """The attacks that can work in ``domain``: AutoAttack wants one range for all features."""
    one_range = bool(domain.low.min() == domain.low.max()) and bool(domain.high.min() == domain.high.max())
    return ATTACKS if one_range else tuple(name for name in ATTACKS if name != "autoattack")


def accuracy(model: Model, x: Tensor, y: Tensor, *, batch_size: int = 1000) -> float:
    r"""The fraction of inputs (N, \*input) whose largest logit is that of their label (N,), in [0, 1]."""
    _check_data(x, y, batch_size)
    with evaluation_mode(model):
        return float((_predict(model, x, batch_size) == y).double().mean())


def check_classifier(model: Model, x: Tensor, classes: int | None = None) -> None:
    r"""Warn of what makes a model look robust, or an attack unreliable. Call it once per model, before attacking.

    Args:
        model, x: as for :func:`attack`; the first 1,000 inputs are used.
        classes: how many there should be; None: any number from two.

    Raises:
        ValueError: the output isn't (N, classes), or not finite.

    Warns:
        CheaplipWarning: outputs differ between two calls, or look like probabilities, or the gradient is zero.
    """
    x = x.detach()[:1000]
    with evaluation_mode(model), fork_rng(range(torch.cuda.device_count())), torch.enable_grad():
        again = _logits(model, x, classes).detach()
        z = x.clone().requires_grad_()
        output: Tensor = _Logits.apply(model, z)  # type: ignore[no-untyped-call]
        (gradient,) = torch.autograd.grad(cross_entropy(output, output.argmax(1), reduction="sum"), z)
    if not bool(output.isfinite().all()):
        raise ValueError("expected finite logits, got NaN or inf: look for overflow, or for NaN in the model's weights")
    if not torch.allclose(output, again, rtol=1e-4, atol=1e-5 * float(output.detach().abs().amax())):
        _warn(
            "outputs differ between two calls in evaluation mode, so gradient attacks are unreliable: "
            "make the model deterministic, or average its logits over many calls"
        )
    if bool((output >= 0).all()) and torch.allclose(output.sum(1), torch.ones_like(output[:, 0]), atol=1e-4):
        _warn("outputs look like probabilities, which makes attacks look weak: pass logits, without the softmax")
    flat = int((gradient.flatten(1) == 0).all(1).sum())
    if flat:
        _warn(
            f"the gradient of the cross-entropy is zero at {flat} of {len(x)} inputs (gradient masking), so gradient "
            "attacks overrate the model: pass logits, without final activation, rounding or torch.no_grad()"
        )


def _parts(
    name: str, model: Model, x: Tensor, epsilon: float, domain: Box, seed: int
) -> list[Callable[[Tensor, Tensor], Tensor]]:
    """What runs one after the other, each from inputs and labels to perturbed inputs."""
    logits = partial(_Logits.apply, model)
    if name == "autoattack":
        classes = logits(x[:1]).shape[1]
        kinds = ["apgd-ce", *{2: [], 3: ["apgd-dlr"]}.get(classes, ["apgd-t"]), "fab-t", "square"]
        return [partial(_autoattack, kind, logits, epsilon, domain, seed, min(9, classes - 1)) for kind in kinds]
    if name == "pgd-sign":
        return [partial(_sign_pgd, logits, epsilon, domain)]
    return [] if name == "noise" else [partial(_foolbox, name, logits, epsilon, domain)]


def _sign_pgd(logits: Model, epsilon: float, domain: Box, x: Tensor, y: Tensor) -> Tensor:
    def to_sphere(delta: Tensor) -> Tensor:
        return epsilon * normalize(delta.flatten(1)).view_as(delta)

    delta = to_sphere(domain.project(x + epsilon * (2 * torch.rand_like(x) - 1)) - x)
    rows = torch.arange(len(x), device=x.device)
    for _ in range(_STEPS):
        z = (x[rows] + delta[rows]).requires_grad_()
        output = logits(z)
        (gradient,) = torch.autograd.grad(cross_entropy(output, y[rows], reduction="sum"), z)
        left = output.argmax(1) == y[rows]
        rows = rows[left]
        if not len(rows):
            break
        delta[rows] = to_sphere(delta[rows] + epsilon / 8 * gradient[left].sign())
    return domain.project(x + delta)


def _foolbox(name: str, logits: Model, epsilon: float, domain: Box, x: Tensor, y: Tensor) -> Tensor:
    foolbox, eagerpy = _load("foolbox"), _load("eagerpy")
    kind: Any = foolbox.attacks.L2FastGradientAttack if name == "fgsm" else foolbox.attacks.L2PGD

    class WithinBox(kind):  # type: ignore[misc]
        """foolbox clips to one range for all features; this projects on any box, in the same two places."""

        def get_random_start(self, x0: Any, epsilon: float) -> Any:
            return eagerpy.astensor(domain.project(super().get_random_start(x0, epsilon).raw))

        def project(self, x: Any, x0: Any, epsilon: float) -> Any:
            return eagerpy.astensor(domain.project(super().project(x, x0, epsilon).raw))

    module = nn.Module().eval()
    module.forward = logits
    wrapped = foolbox.PyTorchModel(module, bounds=(-math.inf, math.inf), device=x.device)
    method = WithinBox() if name == "fgsm" else WithinBox(steps=_STEPS)
    perturbed: Tensor = method(wrapped, x, y, epsilons=epsilon)[1]
    return perturbed


def _autoattack(
    kind: str, logits: Model, epsilon: float, domain: Box, seed: int, targets: int, x: Tensor, y: Tensor
) -> Tensor:
    """One part of AutoAttack, which wants float32 images (N, C, H, W) in [0, 1]: here, the box within reach."""
    low = max(float(domain.low.min()), float(x.min()) - epsilon)
    width = min(float(domain.high.max()), float(x.max()) + epsilon) - low
    channels = x.shape[1] if x.dim() == 4 and x.shape[2] == x.shape[3] else 1
    pixels = x[0].numel() // channels
    shape = (1, pixels)
    if kind == "square":
        smallest = max(5, math.isqrt(pixels - 1) + 1)
        shape = 2 * (next(side for side in range(smallest, smallest + 3) if side not in _SQUARE_FAILS),)

    def decode(images: Tensor) -> Tensor:
        return low + width * images.flatten(2)[..., :pixels].reshape(-1, *x.shape[1:]).to(x.dtype)

    features = (x.reshape(len(x), channels, pixels) - low).float() / width
    images = pad(features, (0, math.prod(shape) - pixels)).reshape(len(x), channels, *shape)
    adversary = _load("pyautoattack").AutoAttack(
        lambda images: logits(decode(images)).float(), norm="L2", eps=epsilon / width, seed=seed, device=x.device
    )
    adversary.attacks_to_run = [kind]
    adversary.apgd_targeted.n_target_classes = adversary.fab.n_target_classes = targets
    logger, trace = logging.getLogger("auto-attack"), sys.gettrace()
    disabled, logger.disabled = logger.disabled, True  # what it would log is what check_classifier warns of
    try:
        return decode(adversary.run_standard_evaluation(images, y, batch_size=len(x))[0])
    finally:
        logger.disabled = disabled
        sys.settrace(trace)  # AutoAttack sets its own, then none


def _inside(name: str, perturbed: Tensor, x: Tensor, epsilon: float, domain: Box) -> Tensor:
    """``perturbed``, with the excess of rounding projected back; more than that is an error of the attack."""
    # rounding moves a feature by up to eps·|x|, whatever the radius; AutoAttack computes in float32
    eps = max(torch.finfo(dtype).eps for dtype in (x.dtype, torch.float32))
    slack = 1e-4 * epsilon + eps * math.sqrt(x[0].numel()) * float(x.abs().amax())
    projected = domain.project(perturbed)
    excess, radius = (distance(at_least_float32(delta)) for delta in (perturbed - projected, projected - x))
    sound = (excess <= slack) & (radius <= epsilon + slack)  # false for NaN
    if not bool(sound.all()):
        raise RuntimeError(
            f"attack {name!r} left the box or the ball, or returned NaN, for {int((~sound).sum())} of {len(x)} inputs "
            f"at epsilon={epsilon}: look for NaN in the model's gradients; if there is none, please report this"
        )
    return domain.project(x + (projected - x).renorm(2, 0, epsilon))


class _Logits(torch.autograd.Function):
    """The model's logits, with a backward pass that reaches the inputs and no parameter's ``.grad``."""

    @staticmethod
    def forward(ctx: Any, model: Model, x: Tensor) -> Any:
        with torch.set_grad_enabled(ctx.needs_input_grad[1]):
            ctx.x = x.detach().requires_grad_(ctx.needs_input_grad[1])
            ctx.logits = _logits(model, ctx.x)
        return ctx.logits.detach().clone()  # Square writes into it

    @staticmethod
    def backward(ctx: Any, *gradient: Tensor) -> Any:
        if not ctx.logits.requires_grad:
            return None, torch.zeros_like(ctx.x)
        return None, *torch.autograd.grad(ctx.logits, ctx.x, gradient, materialize_grads=True)


def _load(package: str) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # foolbox 3.3 imports what scipy deprecates
            return importlib.import_module(package)
    except ImportError as error:
        raise ImportError(f"this attack needs {package}: pip install 'cheaplip[cli]'") from error


@torch.no_grad()
def _predict(model: Model, x: Tensor, batch_size: int) -> Tensor:
    return torch.cat([_logits(model, batch).argmax(1) for batch in torch.split(x, batch_size)])


def _logits(model: Model, x: Tensor, classes: int | None = None) -> Tensor:
    output = model(x)
    shape = tuple(output.shape) if isinstance(output, Tensor) else ()
    if len(shape) != 2 or shape[0] != len(x) or shape[1] < 2 or classes not in (None, shape[1]):
        raise ValueError(
            f"expected logits of shape ({len(x)}, {classes or 'two or more classes'}), got "
            f"{shape or type(output).__name__}: let the model return one tensor, with a logit for each class"
        )
    return at_least_float32(output)


def _check_data(x: Tensor, y: Tensor, batch_size: int) -> None:
    if not len(x) or x.dim() < 2 or y.shape != x.shape[:1] or y.is_floating_point():
        raise ValueError(
            f"expected inputs (N, *input) and N integer labels, got x of shape {tuple(x.shape)} and "
            f"{y.dtype} labels of shape {tuple(y.shape)}: pass one class index per input"
        )
    if batch_size < 1:
        raise ValueError(f"batch_size: expected 1 or more, got {batch_size}")


def _check_arguments(name: str, x: Tensor, y: Tensor, epsilon: float, domain: Box, batch_size: int) -> None:
    if name not in ATTACKS:
        raise ValueError(f"attack: expected one of {', '.join(ATTACKS)}, got {name!r}")
    if not (math.isfinite(epsilon) and epsilon >= 0):
        raise ValueError(f"epsilon: expected a finite number of at least 0, got {epsilon}")
    _check_data(x, y, batch_size)
    domain.check_shape(tuple(x.shape[1:]))
    if not domain.contains(x):
        raise ValueError(
            f"x: expected inputs inside {domain!r}, got values from {float(x.min()):g} to {float(x.max()):g}: "
            "name the box the data lives in, and normalise inside the model"
        )
    if name not in applicable(domain):
        raise ValueError("autoattack: expected one range for all features, got a box with several: use 'pgd'")


def _warn(message: str) -> None:
    warnings.warn(message, CheaplipWarning, stacklevel=3)
