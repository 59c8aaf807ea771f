"""What a headline is made of: a sentence, a few more that qualify it, and one that several headlines share."""

from collections.abc import Sequence
from dataclasses import dataclass

from cheaplip.report.methods import method_title
from cheaplip.report.table import LOWER, Column, Group, cell
from cheaplip.runs.numbers import three_digits

__all__ = ["Headline", "largest_quotients"]


@dataclass(frozen=True)
class Headline:
    """A sentence for the top of the page, and those below it."""

    sentence: str
    details: tuple[str, ...] = ()


def largest_quotients(columns: Sequence[Column], compared: Sequence[Group]) -> list[str]:
    """Say how large the largest quotient found is for each of these groups; empty where none has one."""
    column = next((column for column in columns if column.path == LOWER), None)
    known = [(found, group) for group in compared if column and (found := cell(column, group.runs))]
    if not known:
        return []
    values = " and ".join(f"{three_digits(found.mean)} for {method_title(group.name)}" for found, group in known)
    return [f"The largest quotient found (change of the output divided by change of the input) is {values}."]
