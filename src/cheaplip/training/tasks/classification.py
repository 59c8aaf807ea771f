"""Classification: cross-entropy, accuracy, certified radii."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from cheaplip.certificate import certified_predictions, check_local
from cheaplip.domain import Box
from cheaplip.lipschitz.bracket import Bracket
from cheaplip.modes import evaluation_mode
from cheaplip.reference import balanced_accuracy, has_rare_classes
from cheaplip.robustness import NEAREST, accuracy, applicable, attack, check_classifier
from cheaplip.training.certified_csv import read_radii, write_radii
from cheaplip.training.consistency import ROUNDING, check_accuracies
from cheaplip.training.tasks.roc import roc_figures
from cheaplip.training.tasks.task import CHECKED_INPUTS, Certificate, Task, predict

__all__ = ["Classification"]

_WIDTH = 0.004  # largest distance from the target accuracy at which λ moves at full speed
_MOST_GIVEN_UP = 0.5  # more is a percentage without its sign
_BATCH = 250  # inputs certified at once, so that convolutional networks fit into memory


@final
class Classification(Task):
    """Learn classes.

    Labels are 0, 1, …, classes − 1, int64 (N,). A model outputs a logit for each class. The target is an accuracy, and
    the score the accuracy of a batch. Where a class is rare, the balanced accuracy is a figure, too; with two classes,
    the area under the ROC curve and the sensitivity at a specificity of 95 %.
    """

    name = "classification"
    mode = "max"
    figure = "accuracy"
    output_name = "logits"
    output_meaning = "logits"
    certificate_meaning = (
        "An input is certified at ε if no input\nof that domain within Euclidean distance ε is classified differently."
    )
    reluctance = 1.0
    epochs = 30
    activation = "sigmoid"
    first_lam = None

    def target_problem(self, target: float) -> str:
        return "" if 0 < target < 1 else f"expected an accuracy in (0, 1), got {target}: 97 % is 0.97, or 97%"

    def give_up_problem(self, give_up: float) -> str:
        if 0 <= give_up < _MOST_GIVEN_UP:
            return ""
        return f"expected points of accuracy, from 0 to below {_MOST_GIVEN_UP}, got {give_up}: 0.5 % is 0.005, or 0.5%"

    def target_score(self, target: float, y: Tensor) -> float:  # noqa: ARG002
        return target

    def width(self, target_score: float) -> float:
        return min(_WIDTH, (1 - target_score) / 4)

    def wrap(self, network: nn.Module, y: Tensor) -> nn.Module:  # noqa: ARG002
        return network

    def unwrap(self, model: nn.Module) -> tuple[nn.Module, float]:
        return model, 1.0

    def network_labels(self, y: Tensor, model: nn.Module) -> Tensor:  # noqa: ARG002
        return y

    def loss(self, output: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(output, y)

    @torch.no_grad()
    def score(self, output: Tensor, y: Tensor) -> Tensor:
        return (output.argmax(dim=1) == y).float().mean()

    def score_figures(self, score: float, scale: float) -> dict[str, float]:  # noqa: ARG002
        return {"accuracy": score}

    def figures(self, model: nn.Module, x: Tensor, y: Tensor) -> dict[str, float]:
        return {"accuracy": accuracy(model, x, y)}

    def metrics(self, model: nn.Module, parts: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, Any]:
        found = {**super().metrics(model, parts), **_of_two_classes(model, parts)}
        train = parts.get("train")
        if train is None or not has_rare_classes(train[1], int(train[1].max()) + 1):
            return found
        with evaluation_mode(model):
            balanced = {part: balanced_accuracy(predict(model, x).argmax(dim=1), y) for part, (x, y) in parts.items()}
        return {**found, "balanced_accuracy": balanced}

    def constant_answer(self, model: nn.Module, parts: Sequence[tuple[Tensor, Tensor]], names: Sequence[str]) -> str:
        given: set[int] = set()
        with evaluation_mode(model):
            for x, _ in parts:
                given |= set(predict(model, x).argmax(dim=1).tolist())
                if len(given) > 1:
                    return ""
        (only,) = given
        return names[only] if names else str(only)

    def check_model(self, model: nn.Module, x: Tensor, outputs: int) -> None:
        check_classifier(model, x[:CHECKED_INPUTS], outputs)

    def attacks(self, domain: Box, norm: float = 2) -> tuple[str, ...]:
        return applicable(domain, norm)

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
        return attack(
            name, model, x, y, epsilon=epsilon, domain=domain, norm=norm, seed=seed, progress=progress
        ).accuracy

    def figures_under_attack(
        self,
        name: str,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        *,
        epsilons: Sequence[float],
        domain: Box,
        norm: float = 2,
        seed: int = 0,
        progress: Callable[[int, int], None] | None = None,
    ) -> Iterator[tuple[float, float]]:
        if name not in NEAREST:
            yield from super().figures_under_attack(
                name, model, x, y, epsilons=epsilons, domain=domain, norm=norm, seed=seed, progress=progress
            )
            return
        found = attack(name, model, x, y, epsilon=max(epsilons), domain=domain, norm=norm, seed=seed, progress=progress)
        yield from zip(epsilons, found.accuracies(x, epsilons, norm), strict=True)

    def certify(
        self, model: nn.Module, x: Tensor, y: Tensor, b: Bracket, epsilons: Sequence[float], *, local: bool = False
    ) -> Certificate:
        """Prove the accuracy that remains at each ε: an input counts if it is right and its radius is above ε."""
        prediction, radius = certified_predictions(model, x, b, local=local, batch=_BATCH)
        correct = prediction == y
        figures = {str(float(epsilon)): float((correct & (radius > epsilon)).double().mean()) for epsilon in epsilons}
        return Certificate(figures, write_radii(y, prediction, radius))

    def check_local(self, model: nn.Module, shape: tuple[int, ...]) -> None:
        check_local(model, shape)

    def check_consistency(self, metrics: Mapping[str, Any], table: str) -> None:
        check_accuracies(metrics, read_radii(table))

    def proves(self, proved: float, claimed: float) -> bool:
        return claimed <= proved + ROUNDING

    def format_figure(self, figure: float) -> str:
        return f"{100 * figure:.2f} %"

    def report_content(self, model: nn.Module, x: Tensor, y: Tensor, outputs: int) -> dict[str, Any]:
        """Return ``confusion``: a list for each true class, with the number of inputs predicted as each class."""
        with evaluation_mode(model):
            predicted = predict(model, x).argmax(dim=1)
        counts = torch.bincount(y * outputs + predicted, minlength=outputs**2)
        return {"confusion": counts.reshape(outputs, outputs).tolist()}


@torch.no_grad()
def _of_two_classes(model: nn.Module, parts: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, dict[str, float]]:
    """Return the figures of ROC curves for each part, if the model has two outputs."""
    found: dict[str, dict[str, float]] = {}
    with evaluation_mode(model):
        if any(predict(model, x[:1]).shape[1] != 2 for x, _ in parts.values()):
            return found
        for part, (x, y) in parts.items():
            for name, figure in roc_figures(predict(model, x), y).items():
                found.setdefault(name, {})[part] = figure
    return found
