"""Chooses the epoch whose network is tested: by the paper's rule, and by one that does not look at test data."""

from collections.abc import Callable
from typing import Any

from torch import nn

from cheaplip.data import Data
from cheaplip.robustness import attack
from cheaplip.runs.folder import RunFolder

__all__ = ["RULES", "Selection", "chosen"]

RULES = ("validation", "test")
"""``"validation"``: the epoch is chosen on validation data. ``"test"``: on test data, which is the paper's rule."""

_MISS = 0.01  # an epoch meets the target if its training accuracy is at most this much below


class Selection:
    """Scores each epoch by its accuracy under sign-PGD, and keeps the weights of the best epoch by each rule.

    The paper tests "the checkpoint most robust to PGD during training", so it chooses the epoch on the data that it
    then tests it on. The other rule uses the same attack on validation data, and prefers epochs that meet the target.

    Pass an instance as ``on_epoch`` to :func:`~cheaplip.training.run.train`. The scores are kept in
    ``history.jsonl``, so a resumed run continues where it was.

    Args:
        folder: of the run; the weights that a rule chose go to its subfolder ``best-on-RULE``.
        data: of the run.
        target: training accuracy that an epoch should meet; None: every epoch meets it.
        samples: number of images of each part of the data that are attacked after an epoch.
        epsilon: L2 radius of the attack.
    """

    def __init__(self, folder: RunFolder, data: Data, target: float | None, *, samples: int, epsilon: float) -> None:
        self.folder = folder
        self.data = data
        self.target = target
        self.samples = samples
        self.epsilon = epsilon

    def __call__(self, model: nn.Module, line: dict[str, Any]) -> dict[str, Any]:
        """Score an epoch, and keep its weights where a rule finds it the best so far."""
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
        """The folder of the weights that a rule has chosen so far."""
        return RunFolder(self.folder.path / f"best-on-{rule}")


def chosen(folder: RunFolder, rule: str) -> dict[str, Any]:
    """Find the line of ``history.jsonl`` that a rule chooses: the best score, and the earliest epoch among equals."""
    return max(folder.history(), key=_by(rule))


def _by(rule: str) -> Callable[[dict[str, Any]], tuple[bool, float]]:
    return lambda line: _key(rule, line)


def _key(rule: str, line: dict[str, Any]) -> tuple[bool, float]:
    return (line["met"] if rule == "validation" else True), line[f"{rule}_pgd-sign"]
