"""What a bound was proved for: the model, the domain, the norm and the value, kept with the bound.

Whoever relies on a bound compares these with the model at hand, so that a bound of another model is refused. This
protects from mistakes, not from a program that forges a fingerprint.
"""

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from cheaplip.domain import Ball, Domain
from cheaplip.lipschitz.reading.chain import Chain
from cheaplip.lipschitz.reading.digest import tensor_digest

__all__ = ["Fingerprint", "borders", "domain_digest"]


@dataclass(frozen=True)
class Fingerprint:
    """What a bound was proved for.

    Attributes:
        model: the digest of the model: its operations, their options, and the tensors that they use.
        domain: the digest of the domain.
        norm: of inputs and outputs.
        upper: the bound; a larger value is a bound, too.
    """

    model: str
    domain: str
    norm: float
    upper: float

    @classmethod
    def of(cls, chain: Chain, domain: Domain | None, norm: float, upper: float) -> "Fingerprint":
        """Make the fingerprint of a bound that was just computed for a whole model."""
        if chain.digest is None:
            raise ValueError("chain: expected one of a whole model, as cheaplip.lipschitz.read returns it, got a part")
        return cls(chain.digest(), domain_digest(domain), norm, upper)


def borders(domain: Domain | None, device: torch.device) -> list[Tensor]:
    """Return the ends of a box, or the centre and the radius of a ball, on ``device``; nothing for all of space."""
    if domain is None:
        return []
    if isinstance(domain, Ball):
        return [domain.center.to(device), torch.tensor(domain.radius, dtype=torch.float64, device=device)]
    return list(domain.bounds(device, torch.float64))


def domain_digest(domain: Domain | None) -> str:
    """Return the SHA-256 of a domain's kind and borders, as hexadecimal digits; "" for None, all of space."""
    if domain is None:
        return ""
    parts = [type(domain).__qualname__, *map(tensor_digest, borders(domain, torch.device("cpu")))]
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()
