"""``cheaplip rivals``."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from cheaplip.cli.compare import CompareCommand
from cheaplip.cli.options import ALL_METHODS, parse_radii
from cheaplip.data import Data

__all__ = ["RivalsCommand"]

_MULTIPLES = (0.5, 1.0, 1.5)  # radii of attacks, of the data's ε


@dataclass(frozen=True, kw_only=True)
class RivalsCommand(CompareCommand):
    """Train every method at one accuracy, attack and certify the models, and show what each costs.

    Methods with a λ are steered to the same --target, or give up the same accuracy; the others have no λ to steer. A
    method that does not fit the model or the data is listed with the reason. If it is interrupted, the same command
    continues; what is finished is kept.
    """

    name: ClassVar[str] = "rivals"

    methods: str = ALL_METHODS
    """the training methods, separated by commas; all: every one that fits the data and the model"""
    attacks: str | None = None
    """the attacks, separated by commas; unset: noise, and the strongest one that works on the data"""
    epsilon: str | None = None
    """radii of the attacks, separated by commas; unset: half, once and 1.5 times a default that suits the data"""
    certify: str | None = None
    """radii (L2) of the certified accuracy or error, separated by commas; unset: those of the attacks; with --norm inf
    nothing is certified"""

    @property
    def _leaves_out(self) -> bool:
        return True

    def _usual(self, applicable: Sequence[str]) -> list[str]:
        strongest = next(name for name in ("autoattack", "pgd") if name in applicable)
        return ["noise", strongest]

    def _radii(self, data: Data) -> list[float]:
        return [float(f"{multiple * data.epsilon:.4g}") for multiple in _MULTIPLES]

    def _certify_at(self, data: Data) -> list[float]:
        if self.certify is not None:
            return parse_radii("certify", self.certify)
        if self.norm.strip() != "2":
            return []
        return self._radii(data) if self.epsilon is None else parse_radii("epsilon", self.epsilon)
