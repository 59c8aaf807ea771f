"""How numbers, attacks and methods are written."""

__all__ = ["attack_key", "attack_title", "figure", "is_noise", "part", "percent", "radius", "spread", "strength"]

_ATTACKS = {
    "autoattack": "AutoAttack",
    "pgd": "L2-PGD",
    "pgd-sign": "sign-PGD",
    "fgsm": "FGSM",
    "noise": "noise",
}  # strongest first


def attack_key(key: str) -> tuple[str, float] | None:
    """(attack, radius) of a key such as ``pgd@2.0``; None if it is none."""
    name, found, text = key.partition("@")
    try:
        epsilon = float(text)
    except ValueError:
        return None
    return (name, epsilon) if found and 0 <= epsilon < float("inf") else None


def attack_title(name: str) -> str:
    """An attack's name in the page."""
    return _ATTACKS.get(name, name)


def is_noise(name: str) -> bool:
    """Whether the radius is a standard deviation instead."""
    return name == "noise"


def strength(name: str) -> int:
    """Attacks in order, strongest first; unknown ones before noise, which is no worst case."""
    order = list(_ATTACKS)
    return 2 * order.index(name) if name in order else 2 * order.index("noise") - 1


def part(name: str) -> str:
    """A part of the data, before the word data."""
    return "training" if name == "train" else name


def percent(value: float) -> str:
    """A fraction as a percentage, to a tenth of a point."""
    return f"{100 * value:.1f}\u202f%"


def figure(value: float) -> str:
    """Three significant digits, without an exponent between 0.001 and 100,000."""
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 1e5:
        digits = max(0, 3 - len(str(int(abs(value)))) + (abs(value) < 1))
        return f"{value:.{digits}f}" if abs(value) >= 0.1 else f"{value:.3g}"
    mantissa, _, exponent = f"{value:.2e}".partition("e")
    return f"{mantissa}·10{str(int(exponent)).translate(_RAISED)}"


def spread(value: float, mean: str) -> str:
    """A standard deviation to as many decimals as its mean was written with, or to its first digit."""
    if mean.endswith("%"):
        return percent(value)
    if "·" in mean:
        return figure(value)
    short = f"{value:.{len(mean.partition('.')[2])}f}"
    return short if float(short) or not value else f"{value:.1g}"


def radius(value: float) -> str:
    """As short as it can be: 2, 0.5."""
    return f"{value:g}"


_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
