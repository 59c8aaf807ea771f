"""Trains the network of a row of a classification table, and measures the checkpoints that the two rules choose."""

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, NamedTuple

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
from cheaplip.trained.evaluate import robust_key
from cheaplip.trained.loading import load_run, load_trained
from cheaplip.training.config import TrainConfig
from cheaplip.training.run import train

__all__ = ["CERTIFIED", "EPSILON", "NOISE", "Measures", "train_and_measure"]

CERTIFIED = (0.5, 1.0)
"""L2 radii at which certified rows are certified."""

EPSILON = 2.0
"""L2 radius of the attacks."""

NOISE = 1.0
"""Standard deviation of the noise."""

_TRAINING = 0.6  # share of a row's time that training takes, for the progress
_MEASURED = ("accuracy", "robust", "robust_samples", "certified", "lipschitz", "warnings")


@dataclass(frozen=True)
class Measures:
    """How a row is measured.

    Attributes:
        scored: number of images attacked after each epoch, for each of the two checkpoint rules.
        attacked: number of test images under noise, sign-PGD and L2-PGD.
        autoattacked: number of test images under AutoAttack.
        certified: L2 radii to certify the checkpoints at, which also get a model card; empty: nothing is certified.
    """

    scored: int
    attacked: int
    autoattacked: int
    certified: tuple[float, ...] = ()

    @property
    def attacks(self) -> list[Attack]:
        """The noise and the attacks on test images."""
        return [
            Attack("noise", NOISE, self.attacked),
            Attack("pgd-sign", EPSILON, self.attacked),
            Attack("pgd", EPSILON, self.attacked),
            Attack("autoattack", EPSILON, self.autoattacked),
        ]


def train_and_measure(
    name: str, config: TrainConfig, measures: Measures, published: dict[str, float] | None, extra: Row, job: Job
) -> list[Row]:
    """Train a network and make two rows of it, one for each checkpoint rule.

    Args:
        name: of the row that is chosen on validation data; the other one adds to it.
        config: of the training.
        measures: how the checkpoints are measured.
        published: the paper's numbers, to stand beside ours; None: it has none.
        extra: more keys for the rows.
        job: where to work, and how to report progress.
    """
    data = _data(config.data).to(config.resolved_device)
    selection = Selection(job.folder, data, config.named_target, samples=measures.scored, epsilon=EPSILON)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CheaplipWarning)  # the rows keep the warnings about their checkpoints
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
            kept, last = selection.kept(rule), line["epoch"] == finished["epochs"]
            measured = _Measured(finished, job.folder) if last else None
            metrics = _measure(kept, line["epoch"], config, data, measures, measured, job, len(rows) / 2)
        else:
            metrics = {key: same[key] for key in _MEASURED}
        rows.append(
            {
                "name": name if rule == "validation" else f"{name}, best on test",
                "method": config.method,
                "target": config.named_target,
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


class _Measured(NamedTuple):
    """The metrics of the training, which measured its last network, and its folder."""

    metrics: dict[str, Any]
    folder: RunFolder


@cache
def _data(source: str) -> Data:
    return load(source)


def _measure(
    folder: RunFolder,
    epoch: int,
    config: TrainConfig,
    data: Data,
    measures: Measures,
    measured: _Measured | None,
    job: Job,
    share: float,
) -> dict[str, Any]:
    """Measure a checkpoint: accuracies, attacks, constants. What was measured before is not measured again.

    Args:
        folder: of the checkpoint, with its weights; it keeps what was measured before an interruption.
        epoch: of the checkpoint.
        config, data, measures: of the row.
        measured: what the training measured, if the checkpoint is its last network.
        job: how to report progress.
        share: of the row's measurements that were done before this checkpoint's.
    """

    def report(attack: str, done: int, total: int) -> None:
        if job.stop():
            raise Interrupted
        within = (attacks.index(attack) + done / total) / len(attacks)
        job.progress(_TRAINING + (1 - _TRAINING) * (share + within / 2), attack)

    attacks = [attack.name for attack in measures.attacks]
    if not (folder.path / "metrics.json").is_file():
        report(attacks[0], 0, 1)
        folder.write_json("config.json", {**asdict(config), "versions": versions()})
        folder.write_json("metrics.json", {**_constants(folder, config, data, measures, measured), "epochs": epoch})
    for attack in measures.attacks:
        metrics = folder.read_json("metrics.json")
        if robust_key(attack.name, attack.epsilon) in metrics["robust"]:
            continue
        with _caught() as messages:
            metrics = attack.on(folder, data, report)
        folder.write_json("metrics.json", {**metrics, "warnings": sorted({*metrics["warnings"], *messages})})
    if measures.certified and not (folder.path / "card.json").is_file():  # certify writes the card last
        # the search is limited by steps, not by seconds: the row must be the same on every machine
        certify(load_run(folder, data), epsilons=measures.certified, seconds=None)
    return folder.read_json("metrics.json")


def _constants(
    folder: RunFolder, config: TrainConfig, data: Data, measures: Measures, measured: _Measured | None
) -> dict[str, Any]:
    model = load_trained(folder, config, data)
    if measured is None:
        seen, _ = hold_out(data, config.held_out, config.split_seed)
        found = largest_quotient(model, seen.train.x, domain=data.domain, size=config.search)
        folder.save_witness(*found.witness)
        parts = {"train": seen.train, "validation": data.validation, "test": data.test}
        accuracies, lower = {part: accuracy(model, *split) for part, split in parts.items()}, found.value
    else:
        accuracies, lower = measured.metrics["accuracy"], measured.metrics["lipschitz"]["lower"]
        folder.save_witness(*measured.folder.load_witness())
    return {
        "accuracy": accuracies,
        "robust": {},
        "robust_samples": {},
        "certified": {},
        # where the row is certified, its upper end comes with the certificate
        "lipschitz": {"lower": lower, **({} if measures.certified else _upper(model, data))},
        "warnings": [],
    }


def _upper(model: nn.Module, data: Data) -> dict[str, Any]:
    found = bracket(model, data.domain, data.shape, steps=0)
    return {"upper": found.upper, "upper_method": found.method} if math.isfinite(found.upper) else {}


@contextmanager
def _caught() -> Iterator[Sequence[str]]:
    """Collect the warnings of this package, for the row's ``warnings``: a model may mask its gradients."""
    messages: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", CheaplipWarning)
        yield messages
    for warning in caught:
        if issubclass(warning.category, CheaplipWarning):
            messages.append(str(warning.message))
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
