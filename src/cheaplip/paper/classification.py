"""Trains a row of a classification table and measures the checkpoints that the two rules choose."""

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

from torch import nn

from cheaplip.data import Data, load
from cheaplip.data.splits import hold_out
from cheaplip.errors import CheaplipWarning, Interrupted
from cheaplip.lipschitz import largest_quotient
from cheaplip.lipschitz.bracket import bracket
from cheaplip.paper.experiment import Job, Row
from cheaplip.paper.selection import RULES, Selection, chosen
from cheaplip.robustness import accuracy
from cheaplip.runs.folder import RunFolder, versions
from cheaplip.trained.certify import certify
from cheaplip.trained.compare import Attack
from cheaplip.trained.evaluate import evaluate, robust_key
from cheaplip.trained.loading import load_run, load_trained
from cheaplip.training.config import TrainConfig
from cheaplip.training.run import train

__all__ = ["CERTIFIED", "EPSILON", "NOISE", "Measures", "train_and_measure"]

CERTIFIED = (0.5, 1.0)
EPSILON = 2.0
NOISE = 1.0
_TRAINING = 0.6  # of the time of a row, about
_MEASURED = ("accuracy", "robust", "robust_samples", "certified", "lipschitz", "warnings")


@dataclass(frozen=True)
class Measures:
    """On how many images a row is measured.

    Attributes:
        scored: images attacked after each epoch, for either checkpoint rule.
        attacked: test images under sign-PGD and L2-PGD.
        autoattacked: test images under AutoAttack.
    """

    scored: int
    attacked: int
    autoattacked: int

    @property
    def attacks(self) -> list[Attack]:
        """What is measured on test images."""
        return [
            Attack("noise", NOISE, self.attacked),
            Attack("pgd-sign", EPSILON, self.attacked),
            Attack("pgd", EPSILON, self.attacked),
            Attack("autoattack", EPSILON, self.autoattacked),
        ]


def train_and_measure(
    name: str, config: TrainConfig, measures: Measures, published: dict[str, float] | None, extra: Row, job: Job
) -> list[Row]:
    """Two rows, one for each checkpoint rule.

    Args:
        name: of the row; the paper's rule adds to it.
        config: of the training.
        measures: on how many images.
        published: the paper's numbers, put beside ours.
        extra: more keys for the rows.
        job: where, and how to report.
    """
    data = _data(config.data).to(config.resolved_device)
    selection = Selection(job.folder, data, config.steered_to, samples=measures.scored, epsilon=EPSILON)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CheaplipWarning)  # the checkpoints' warnings are kept in their rows
        finished = train(
            config,
            data,
            job.folder,
            resume=job.folder.exists(),
            progress=lambda done, total, _: job.progress(_TRAINING * done / total, "trains"),
            stop=job.stop,
            on_epoch=selection,
        )
    rows: list[Row] = []
    for rule in RULES:
        line = chosen(job.folder, rule)
        same = next((row for row in rows if row["epoch"] == line["epoch"]), None)
        if same is None:
            metrics = _measure(selection.kept(rule), line["epoch"], config, data, measures, job, len(rows) / 2)
        else:
            metrics = {key: same[key] for key in _MEASURED}
        rows.append(
            {
                "name": name if rule == "validation" else f"{name}, best on test",
                "method": config.method,
                "target": config.steered_to if config.method in ("clip", "weight") else None,
                "rule": rule,
                "epoch": line["epoch"],
                **{key: metrics[key] for key in _MEASURED},
                "lam": line.get("lam"),
                "epochs": finished["epochs"],
                "seconds_per_epoch": finished["seconds_per_epoch"],
                "seed": config.seed,
                **extra,
                **({} if published is None else {"paper": published}),
            }
        )
    return rows


@cache
def _data(source: str) -> Data:
    return load(source)


def _measure(
    folder: RunFolder, epoch: int, config: TrainConfig, data: Data, measures: Measures, job: Job, share: float
) -> dict[str, Any]:
    """Accuracies, attacks and constants of a checkpoint; what was measured before a crash is kept."""

    def report(attack: str, done: int, total: int) -> None:
        if job.stop():
            raise Interrupted
        within = (attacks.index(attack) + done / total) / len(attacks)
        job.progress(_TRAINING + (1 - _TRAINING) * (share + within / 2), attack)

    attacks = [attack.name for attack in measures.attacks]
    if not (folder.path / "metrics.json").is_file():
        report(attacks[0], 0, 1)
        folder.write_json("config.json", {**asdict(config), "versions": versions()})
        folder.write_json("metrics.json", {**_constants(folder, config, data), "epochs": epoch})
    for attack in measures.attacks:
        metrics = folder.read_json("metrics.json")
        if robust_key(attack.name, attack.epsilon) in metrics["robust"]:
            continue
        with _caught() as messages:
            metrics = evaluate(
                folder,
                attacks=[attack.name],
                epsilons=[attack.epsilon],
                samples=attack.samples,
                data=data,
                progress=report,
            )
        folder.write_json("metrics.json", {**metrics, "warnings": sorted({*metrics["warnings"], *messages})})
    if config.method == "certified" and not (folder.path / "card.json").is_file():  # what is written last
        certify(load_run(folder, data), epsilons=CERTIFIED, seconds=None)  # by steps: a clock would change the row
    return folder.read_json("metrics.json")


def _constants(folder: RunFolder, config: TrainConfig, data: Data) -> dict[str, Any]:
    model = load_trained(folder, config, data)
    seen, _ = hold_out(data, config.held_out, config.split_seed)
    found = largest_quotient(model, seen.train.x, domain=data.domain, size=config.search)
    folder.save_witness(*found.witness)
    return {
        "accuracy": {
            "train": accuracy(model, *seen.train),
            "validation": accuracy(model, *data.validation),
            "test": accuracy(model, *data.test),
        },
        "robust": {},
        "robust_samples": {},
        "certified": {},
        "lipschitz": {"lower": found.value, **_upper(model, data)},
        "warnings": [],
    }


def _upper(model: nn.Module, data: Data) -> dict[str, Any]:
    found = bracket(model, data.domain, data.shape, steps=0)
    return {"upper": found.upper, "upper_method": found.method} if math.isfinite(found.upper) else {}


@contextmanager
def _caught() -> Iterator[Sequence[str]]:
    """Collects our own warnings: a row that masks its gradients says so in ``warnings``."""
    messages: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", CheaplipWarning)
        yield messages
    for warning in caught:
        if issubclass(warning.category, CheaplipWarning):
            messages.append(str(warning.message))
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
