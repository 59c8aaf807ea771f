"""Attacks and noise, as results name them: a name and a radius, such as ``pgd@2.0``."""

from typing import NamedTuple

from cheaplip.runs.numbers import radius

__all__ = ["Attack", "read_attack", "read_radius"]

_TITLES = {
    "autoattack": "AutoAttack",
    "fmn": "FMN",
    "pgd": "L2-PGD",
    "pgd-sign": "sign-PGD",
    "fgsm": "FGSM",
    "autoattack-linf": "AutoAttack, L∞",
    "fmn-linf": "FMN, L∞",
    "pgd-linf": "L∞-PGD",
    "fgsm-linf": "FGSM, L∞",
    "noise": "noise",
    "blur": "blur",
    "brightness": "another brightness",
}  # strongest first
_SIZES = {
    "noise": ("σ", "noise σ (units of the input)"),
    "blur": ("σ", "blur σ (pixels)"),
    "brightness": ("δ", "brightness ± δ (units of the input)"),
}  # of corruptions: a symbol, and the title of an axis


class Attack(NamedTuple):
    """A perturbation that a model was tried under.

    Attributes:
        name: such as ``pgd``.
        size: radius of the attack (L2, or L∞ by its name), or size of the corruption, such as noise's standard
            deviation, in units of the input; of blur in pixels.
    """

    name: str
    size: float

    @property
    def title(self) -> str:
        """Its name on a page."""
        return _TITLES.get(self.name, self.name)

    @property
    def is_corruption(self) -> bool:
        """Whether it knows nothing of the model, as random noise: it has a size instead of a radius."""
        return self.name in _SIZES

    @property
    def norm(self) -> str:
        """The norm of its radius: L2 or L∞."""
        return "L∞" if self.name.endswith("-linf") else "L2"

    @property
    def rank(self) -> int:
        """The place of its name in order of strength, the strongest first; unknown attacks come before noise."""
        order = list(_TITLES)
        return 2 * order.index(self.name) if self.name in order else 2 * order.index("noise") - 1

    @property
    def size_text(self) -> str:
        """Its size with the symbol of the radius or of the standard deviation: ``ε = 2``, ``σ = 1``."""
        return f"{_SIZES[self.name][0] if self.is_corruption else 'ε'} = {radius(self.size)}"

    @property
    def axis(self) -> str:
        """The title of an axis of sizes."""
        return _SIZES[self.name][1] if self.is_corruption else f"ε, {self.norm} (units of the input)"


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
