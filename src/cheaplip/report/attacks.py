"""Attacks and noise, as results name them: a name and a radius, such as ``pgd@2.0``."""

from typing import NamedTuple

from cheaplip.runs.numbers import radius

__all__ = ["Attack", "read_attack", "read_radius"]

_TITLES = {
    "autoattack": "AutoAttack",
    "pgd": "L2-PGD",
    "pgd-sign": "sign-PGD",
    "fgsm": "FGSM",
    "noise": "noise",
}  # strongest first


class Attack(NamedTuple):
    """A perturbation that a model was tried under.

    Attributes:
        name: such as ``pgd``.
        size: L2 radius of the attack, or standard deviation of the noise, in units of the input.
    """

    name: str
    size: float

    @property
    def title(self) -> str:
        """Its name on a page."""
        return _TITLES.get(self.name, self.name)

    @property
    def is_noise(self) -> bool:
        """Whether it is random noise, which has a standard deviation instead of a radius."""
        return self.name == "noise"

    @property
    def rank(self) -> int:
        """The place of its name in order of strength, the strongest first; unknown attacks come before noise."""
        order = list(_TITLES)
        return 2 * order.index(self.name) if self.name in order else 2 * order.index("noise") - 1

    @property
    def size_text(self) -> str:
        """Its size with the symbol of the radius or of the standard deviation: ``ε = 2``, ``σ = 1``."""
        return f"{'σ' if self.is_noise else 'ε'} = {radius(self.size)}"


def read_attack(key: str) -> Attack | None:
    """Parse a key such as ``pgd@2.0``; None if it is not one.

    Example:
        >>> read_attack("pgd@2.0")
        Attack(name='pgd', size=2.0)
    """
    name, found, text = key.partition("@")
    size = read_radius(text) if found else None
    return None if size is None else Attack(name, size)


def read_radius(text: str) -> float | None:
    """Parse a finite number of at least 0; None if it is not one."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 <= value < float("inf") else None
