"""Maps that torch writes as several operators, which have no constant one by one: found in the graph as a whole.

A comparison jumps, but ``torch.where(a > b, a, b)`` is a maximum. A pattern is read where its last node stands, and its
inner nodes are skipped, if nothing else uses them.
"""

from collections.abc import Callable, Iterable, Set
from typing import Any, NamedTuple, cast

from torch import fx

from cheaplip.lipschitz.reading.graph import Graph, Value, refusal
from cheaplip.lipschitz.reading.layers.handler import operator_of
from cheaplip.lipschitz.reading.layers.paired import extreme_of_two, reflected
from cheaplip.lipschitz.reading.operations import Elementwise
from cheaplip.lipschitz.reading.operations.curves import SOFTSIGN, softshrink

__all__ = ["Pattern", "patterns"]

Reader = Callable[[Graph, fx.Node], Value]


class Pattern(NamedTuple):
    """Some nodes that are read together.

    Attributes:
        inner: the nodes that are skipped.
        read: adds the pattern to the graph, at its last node.
    """

    inner: frozenset[fx.Node]
    read: Reader


def patterns(graph: fx.Graph, live: Set[fx.Node]) -> tuple[dict[fx.Node, Reader], set[fx.Node]]:
    """Find the patterns of a graph.

    Args:
        graph: of the traced model.
        live: the nodes that depend on the model's input.

    Returns:
        The readers by the last node of each pattern, and all inner nodes.
    """
    readers: dict[fx.Node, Reader] = {}
    skipped: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op != "call_function" or node not in live:
            continue
        for find in _FINDERS.get(operator_of(node), ()):
            pattern = find(node)
            if pattern is not None and all(
                user in pattern.inner or user is node for n in pattern.inner for user in n.users
            ):
                readers[node] = pattern.read
                skipped |= pattern.inner
                break
    return readers, skipped


def _is(node: Any, *names: str) -> bool:
    return isinstance(node, fx.Node) and operator_of(node) in names


def _is_number(argument: Any) -> bool:
    return isinstance(argument, (int, float))


def _same(one: Any, other: Any) -> bool:
    """Return whether two arguments are the same, or computed alike: torch.export writes each use of a slice anew."""
    if one is other:
        return True
    if isinstance(one, fx.Node) and isinstance(other, fx.Node):
        return (
            one.op == other.op == "call_function"
            and one.target is other.target
            and len(one.args) == len(other.args)
            and all(map(_same, one.args, other.args))
            and one.kwargs == other.kwargs
        )
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(_same, one, other))
    return type(one) is type(other) and bool(one == other)


def _softshrink(node: fx.Node) -> Pattern | None:
    """Match where(|x| > λ, x − λ sign(x), 0 x)."""
    match node.args:
        case (
            fx.Node(args=(fx.Node(args=(x,)) as size, threshold)) as condition,
            fx.Node(args=(x1, fx.Node(args=(fx.Node(args=(x2,)) as sign, threshold1)) as step)) as less,
            fx.Node(args=(x3, 0)) as none,
        ):
            names = zip(
                (condition, size, less, step, sign, none), ("gt", "abs", "sub", "mul", "sign", "mul"), strict=True
            )
            if (
                all(_is(*pair) for pair in names)
                and not less.kwargs
                and x is x1 is x2 is x3
                and _is_number(threshold)
                and threshold == threshold1
            ):
                return Pattern(frozenset((condition, size, less, step, sign, none)), _elementwise(x, threshold))
    return None


def _elementwise(x: Any, threshold: Any) -> Reader:
    def read(graph: Graph, node: fx.Node) -> Value:
        try:
            activation = softshrink(float(threshold))
        except ValueError as error:
            raise refusal(node, str(error)) from error
        return graph.emit(node, Elementwise(activation), graph.live(node, x))

    return read


def _hardshrink(node: fx.Node) -> Pattern | None:
    """Match where(|x| ≤ λ, 0, x), to say that it jumps."""
    match node.args:
        case (fx.Node(args=(fx.Node(args=(x,)) as size, threshold)) as condition, 0, x1):
            if _is(condition, "le") and _is(size, "abs") and x is x1 and _is_number(threshold):

                def read(graph: Graph, node: fx.Node) -> Value:
                    raise refusal(
                        node,
                        f"it jumps by {threshold:g} at ±{threshold:g}, so that no Lipschitz constant bounds it: "
                        "use nn.Softshrink",
                    )

                return Pattern(frozenset((condition, size)), read)
    return None


