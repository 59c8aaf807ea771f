"""AutoAttack's standard set, for inputs of any shape in any range."""

import logging
import math
import sys
from functools import partial

from torch import Tensor
from torch.nn.functional import pad

from cheaplip.robustness.stage import Problem, Stage, load, rescaled

__all__ = ["autoattack"]

_SQUARE_FAILS = (12, 14, 18, 19, 24)  # sides of an image that the first stripes of pyautoattack's Square overrun


def autoattack(problem: Problem, x: Tensor) -> list[Stage]:
    """Make the stages of ``"autoattack"``: APGD-CE, APGD-DLR, FAB and, last, Square.

    Only the cross-entropy depends on the scale of the logits, so APGD-CE alone runs once more, at another scale.
    """
    classes = problem.logits(x[:1]).shape[1]
    targets = min(9, classes - 1)
    dlr = {2: [], 3: ["apgd-dlr"]}.get(classes, ["apgd-t"])
    stages: list[Stage] = [partial(_perturbed, kind, targets, problem) for kind in ("apgd-ce", *dlr, "fab-t", "square")]
    stages.insert(1, rescaled(partial(_perturbed, "apgd-ce", targets), problem))
    return stages


def _perturbed(kind: str, targets: int, problem: Problem, x: Tensor, y: Tensor) -> Tensor:
    """Run one part of AutoAttack, which wants float32 images (N, C, H, W) in [0, 1]: here, the box within reach."""
    logits, epsilon, domain, seed, norm = problem
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
    adversary = load("pyautoattack").AutoAttack(
        lambda images: logits(decode(images)).float(),
        norm="L2" if norm == 2 else "Linf",
        eps=epsilon / width,
        seed=seed,
        device=x.device,
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
