"""Table 1 and the table of the authors' public code: their two checkpoint rules, and how each row is drawn."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from cheaplip.report.study import Run, Study
from cheaplip.report.table import Column, Group

__all__ = ["TABLES", "Rule", "by_rule", "column_of", "families", "short_name"]

TABLES = {
    "table1-mnist": "The paper’s Table 1, MNIST",
    "table1-fashion-mnist": "The paper’s Table 1, Fashion-MNIST",
    "readme": "The table of the authors’ public code, MNIST",
}
"""Titles of the experiments that are tables, by name."""

_RULES = {
    "validation": (
        "Checkpoint chosen on validation data",
        "Each row shows the epoch of its training that was most robust to sign-PGD on validation data. Test data was "
        "used only once, for these figures.",
    ),
    "test": (
        "Checkpoint chosen on test data, the paper’s rule",
        "Each row shows the epoch of the same training that was most robust to sign-PGD on the very test images that "
        "these figures are measured on, so they are optimistic.",
    ),
}
_FAMILIES = {
    ("plain", None): ("--s0", "circle"),
    ("weight", None): ("--s2", "diamond"),
    ("clip", "paper"): ("--s3", "triangle-up"),
    ("clip", "authors"): ("--s4", "x"),
    ("clip", "ours"): ("--s1", "square"),
    ("plain", "authors"): ("--s5", "cross"),
    ("plain", "ours"): ("--s0", "circle"),
    ("certified", None): ("--s7", "star"),
}  # colour and symbol by method and variant
_DASHES = ("solid", "dash", "dashdot")  # dotted lines mean something else in the plots


@dataclass(frozen=True)
class Rule:
    """One of the two tables of an experiment: the same trainings, each at the epoch that a rule chose.

    Attributes:
        name: as in the rows.
        title, note: the heading above the table, and what the rule is.
        study: the rows of this rule alone.
    """

    name: str
    title: str
    note: str
    study: Study


def by_rule(study: Study) -> list[Rule]:
    """Split a study by the rule that chose the epoch of each row; rows without a rule stand with the first."""
    known = [rule for rule in _RULES if any(run.row.get("rule") == rule for run in study.runs)] or ["validation"]
    split: dict[str, list[Run]] = {rule: [] for rule in known}
    for run in study.runs:
        rule = str(run.row.get("rule"))
        split[rule if rule in split else known[0]].append(run)
    return [Rule(rule, *_RULES[rule], replace(study, runs=tuple(runs))) for rule, runs in split.items()]


def families(study: Study) -> list[Group]:
    """Group the rows by configuration: a colour and a symbol for each kind of training, a dash for each target."""
    targets: dict[tuple[str, str | None], list[float | None]] = {}
    found = []
    for name in dict.fromkeys(run.name for run in study.runs):
        runs = tuple(run for run in study.runs if run.name == name)
        variant = runs[0].row.get("variant")
        family = runs[0].method, variant if isinstance(variant, str) else None
        seen = targets.setdefault(family, [])
        if runs[0].target not in seen:
            seen.append(runs[0].target)
        color, symbol = _FAMILIES.get(family, ("--s6", "circle"))
        found.append(Group(name, runs, color, symbol, _DASHES[seen.index(runs[0].target) % len(_DASHES)]))
    return found


def column_of(columns: Sequence[Column], attack: str) -> Column | None:
    """Find the first column of an attack."""
    return next((column for column in columns if column.attack and column.attack.name == attack), None)


def short_name(group: Group) -> str:
    """Shorten a row's name so that it fits beside a plot on a phone."""
    variant = {"paper": "paper’s", "authors": "authors’", "ours": "ours"}.get(str(group.runs[0].row.get("variant")))
    return group.name if variant is None else f"{group.name.partition(',')[0]}, {variant}"
