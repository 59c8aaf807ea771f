"""Classes: cross-entropy, accuracy."""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from cheaplip.certificate import certified_predictions
from cheaplip.domain import Box
from cheaplip.lipschitz.bracket import Bracket
from cheaplip.modes import evaluation_mode
from cheaplip.robustness import accuracy, applicable, attack, check_classifier
from cheaplip.training.order import check_order, read_radii
from cheaplip.training.tasks.task import Certificate, Task, answers

__all__ = ["Classification"]

_WIDTH = 0.004  # error of the training accuracy at which λ moves at full speed, at most
_BATCH = 250  # inputs certified at once, so that convolutional networks fit into memory
_ROUNDING = 1e-9


@final
class Classification(Task):
    """Labels are the classes 0, 1, …, int64 (N,); a model gives a logit for each; a target is a training accuracy."""

    name = "classification"
    mode = "max"
    figure = "accuracy"
    output = "logits"
    meaning = "logits"
    claim = (
        "An input is certified at ε if no input\nof that domain within Euclidean distance ε is classified differently."
    )
    reluctance = 1.0
    target = 0.98
    epochs = 30
    activation = "sigmoid"
    first_lam = None

    def check_target(self, target: float) -> str:
        return "" if 0 < target < 1 else f"expected an accuracy in (0, 1), got {target}: 97 % is 0.97"

    def goal(self, target: float, y: Tensor) -> float:  # noqa: ARG002
        return target

    def width(self, goal: float) -> float:
        return min(_WIDTH, (1 - goal) / 4)

    def served(self, network: nn.Module, y: Tensor) -> nn.Module:  # noqa: ARG002
        return network

    def network(self, model: nn.Module) -> tuple[nn.Module, float]:
        return model, 1.0

    def trained_on(self, y: Tensor, model: nn.Module) -> Tensor:  # noqa: ARG002
        return y

    def loss(self, output: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(output, y)

    @torch.no_grad()
    def score(self, output: Tensor, y: Tensor) -> Tensor:
        return (output.argmax(dim=1) == y).float().mean()

    def seen(self, score: float, scale: float) -> dict[str, float]:  # noqa: ARG002
        return {"accuracy": score}

    def figures(self, model: nn.Module, x: Tensor, y: Tensor) -> dict[str, float]:
        return {"accuracy": accuracy(model, x, y)}

    def check_model(self, model: nn.Module, x: Tensor, outputs: int) -> None:
        check_classifier(model, x, outputs)

    def attacks(self, domain: Box) -> tuple[str, ...]:
        return applicable(domain)

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
        return attack(name, model, x, y, epsilon=epsilon, domain=domain, seed=seed, progress=progress).accuracy

    def certificate(self, model: nn.Module, x: Tensor, y: Tensor, b: Bracket, epsilons: Sequence[float]) -> Certificate:
        """The accuracy at each ε, and a line for each input: index, label, prediction, radius (0: none)."""
        prediction, radius = certified_predictions(model, x, b, batch=_BATCH)
        correct = prediction == y
        figures = {str(float(epsilon)): float((correct & (radius > epsilon)).double().mean()) for epsilon in epsilons}
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["index", "label", "prediction", "radius"])
        for index, row in enumerate(zip(y.tolist(), prediction.tolist(), radius.tolist(), strict=True)):
            writer.writerow([index, *row])
        return Certificate(figures, file.getvalue())

    def check_order(self, metrics: Mapping[str, Any], table: str) -> None:
        check_order(metrics, read_radii(table))

    def proves(self, proved: float, claimed: float) -> bool:
        return claimed <= proved + _ROUNDING

    def write(self, figure: float) -> str:
        return f"{100 * figure:.2f} %"

    def exhibits(self, model: nn.Module, x: Tensor, y: Tensor, outputs: int) -> dict[str, Any]:
        """``confusion``: a list for each true class, with the number of inputs given to each class."""
        with evaluation_mode(model):
            given = answers(model, x).argmax(dim=1)
        counts = torch.bincount(y * outputs + given, minlength=outputs**2)
        return {"confusion": counts.reshape(outputs, outputs).tolist()}
