"""The registry of layers: which handler reads which operator of torch. To add a layer type, start here.

1. Find the operator's name: the error for an unsupported layer says it, such as ``aten.gelu``; so does the graph
   ``torch.export.export(model, (x,), strict=False).run_decompositions({})``.
2. Add an entry to the file of its family: ``affine.py``, ``arithmetic.py``, ``activations.py``, ``rearranging.py``
   (averages, too) or ``pooling.py`` (maxima and sorting). A new activation also needs its slopes, in
   ``operations/activations.py``; a new kind of map needs a class in ``operations/``. An activation with weights, such
   as PReLU, is a new kind of map: the entries of ``activations.py`` refuse options that are tensors, so it needs a
   handler and an operation of its own.
3. Add a case to ``LAYERS`` in ``tests/lipschitz/test_reading.py``: it checks values, bounds and intervals.

A layer outside this package, whose constant you know, needs none of this: see
:func:`cheaplip.lipschitz.register_layer`.
"""

from torch import fx

from cheaplip.lipschitz.reading.graph import Graph, Value, bind, refusal
from cheaplip.lipschitz.reading.layers.activations import ACTIVATIONS
from cheaplip.lipschitz.reading.layers.affine import AFFINE
from cheaplip.lipschitz.reading.layers.arithmetic import ARITHMETIC
from cheaplip.lipschitz.reading.layers.handler import Handlers
from cheaplip.lipschitz.reading.layers.pooling import POOLING
from cheaplip.lipschitz.reading.layers.rearranging import REARRANGING

__all__ = ["HANDLERS", "read_node"]

HANDLERS: Handlers = {**AFFINE, **ARITHMETIC, **ACTIVATIONS, **REARRANGING, **POOLING}


def read_node(graph: Graph, node: fx.Node) -> Value:
    """Add a node that depends on the input to the graph; return the index of its value.

    Raises:
        UnsupportedLayerError: its operation is not known.
    """
    packet = getattr(node.target, "overloadpacket", None)
    handler = HANDLERS.get(str(packet).removeprefix("aten."))
    if handler is None:
        raise refusal(node, "no Lipschitz constant is known for it")
    return handler(graph, node, bind(node))
