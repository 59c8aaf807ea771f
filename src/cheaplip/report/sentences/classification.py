"""The result of a classification in words: how many test inputs are classified correctly, also under attack."""

import math
from collections.abc import Mapping, Sequence

from cheaplip.report.methods import method_title
from cheaplip.report.sentences.choice import rivals
from cheaplip.report.sentences.parts import Headline, largest_quotients
from cheaplip.report.study import Study, number, section
from cheaplip.report.table import BALANCED, LOWER, Cell, Column, Group, cell
from cheaplip.runs.numbers import percent, radius, three_digits
from cheaplip.runs.words import capitalised, misses, part_of_data

__all__ = ["accuracies_in_words"]

_SAME = 0.01  # accuracies closer than one point are called equal


def accuracies_in_words(
    study: Study, rows: Sequence[Group], columns: Sequence[Column], attack: Column | None
) -> Headline:
    """Say what accuracies show.

    Args:
        study: a classification.
        rows: its configurations.
        columns: of its table; the first is the test accuracy.
        attack: the column to speak about, if anything was attacked.
    """
    clean = {group.name: found for group in rows if (found := cell(columns[0], group.runs))}
    if len(rows) == 1:
        return _single(study, rows[0], columns, attack, clean.get(rows[0].name))
    held = {} if attack is None else {group.name: found for group in rows if (found := cell(attack, group.runs))}
    useful = [group for group in rows if not group.constant]
    if len(useful) == 1:
        return _single(study, useful[0], columns, attack, clean.get(useful[0].name))
    if useful:  # one answer for all inputs withstands every attack
        held = {group.name: held[group.name] for group in useful if group.name in held}
    pair = rivals(rows, {name: found.mean for name, found in held.items()})
    if attack is None or pair is None:
        return _not_attacked(study, rows, clean)
    hero, rival = pair
    details = []
    if hero.name in clean and rival.name in clean:
        unchanged = f"{percent(clean[hero.name].mean)} and {percent(clean[rival.name].mean)}"
        details.append(f"On the unchanged inputs they get {unchanged} right.")
    details += [*_attack_described(hero, attack), *largest_quotients(columns, pair), *_better(rows, held, pair)]
    return Headline(_comparison(study, hero, rival, held, attack), (*details, *_missed(hero, columns)))


def _comparison(study: Study, hero: Group, rival: Group, held: Mapping[str, Cell], attack: Column) -> str:
    one, other = held[hero.name], held[rival.name]
    a, b = percent(one.mean), percent(other.mean)
    first, second = method_title(hero.name), method_title(rival.name)
    margin = max(_SAME, 2 * math.hypot(_standard_error(one, hero, attack), _standard_error(other, rival, attack)))
    if one.mean - other.mean > margin:
        return (
            f"{capitalised(first)} still gets {a} of {_inputs(study)} right {_circumstance(attack)}; {second} gets {b}."
        )
    if other.mean - one.mean > margin:
        return (
            f"{capitalised(first)} does worse than {second} {_circumstance(attack)}: "
            f"it gets {a} of {_inputs(study)} right, against {b}."
        )
    return (
        f"No clear difference between {first} and {second} {_circumstance(attack)}: "
        f"they get {a} and {b} of {_inputs(study)} right."
    )


def _single(
    study: Study, group: Group, columns: Sequence[Column], attack: Column | None, clean: Cell | None
) -> Headline:
    """The headline of a single configuration."""
    title = capitalised(method_title(group.name))
    details = []
    if clean is None:
        sentence = f"{title} on {study.title}: no test accuracy yet."
    elif attack is None or (held := cell(attack, group.runs)) is None:
        sentence = f"{title} gets {percent(clean.mean)} of {_inputs(study)} right."
        details.append("It has not been attacked yet, so this says nothing about its stability.")
    else:
        sentence = (
            f"{title} gets {percent(clean.mean)} of {_inputs(study)} right, "
            f"and {percent(held.mean)} {_circumstance(attack)}."
        )
        details += _attack_described(group, attack)
    lower = next((column for column in columns if column.path == LOWER), None)
    if lower and (found := cell(lower, group.runs)):
        details.append(
            f"The steepest pair of inputs found has the quotient {three_digits(found.mean)}: from one to the other, "
            "the output changes that many times as much as the input."
        )
    return Headline(sentence, (*details, *_missed(group, columns)))


