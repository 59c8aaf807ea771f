"""Values with a joint matrix: which live together, and how groups of them are cut down and merged."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from cheaplip.lipschitz.bounds.fourier.gram import Rows, raised, spread
from cheaplip.lipschitz.bounds.fourier.plan import Layout

__all__ = ["Group", "Groups"]


@dataclass
class Group:
    """Values on one torus, with their joint matrix.

    Attributes:
        torus: its size; empty for vectors.
        rows: of each value.
        gram: (F, n, n), or (1, n, n) where it is the same at every frequency.
    """

    torus: tuple[int, ...]
    rows: dict[int, slice]
    gram: Tensor

    def kept(self, values: Sequence[int]) -> Rows:
        """Return the rows of some values."""
        places = [self.rows[value] for value in values]
        if all(one.stop == other.start for one, other in pairwise(places)):
            return slice(places[0].start, places[-1].stop) if places else slice(0, 0)
        return torch.cat([torch.arange(place.start, place.stop, device=self.gram.device) for place in places])


class Groups:
    """All values that live at some moment, in groups.

    Args:
        layouts: of all values.
        first: the group of the input.
    """

    def __init__(self, layouts: Mapping[int, Layout], first: Group) -> None:
        self._layouts, self._all = layouts, [first]

    def add(self, group: Group) -> None:
        """Add a group of its own."""
        self._all.append(group)

    def hold(self, value: int) -> bool:
        """Return whether a value lives."""
        return any(value in group.rows for group in self._all)

    def of(self, value: int) -> Group:
        """Return the group of a value."""
        return next(group for group in self._all if value in group.rows)

    def numbered(self, values: Iterable[int]) -> dict[int, slice]:
        """Return the rows of values that lie one after the other."""
        rows, start = {}, 0
        for value in values:
            rows[value] = slice(start, start + self._layouts[value].channels)
            start = rows[value].stop
        return rows

    def restrict(self, group: Group, values: Sequence[int]) -> None:
        """Drop all values of a group but some."""
        kept = group.kept(values)
        group.gram = group.gram[:, kept][:, :, kept]
        group.rows = self.numbered(values)

    def keep(self, needed: set[int]) -> None:
        """Drop all values but those that are needed."""
        for group in list(self._all):
            alive = [value for value in group.rows if value in needed]
            if not alive:
                self._all.remove(group)
            elif len(alive) < len(group.rows):
                self.restrict(group, alive)

    def merge(self, group: Group, other: Group, share: Tensor) -> Group:
        """Put two groups into one, diag(P / share, Q / (1 − share)), and return it."""
        first, second = group.gram / share, other.gram / (1 - share)
        count = max(len(first), len(second))
        both = torch.promote_types(first.dtype, second.dtype)
        n, m = first.shape[-1], second.shape[-1]
        top = torch.cat([first.to(both).expand(count, n, n), first.new_zeros(count, n, m, dtype=both)], dim=2)
        low = torch.cat([first.new_zeros(count, m, n, dtype=both), second.to(both).expand(count, m, m)], dim=2)
        whole = torch.cat([top, low], dim=1)
        group.gram = raised(whole, spread(whole).square(), 4)
        group.rows = self.numbered([*group.rows, *other.rows])
        self._all.remove(other)
        return group
