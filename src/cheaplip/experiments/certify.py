"""The certificate of a finished run's model on its test data, kept in the run's folder."""

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
from cheaplip.experiments.config import from_json
from cheaplip.experiments.data import Data, load
from cheaplip.experiments.order import check_order, read_radii
from cheaplip.experiments.runs import RunFolder
from cheaplip.experiments.training import load_trained

__all__ = ["bracket_for_certificate", "certify", "certify_inputs"]

_SLACK = 1e-5  # a certified bound is rounded up by at least so much, relatively, so that proving it again succeeds
_BATCH = 250


def certify(
    folder: RunFolder,
    *,
    epsilons: Sequence[float],
    seconds: float = 30.0,
    data: Data | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Bracket a run's model, certify every test input, and write what came out, with the model's card.

    ``metrics.json`` gains ``certified``, the accuracy at each ε, and both ends of the bracket; ``certified.csv`` a line
    for each test input: index, label, prediction, radius, which is 0 where nothing is certified.

    Args:
        folder: of a finished run.
        epsilons: Euclidean radii.
        seconds: for the search from below, about.
        data: the run's data, if loaded already.
        progress: called with (steps done, steps in all) of that search.

    Returns:
        The run's metrics.

    Raises:
        RunError: no finished run there.
        ContradictionError: an attack broke what is certified.
        ValueError: nothing can be certified; names the layer.
    """
    metrics = folder.read_json("metrics.json")
    config = from_json(folder.read_json("config.json"))
    config.check_device()
    if data is None:
        data = load(config.data, label=config.label, split_seed=config.split_seed).to(config.resolved_device)
    model = load_trained(folder, config, data)
    b = bracket_for_certificate(model, data, seconds=seconds, progress=progress)
    prediction, radius = certify_inputs(model, data.test.x, b)
    join(metrics, folder, b)
    correct = prediction == data.test.y
    metrics["certified"] = {
        **(metrics.get("certified") or {}),
        **{str(float(epsilon)): float((correct & (radius > epsilon)).double().mean()) for epsilon in epsilons},
    }
    folder.write_text("certified.csv", _table(data.test.y, prediction, radius))
    check_order(metrics, read_radii(folder))
    folder.write_json("metrics.json", metrics)
    write_card(folder, config, data, metrics, b)
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
