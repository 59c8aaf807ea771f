"""The headline of a table: our CLIP beside the published row, and beside weight regularisation."""

from collections.abc import Sequence

from cheaplip.report.methods import OURS
from cheaplip.report.paper.tables import column_of
from cheaplip.report.sentences.parts import Headline
from cheaplip.report.study import Study, number, section
from cheaplip.report.table import Column, Group, cell
from cheaplip.runs.numbers import percent

__all__ = ["verdict"]

_MARGIN = 0.15  # our accuracy under sign-PGD is expected to be that much above the published one
_RIVAL = "weight"  # the method that the paper compares with


def verdict(study: Study, rows: Sequence[Group], columns: Sequence[Column]) -> Headline:
    """Compare our CLIP with the published row of the same target, and with weight regularisation.

    Args:
        study: the rows of one checkpoint rule.
        rows: the same, by configuration.
        columns: of the table.
    """
    weak = column_of(columns, "pgd-sign")
    details = []
    if study.experiment is not None and study.experiment.quick:
        details.append(
            "This is the quick version, with few images and epochs: its figures only show that everything runs."
        )
    ours = [group for group in rows if group.method == OURS and group.runs[0].row.get("variant") == "ours"]
    beside = []
    for group in ours:
        held, paper = (None, None) if weak is None else (cell(weak, group.runs), weak.published(group))
        if held is not None and paper is not None:
            beside.append((held.mean, paper, group))
    if not beside:
        return Headline(f"{study.title}: no row of our CLIP beside a published one yet.", tuple(details))
    mean, paper, group = max(beside, key=lambda found: found[0])
    sentence = (
        f"Under the paper’s own attack, our CLIP with the target {percent(group.target or 0)} gets {percent(mean)} of "
        f"the {study.title} test inputs right; the paper’s CLIP with the same target gets {percent(paper)}."
    )
    strong = column_of(columns, "autoattack")
    if strong is not None and (left := cell(strong, group.runs)):
        tried = number(section(group.runs[0].row, "robust_samples").get(strong.path[1]))
        inputs = "" if tried is None else f" of {tried:,.0f} inputs"
        details.append(
            f"The paper’s attack is weak: under AutoAttack the same network gets {percent(left.mean)}{inputs} right."
        )
    short = [f"{g.name} ({percent(a)}, published {percent(b)})" for a, b, g in beside if a < b + _MARGIN]
    if short:
        details.append(f"Not 15 points above the published row: {'; '.join(short)}.")
    elif len(beside) > 1:
        details.append(f"In each of the {len(beside)} rows ours is at least 15 points above the published one.")
    details += _against_rival(rows, ours, columns)
    return Headline(sentence, tuple(details))


def _against_rival(rows: Sequence[Group], ours: Sequence[Group], columns: Sequence[Column]) -> list[str]:
    """Whether our rows are above weight regularisation of the same target, under noise and under attack."""
    rivals = {group.target: group for group in rows if group.method == _RIVAL}
    measures = [column for name in ("noise", "pgd", "autoattack") if (column := column_of(columns, name))]
    compared, below = 0, []
    for group in ours:
        rival = rivals.get(group.target)
        for column in measures if rival is not None else []:
            a, b = cell(column, group.runs), cell(column, rival.runs) if rival is not None else None
            if a is None or b is None:
                continue
            compared += 1
            if a.mean <= b.mean:
                below.append(f"{column.title}, {group.name} ({percent(a.mean)} against {percent(b.mean)})")
    if not compared:
        return []
    if below:
        return [f"Not above weight regularisation with the same target: {'; '.join(below)}."]
    names = ", ".join(column.title for column in measures)
    return [f"Above weight regularisation at each target, under each of {names}."]
