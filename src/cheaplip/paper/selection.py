"""Which epoch's network is tested: the paper's rule, and an honest one."""

from collections.abc import Callable
from typing import Any

from torch import nn

from cheaplip.data import Data
from cheaplip.robustness import attack
from cheaplip.runs.folder import RunFolder

__all__ = ["RULES", "Selection", "chosen"]

RULES = ("validation", "test")
"""``"validation"``: chosen on validation data. ``"test"``: the paper's rule, chosen on test data."""

_MISS = 0.01  # of the training accuracy below its target at which an epoch still counts as having met it


class Selection:
    """Scores each epoch by its accuracy under sign-PGD and keeps the weights of the best, by each rule.

    The paper tests "the checkpoint most robust to PGD during training": an epoch chosen on the data it is tested on.
    The honest rule uses the same attack on validation data, and prefers epochs that meet the target. Use an instance
    as ``on_epoch`` of :func:`~cheaplip.training.run.train`; scores travel in ``history.jsonl``, so a resumed
    run goes on where it was.

    Args:
        folder: of the run; a rule's weights go to its folder ``best-on-RULE``.
        data: the run's.
        target: training accuracy, or None.
        samples: images of each part that are attacked after an epoch.
        epsilon: radius.
    """

    def __init__(self, folder: RunFolder, data: Data, target: float | None, *, samples: int, epsilon: float) -> None:
        self.folder = folder
        self.data = data
        self.target = target
        self.samples = samples
        self.epsilon = epsilon

    def __call__(self, model: nn.Module, line: dict[str, Any]) -> dict[str, Any]:
        """The scores of an epoch."""
        met = self.target is None or line["train_accuracy"] >= self.target - _MISS
        scores: dict[str, Any] = {"met": met}
        for rule in RULES:
            x, y = getattr(self.data, rule)
            result = attack(
                "pgd-sign",
                model,
                x[: self.samples],
                y[: self.samples],
                epsilon=self.epsilon,
                domain=self.data.domain,
                seed=0,
            )
            scores[f"{rule}_pgd-sign"] = result.accuracy
            before = self.folder.history()[: line["epoch"] - 1]
            if all(_key(rule, scores) > _key(rule, earlier) for earlier in before):
                best = self.kept(rule)
                best.path.mkdir(parents=True, exist_ok=True)
                best.save_model(model)
        return scores

    def kept(self, rule: str) -> RunFolder:
        """The folder of the weights a rule has chosen so far."""
        return RunFolder(self.folder.path / f"best-on-{rule}")


def chosen(folder: RunFolder, rule: str) -> dict[str, Any]:
    """The line of ``history.jsonl`` that a rule chooses: the best score, the earliest among equals."""
    return max(folder.history(), key=_by(rule))


def _by(rule: str) -> Callable[[dict[str, Any]], tuple[bool, float]]:
    return lambda line: _key(rule, line)


def _key(rule: str, line: dict[str, Any]) -> tuple[bool, float]:
    return (line["met"] if rule == "validation" else True), line[f"{rule}_pgd-sign"]
