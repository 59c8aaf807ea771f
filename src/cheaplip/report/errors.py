"""The result of a regression in plain words."""

from collections.abc import Sequence

from cheaplip.report.kind import Kind
from cheaplip.report.read import Study
from cheaplip.report.table import Cell, Column, Group, cell
from cheaplip.report.wording import attack_key, attack_title, figure, is_noise, part, radius

__all__ = ["error_sentences"]

_SAME = 0.02  # errors closer than that, relatively, are told as equal
_MISSED = 0.1  # and a target missed by more than that is told


def error_sentences(
    study: Study,
    columns: Sequence[Column],
    attack: Column | None,
    hero: Group,
    rival: Group | None,
    titles: tuple[str, str],
) -> tuple[str, tuple[str, ...]]:
    """A sentence, and a few below it.

    Args:
        study: a regression.
        columns: of its table; the first holds the test error.
        attack: the one to speak of, if any.
        hero, rival: whom to compare; no rival: the hero alone.
        titles: theirs, as within a sentence.
    """
    kind, test = study.kind, columns[0]
    clean = cell(test, hero.runs)
    held = None if attack is None else cell(attack, hero.runs)
    if clean is None:
        return f"{_start(titles[0])} on {study.title}: no test error yet.", ()
    off = f"{_start(titles[0])} is off by {kind.tell(clean.mean)} on test inputs of {study.title} (RMSE)"
    details: list[str] = []
    if attack is None or held is None:
        sentence = f"{off}."
        details.append("It has not been attacked yet, so this says nothing about its stability.")
    elif rival is None or (other := cell(attack, rival.runs)) is None:
        sentence = f"{off}, and by {kind.tell(held.mean)} {_how(attack)}."
    else:
        sentence = _compared(kind, titles, held, other, attack)
        if plain := cell(test, rival.runs):
            details.append(f"Left alone, they are off by {kind.tell(clean.mean)} and {kind.tell(plain.mean)}.")
    details.append("Errors are roots of mean squared ones (RMSE).")
    if quotient := next((c for c in columns if c.path == ("lipschitz", "lower")), None):
        told = [figure(found.mean) for group in (hero, rival) if group and (found := cell(quotient, group.runs))]
        details.append(f"Largest quotient found, output change per input change: {' against '.join(told)}.")
    aimed = next((c for c in columns if c.path == (kind.section, hero.target_on)), None)
    seen = cell(aimed, hero.runs) if aimed and hero.target is not None else None
    if seen and hero.target is not None and seen.mean > hero.target * (1 + _MISSED):
        details.append(
            f"{_start(titles[0])} missed its target: off by {kind.tell(seen.mean)} on its {part(hero.target_on)} data, "
            f"{kind.tell(hero.target)} was wanted."
        )
    return sentence, tuple(details)


def _start(text: str) -> str:
    """As at the start of a sentence."""
    return f"{text[:1].upper()}{text[1:]}"


def _compared(kind: Kind, titles: tuple[str, str], held: Cell, other: Cell, attack: Column) -> str:
    a, b = held.mean, other.mean
    margin = max(_SAME * b, 2 * max(held.spread or 0.0, other.spread or 0.0))
    if abs(a - b) <= margin:
        both = f"off by {kind.tell(a)} and {kind.tell(b)}"
        return f"No clear difference between {titles[0]} and {titles[1]} {_how(attack)}: {both}."
    verb = "is off by only" if a < b else "does worse: it is off by"
    return f"{_start(_how(attack))}, {titles[0]} {verb} {kind.tell(a)}; {titles[1]}, by {kind.tell(b)}."


def _how(attack: Column) -> str:
    name, epsilon = attack_key(attack.path[1]) or ("", 0.0)
    if is_noise(name):
        return f"under noise of σ = {radius(epsilon)}"
    return f"under {attack_title(name)} of up to {radius(epsilon)}"
