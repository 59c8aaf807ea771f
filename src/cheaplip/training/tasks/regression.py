"""Regression: squared error, errors in the units of the labels, certified intervals."""

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
from cheaplip.reference import constant_error
from cheaplip.training.certified_csv import read_intervals, write_intervals
from cheaplip.training.consistency import ROUNDING, check_errors
from cheaplip.training.pgd import perturb
from cheaplip.training.tasks.task import BATCH_SIZE, CHECKED_INPUTS, Certificate, Task, predict

__all__ = ["InLabelUnits", "Regression"]

_STEPS = 100  # of PGD
_CONSTANT = 0.01  # predictions whose deviation is less than that of the labels times this are called constant
_SHOWN = 500  # test inputs whose predictions a report shows


class InLabelUnits(nn.Module):
    r"""The model scale·f(x) + shift, whose network f is trained on standardised labels.

    All outputs share one scale, so that the Lipschitz constant of the model is scale·Lip(f). Labels in unlike units get
    a scale each before, see :attr:`cheaplip.data.Data.label_scaling`.

    Args:
        network: f, from (B, \*input) to (B, k).
        y: training labels, (N, k). The shift is their mean; the scale is the root of their mean variance, or 1 if they
            are all equal.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, network: nn.Module, y: Tensor) -> None:
        super().__init__()
        self.network = network
        scale = constant_error(y)
        self.register_buffer("shift", y.double().mean(dim=0).to(y.dtype))
        self.register_buffer("scale", torch.tensor(scale if scale > 0 else 1.0, dtype=y.dtype, device=y.device))

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.network(x)
        return self.scale * output + self.shift


@final
class Regression(Task):
    """Learn numbers.

    Labels are float32 (N, k). A model predicts them in their own units, or several labels in the standard deviations of
    each; errors are then in these, too. The target is a training error in these units,
    the root of the mean squared error (RMSE); by Morozov's principle it should be the size of the labels' noise. The
    score is the mean squared error of a batch, in standardised units.
    """

    name = "regression"
    mode = "min"
    figure = "rmse"
    output_name = "predictions"
    output_meaning = "predictions, in the labels' units"
    certificate_meaning = (
        "The certified error at ε is\n"
        "one that no inputs of that domain within Euclidean distance ε of the test inputs can exceed."
    )
    reluctance = 10.0
    epochs = 100
    activation = "relu"
    first_lam = 0.02  # with more, a network may become a constant before it has learnt anything

    def target_problem(self, target: float) -> str:
        if math.isfinite(target) and target > 0:
            return ""
        return f"expected a positive root-mean-squared error, in the labels' units, got {target}"

    def give_up_problem(self, give_up: float) -> str:
        return "" if give_up >= 0 else f"expected a part of the error, at least 0, got {give_up}: 10 % is 0.1, or 10%"

    def target_score(self, target: float, y: Tensor) -> float:
        spread = constant_error(y)
        if target >= spread:
            raise ValueError(
                f"target: expected an error below {spread:.4g}, which the mean of the training labels has already, got "
                f"{target:g}: give the size of the noise in the labels"
            )
        return (target / spread) ** 2

    def width(self, target_score: float) -> float:
        return target_score / 4

    def wrap(self, network: nn.Module, y: Tensor) -> nn.Module:
        return InLabelUnits(network, y)

    def unwrap(self, model: nn.Module) -> tuple[nn.Module, float]:
        assert isinstance(model, InLabelUnits)
        return model.network, float(model.scale)

    def network_labels(self, y: Tensor, model: nn.Module) -> Tensor:
        assert isinstance(model, InLabelUnits)
        return (y - model.shift) / model.scale

    def loss(self, output: Tensor, y: Tensor) -> Tensor:
        return mse_loss(output, y)

    @torch.no_grad()
    def score(self, output: Tensor, y: Tensor) -> Tensor:
        return mse_loss(output, y)

    def score_figures(self, score: float, scale: float) -> dict[str, float]:
        return {"rmse": scale * math.sqrt(score)}

    def figures(self, model: nn.Module, x: Tensor, y: Tensor) -> dict[str, float]:
        errors = _errors(model, x, y)
        return {"rmse": _rms(errors), "mae": float(errors.abs().mean())}

    def constant_answer(self, model: nn.Module, parts: Sequence[tuple[Tensor, Tensor]], names: Sequence[str]) -> str:  # noqa: ARG002
        with evaluation_mode(model):
            given = torch.cat([predict(model, x) for x, _ in parts]).double()
        labels = torch.cat([y for _, y in parts])
        if constant_error(given) > _CONSTANT * constant_error(labels):
            return ""
        return ", ".join(f"{value:.4g}" for value in given.mean(dim=0).tolist())

    def check_model(self, model: nn.Module, x: Tensor, outputs: int) -> None:
        x = x[:CHECKED_INPUTS]
        with evaluation_mode(model):
            output = predict(model, x)
        if output.shape != (len(x), outputs) or not bool(output.isfinite().all()):
            raise ValueError(
                f"expected finite predictions of shape ({len(x)}, {outputs}), got shape {tuple(output.shape)}, NaN or "
                "inf: train again with a lower --lr"
            )

    def attacks(self, domain: Box, norm: float = 2) -> tuple[str, ...]:  # noqa: ARG002
        return ("noise", "pgd") if norm == 2 else ()

    def figure_under_attack(
        self,
        name: str,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        *,
        epsilon: float,
        domain: Box,
        norm: float = 2,
        seed: int = 0,
        progress: Callable[[int, int], None] | None = None,
    ) -> float:
        """Measure the error (RMSE) under noise x + ε·N(0, 1), or under L2-PGD.

        PGD takes 100 steps of length ε/40 from each of three random starts: one increases the squared error, one the
        outputs, and one decreases them, because near a small error both directions may lead to larger ones. The largest
        error counts. A stronger attack may find a larger one still.
        """
        if norm != 2:
            raise ValueError(f"norm: expected 2 for attacks on regression, got {norm:g}")
        if name not in self.attacks(domain):
            raise ValueError(f"attack: expected one of {', '.join(self.attacks(domain))}, got {name!r}")
        if not (math.isfinite(epsilon) and epsilon >= 0):
            raise ValueError(f"epsilon: expected a finite number of at least 0, got {epsilon}")
        generator = torch.Generator(x.device).manual_seed(seed)
        if name == "noise":
            return _rms(_errors(model, x + epsilon * torch.randn(x.shape, generator=generator, device=x.device), y))
        parts = []
        for start in range(0, len(x), BATCH_SIZE):
            if progress is not None:
                progress(start, len(x))
            rows = slice(start, start + BATCH_SIZE)
            parts.append(self._largest_errors(model, x[rows], y[rows], epsilon, domain, generator))
        if progress is not None:
            progress(len(x), len(x))
        return _rms(torch.cat(parts))

    def _largest_errors(
        self, model: nn.Module, x: Tensor, y: Tensor, epsilon: float, domain: Box, generator: torch.Generator
    ) -> Tensor:
        """Return for each input the errors with the largest square that PGD finds, or those without it, (B, k)."""
        worst = _errors(model, x, y)
        for loss in (_squared, _up, _down) if epsilon else ():
            with evaluation_mode(model), torch.enable_grad():
                moved = perturb(model, loss, x, y, epsilon=epsilon, steps=_STEPS, domain=domain, generator=generator)
            found = _errors(model, moved, y)
            worse = found.square().sum(dim=1) > worst.square().sum(dim=1)
            worst = torch.where(worse.unsqueeze(1), found, worst)
        return worst

    def certify(
        self, model: nn.Module, x: Tensor, y: Tensor, b: Bracket, epsilons: Sequence[float], *, local: bool = False
    ) -> Certificate:
        """Prove the error (RMSE) that no perturbation of at most ε can exceed, for each ε.

        Each output stays in the interval f(x) ± ε·upper; its largest error is the label's distance from the farther
        end.
        """
        if local:
            self.check_local(model, tuple(x.shape[1:]))
        prediction = certified_interval(model, x, b, 0.0)
        middle = (prediction[0] + prediction[1]) / 2
        intervals, figures = [], {}
        for epsilon in sorted(set(map(float, epsilons))):
            low, high = certified_interval(model, x, b, epsilon)
            figures[str(epsilon)] = _rms(torch.maximum(high - y, y - low))
            intervals.append((epsilon, low, high))
        return Certificate(figures, write_intervals(y, middle, intervals))

    def check_consistency(self, metrics: Mapping[str, Any], table: str) -> None:
        check_errors(metrics, read_intervals(table))

    def proves(self, proved: float, claimed: float) -> bool:
        return claimed >= proved * (1 - ROUNDING)

    def format_figure(self, figure: float) -> str:
        return f"RMSE {figure:.5g}"

    def report_content(self, model: nn.Module, x: Tensor, y: Tensor, outputs: int) -> dict[str, Any]:  # noqa: ARG002
        """Return ``answers``: labels and predictions of the first 500 test inputs, a list for each output."""
        with evaluation_mode(model):
            predictions = predict(model, x[:_SHOWN])
        return {"answers": {"label": y[:_SHOWN].T.tolist(), "prediction": predictions.T.tolist()}}


def _squared(output: Tensor, y: Tensor) -> Tensor:
    return (output - y).square().sum()


def _up(output: Tensor, _: Tensor) -> Tensor:
    return output.sum()


def _down(output: Tensor, _: Tensor) -> Tensor:
    return -output.sum()


def _errors(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Return the errors of a model's predictions, (N, k), in float64."""
    with evaluation_mode(model):
        return predict(model, x).double() - y.double()


def _rms(errors: Tensor) -> float:
    return float(errors.square().mean().sqrt())
