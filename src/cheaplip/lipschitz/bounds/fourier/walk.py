"""A walk through a chain, from the input to the output, with a joint matrix of the values that live at each moment.

Linear maps are applied as soon as their arguments are known, so that a residual block's two branches leave the image
together. Values that lie in different groups, each with its own joint matrix, come together where they are added, at
the cost of a weight: two sets {Δ: Δᵀ P⁻¹ Δ ≤ 1} and {Δ: Δᵀ Q⁻¹ Δ ≤ 1} are, together, in diag(P/t, Q/(1−t)).

The file is long because every kind of link has its own few lines here.
"""

import math
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from cheaplip.lipschitz.bounds.fourier.collapse import Collapse, matrix_of
from cheaplip.lipschitz.bounds.fourier.gram import (
    activated,
    bounded_by,
    largest_eigenvalue,
    mapped,
    raised,
    scaled,
    spread,
)
from cheaplip.lipschitz.bounds.fourier.groups import Group, Groups
from cheaplip.lipschitz.bounds.fourier.multipliers import InfeasibleError, first_choice, multipliers, shape_of
from cheaplip.lipschitz.bounds.fourier.plan import Plan, convolution_of, is_windowed, keeps_zeros
from cheaplip.lipschitz.bounds.fourier.slopes import channel_factors, channel_slopes
from cheaplip.lipschitz.bounds.fourier.torus import Torus, transfer, transfer_of_phases
from cheaplip.lipschitz.bounds.products import constants_within
from cheaplip.lipschitz.reading.chain import Chain, Link, SlopeRanges
from cheaplip.lipschitz.reading.operations import Concatenation, Elementwise, RangedMap, Scaling, Sum
from cheaplip.lipschitz.rounding import above

__all__ = ["OutOfTimeError", "Walk"]

T = TypeVar("T")


class OutOfTimeError(Exception):
    """The deadline has passed."""


