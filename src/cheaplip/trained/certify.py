"""The certificate of a trained model on its test data, kept in its folder."""

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

from torch import nn

from cheaplip.data import Data
from cheaplip.lipschitz.bracket import Bracket, bracket
from cheaplip.trained.bracket import join
from cheaplip.trained.card import write_card
from cheaplip.trained.subject import Subject
from cheaplip.training.tasks import task_of

__all__ = ["bracket_for_certificate", "certify"]

_SLACK = 1e-5  # a certified bound is rounded up by at least so much, relatively, so that proving it again succeeds


def certify(
    subject: Subject,
    *,
    epsilons: Sequence[float],
    seconds: float | None = 30.0,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Bracket a model, certify every test input, and write what came out; of a run, with the model's card.

    ``metrics.json`` gains ``certified`` and both ends of the bracket. For classification that is the accuracy at each
    ε, and ``certified.csv`` has a line for each test input: index, label, prediction, radius, which is 0 where nothing
    is certified. For regression it is the error (RMSE) that nothing within ε can exceed, and ``certified.csv`` has each
    output's interval at each ε. What was certified before is certified again, so that all figures rest on one bracket.

    Args:
        subject: the model, its data and its folder; without a folder nothing is written.
        epsilons: Euclidean radii.
        seconds: for both ends, about. None: as many as the steps of the search take.
        progress: called with (steps done, steps in all) of that search.

    Returns:
        The metrics, those known before included.

    Raises:
        ContradictionError: an attack broke what is certified.
        RunError: another process is at work in the folder, or it cannot be written to.
        ValueError: nothing can be certified; names the layer.
    """
    with nullcontext() if subject.folder is None else subject.folder.locked():
        return _certify(subject, epsilons, seconds, progress)


def _certify(
    subject: Subject, epsilons: Sequence[float], seconds: float | None, progress: Callable[[int, int], None] | None
) -> dict[str, Any]:
    model, data, folder = subject.model, subject.data, subject.folder
    metrics = subject.metrics() or task_of(data).metrics(model, {"test": data.test})
    radii = sorted({*map(float, epsilons), *map(float, metrics.get("certified") or {})})
    b = bracket_for_certificate(model, data, seconds=seconds, progress=progress)
    certificate = task_of(data).certificate(model, *data.test, b, radii)
    join(metrics, subject, b)
    metrics["certified"] = certificate.figures
    if folder is not None:
        folder.write_text("certified.csv", certificate.table)
        task_of(data).check_order(metrics, certificate.table)
        folder.write_json("metrics.json", metrics)
    if folder is not None and subject.config is not None:
        write_card(folder, subject.config, data, metrics, b)
    return metrics


def bracket_for_certificate(
    model: nn.Module, data: Data, *, seconds: float | None = 30.0, progress: Callable[[int, int], None] | None = None
) -> Bracket:
    """The bracket of a model on its data's domain, its upper end rounded up to five digits or so."""
    b = bracket(model, data.domain, x=data.train.x, seconds=seconds, progress=progress)
    if not 0 < b.upper < math.inf:
        return b
    digits = 4 - math.floor(math.log10(b.upper))
    return replace(b, upper=max(b.upper, round(b.upper * (1 + _SLACK) + 0.5 * 10.0**-digits, digits)))