def _not_attacked(study: Study, rows: Sequence[Group], clean: Mapping[str, Cell]) -> Headline:
    """The headline of several configurations of which fewer than two were attacked."""
    details = (
        "Too few of them were attacked for a comparison, so this says nothing about their stability: "
        "run cheaplip evaluate.",
    )
    if not clean:
        return Headline(f"{len(rows)} configurations on {study.title}, none with a test accuracy yet.", details)
    best = max((group for group in rows if group.name in clean), key=lambda group: clean[group.name].mean)
    return Headline(
        f"Of {len(rows)} configurations on {study.title}, {method_title(best.name)} gets the most test inputs right: "
        f"{percent(clean[best.name].mean)}.",
        details,
    )


def _better(rows: Sequence[Group], held: Mapping[str, Cell], pair: tuple[Group, Group]) -> list[str]:
    """The best configuration, where it is not among the two that the headline compares."""
    best = max((group for group in rows if group.name in held), key=lambda group: held[group.name].mean)
    if held[best.name].mean <= max(held[group.name].mean for group in pair):
        return []
    return [f"Not the best result here: {method_title(best.name)} gets {percent(held[best.name].mean)} right."]


def _missed(group: Group, columns: Sequence[Column]) -> list[str]:
    """A target that was missed, and what to do about it."""
    figure = BALANCED if group.balanced else "accuracy"
    written = columns[0].write
    reached = cell(Column((figure, group.target_on), "", "", written), group.runs)
    if reached is None or group.target is None or not misses(group.target, reached.mean, errors=False):
        return []
    return [
        f"{capitalised(method_title(group.name))} missed its target: its {figure.replace('_', ' ')} on "
        f"{part_of_data(group.target_on)} data is {percent(reached.mean)} instead of "
        f"{percent(group.target)}. Train longer, or ask for less: a lower target, or more to give up."
    ]


def _standard_error(held: Cell, group: Group, attack: Column) -> float:
    """The standard error of an accuracy: from seed to seed, and of a count over a sample of test inputs."""
    between = 0.0 if held.spread is None else held.spread / math.sqrt(held.count)
    tried = _inputs_tried(group, attack)
    counted = math.sqrt(held.mean * (1 - held.mean) / tried) if tried and 0 <= held.mean <= 1 else 0.0
    return math.hypot(between, counted)


def _inputs_tried(group: Group, attack: Column) -> float | None:
    """The number of inputs that the attack was tried on, where all runs say the same."""
    counts = {number(section(run.row, "robust_samples").get(attack.path[1])) for run in group.runs}
    return counts.pop() if len(counts) == 1 else None


def _inputs(study: Study) -> str:
    return f"the {study.data} test inputs" if study.data else "the test inputs"


def _circumstance(column: Column) -> str:
    attack = column.attack
    assert attack is not None
    return f"under {attack.title} of {attack.size_text}" if attack.is_corruption else "when each input is attacked"


def _attack_described(group: Group, column: Column) -> list[str]:
    """What the attack may do, and on how many inputs it was tried; empty for a corruption, as all is said."""
    attack = column.attack
    assert attack is not None
    if attack.is_corruption:
        return []
    count = _inputs_tried(group, column)
    tried = "" if count is None else f" and was tried on {count:,.0f} test inputs"
    run = group.runs[0]
    unit = f" {run.unit}" if run.exhibits.get("scaling") == "standard" else ""
    return [
        f"The attack is {attack.title}. It may move each input by up to {radius(attack.size)}{unit} ({attack.norm})"
        f"{tried}."
    ]
