"""The result of a regression in words: how far predictions are off, also under attack."""

from collections.abc import Sequence

from cheaplip.report.methods import method_title
from cheaplip.report.sentences.choice import rivals
from cheaplip.report.sentences.parts import Headline, largest_quotients
from cheaplip.report.study import Study, numbers, section
from cheaplip.report.table import Cell, Column, Group, cell
from cheaplip.runs.numbers import radius, three_digits
from cheaplip.runs.words import Words, capitalised, misses, part_of_data

__all__ = ["errors_in_words"]

_SAME = 0.02  # errors closer than that, relatively, are called equal


def errors_in_words(study: Study, rows: Sequence[Group], columns: Sequence[Column], attack: Column | None) -> Headline:
    """Say what errors show.

    Args:
        study: a regression.
        rows: its configurations.
        columns: of its table; the first is the test error.
        attack: the column to speak about, if anything was attacked.
    """
    words, test = study.words, columns[0]
    measured = {group.name: found for group in rows if (found := cell(attack or test, group.runs))}
    pair = rivals(rows, {name: -found.mean for name, found in measured.items()})
    hero, rival = pair or (rows[0], None)
    title = method_title(hero.name)
    clean = cell(test, hero.runs)
    held = None if attack is None else cell(attack, hero.runs)
    if clean is None:
        return Headline(f"{capitalised(title)} on {study.title}: no test error yet.")
    off = f"{capitalised(title)} is off by {words.in_text(clean.mean)} on test inputs of {study.title} (RMSE)"
    details: list[str] = []
    if attack is None or held is None:
        sentence = f"{off}."
        details.append("It has not been attacked yet, so this says nothing about its stability.")
    elif rival is None or (other := cell(attack, rival.runs)) is None:
        sentence = f"{off}, and by {words.in_text(held.mean)} {_circumstance(attack)}."
    else:
        sentence = _comparison(words, title, method_title(rival.name), held, other, attack)
        if baseline := cell(test, rival.runs):
            unchanged = f"{words.in_text(clean.mean)} and {words.in_text(baseline.mean)}"
            details.append(f"On the unchanged inputs they are off by {unchanged}.")
    details.append("Errors are root mean squared errors (RMSE).")
    details += _of_outputs(hero)
    details += largest_quotients(columns, [group for group in (hero, rival) if group])
    return Headline(sentence, (*details, *_missed(words, hero, columns)))


def _comparison(words: Words, first: str, second: str, held: Cell, other: Cell, attack: Column) -> str:
    a, b = held.mean, other.mean
    margin = max(_SAME * b, 2 * max(held.spread or 0.0, other.spread or 0.0))
    if abs(a - b) <= margin:
        both = f"{words.in_text(a)} and {words.in_text(b)}"
        return f"No clear difference between {first} and {second} {_circumstance(attack)}: they are off by {both}."
    verb = "is off by only" if a < b else "does worse: it is off by"
    return (
        f"{capitalised(_circumstance(attack))}, {first} {verb} {words.in_text(a)}; "
        f"{second} is off by {words.in_text(b)}."
    )


def _of_outputs(group: Group) -> list[str]:
    """The errors of several outputs in their own units."""
    several = numbers(section(group.runs[0].row, "rmse_of_outputs").get("test"))
    if not several:
        return []
    listed = ", ".join(map(three_digits, several))
    return [f"On test inputs, {method_title(group.name)}'s outputs are off by {listed}, each in its own units."]


def _missed(words: Words, group: Group, columns: Sequence[Column]) -> list[str]:
    """A target that was missed."""
    aimed = next((column for column in columns if column.path == (words.key, group.target_on)), None)
    reached = cell(aimed, group.runs) if aimed else None
    if reached is None or group.target is None or not misses(group.target, reached.mean, errors=True):
        return []
    return [
        f"{capitalised(method_title(group.name))} missed its target: on {part_of_data(group.target_on)} data it is off "
        f"by {words.in_text(reached.mean)} instead of {words.in_text(group.target)}."
    ]


def _circumstance(column: Column) -> str:
    attack = column.attack
    assert attack is not None
    if attack.is_corruption:
        return f"under {attack.title} of {attack.size_text}"
    return f"under {attack.title} of up to {radius(attack.size)}"
