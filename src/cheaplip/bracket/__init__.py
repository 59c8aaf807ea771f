"""How large is Lip(f): the lower end, a fact with a witness."""

from cheaplip.bracket.lower import Lower, largest_quotient

__all__ = ["Lower", "largest_quotient"]
