"""The headline of a page: ``classification`` and ``regression`` word it.

Pages of the paper's experiments have headlines of their own, in ``cheaplip.report.paper``.
"""

from collections.abc import Sequence

from cheaplip.report.sentences.choice import attack_to_report
from cheaplip.report.sentences.classification import accuracies_in_words
from cheaplip.report.sentences.parts import Headline
from cheaplip.report.sentences.regression import errors_in_words
from cheaplip.report.study import Study
from cheaplip.report.table import Column, Group

__all__ = ["headline"]


def headline(study: Study, rows: Sequence[Group], columns: Sequence[Column]) -> Headline:
    """Say what a comparison or a run shows.

    Args:
        study: what was read.
        rows: its configurations.
        columns: of its table.
    """
    in_words = errors_in_words if study.words.errors else accuracies_in_words
    return in_words(study, rows, columns, attack_to_report(columns, rows))
