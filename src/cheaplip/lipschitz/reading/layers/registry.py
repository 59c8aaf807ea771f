"""The registry of layers: which handler reads which operator of torch. To add a layer type, start here.

1. Find the operator's name: the error for an unsupported layer says it, such as ``aten.gelu``; so does the graph
   ``torch.export.export(model, (x,), strict=False).run_decompositions({})``.
2. Add an entry to the file of its family:

   - ``affine.py``: layers with weights; ``arithmetic.py``: sums, products and quotients;
   - ``activations.py``: elementwise functions, whose slopes are in ``operations/activations.py`` and
     ``operations/curves.py``, or in ``operations/bent.py`` where each entry has its own;
   - ``rearranging.py``: what moves, copies, sums or averages values; ``writing.py``: assignments in place;
   - ``pooling.py``: maxima over windows and other maps with a known constant; ``paired.py``: maxima, sorting, MaxMin;
   - ``normalising.py``, ``products.py``: maps whose constant depends on where their arguments lie;
   - ``choices.py``: masks; ``patterns.py``: what torch writes as several operators.

   A new kind of map needs a class in ``operations/``.
3. Add a case to ``LAYERS`` in ``tests/lipschitz/test_reading.py``, which checks values, bounds and intervals, one to
   ``tests/proofs/layers.py``, and one to ``docs/layers.py``, which writes the table of layers.

A layer outside this package, whose constant you know, needs none of this: see
:func:`cheaplip.lipschitz.register_layer`.
"""

from torch import fx

from cheaplip.errors import UnsupportedLayerError
from cheaplip.lipschitz.reading.graph import RANDOM, Graph, Value, bind, is_random, refusal
from cheaplip.lipschitz.reading.layers.activations import ACTIVATIONS
from cheaplip.lipschitz.reading.layers.affine import AFFINE
from cheaplip.lipschitz.reading.layers.arithmetic import ARITHMETIC
from cheaplip.lipschitz.reading.layers.choices import CHOICES
from cheaplip.lipschitz.reading.layers.handler import Handlers, operator_of
from cheaplip.lipschitz.reading.layers.normalising import NORMALISING
from cheaplip.lipschitz.reading.layers.paired import PAIRED
from cheaplip.lipschitz.reading.layers.pooling import POOLING
from cheaplip.lipschitz.reading.layers.products import PRODUCTS
from cheaplip.lipschitz.reading.layers.rearranging import REARRANGING
from cheaplip.lipschitz.reading.layers.scattered import MOVES, moved, read_scattered
from cheaplip.lipschitz.reading.layers.writing import WRITING

__all__ = ["HANDLERS", "read_node"]

HANDLERS: Handlers = {
    **ACTIVATIONS,
    **AFFINE,
    **ARITHMETIC,
    **CHOICES,
    **NORMALISING,
    **PAIRED,
    **POOLING,
    **PRODUCTS,
    **REARRANGING,
    **WRITING,
}


def read_node(graph: Graph, node: fx.Node) -> Value:
    """Add a node that depends on the input to the graph; return the index of its value.

    Raises:
        UnsupportedLayerError: its operation is not known.
    """
    name = operator_of(node)
    if any(source in graph.scattered for source in node.all_input_nodes):
        return read_scattered(graph, node, HANDLERS)
    handler = HANDLERS.get(name)
    if handler is None:
        raise refusal(node, f"it is random: {RANDOM}" if is_random(node) else "no Lipschitz constant is known for it")
    try:
        return handler(graph, node, bind(node))
    except UnsupportedLayerError as error:
        if name not in MOVES:
            raise
        return moved(graph, node, error)
