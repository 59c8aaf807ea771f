"""What the headline is about: which attack, and which two configurations."""

from collections.abc import Mapping, Sequence

from cheaplip.report.methods import BASELINE, OURS
from cheaplip.report.table import Column, Group, cell

__all__ = ["attack_to_report", "rivals"]


def attack_to_report(columns: Sequence[Column], rows: Sequence[Group]) -> Column | None:
    """Choose the attack to speak about, as its column; None where nothing was attacked.

    Of the attacks that were run on most configurations it is the strongest, at the middle one of its radii.
    """
    attacks = [(attack, column) for column in columns if (attack := column.attack)]
    if not attacks:
        return None

    def attacked(column: Column) -> int:
        return sum(cell(column, group.runs) is not None for group in rows)

    most = max(attacked(column) for _, column in attacks)
    attacks = [(attack, column) for attack, column in attacks if attacked(column) == most]
    strongest, _ = min(attacks, key=lambda found: found[0].rank)
    radii = [(attack.size, column) for attack, column in attacks if attack.name == strongest.name]
    radii.sort(key=lambda found: found[0])
    return radii[(len(radii) - 1) // 2][1]


def rivals(rows: Sequence[Group], merit: Mapping[str, float]) -> tuple[Group, Group] | None:
    """Choose whom to speak about, and whom to compare it with; None where fewer than two can be compared.

    CLIP is compared with plain training where both are there; without CLIP the best other method is compared with plain
    training, without plain training the best configuration with the worst.

    Args:
        rows: the configurations.
        merit: of each configuration by name, larger is better; those without a figure are missing.
    """
    ranked = sorted((group for group in rows if group.name in merit), key=lambda group: merit[group.name])
    if len(ranked) < 2:
        return None
    baseline = next((group for group in ranked if group.method == BASELINE), None)
    if baseline is None:
        return ranked[-1], ranked[0]
    others = [group for group in ranked if group is not baseline]
    ours = [group for group in others if group.method == OURS]
    return (ours or others)[-1], baseline
