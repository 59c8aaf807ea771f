"""How numbers, attacks and methods are written."""

__all__ = ["attack_key", "attack_title", "figure", "is_noise", "percent", "radius", "strength"]

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


def percent(value: float) -> str:
    """A fraction as a percentage, to a tenth of a point."""
    return f"{100 * value:.1f}\u202f%"


def figure(value: float) -> str:
    """Three significant digits, without an exponent between 0.001 and 100,000."""
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:.{max(0, 3 - len(str(int(abs(value)))))}f}" if abs(value) >= 1 else f"{value:.3g}"
    mantissa, _, exponent = f"{value:.2e}".partition("e")
    return f"{mantissa}·10{str(int(exponent)).translate(_RAISED)}"


def radius(value: float) -> str:
    """As short as it can be: 2, 0.5."""
    return f"{value:g}"


_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