class Walk:
    """One walk through a chain.

    Args:
        chain: the model.
        plan: where its values live.
        ranges: slopes of activations, narrowed over a domain.
        choices: one tensor for each choice on the way, in order: for an activation, see
            :mod:`cheaplip.lipschitz.bounds.fourier.multipliers`. None: the closed form makes them.
        form: power and least of the closed form, see there.
        deadline: on the clock of ``time.monotonic()``.
        known: what other walks computed from the weights alone. None: everything is computed here, with its gradient.

    Attributes:
        choices: those used.
        multipliers: of each activation, by the index of its link, one for each channel.
    """

    def __init__(
        self,
        chain: Chain,
        plan: Plan,
        ranges: SlopeRanges,
        choices: Sequence[Tensor] | None = None,
        *,
        form: tuple[float, float] = (0.5, 0.05),
        deadline: float = math.inf,
        known: dict[int, Any] | None = None,
    ) -> None:
        self._chain, self._plan, self._ranges = chain, plan, ranges
        self._form, self._deadline, self._kept = form, deadline, known
        self._given = None if choices is None else list(choices)
        self.choices: list[Tensor] = []
        self.multipliers: dict[int, Tensor] = {}
        self._pending = plan.links(chain)
        self._masked = {0, *plan.periodic}
        self._end = plan.root[len(chain.links)]
        layout = plan.layouts[0]
        eye = torch.eye(layout.channels, dtype=torch.float64, device=chain.device).unsqueeze(0)
        self._groups = Groups(plan.layouts, Group(plan.torus[0], {0: slice(0, layout.channels)}, eye))

    def run(self) -> Tensor:
        """Return the joint matrix of the output's increments, (F, n, n).

        Raises:
            InfeasibleError: a multiplier that was given is too small.
            OutOfTimeError: the deadline has passed.
        """
        while self._pending:
            if time.monotonic() > self._deadline:
                raise OutOfTimeError
            ready = [at for at in self._pending if all(self._groups.hold(i) for i in self._sources(at))]
            linear = [at for at in ready if self._is_linear(at)]
            plain = [at for at in linear if not self._stride(at)]
            if plain:
                self._apply(plain[0])
            elif linear:
                self._decimate(linear)
            else:
                self._bend(ready[0])
        group = self._groups.of(self._end)
        rows = group.kept([self._end])
        return group.gram[:, rows][:, :, rows]

    # what is where

    def _sources(self, at: int) -> list[int]:
        return self._plan.sources(self._chain.links[at])

    def _is_linear(self, at: int) -> bool:
        if at in self._plan.fallback:
            return False
        operation = self._chain.links[at].operation
        if isinstance(operation, Scaling):
            return self._channel_factors(at) is not None
        return not isinstance(operation, Elementwise)

    def _stride(self, at: int) -> tuple[int, ...] | None:
        """Return the stride of a strided convolution, else None."""
        convolution = convolution_of(self._chain.links[at])
        if convolution is None or at in self._plan.collapsing or set(convolution.stride) == {1}:
            return None
        return convolution.stride

    def _finish(self, at: int) -> None:
        """Strike a link off, and drop the values that nothing takes any more."""
        self._pending.remove(at)
        self._drop_dead()

    def _needed(self) -> set[int]:
        """Return the values that some link still takes, and the output."""
        return {source for at in self._pending for source in self._sources(at)} | {self._end}

    def _drop_dead(self) -> None:
        self._groups.keep(self._needed())

    def _choice(self, propose: Callable[[], Tensor]) -> Tensor:
        """Return the next choice: the one given, or else a proposal."""
        choice = propose().detach() if self._given is None else self._given[len(self.choices)]
        self.choices.append(choice)
        return choice

    def _known(self, at: int, make: Callable[[], T]) -> T:
        """Compute what depends on a link's weights alone, or take what another walk kept."""
        if self._kept is None:
            return make()
        if at not in self._kept:
            with torch.no_grad():
                self._kept[at] = make()
        found: T = self._kept[at]
        return found

    # linear maps

    def _apply(self, at: int) -> None:
        """Apply a linear link that keeps the torus, or that leads to a vector."""
        link, sources = self._chain.links[at], self._sources(at)
        if len(sources) > 1:
            self._join(at, link, sources)
            return
        (source,) = sources
        group = self._groups.of(source)
        factors = self._channel_factors(at)
        if at in self._plan.collapsing and group.torus:
            self._collapse(at, link, source)
            self._finish(at)
            return
        if factors is not None:
            if self._dies(source, at):
                whole = torch.ones(group.gram.shape[-1], dtype=torch.float64, device=self._chain.device)
                rows = group.rows.pop(source)
                whole = whole.index_copy(0, torch.arange(rows.start, rows.stop, device=whole.device), factors)
                group.gram = scaled(group.gram, whole)
                group.rows[at + 1] = rows
                self._mark(at, source)
                self._finish(at)
                return
            matrix, terms = factors.reshape(1, -1, 1, 1), 1
            sizes = matrix.detach().abs()
        elif at in self._plan.collapsing:
            matrix = matrix_of(link, self._chain.shapes[link.arguments[0]], self._plan.layouts[source])
            matrix, terms = matrix.flatten(1)[None, None], 1
            sizes = matrix.detach().abs()
        else:
            matrix, sizes, terms = self._convolution(at, source, group)
        self._mark(at, source)
        self._add(group, at, matrix, sizes, group.rows[source], terms)

    def _mark(self, at: int, source: int) -> None:
        """Note whether the result of a link is 0 wherever its argument is 0."""
        convolution = self._plan.convolution(at, self._chain.links[at])
        kept = convolution is None or keeps_zeros(convolution, self._plan.layouts[source])
        if kept and source in self._masked:
            self._masked.add(at + 1)

    def _add(self, group: Group, at: int, matrix: Tensor, sizes: Tensor, rows: slice, terms: int) -> None:
        """Add the image of some rows of a group under a map, and drop what dies."""
        self._pending.remove(at)
        needed = self._needed()
        alive = [value for value in group.rows if value in needed]
        group.gram = mapped(group.gram, matrix, sizes, rows, group.kept(alive), terms)
        group.rows = self._groups.numbered([*alive, at + 1])

    def _convolution(self, at: int, source: int, group: Group) -> tuple[Tensor, Tensor, int]:
        convolution = convolution_of(self._chain.links[at])
        assert convolution is not None
        padded = any(n > 0 for pair in convolution.padding for n in pair)
        if padded and source in self._plan.cut and source not in self._masked:
            self._mask(source)
        matrix, sizes = self._known(at, lambda: transfer(convolution, Torus(group.torus)))
        return matrix, sizes, math.prod(convolution.weight().shape[2:])

    def _mask(self, source: int) -> None:
        """Multiply an image by any mask of zeros and ones, as a slope between 0 and 1."""
        group = self._groups.of(source)
        half = torch.full((self._plan.layouts[source].channels,), 0.5, dtype=torch.float64, device=self._chain.device)
        others = [value for value in group.rows if value != source]
        group.gram, _ = self._activated(group, source, others, half, half)
        group.rows = self._groups.numbered([*others, source])
        self._masked.add(source)

    def _channel_factors(self, at: int) -> Tensor | None:
        """Return the factor of each channel that a link multiplies by; None if it is no such link."""
        return channel_factors(self._chain.links[at], self._plan.layouts[at + 1])

    def _join(self, at: int, link: Link, sources: Sequence[int]) -> None:
        """Add values, or put them side by side."""
        group = self._groups.of(sources[0])
        for source in sources[1:]:
            if source not in group.rows:
                group = self._merged(group, sources[0], self._groups.of(source), source)
        count = group.gram.shape[-1]
        pieces = []
        eye = torch.eye(count, dtype=torch.float64, device=self._chain.device)
        for place, source in enumerate(sources):
            factor = link.operation.factors[place] if isinstance(link.operation, Sum) else 1.0
            pieces.append(factor * eye[group.rows[source]])
        matrix = torch.stack(pieces).sum(dim=0) if isinstance(link.operation, Sum) else torch.cat(pieces)
        if all(source in self._masked for source in sources):
            self._masked.add(at + 1)
        self._add(group, at, matrix[None, None], matrix.abs()[None, None], slice(0, count), len(sources))

    def _merged(self, group: Group, value: int, other: Group, beside: int) -> Group:
        """Put two groups into one, with a weight."""

        def size(of: Group, at: int) -> Tensor:
            return torch.diagonal(of.gram[:, of.rows[at], of.rows[at]], dim1=1, dim2=2).real.mean().sqrt()

        share = self._choice(lambda: (size(group, value) / size(other, beside)).clamp(1e-9, 1e9).log()).sigmoid()
        return self._groups.merge(group, other, share)

    def _decimate(self, linear: Sequence[int]) -> None:
        """Apply all strided convolutions of one stride that leave one group."""
        first = linear[0]
        group, stride = self._groups.of(self._sources(first)[0]), self._stride(first)
        assert stride is not None
        links = [at for at in linear if self._stride(at) == stride and self._sources(at)[0] in group.rows]
        if len(links) == 1 and len(group.gram) == 1 and self._dies(self._sources(first)[0], first):
            self._decimate_noise(first, group)
            return
        for at in links:
            (source,) = self._sources(at)
            matrix, sizes, terms = self._convolution(at, source, group)
            self._mark(at, source)
            # its own value is needed, even if nothing takes it yet
            self._pending.remove(at)
            needed = self._needed()
            alive = [v for v in group.rows if v in needed or v - 1 in links]
            group.gram = mapped(group.gram, matrix, sizes, group.rows[source], group.kept(alive), terms)
            group.rows = self._groups.numbered([*alive, at + 1])
        fine = [at + 1 for at in links]
        others = [value for value in group.rows if value not in fine]
        if others:  # they stay on the finer torus
            stays = Group(group.torus, dict(group.rows), group.gram)
            self._groups.restrict(stays, others)
            self._groups.add(stays)
        self._groups.restrict(group, fine)
        torus = Torus(group.torus)
        group.torus = tuple(n // s for n, s in zip(group.torus, stride, strict=True))
        if len(group.gram) > 1:
            gram = torus.folded(group.gram, stride) / math.prod(stride)
            group.gram = raised(gram, spread(gram).square(), math.prod(stride))
        self._drop_dead()

    def _decimate_noise(self, at: int, group: Group) -> None:
        """Apply a strided convolution to white noise in space, of which nothing else is needed."""
        (source,) = self._sources(at)
        convolution = convolution_of(self._chain.links[at])
        assert convolution is not None
        self._mark(at, source)
        matrix, sizes = self._known(at, lambda: transfer_of_phases(convolution, Torus(group.torus)))
        rows = group.rows[source]
        noise = group.gram[:, rows, rows]
        count = matrix.shape[2] // noise.shape[-1]
        noise = torch.block_diag(*[noise[0]] * count).unsqueeze(0)  # type: ignore[no-untyped-call]
        terms = math.prod(convolution.weight().shape[2:])
        gram = mapped(noise, matrix[:, None], sizes[None, None], slice(0, matrix.shape[2]), slice(0, 0), terms)
        torus = tuple(n // s for n, s in zip(group.torus, convolution.stride, strict=True))
        self._groups.add(Group(torus, self._groups.numbered([at + 1]), gram))
        self._finish(at)

    def _dies(self, value: int, at: int) -> bool:
        """Return whether a value is needed by one link alone."""
        return value != self._end and all(value not in self._sources(other) for other in self._pending if other != at)

    def _collapse(self, at: int, link: Link, source: int) -> None:
        """Map an image to a vector; what else lives in its group stays there."""
        group = self._groups.of(source)
        gram = group.gram[:, group.rows[source], group.rows[source]]

        def make() -> Collapse:
            rows = matrix_of(link, self._chain.shapes[link.arguments[0]], self._plan.layouts[source])
            return Collapse(rows, Torus(group.torus))

        image = self._known(at, make)(gram, math.prod(self._chain.out_shape))
        self._groups.add(Group((), {at + 1: slice(0, image.shape[-1])}, image))

    # what bends

    def _bend(self, at: int) -> None:
        link, sources = self._chain.links[at], self._sources(at)
        if at in self._plan.fallback:
            self._forget(at, link, sources)
        else:
            self._activate(at, link, sources[0])

    def _activate(self, at: int, link: Link, source: int) -> None:
        low, high = channel_slopes(link, self._ranges.get(at), self._plan.layouts[source], self._chain.device)
        if at + 1 in self._plan.cut and at + 1 not in self._masked:
            low, high = low.clamp_max(0.0), high.clamp_min(0.0)
            self._masked.add(at + 1)
        elif source in self._masked:
            self._masked.add(at + 1)
        center, radius = (low + high) / 2, (high - low) / 2
        radius = torch.where(high > low, radius + 1e-15 * (low.abs() + high.abs()), 0)  # contains both slopes
        group = self._groups.of(source)
        self._pending.remove(at)
        needed = self._needed()
        alive = [value for value in group.rows if value in needed]
        group.gram, self.multipliers[at] = self._activated(group, source, alive, center, radius)
        group.rows = self._groups.numbered([*alive, at + 1])

    def _activated(
        self, group: Group, source: int, alive: Sequence[int], center: Tensor, radius: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the joint matrix of the values that stay alive and of an activation, and its multipliers."""
        rows = group.rows[source]
        gram = group.gram[:, rows, rows]
        choice = self._choice(lambda: first_choice(gram, center, radius, *self._form, alone=not alive))
        s = multipliers(choice, gram, radius)
        made = activated(group.gram, rows, group.kept(alive), center, radius, s)
        if made is None:
            raise InfeasibleError
        return made, s

    def _forget(self, at: int, link: Link, sources: Sequence[int]) -> None:
        """Keep only how large a value can be after a link of which only the Lipschitz constant is known."""
        layout = self._plan.layouts[at + 1]
        if is_windowed(link) and self._plan.torus.get(sources[0]):
            group = self._groups.of(sources[0])
            rows = group.rows[sources[0]]
            gram = group.gram[:, rows, rows]
            shape = self._choice(lambda: shape_of(gram, self._form[0]).log()).exp()
            diagonal = bounded_by(gram, shape) * self._constant(at) ** 2
        else:
            diagonal = self._reach(at, link, sources).square().expand(layout.channels)
        diagonal = diagonal * above(8)
        self._masked.add(at + 1)
        torus = self._plan.torus[at + 1]
        self._groups.add(Group(torus, {at + 1: slice(0, layout.channels)}, torch.diag_embed(diagonal)[None]))
        self._finish(at)

    def _reach(self, at: int, link: Link, sources: Sequence[int]) -> Tensor:
        """Bound the norm of a value's increments, from the norms of those it is made from."""
        reaches = []
        for source in sources:
            group = self._groups.of(source)
            rows = group.rows[source]
            reaches.append(largest_eigenvalue(group.gram[:, rows, rows]).sqrt())
        if isinstance(link.operation, Sum):
            return torch.stack([abs(f) * r for f, r in zip(link.operation.factors, reaches, strict=True)]).sum()
        if isinstance(link.operation, Concatenation):
            return torch.stack(reaches).square().sum().sqrt()
        if isinstance(link.operation, RangedMap):
            constants = constants_within(self._chain, at, 2, self._ranges)
            return torch.stack([c * r for c, r in zip(constants, reaches, strict=True)]).sum()
        return self._constant(at) * reaches[0]

    def _constant(self, at: int) -> Tensor | float:
        link = self._chain.links[at]
        shape = self._chain.shapes[link.arguments[0]]
        if hasattr(link.operation, "spectral_norm"):
            return link.operation.spectral_norm(shape)
        return link.operation.lipschitz(2, shape)  # type: ignore[union-attr]
