"""The headline of a page: ``classification`` and ``regression`` word it.

Pages of the paper's experiments have headlines of their own, in ``cheaplip.report.paper``.
"""

from collections.abc import Sequence

from cheaplip.report.methods import method_title
from cheaplip.report.sentences.choice import attack_to_report
from cheaplip.report.sentences.classification import accuracies_in_words
from cheaplip.report.sentences.parts import Headline
from cheaplip.report.sentences.regression import errors_in_words
from cheaplip.report.study import Study
from cheaplip.report.table import Column, Group
from cheaplip.runs.words import capitalised, constant_in_words

__all__ = ["headline"]


def headline(study: Study, rows: Sequence[Group], columns: Sequence[Column]) -> Headline:
    """Say what a comparison or a run shows.

    Args:
        study: what was read.
        rows: its configurations.
        columns: of its table.
    """
    in_words = errors_in_words if study.words.errors else accuracies_in_words
    found = in_words(study, rows, columns, attack_to_report(columns, rows))
    constant = _constant(study, rows)
    return Headline(found.sentence, (*constant, *_knee(rows), *found.details))


def _knee(rows: Sequence[Group]) -> list[str]:
    """The knee of a frontier."""
    at = next((group for group in rows if any(run.row.get("knee") is True for run in group.runs)), None)
    if at is None:
        return []
    return [f"The knee of the curve is {method_title(at.name)}: giving up more gains less than before."]


def _constant(study: Study, rows: Sequence[Group]) -> list[str]:
    """What is said of networks that give one answer for all inputs, a sentence for each configuration."""
    told = []
    for group in rows:
        words = next((said for run in group.runs if (said := constant_in_words(run.row))), "")
        if words:
            told.append(words if study.alone else f"{capitalised(method_title(group.name))}: {words}")
    return told
