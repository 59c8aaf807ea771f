"""Numbers: squared error, in the labels' own units."""

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from cheaplip.certificate import certified_interval
from cheaplip.domain import Box
from cheaplip.lipschitz.bracket import Bracket
from cheaplip.modes import evaluation_mode
from cheaplip.training.ascent import ascend
from cheaplip.training.order import check_errors, read_intervals
from cheaplip.training.tasks.task import Certificate, Task, answers

__all__ = ["Regression", "Standardised"]

_STEPS = 100
_ROUNDING = 1e-9
_SHOWN = 500  # test inputs whose answers a report shows


class Standardised(nn.Module):
    """scale·f(x) + shift: a network trained on standardised labels, answering in the labels' units.

    One scale for all outputs, so that Lip of the whole is the scale times Lip(f).

    Args:
        network: f, to (B, k).
        y: training labels (N, k); shift is their mean, scale the root of their mean variance (1 where they are equal).
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, network: nn.Module, y: Tensor) -> None:
        super().__init__()
        self.network = network
        scale = deviation(y)
        self.register_buffer("shift", y.double().mean(dim=0).to(y.dtype))
        self.register_buffer("scale", torch.tensor(scale if scale > 0 else 1.0, dtype=y.dtype, device=y.device))

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.network(x)
        return self.scale * output + self.shift


def deviation(y: Tensor) -> float:
    """Root-mean-square distance of labels (N, k) from their mean, over all k alike."""
    return float((y.double() - y.double().mean(dim=0)).square().mean().sqrt())


@final
class Regression(Task):
    """Labels are numbers, float32 (N, k); a model answers in their units; a target is a training error, met from below.

    The error is the root of the mean squared one (RMSE), in the labels' units: Morozov's principle wants the size of
    the noise in the labels.
    """

    name = "regression"
    mode = "min"
    figure = "rmse"
    output = "predictions"
    meaning = "predictions, in the labels' units"
    claim = (
        "The certified error at ε is\n"
        "one that no inputs of that domain within Euclidean distance ε of the test inputs can exceed."
    )
    reluctance = 10.0
    target = None
    epochs = 100
    activation = "relu"
    first_lam = 0.02  # from more, a network may become a constant before it has learnt anything

    def check_target(self, target: float) -> str:
        if math.isfinite(target) and target > 0:
            return ""
        return f"expected a positive root-mean-squared error, in the labels' units, got {target}"

    def goal(self, target: float, y: Tensor) -> float:
        spread = deviation(y)
        if target >= spread:
            raise ValueError(
                f"target: expected an error below {spread:.4g}, which the mean of the training labels has already, got "
                f"{target:g}: name the size of the noise in the labels"
            )
        return (target / spread) ** 2

    def width(self, goal: float) -> float:
        return goal / 4

    def served(self, network: nn.Module, y: Tensor) -> nn.Module:
        return Standardised(network, y)

    def network(self, model: nn.Module) -> tuple[nn.Module, float]:
        assert isinstance(model, Standardised)
        return model.network, float(model.scale)

    def trained_on(self, y: Tensor, model: nn.Module) -> Tensor:
        assert isinstance(model, Standardised)
        return (y - model.shift) / model.scale

    def loss(self, output: Tensor, y: Tensor) -> Tensor:
        return mse_loss(output, y)

    @torch.no_grad()
    def score(self, output: Tensor, y: Tensor) -> Tensor:
        return mse_loss(output, y)

    def seen(self, score: float, scale: float) -> dict[str, float]:
        return {"rmse": scale * math.sqrt(score)}

    def figures(self, model: nn.Module, x: Tensor, y: Tensor) -> dict[str, float]:
        errors = _errors(model, x, y)
        return {"rmse": _rms(errors), "mae": float(errors.abs().mean())}

    def check_model(self, model: nn.Module, x: Tensor, outputs: int) -> None:
        with evaluation_mode(model):
            output = answers(model, x)
        if output.shape != (len(x), outputs) or not bool(output.isfinite().all()):
            raise ValueError(
                f"expected finite predictions of shape ({len(x)}, {outputs}), got shape {tuple(output.shape)}, NaN or "
                "inf: train again with a lower --lr"
            )

    def attacks(self, domain: Box) -> tuple[str, ...]:  # noqa: ARG002
        return ("noise", "pgd")

    def attacked(
        self,
        name: str,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        *,
        epsilon: float,
        domain: Box,
        seed: int = 0,
        progress: Callable[[int, int], None] | None = None,
    ) -> float:
        """The error (RMSE) under noise x + ε·N(0, 1), or under L2-PGD.

        PGD takes 100 steps of ε/40 from each of three random starts, one up the squared error, one up the outputs and
        one down, for where an error is small both ways may lead to larger ones; the largest counts. An attack proves
        nothing about what a better one would find: its error is a lower bound of the worst one.
        """
        if name not in self.attacks(domain):
            raise ValueError(f"attack: expected one of {', '.join(self.attacks(domain))}, got {name!r}")
        if not (math.isfinite(epsilon) and epsilon >= 0):
            raise ValueError(f"epsilon: expected a finite number of at least 0, got {epsilon}")
        generator = torch.Generator(x.device).manual_seed(seed)
        if name == "noise":
            return _rms(_errors(model, x + epsilon * torch.randn(x.shape, generator=generator, device=x.device), y))
        parts = []
        for start in range(0, len(x), 1000):
            if progress is not None:
                progress(start, len(x))
            parts.append(
                self._worst(model, x[start : start + 1000], y[start : start + 1000], epsilon, domain, generator)
            )
        if progress is not None:
            progress(len(x), len(x))
        return _rms(torch.cat(parts))

    def _worst(
        self, model: nn.Module, x: Tensor, y: Tensor, epsilon: float, domain: Box, generator: torch.Generator
    ) -> Tensor:
        """The largest errors that PGD finds, those without it included, (B, k)."""
        worst = _errors(model, x, y)
        for loss in (_squared, _up, _down) if epsilon else ():
            with evaluation_mode(model), torch.enable_grad():
                moved = ascend(model, loss, x, y, epsilon=epsilon, steps=_STEPS, domain=domain, generator=generator)
            found = _errors(model, moved, y)
            worse = found.square().sum(dim=1) > worst.square().sum(dim=1)
            worst = torch.where(worse.unsqueeze(1), found, worst)
        return worst

    def certificate(self, model: nn.Module, x: Tensor, y: Tensor, b: Bracket, epsilons: Sequence[float]) -> Certificate:
        """The error (RMSE) that nothing within ε can exceed, and the interval of each output, a line for each.

        The interval is f(x) ± ε·upper; the error at worst is the label's distance from its farther end.
        """
        prediction = certified_interval(model, x, b, 0.0)
        middle = (prediction[0] + prediction[1]) / 2
        columns, figures = [], {}
        for epsilon in sorted(set(map(float, epsilons))):
            low, high = certified_interval(model, x, b, epsilon)
            figures[str(epsilon)] = _rms(torch.maximum(high - y, y - low))
            columns.append((f"low@{epsilon}", f"high@{epsilon}", low, high))
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["index", "output", "label", "prediction", *(name for c in columns for name in c[:2])])
        for index in range(len(x)):
            for output in range(y.shape[1]):
                ends = [float(end[index, output]) for c in columns for end in c[2:]]
                writer.writerow([index, output, float(y[index, output]), float(middle[index, output]), *ends])
        return Certificate(figures, file.getvalue())

    def check_order(self, metrics: Mapping[str, Any], table: str) -> None:
        check_errors(metrics, read_intervals(table))

    def proves(self, proved: float, claimed: float) -> bool:
        return claimed >= proved * (1 - _ROUNDING)

    def write(self, figure: float) -> str:
        return f"RMSE {figure:.5g}"

    def exhibits(self, model: nn.Module, x: Tensor, y: Tensor, outputs: int) -> dict[str, Any]:  # noqa: ARG002
        """``answers``: labels and predictions of the first 500 test inputs, a list for each output."""
        with evaluation_mode(model):
            given = answers(model, x[:_SHOWN])
        return {"answers": {"label": y[:_SHOWN].T.tolist(), "prediction": given.T.tolist()}}


def _squared(output: Tensor, y: Tensor) -> Tensor:
    return (output - y).square().sum()


def _up(output: Tensor, _: Tensor) -> Tensor:
    return output.sum()


def _down(output: Tensor, _: Tensor) -> Tensor:
    return -output.sum()


def _errors(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """(N, k), in float64."""
    with evaluation_mode(model):
        return answers(model, x).double() - y.double()


def _rms(errors: Tensor) -> float:
    return float(errors.square().mean().sqrt())
