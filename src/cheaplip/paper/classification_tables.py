"""The classification tables: Table 1 for MNIST and Fashion-MNIST, and the table of the authors' public code."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from cheaplip.paper.classification import CERTIFIED, EPSILON, NOISE, Measures, train_and_measure
from cheaplip.paper.experiment import Experiment, Row, Unit
from cheaplip.paper.markdown import beside, markdown_table
from cheaplip.paper.published import README_NUMBERS, TABLE1_NUMBERS
from cheaplip.training.config import TrainConfig

__all__ = ["README", "TABLE1_FASHION", "TABLE1_MNIST", "Setting", "variants"]

VARIANTS = {
    "paper": "the paper's algorithm",
    "authors": "the authors' setting",
    "ours": "ours",
}
"""The three kinds of CLIP, and how the names of rows call them."""

_REACH = 20.0  # how far the additive rule can move λ in a whole run; the paper's largest λ is 9.82


@dataclass(frozen=True)
class Setting:
    """Data, network and effort that the rows of a table share.

    Attributes:
        config: what all trainings have in common.
        measures: how checkpoints are measured.
        held_out: number of images in the paper's Lipschitz training set.
        pairs: number of pairs in a step.
        steps: approximate number of steps of a training.
        cost: how long a row takes, relative to the units of other experiments.
        longer: factor by which the authors' setting trains longer, because a final sigmoid learns slowly.
        sigmoid_lr: peak learning rate of the authors' setting; None: the package's default.
    """

    config: TrainConfig
    measures: Measures
    held_out: int
    pairs: int
    steps: int
    cost: float
    longer: int = 3
    sigmoid_lr: float | None = None


def variants(setting: Setting) -> dict[str, TrainConfig]:
    """Make the configurations of the three kinds of CLIP, by their key in :data:`VARIANTS`."""
    ours = replace(setting.config, method="clip")
    paper = replace(
        ours,
        held_out=setting.held_out,
        pairs=setting.pairs,
        step="quotient",
        renew=0,
        aggregate="max",
        rule="additive",
        rate=_REACH / setting.steps,
        lam=0.0,
        form="separate",
        every=1,
    )
    authors = replace(
        paper,
        final_activation="sigmoid",
        epochs=setting.longer * paper.resolved_epochs,
        lr=setting.sigmoid_lr,
        rate=_REACH / setting.steps / setting.longer,
    )
    return {"paper": paper, "authors": authors, "ours": ours}


def _mnist(model: str, lr: float, quick: bool) -> Setting:
    """The setting for MNIST, with a given model and peak learning rate.

    The learning rate is not the package's default, 0.6: at targets as low as the paper's, the noise of such large steps
    would by itself lower the accuracy to the target, and λ would stay small.
    """
    if quick:
        config = TrainConfig(
            data=f"{_QUICK}:mnist", model=model, epochs=3, batch_size=64, probe=4, search=16, weight_decay=0
        )
        return Setting(config, Measures(50, 100, 10), held_out=600, pairs=60, steps=280, cost=6.0)
    config = TrainConfig(data="mnist", model=model, epochs=20, lr=lr, weight_decay=0)
    return Setting(config, Measures(500, 10_000, 1000), held_out=6000, pairs=60, steps=7600, cost=150.0)


def _fashion(quick: bool) -> Setting:
    """The setting for Fashion-MNIST."""
    if quick:
        config = TrainConfig(
            data=f"{_QUICK}:fashion_mnist",
            model=f"{_QUICK}:cnn",
            epochs=3,
            batch_size=32,
            pairs=8,
            probe=0,
            search=4,
            weight_decay=0,
        )
        return Setting(config, Measures(8, 16, 2), held_out=80, pairs=8, steps=90, cost=15.0)
    config = TrainConfig(data="fashion-mnist", model="cnn", epochs=7, probe=0, search=64, weight_decay=0)
    return Setting(
        config,
        Measures(100, 500, 100),
        held_out=6000,
        pairs=32,
        steps=2700,
        cost=700.0,
        longer=1,
        sigmoid_lr=0.3,
    )


_QUICK = "cheaplip.paper.quick"


def _table1_units(data: str, quick: bool) -> list[Unit]:
    setting = _mnist("mlp:64,64", 0.1, quick) if data == "mnist" else _fashion(quick)
    standard = replace(setting.config, method="plain", target=None)
    weight = replace(setting.config, method="weight")
    rows: list[tuple[str, str | None, TrainConfig]] = [("Standard", None, standard)]
    rows += [(f"WeightReg {target}", None, replace(weight, target=target / 100)) for target in (95, 90, 85)]
    rows += [
        (f"CLIP {target}", variant, replace(config, target=target / 100))
        for target in (95, 90, 85)
        for variant, config in variants(setting).items()
    ]
    units = [_unit(setting, row, variant, config, TABLE1_NUMBERS[data][row]) for row, variant, config in rows]
    certified = replace(standard, method="certified", lr=None)
    measures = replace(setting.measures, certified=CERTIFIED)
    return [*units, _unit(replace(setting, measures=measures), "Certified", None, certified, None)]  # not in the paper


def _readme_units(quick: bool) -> list[Unit]:
    setting = _mnist("mlp:200,80", 0.2, quick)
    clip = variants(setting)
    units = []
    for seed in (0,) if quick else (0, 1, 2):
        for variant in ("authors", "ours"):
            plain = replace(
                setting.config,
                method="plain",
                target=None,
                final_activation=clip[variant].final_activation,
                epochs=clip[variant].epochs,
                lr=clip[variant].lr,
            )
            rows = {"none": plain, **{f"CLIP{t}": replace(clip[variant], target=t / 100) for t in (95, 97)}}
            units += [
                _unit(setting, row, variant, replace(config, seed=seed), README_NUMBERS[row])
                for row, config in rows.items()
            ]
    return units


def _unit(
    setting: Setting, row: str, variant: str | None, config: TrainConfig, published: dict[str, float] | None
) -> Unit:
    name = row if variant is None else f"{row}, {VARIANTS[variant]}"
    folder = "-".join(part for part in (*row.lower().split(), variant, f"seed{config.seed}") if part)
    run = partial(train_and_measure, name, config, setting.measures, published, {"variant": variant})
    return Unit(folder, setting.cost, run)


_COLUMNS = {
    "train": "train",
    "test": "test",
    f"noise@{NOISE}": "noise",
    f"pgd-sign@{EPSILON}": "sign-PGD",
    f"pgd@{EPSILON}": "L2-PGD",
    f"autoattack@{EPSILON}": "AutoAttack",
    **{f"certified@{radius}": f"certified@{radius}" for radius in CERTIFIED},
}


def _table(rows: Sequence[Row]) -> str:
    titles = {
        "validation": "Checkpoint chosen on validation data; test data touched once",
        "test": "Checkpoint chosen on test data, the paper's rule",
    }
    parts = [
        f"{title} (accuracies in %; in brackets: published)\n\n{_one_table([r for r in rows if r['rule'] == rule])}"
        for rule, title in titles.items()
    ]
    return "\n".join(parts)


def _one_table(rows: Sequence[Row]) -> str:
    head = ["", *_COLUMNS.values(), "μ, λ", "largest quotient", "upper bound"]
    body = []
    for name in dict.fromkeys(row["name"] for row in rows):
        runs = [row for row in rows if row["name"] == name]
        published: dict[str, float] = runs[0].get("paper", {})
        cells = [_cell(runs, key, published.get(key), scale=100, form=".1f") for key in _COLUMNS]
        cells += [_cell(runs, key, published.get(key), scale=1, form=".3g") for key in ("lam", "lower", "upper")]
        body.append([name.removesuffix(", best on test"), *cells])
    return markdown_table(head, body)


def _cell(runs: Sequence[Row], key: str, published: float | None, *, scale: int, form: str) -> str:
    """The mean of the runs, their standard deviation if there are several, and the paper's figure."""
    known = [scale * figures[key] for figures in map(_figures, runs) if figures.get(key) is not None]
    ours = "–" if len(known) < len(runs) else f"{statistics.fmean(known):{form}}"
    if len(known) == len(runs) > 1:
        ours += f" ± {statistics.stdev(known):{form}}"
    return beside(ours, None if published is None else f"{scale * published:{form}}")


def _figures(run: Row) -> dict[str, Any]:
    certified = {f"certified@{radius}": value for radius, value in run["certified"].items()}
    return {**run["accuracy"], **run["robust"], **certified, **run["lipschitz"], "lam": run["lam"]}


TABLE1_MNIST = Experiment("table1-mnist", partial(_table1_units, "mnist"), _table)
TABLE1_FASHION = Experiment("table1-fashion-mnist", partial(_table1_units, "fashion-mnist"), _table)
README = Experiment("readme", _readme_units, _table)
