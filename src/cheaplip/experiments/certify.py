"""The certificate of a trained model on its test data, kept in its folder."""

import csv
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from cheaplip.bracket import Bracket, bracket
from cheaplip.certificate import Certified
from cheaplip.experiments.bracketing import join
from cheaplip.experiments.card import write_card
from cheaplip.experiments.data import Data
from cheaplip.experiments.order import check_order, read_radii
from cheaplip.experiments.subjects import Subject
from cheaplip.robustness import accuracy

__all__ = ["bracket_for_certificate", "certify", "certify_inputs"]

_SLACK = 1e-5  # a certified bound is rounded up by at least so much, relatively, so that proving it again succeeds
_BATCH = 250


def certify(
    subject: Subject,
    *,
    epsilons: Sequence[float],
    seconds: float = 30.0,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Bracket a model, certify every test input, and write what came out; of a run, with the model's card.

    ``metrics.json`` gains ``certified``, the accuracy at each ε, and both ends of the bracket; ``certified.csv`` a line
    for each test input: index, label, prediction, radius, which is 0 where nothing is certified.

    Args:
        subject: the model, its data and its folder; without a folder nothing is written.
        epsilons: Euclidean radii.
        seconds: for the search from below, about.
        progress: called with (steps done, steps in all) of that search.

    Returns:
        The metrics, those known before included.

    Raises:
        ContradictionError: an attack broke what is certified.
        ValueError: nothing can be certified; names the layer.
    """
    model, data, folder = subject.model, subject.data, subject.folder
    b = bracket_for_certificate(model, data, seconds=seconds, progress=progress)
    prediction, radius = certify_inputs(model, data.test.x, b)
    correct = prediction == data.test.y
    metrics = subject.metrics() or {"accuracy": {"test": accuracy(model, *data.test)}}
    join(metrics, folder, b)
    metrics["certified"] = {
        **(metrics.get("certified") or {}),
        **{str(float(epsilon)): float((correct & (radius > epsilon)).double().mean()) for epsilon in epsilons},
    }
    if folder is not None:
        folder.write_text("certified.csv", _table(data.test.y, prediction, radius))
        check_order(metrics, read_radii(folder))
        folder.write_json("metrics.json", metrics)
    if folder is not None and subject.config is not None:
        write_card(folder, subject.config, data, metrics, b)
    return metrics


def bracket_for_certificate(
    model: nn.Module, data: Data, *, seconds: float = 30.0, progress: Callable[[int, int], None] | None = None
) -> Bracket:
    """The bracket of a model on its data's domain, its upper end rounded up to five digits or so."""
    b = bracket(model, data.domain, x=data.train.x, seconds=seconds, progress=progress)
    if not 0 < b.upper < math.inf:
        return b
    digits = 4 - math.floor(math.log10(b.upper))
    return replace(b, upper=max(b.upper, round(b.upper * (1 + _SLACK) + 0.5 * 10.0**-digits, digits)))


def certify_inputs(model: nn.Module, x: Tensor, b: Bracket) -> tuple[Tensor, Tensor]:
    """Prediction and radius of each input, (N,) both."""
    served = Certified(model, b)
    with torch.no_grad():
        parts = [served(part) for part in torch.split(x, _BATCH)]
    prediction, radius = (torch.cat(part) for part in zip(*parts, strict=True))
    return prediction, radius


def _table(y: Tensor, prediction: Tensor, radius: Tensor) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["index", "label", "prediction", "radius"])
    for index, row in enumerate(zip(y.tolist(), prediction.tolist(), radius.tolist(), strict=True)):
        writer.writerow([index, *row])
    return file.getvalue()
