"""The certificate of a trained model: what is proved of its predictions for the test data, kept in its folder."""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from cheaplip.data import Data
from cheaplip.lipschitz import LipschitzBound
from cheaplip.lipschitz.bracket import Bracket, bracket
from cheaplip.robustness import CORRUPTIONS
from cheaplip.trained.bracket import SECONDS, record_bracket
from cheaplip.trained.card import write_card
from cheaplip.trained.loading import TrainedModel
from cheaplip.training.methods import method_named
from cheaplip.training.methods.certified import Certified
from cheaplip.training.tasks import task_of

__all__ = ["advice", "bracket_for_certificate", "certify"]

_PARTS = (0.125, 0.25, 0.5)  # of the data's attack radius, as less can be proved than withstands an attack
_SLACK = 2e-4  # relative; twice the accuracy of the optimisation, so that proving a bound again succeeds


def certify(
    trained: TrainedModel,
    *,
    epsilons: Sequence[float] | None = None,
    seconds: float | None = SECONDS,
    local: bool | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Bracket a model, certify every test input, and write the results; for a run, its model card as well.

    ``metrics.json`` gets ``certified`` and both ends of the bracket. For classification a certified figure is the
    accuracy that remains at ε, for regression the error (RMSE) that no perturbation of at most ε can exceed.
    ``certified.csv`` has the details for each test input, see :mod:`cheaplip.training.certified_csv`. Radii that were
    certified before are certified again, so that all figures rest on the same bracket.

    Args:
        trained: the model, its data and its folder; without a folder nothing is written.
        epsilons: Euclidean radii. None: an eighth, a quarter and half of the data's attack radius.
        seconds: time for both ends of the bracket, about. None: the search takes a fixed number of steps.
        local: whether to bound the constant in the ball around each test input, too, see
            :func:`cheaplip.certified_radius`; the metrics then have ``local``. None: as the last time, so that a proof
            is not replaced by a weaker one; not at first.
        progress: called with (steps done, steps in all) of the search.

    Returns:
        The metrics, with those known before.

    Raises:
        ContradictionError: an attack broke what is certified.
        RunError: another process holds the folder's lock, or the folder cannot be written to.
        ValueError: nothing can be certified; the message names the layer.
    """
    with nullcontext() if trained.folder is None else trained.folder.locked():
        return _certify(trained, epsilons, seconds, local, progress)


def _certify(
    trained: TrainedModel,
    epsilons: Sequence[float] | None,
    seconds: float | None,
    local: bool | None,
    progress: Callable[[int, int], None] | None,
) -> dict[str, Any]:
    model, data, folder = trained.model, trained.data, trained.folder
    metrics = trained.metrics() or task_of(data).metrics(model, {"test": data.test})
    if local is None:
        local = metrics.get("local") is True
    if local:
        task_of(data).check_local(model, data.shape)  # before the bracket takes its time
    if epsilons is None:
        epsilons = [float(f"{part * data.epsilon:.3g}") for part in _PARTS]
    radii = sorted({*map(float, epsilons), *map(float, metrics.get("certified") or {})})
    b = bracket_for_certificate(model, data, seconds=seconds, progress=progress)
    certificate = task_of(data).certify(model, *data.test, b, radii, local=local)
    record_bracket(metrics, trained, b)
    metrics["certified"] = certificate.figures
    metrics.pop("local", None)
    if local:
        metrics["local"] = True
    if folder is not None:
        folder.write_text("certified.csv", certificate.table)
        task_of(data).check_consistency(metrics, certificate.table)
        folder.write_json("metrics.json", metrics)
    if folder is not None and trained.config is not None:
        write_card(folder, trained.config, data, metrics, b)
    return metrics


def advice(trained: TrainedModel, metrics: Mapping[str, Any]) -> str:
    """Say what can prove more of a classifier of which nothing is certified at any radius above 0.

    Bounds around each input are named where the model has them, unless they were used, or an attack has found that no
    input withstands those radii. Otherwise training for a certificate is named, for a run that was trained without a
    proved bound.

    Args:
        trained: the model.
        metrics: what :func:`certify` returned.

    Returns:
        A sentence; "" where something is certified, or where neither of the two would help.
    """
    figures = {float(key): figure for key, figure in metrics["certified"].items() if float(key) > 0}
    if task_of(trained.data).mode == "min" or not figures or any(figures.values()):
        return ""
    least = min(figures)
    nothing = f"nothing is certified at ε = {', '.join(f'{radius:g}' for radius in figures)}"
    if least >= _diagonal(trained.data):
        return ""
    if not metrics.get("local") and not _broken(metrics, least) and _has_local_bounds(trained):
        return f"{nothing}: --local bounds the constant around each input, which proves larger radii"
    if trained.config is None or method_named(trained.config.method).group == Certified.group:
        return ""
    if not _can_be_trained(trained):
        return ""
    return f"{nothing}: a network that is trained with --method {Certified.name} can be certified further"


def _diagonal(data: Data) -> float:
    """Return the distance from which on every input can become every other."""
    low, high = data.domain.bounds(data.test.x.device, torch.float64)
    return float(torch.linalg.vector_norm((high - low).expand(data.shape)))


def _broken(metrics: Mapping[str, Any], radius: float) -> bool:
    """Return whether an attack within a Euclidean radius has left no input right."""
    for key, figure in (metrics.get("robust") or {}).items():
        name, _, size = key.partition("@")
        if figure == 0 and name not in CORRUPTIONS and not name.endswith("-linf") and float(size) <= radius:
            return True
    return False


def _has_local_bounds(trained: TrainedModel) -> bool:
    try:
        task_of(trained.data).check_local(trained.model, trained.data.shape)
    except ValueError:  # among them that of a layer without such bounds
        return False
    return True


def _can_be_trained(trained: TrainedModel) -> bool:
    """Return whether certified training knows a bound of the model that it can differentiate."""
    try:
        LipschitzBound(trained.model, trained.data.shape)
    except ValueError:  # among them that of a layer without one
        return False
    return True


def bracket_for_certificate(
    model: nn.Module, data: Data, *, seconds: float | None = SECONDS, progress: Callable[[int, int], None] | None = None
) -> Bracket:
    """Bracket a model on its data's domain, with the upper end rounded up to about five significant digits.

    Args:
        model, data: the model and its data, on the same device.
        seconds, progress: as in :func:`certify`.
    """
    b = bracket(model, data.domain, x=data.train.x, seconds=seconds, progress=progress)
    if not 0 < b.upper < math.inf:
        return b
    digits = 4 - math.floor(math.log10(b.upper))
    return replace(b, upper=max(b.upper, round(b.upper * (1 + _SLACK) + 0.5 * 10.0**-digits, digits)))