def _softsign(node: fx.Node) -> Pattern | None:
    """Match x / (|x| + 1)."""
    match node.args:
        case (x, fx.Node(args=(fx.Node(args=(x1,)) as size, 1)) as below):
            if _is(below, "add") and not (below.kwargs or node.kwargs) and _is(size, "abs") and x is x1:
                return Pattern(
                    frozenset((below, size)),
                    lambda graph, node: graph.emit(node, Elementwise(SOFTSIGN), graph.live(node, x)),
                )
    return None


def _chosen(node: fx.Node) -> Pattern | None:
    """Match where(a > b, a, b) and its like."""
    match node.args:
        case (fx.Node(args=(first, second)) as condition, chosen, other):
            if not _is(condition, "gt", "ge", "lt", "le"):
                return None
            straight = _same(first, chosen) and _same(second, other)
            if not straight and not (_same(first, other) and _same(second, chosen)):
                return None
            larger = straight == _is(condition, "gt", "ge")
            return Pattern(
                frozenset((condition,)), lambda graph, node: extreme_of_two(graph, node, first, second, larger=larger)
            )
    return None


def _householder(node: fx.Node) -> Pattern | None:
    """Match the Householder activation, of two halves x and y of the channels, with an angle θ for each pair.

    Where s = x sin θ/2 − y cos θ/2 is positive, the pair is reflected: (x cos θ + y sin θ, x sin θ − y cos θ).
    """
    parts = node.args[0]
    if not (isinstance(parts, (list, tuple)) and len(parts) == 2):
        return None
    chosen = [_by_sign(part) for part in parts]
    above, below = chosen
    if above is None or below is None or not _same(above.side, below.side):
        return None
    (x, first, side, one), (y, second, _, two) = above, below
    terms = [_terms(value, name) for value, name in ((side, "sub"), (first, "add"), (second, "sub"))]
    inner = {*one, *two}
    found = []
    for term, kinds in zip(terms, (("sin", "cos"), ("cos", "sin"), ("sin", "cos")), strict=True):
        if term is None or not (_same(term[0][0], x) and _same(term[1][0], y)):
            return None
        angles = [
            factor.args[0] if _is(factor, kind) else None for (_, factor), kind in zip(term[:2], kinds, strict=True)
        ]
        if angles[0] is None or not _same(*angles):
            return None
        found.append(angles[0])
        inner |= set(term[2])
    half, *whole = found
    if not (_same(*whole) and _is(half, "mul") and half.args[1] == 0.5 and _same(half.args[0], whole[0])):
        return None
    dim = cast(int, node.args[1]) if len(node.args) > 1 else 0
    return Pattern(frozenset(inner), lambda graph, node: reflected(graph, node, x, y, half, dim))


class _Choice(NamedTuple):
    """x · (s ≤ 0) + other · (s > 0), and its nodes."""

    x: Any
    other: Any
    side: Any
    nodes: tuple[fx.Node, ...]


def _by_sign(node: Any) -> _Choice | None:
    match node:
        case fx.Node(
            args=(
                fx.Node(args=(x, fx.Node(args=(side, 0)) as below)) as kept,
                fx.Node(args=(other, fx.Node(args=(side1, 0)) as above)) as turned,
            )
        ):
            names = zip((node, kept, turned, below, above), ("add", "mul", "mul", "le", "gt"), strict=True)
            if all(_is(*pair) for pair in names) and _same(side, side1) and not node.kwargs:
                return _Choice(x, other, side, (node, kept, turned, below, above))
    return None


def _terms(node: Any, name: str) -> tuple[tuple[Any, Any], tuple[Any, Any], tuple[fx.Node, ...]] | None:
    """Take a p ± b q apart."""
    match node:
        case fx.Node(args=(fx.Node(args=(a, p)) as first, fx.Node(args=(b, q)) as second)):
            if _is(node, name) and _is(first, "mul") and _is(second, "mul") and not node.kwargs:
                return (a, p), (b, q), (node, first, second)
    return None


Finder = Callable[[fx.Node], Pattern | None]

_FINDERS: dict[str, Iterable[Finder]] = {
    "where": (_softshrink, _hardshrink, _chosen),
    "div": (_softsign,),
    "cat": (_householder,),
}
