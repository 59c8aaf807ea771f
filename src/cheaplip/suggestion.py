"""The suggestion of what was probably meant by a name that does not exist, for the end of an error's message."""

import difflib
from collections.abc import Iterable

__all__ = ["did_you_mean", "nearest"]


def nearest(word: str, choices: Iterable[str]) -> str | None:
    """Return the choice that is most like a word, above all one that differs in case alone; None if none is."""
    choices = list(choices)
    same = [choice for choice in choices if choice.casefold() == word.casefold()]
    return next(iter(same or difflib.get_close_matches(word, choices, n=1)), None)


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """Return "; did you mean 'x'?" with the choice x that is most like a word, or "" if none is.

    Example:
        >>> did_you_mean("sigmiod", ["relu", "sigmoid"])
        "; did you mean 'sigmoid'?"
    """
    near = nearest(word, choices)
    return "" if near is None else f"; did you mean {near!r}?"
