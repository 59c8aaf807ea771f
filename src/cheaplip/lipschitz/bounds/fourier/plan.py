"""How the values of a chain are laid out on tori, and which of them have to be cut off at the border of their image."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from cheaplip.lipschitz.reading.chain import Chain, Link
from cheaplip.lipschitz.reading.operations import (
    Concatenation,
    Convolution,
    Elementwise,
    LipschitzMap,
    Matrix,
    Reshape,
    Scaling,
    Sum,
)

__all__ = ["Layout", "Plan", "convolution_of", "keeps_zeros"]

_ENTRIES = 1 << 24  # most entries of a matrix that an image is mapped by
_ELIMINATION = 20  # multiplications of an elimination and of its closed form, in cubes of the number of channels
_LONGEST = 4096  # most entries of a vector that an image is mapped to, other than by a dense layer
_WIDEST = 8192  # most outputs of a dense layer


@dataclass(frozen=True)
class Layout:
    """How a value is laid out: as channels of an image, or as a vector, whose entries are its channels.

    Attributes:
        channels: rows that it takes in a joint matrix.
        spatial: size of the image; empty for a vector.
    """

    channels: int
    spatial: tuple[int, ...]

    @staticmethod
    def of(shape: tuple[int, ...]) -> "Layout":
        """Lay out a value of which nothing but its size is known: the entries of a vector are pixels, too."""
        return Layout(1, shape) if len(shape) == 1 else Layout(shape[0], shape[1:])

    @property
    def entries(self) -> int:
        """How many entries the value has."""
        return self.channels * math.prod(self.spatial)


def convolution_of(link: Link) -> Convolution | None:
    """Return the convolution that a link is, or that its linear map equals; else None."""
    if isinstance(link.operation, Convolution):
        return link.operation
    equal = getattr(link.operation, "convolution", None)
    return equal if isinstance(equal, Convolution) else None


class Plan:
    """Where the values of a chain live.

    Attributes:
        root: for each value, the value that it is another shape of; often itself.
        layouts: of each root.
        torus: the size of the torus of each root that is an image.
        fallback: the links of which only the Lipschitz constant is used.
        collapsing: the links that map an image to a vector, by a matrix of all its entries.
        cut: the roots that padded convolutions take, which therefore have to be 0 outside of the image.
    """

    def __init__(self, chain: Chain) -> None:
        self.root = [0]
        self.layouts = {0: Layout.of(chain.shape)}
        self.fallback: set[int] = set()
        self.collapsing: set[int] = set()
        shapes = chain.shapes
        for at, link in enumerate(chain.links):
            self._place(at, link, [shapes[i] for i in link.arguments])
        self.torus = self._tori(chain)
        self.cut = self._cut(chain)

    def links(self, chain: Chain) -> list[int]:
        """Return the links that make a new value: all but reshapes."""
        return [at for at, link in enumerate(chain.links) if self.root[at + 1] == at + 1 or at in self.fallback]

    def sources(self, link: Link) -> list[int]:
        """Return the roots that a link takes."""
        return [self.root[i] for i in link.arguments]

    def work(self, chain: Chain) -> float:
        """Estimate the multiplications of a walk, of real numbers."""
        total = 0.0
        for at in self.links(chain):
            link, n = chain.links[at], self.layouts[at + 1].channels
            before = sum(self.layouts[source].channels for source in self.sources(link))
            torus = self.torus.get(self.root[link.arguments[0]], ())
            frequencies = 4 * (math.prod(torus) / 2 + 1) if torus and math.prod(torus) > 1 else 1.0
            if at in self.collapsing:
                entries = max(self.layouts[source].entries for source in self.sources(link))
                total += n * entries * (before + n)
            elif isinstance(link.operation, Elementwise):
                total += _ELIMINATION * frequencies * n**3
            elif at not in self.fallback:
                total += frequencies * n * before * (n + before)
        return total

    def _place(self, at: int, link: Link, shapes: Sequence[tuple[int, ...]]) -> None:
        operation, roots = link.operation, self.sources(link)
        layouts = [self.layouts[root] for root in roots]
        if isinstance(operation, Reshape):
            self.root.append(roots[0])
            return
        self.root.append(at + 1)
        convolution = convolution_of(link)
        kept = all(layout == layouts[0] for layout in layouts)
        if isinstance(operation, Elementwise | Scaling):
            self.layouts[at + 1] = layouts[0]
            return
        if isinstance(operation, Sum) and kept:
            self.layouts[at + 1] = layouts[0]
            return
        if isinstance(operation, Concatenation) and operation.dim == 1 and len({x.spatial for x in layouts}) == 1:
            images = [Layout(shape[0], shape[1:]) for shape in shapes]
            vectors = all(not layout.spatial for layout in layouts)
            if vectors or layouts == images:
                self.layouts[at + 1] = Layout(sum(layout.channels for layout in layouts), layouts[0].spatial)
                return
        if convolution is not None and Layout.of(shapes[0]) == layouts[0] and len(shapes[0]) > 1:
            self.layouts[at + 1] = Layout.of(link.shape)
            return
        count = math.prod(link.shape)
        dense = isinstance(operation, Matrix) and len(shapes[0]) == 1 and count <= _WIDEST
        small = layouts[0].entries * count <= _ENTRIES and count <= _LONGEST and len(layouts) == 1
        if dense or (small and hasattr(operation, "linear")):
            self.layouts[at + 1] = Layout(count, ())
            self.collapsing.add(at)
            return
        self.fallback.add(at)
        self.layouts[at + 1] = Layout.of(link.shape)

    def convolution(self, at: int, link: Link) -> Convolution | None:
        """Return the convolution that a link is, if it is computed as one."""
        return None if at in self.fallback or at in self.collapsing else convolution_of(link)

    def _tori(self, chain: Chain) -> dict[int, tuple[int, ...]]:
        """Size the tori so that no padding wraps around into an image."""
        while True:
            scales, members = self._scales(chain)
            periodic = self._periodic(chain, scales, members)
            wrong = {
                at
                for at, link in enumerate(chain.links)
                if (convolution := self.convolution(at, link)) is not None
                and convolution.circular
                and members[self.root[at + 1]] not in periodic
            }
            if not wrong:
                break
            self.fallback |= wrong
        self.periodic = {root for root, group in members.items() if group in periodic}
        sizes: dict[int, tuple[int, ...]] = {}
        for group in set(members.values()):
            roots = [root for root, own in members.items() if own == group]
            room = {root: list(self.layouts[root].spatial) for root in roots}
            for at, link in enumerate(chain.links):
                convolution = self.convolution(at, link)
                source = self.root[link.arguments[0]]
                if convolution is None or members.get(source) != group or group in periodic:
                    continue
                layout, out = self.layouts[source], self.layouts[at + 1]
                for axis, n in enumerate(layout.spatial):
                    before = convolution.padding[axis][0]
                    reach = convolution.dilation[axis] * (convolution.weight().shape[2 + axis] - 1)
                    last = (out.spatial[axis] - 1) * convolution.stride[axis] - before + reach
                    room[source][axis] = max(room[source][axis], n + before, last + 1)
            units = [
                max(math.ceil(room[root][axis] / scales[root][axis]) for root in roots)
                for axis in range(len(scales[roots[0]]))
            ]
            for root in roots:
                sizes[root] = tuple(int(unit * scale) for unit, scale in zip(units, scales[root], strict=True))
        return sizes

    def _scales(self, chain: Chain) -> tuple[dict[int, tuple[Fraction, ...]], dict[int, int]]:
        """Return each image's resolution, in whole units of the coarsest of its group, and the group of each image."""
        scales: dict[int, tuple[Fraction, ...]] = {}
        members: dict[int, int] = {}

        def join(a: int, b: int, ratio: Sequence[Fraction]) -> bool:
            """Set b's scale to a's times the ratio; return whether that is consistent."""
            wanted = tuple(x * y for x, y in zip(scales[a], ratio, strict=True))
            if b not in scales:
                scales[b], members[b] = wanted, members[a]
                return True
            if members[a] == members[b]:
                return scales[b] == wanted
            factor = [x / y for x, y in zip(wanted, scales[b], strict=True)]
            old = members[b]
            for root in [root for root, group in members.items() if group == old]:
                scales[root] = tuple(x * y for x, y in zip(scales[root], factor, strict=True))
                members[root] = members[a]
            return True

        def start(root: int) -> None:
            if root not in scales:
                scales[root] = tuple(Fraction(1) for _ in self.layouts[root].spatial)
                members[root] = root

        start(0)
        for at, link in enumerate(chain.links):
            if self.root[at + 1] != at + 1:
                continue
            if at in self.fallback or at in self.collapsing:
                start(at + 1)
                continue
            convolution = convolution_of(link)
            for source in self.sources(link):
                stride = convolution.stride if convolution is not None else (1,) * len(self.layouts[source].spatial)
                if not join(source, at + 1, [Fraction(1, s) for s in stride]):
                    self.fallback.add(at)
                    self.layouts[at + 1] = Layout.of(link.shape)
                    return self._scales(chain)
        for group in set(members.values()):
            roots = [root for root, own in members.items() if own == group]
            for axis in range(len(scales[roots[0]])):
                whole = math.lcm(*(scales[root][axis].denominator for root in roots))
                common = math.gcd(*(int(scales[root][axis] * whole) for root in roots))
                for root in roots:
                    own = list(scales[root])
                    own[axis] = own[axis] * whole / common
                    scales[root] = tuple(own)
        return scales, members

    def _periodic(self, chain: Chain, scales: dict[int, tuple[Fraction, ...]], members: dict[int, int]) -> set[int]:
        """Return the groups of images that are tori themselves: every convolution among them wraps around."""
        circular: dict[int, list[bool]] = {}
        for at, link in enumerate(chain.links):
            convolution = self.convolution(at, link)
            if convolution is None or self.root[at + 1] != at + 1:
                continue
            pointwise = set(convolution.weight().shape[2:]) == {1} and not any(map(any, convolution.padding))
            circular.setdefault(members[at + 1], []).append(convolution.circular or pointwise)
        found = set()
        for group, all_circular in circular.items():
            roots = [root for root, own in members.items() if own == group]
            units = {
                tuple(Fraction(n) / scale for n, scale in zip(self.layouts[root].spatial, scales[root], strict=True))
                for root in roots
            }
            if all(all_circular) and len(units) == 1:
                found.add(group)
        return found

    def _cut(self, chain: Chain) -> set[int]:
        """Return the roots that some padded convolution takes, through sums and scalings or directly."""
        cut: set[int] = set()
        for at, link in reversed(list(enumerate(chain.links))):
            if self.root[at + 1] != at + 1 or at in self.collapsing:
                continue
            operation, convolution = link.operation, convolution_of(link)
            if at in self.fallback:
                continue
            if convolution is not None:
                padded = any(n > 0 for pair in convolution.padding for n in pair)
                if padded or (at + 1 in cut and keeps_zeros(convolution, self.layouts[self.root[link.arguments[0]]])):
                    cut |= {root for root in self.sources(link) if root not in self.periodic}
            elif isinstance(operation, Sum | Scaling | Concatenation) and at + 1 in cut:
                cut |= set(self.sources(link))
        return cut


def keeps_zeros(convolution: Convolution, layout: Layout) -> bool:
    """Return whether the result is 0 outside of its image if the argument is: no window outside reaches into it.

    Args:
        convolution: of an image that is cut off at its border.
        layout: of the image.
    """
    sizes = (layout.spatial, convolution.weight().shape[2:], convolution.stride, convolution.dilation)
    return not any(map(any, convolution.padding)) and all(
        d * (k - 1) < s and n <= s * ((n - d * (k - 1) - 1) // s + 1) for n, k, s, d in zip(*sizes, strict=True)
    )


def is_windowed(link: Link) -> bool:
    """Return whether a link is a map of each channel on its own, such as max pooling."""
    return isinstance(link.operation, LipschitzMap) and link.operation.channelwise
