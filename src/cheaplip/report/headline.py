"""The result in plain words: one sentence, and a few that keep it honest."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from cheaplip.report.errors import error_sentences
from cheaplip.report.read import Study, number, section
from cheaplip.report.table import Cell, Column, Group, cell
from cheaplip.report.wording import attack_key, attack_title, figure, is_noise, part, percent, radius, strength

__all__ = ["Headline", "headline", "telling"]

_TEST, _LOWER = ("accuracy", "test"), ("lipschitz", "lower")
_SAME = 0.01  # accuracies closer than a point are told as equal
_MISSED = 0.02  # and a target missed by more than two is told


@dataclass(frozen=True)
class Headline:
    """A sentence for the top of the page, and those below it."""

    sentence: str
    details: tuple[str, ...]


def telling(columns: Sequence[Column], rows: Sequence[Group]) -> Column | None:
    """The attack that the headline speaks of: of those on most configurations the strongest, at its middle radius."""
    attacks = [(column, parsed) for column in columns if column.path[0] == "robust" and (parsed := _parsed(column))]
    if not attacks:
        return None

    def width(column: Column) -> int:
        return sum(cell(column, group.runs) is not None for group in rows)

    widest = max(width(column) for column, _ in attacks)
    attacks = [(column, parsed) for column, parsed in attacks if width(column) == widest]
    strongest = min((name for _, (name, _) in attacks), key=strength)
    same = sorted((epsilon, place) for place, (_, (name, epsilon)) in enumerate(attacks) if name == strongest)
    return attacks[same[(len(same) - 1) // 2][1]][0]


def headline(study: Study, rows: Sequence[Group], columns: Sequence[Column]) -> Headline:
    """What the page shows, in words made from its figures alone."""
    by_path = {column.path: column for column in columns}
    attack = telling(columns, rows)
    if study.kind.errors:
        return Headline(*_errors(study, rows, columns, attack))
    clean = {group.name: found for group in rows if (found := cell(by_path[_TEST], group.runs))}
    if len(rows) == 1:
        return Headline(*_alone(study, rows[0], by_path, attack, clean.get(rows[0].name)))
    if attack is None:
        return Headline(*_unattacked(study, rows, clean))
    held = {group.name: found for group in rows if (found := cell(attack, group.runs))}
    hero, rival = _pair(rows, held)
    if hero is None or rival is None:
        return Headline(*_unattacked(study, rows, clean))
    a, b = held[hero.name].mean, held[rival.name].mean
    name, epsilon = _parsed(attack) or ("", 0.0)
    how = f"under noise of σ = {radius(epsilon)}" if is_noise(name) else "when each is attacked"
    names = _title(hero), _title(rival, inner=True)
    margin = max(_SAME, 2 * math.hypot(_error(held[hero.name], hero, attack), _error(held[rival.name], rival, attack)))
    if a - b > margin:
        sentence = f"{names[0]} still gets {percent(a)} of {_inputs(study)} right {how}; {names[1]}, {percent(b)}."
    elif b - a > margin:
        sentence = (
            f"{names[0]} does worse than {names[1]} {how}: "
            f"it gets {percent(a)} of {_inputs(study)} right, against {percent(b)}."
        )
    else:
        sentence = (
            f"No clear difference between {_title(hero, inner=True)} and {names[1]} {how}: "
            f"{percent(a)} and {percent(b)} of {_inputs(study)} right."
        )
    details = []
    if hero.name in clean and rival.name in clean:
        cost = clean[hero.name].mean, clean[rival.name].mean
        details.append(f"Left alone, they get {percent(cost[0])} and {percent(cost[1])} right.")
    if not is_noise(name):
        details.append(_described(hero, attack))
    lower = by_path.get(_LOWER)
    if lower and (x := cell(lower, hero.runs)) and (y := cell(lower, rival.runs)):
        details.append(
            f"Largest quotient found, output change per input change: {figure(x.mean)} against {figure(y.mean)}."
        )
    better = [
        group
        for group in rows
        if group.name in held and held[group.name].mean > max(a, b) and group not in (hero, rival)
    ]
    if better:
        best = max(better, key=lambda group: held[group.name].mean)
        details.append(f"Not the best here: {_title(best, inner=True)} holds {percent(held[best.name].mean)}.")
    return Headline(sentence, (*details, *_missed([hero], by_path)))


def _errors(
    study: Study, rows: Sequence[Group], columns: Sequence[Column], attack: Column | None
) -> tuple[str, tuple[str, ...]]:
    """Of a regression: the same choice of whom to tell of, with small figures the good ones."""
    told = columns[0] if attack is None else attack
    held = {g.name: Cell(-c.mean, c.spread, c.count, c.total) for g in rows if (c := cell(told, g.runs))}
    hero, rival = _pair(rows, held)
    hero = hero or rows[0]
    titles = _title(hero, inner=True), "" if rival is None else _title(rival, inner=True)
    return error_sentences(study, columns, attack, hero, rival, titles)


def _alone(
    study: Study, group: Group, columns: dict[tuple[str, ...], Column], attack: Column | None, clean: Cell | None
) -> tuple[str, tuple[str, ...]]:
    details = []
    if clean is None:
        sentence = f"{_title(group)} on {study.title}: no test accuracy yet."
    elif attack is None or (held := cell(attack, group.runs)) is None:
        sentence = f"{_title(group)} gets {percent(clean.mean)} of {_inputs(study)} right."
        details.append("It has not been attacked yet, so this says nothing about its stability.")
    else:
        name, epsilon = _parsed(attack) or ("", 0.0)
        how = f"under noise of σ = {radius(epsilon)}" if is_noise(name) else "when each is attacked"
        sentence = (
            f"{_title(group)} gets {percent(clean.mean)} of {_inputs(study)} right, and {percent(held.mean)} {how}."
        )
        if not is_noise(name):
            details.append(_described(group, attack))
    if (lower := columns.get(_LOWER)) and (found := cell(lower, group.runs)):
        details.append(
            f"The steepest pair of inputs found has quotient {figure(found.mean)}: the output changes that many times "
            "as much as the input."
        )
    return sentence, (*details, *_missed([group], columns))


def _unattacked(study: Study, rows: Sequence[Group], clean: dict[str, Cell]) -> tuple[str, tuple[str, ...]]:
    remedy = ("No attack was run on enough of them to compare, so their stability is open: run cheaplip evaluate.",)
    if not clean:
        return f"{len(rows)} configurations on {study.title}, none with a test accuracy yet.", remedy
    best = max((group for group in rows if group.name in clean), key=lambda group: clean[group.name].mean)
    return (
        f"Of {len(rows)} configurations on {study.title}, {_title(best, inner=True)} gets most test inputs right: "
        f"{percent(clean[best.name].mean)}.",
        remedy,
    )


def _pair(rows: Sequence[Group], held: dict[str, Cell]) -> tuple[Group | None, Group | None]:
    """Who is told of, and against whom: CLIP against plain training where both are there, else best against worst."""
    ranked = sorted((group for group in rows if group.name in held), key=lambda group: held[group.name].mean)
    if len(ranked) < 2:
        return None, None
    plain = next((group for group in ranked if group.method == "plain"), None)
    others = [group for group in ranked if group is not plain]
    if plain is None:
        return ranked[-1], ranked[0]
    ours = [group for group in others if group.method == "clip"]
    return (ours or others)[-1], plain


def _missed(rows: Sequence[Group], columns: dict[tuple[str, ...], Column]) -> tuple[str, ...]:
    return tuple(
        f"{_title(group)} missed its target: {percent(found.mean)} on its {part(group.target_on)} data, "
        f"{percent(group.target)} wanted. Train longer, or lower the target."
        for group in rows
        if (aimed := columns.get(("accuracy", group.target_on))) and group.target is not None
        if (found := cell(aimed, group.runs))
        if found.mean < group.target - _MISSED
    )


def _error(held: Cell, group: Group, attack: Column) -> float:
    """The standard error of an accuracy: from seed to seed, and of a count over so many test inputs."""
    between = 0.0 if held.spread is None else held.spread / math.sqrt(held.count)
    tried = _tried(group, attack)
    counted = math.sqrt(held.mean * (1 - held.mean) / tried) if tried and 0 <= held.mean <= 1 else 0.0
    return math.hypot(between, counted)


def _tried(group: Group, attack: Column) -> float | None:
    """How many inputs the attack was tried on, where all runs say the same."""
    counts = {number(section(run.row, "robust_samples").get(attack.path[1])) for run in group.runs}
    return counts.pop() if len(counts) == 1 else None


def _inputs(study: Study) -> str:
    return f"{study.data} test inputs" if study.data else "the test inputs"


def _described(group: Group, attack: Column) -> str:
    """What the attack may do, and how many inputs it was tried on."""
    name, epsilon = _parsed(attack) or ("", 0.0)
    count = _tried(group, attack)
    told = f"The attack is {attack_title(name)}, which may move an input by up to {radius(epsilon)} (L2)"
    return told + ("." if count is None else f"; it was tried on {count:,.0f} test inputs.")


def _title(group: Group, *, inner: bool = False) -> str:
    known = {
        "clip": "CLIP",
        "plain": "plain training",
        "weight": "weight regularisation",
        "adversarial": "adversarial training",
        "certified": "certified training",
        "clip+certified": "CLIP with certified training",
    }
    if group.name not in known:
        return f"“{group.name}”"
    title = known[group.name]
    return title if inner else title[0].upper() + title[1:]


def _parsed(column: Column) -> tuple[str, float] | None:
    return attack_key(column.path[1])
