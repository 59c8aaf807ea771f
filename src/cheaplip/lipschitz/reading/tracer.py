"""The tracer: turns a model into a chain, from what torch.export makes of it.

What cannot be read is refused with its path and type, never skipped.
"""

import operator
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export.graph_signature import OutputKind

from cheaplip.errors import UnsupportedLayerError
from cheaplip.lipschitz.reading.agreement import check_agreement, check_weights_stay
from cheaplip.lipschitz.reading.chain import Chain, Link
from cheaplip.lipschitz.reading.digest import model_digest
from cheaplip.lipschitz.reading.graph import BATCH, RANDOM, Graph, Value, as_double, is_random, refusal
from cheaplip.lipschitz.reading.layers.handler import operator_of
from cheaplip.lipschitz.reading.layers.patterns import patterns
from cheaplip.lipschitz.reading.layers.registered import calls_of_registered_layers, read_call
from cheaplip.lipschitz.reading.layers.registry import read_node
from cheaplip.model import without_inference_tensors
from cheaplip.modes import evaluation_mode

__all__ = ["read"]

_SHAPED = {"zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full"}
"""Operators that take no more than the shape of their first argument."""


def read(model: nn.Module, shape: tuple[int, ...]) -> Chain:
    r"""Read a model into a chain, in evaluation mode.

    The result is checked: on random inputs, for batches of several sizes and in float64, chain and model must agree.

    Args:
        model: one tensor (B, \*shape) in, one tensor (B, …) out; its modes are left as they were.
        shape: of one input.

    Raises:
        UnsupportedLayerError: names the layer that is not known, its type, and what is supported.

    Example:
        >>> chain = read(nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)), (3,))
        >>> [type(link.operation).__name__ for link in chain.links]
        ['Matrix', 'Elementwise', 'Matrix']
    """
    shape = tuple(shape)
    like = next((t for t in (*model.parameters(), *model.buffers()) if t.is_floating_point()), torch.zeros(()))
    check_weights_stay(model, torch.zeros(BATCH, *shape, dtype=like.dtype, device=like.device))
    program = _export(model, shape, like)
    known = _placeholders(program, model)
    graph = Graph(shape, device=like.device)
    signature = program.graph_signature
    if signature.buffers_to_mutate or len(signature.user_outputs) != 1:
        raise UnsupportedLayerError(
            f"model ({type(model).__name__}): expected one tensor out and buffers that stay as they are in evaluation "
            f"mode, got {len(signature.user_outputs)} outputs and changes to {[*signature.buffers_to_mutate.values()]}"
        )
    readers, skipped = patterns(program.graph, _live(program))
    registered = calls_of_registered_layers(program.graph, model)
    position = next(i for i, spec in enumerate(signature.output_specs) if spec.kind == OutputKind.USER_OUTPUT)
    output = -1
    for node in program.graph.nodes:
        if node.op == "placeholder":
            if node.name in signature.user_inputs:
                graph.values[node] = 0
            else:
                graph.constants[node] = known[node.name]
        elif node.op == "output":
            output = graph.live(node, node.args[0][position])  # after what the model has written into its input
        elif node in registered:
            read_call(graph, node, registered[node], model)
        elif node in skipped:
            continue
        elif node in readers:
            graph.values[node] = readers[node](graph, node)
        elif not any(source in graph.values for source in node.all_input_nodes):
            graph.constants[node] = _constant(node, graph.constants)
        elif operator_of(node) in _SHAPED:
            graph.constants[node] = _shaped(node)
        elif node.target is operator.getitem:
            graph.values[node] = _element(graph, node)
        elif not str(node.target).startswith("aten._assert"):
            graph.values[node] = read_node(graph, node)
    chain = Chain(shape, _used(graph.links, output), like.device, model_digest(program.graph, known, shape))
    check_agreement(chain, model, like)
    return chain


def _export(model: nn.Module, shape: tuple[int, ...], like: Tensor) -> torch.export.ExportedProgram:
    """Trace the model in evaluation mode, and restore its modes."""
    x = torch.zeros(BATCH, *shape, dtype=like.dtype, device=like.device)
    model = without_inference_tensors(model)
    with evaluation_mode(model), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, about its internals
        try:
            program: torch.export.ExportedProgram = torch.export.export(model, (x,), strict=False)
            functional: torch.export.ExportedProgram = program.run_decompositions({})
            return functional
        except Exception as error:  # torch.export fails with errors of many types, and with those of the model's code
            reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
            if "found a fake tensor" in reason:
                reason = "it writes into the .data of a tensor"
            raise UnsupportedLayerError(
                f"model ({type(model).__name__}) cannot be traced: {reason}. Expected a forward without control flow "
                f"that depends on the input's values, for inputs of shape (B, {', '.join(map(str, shape))})"
            ) from error


def _placeholders(program: torch.export.ExportedProgram, model: nn.Module) -> dict[str, Callable[[], Any]]:
    """Return, for each placeholder of the graph but the input, a function that reads its value from the model."""
    signature = program.graph_signature
    found: dict[str, Callable[[], Any]] = {}
    for name, path in signature.inputs_to_parameters.items():
        found[name] = partial(model.get_parameter, path)
    for name, path in signature.inputs_to_buffers.items():
        found[name] = partial(model.get_buffer, path)
    for name, path in signature.inputs_to_lifted_tensor_constants.items():
        found[name] = partial(program.constants.__getitem__, path)
    return found


def _constant(node: fx.Node, known: dict[fx.Node, Callable[[], Any]]) -> Callable[[], Any]:
    """Return a function that computes a node that does not depend on the input, floating-point tensors in float64."""
    if is_random(node):
        raise refusal(node, f"it is random: {RANDOM}")

    def compute() -> Any:
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: as_double(known[n]()))
        assert callable(node.target)
        return node.target(*args, **kwargs)

    return compute


def _live(program: torch.export.ExportedProgram) -> set[fx.Node]:
    """Return the nodes that depend on the model's input."""
    found: set[fx.Node] = set()
    for node in program.graph.nodes:
        given = node.op == "placeholder" and node.name in program.graph_signature.user_inputs
        if given or any(source in found for source in node.all_input_nodes):
            found.add(node)
    return found


def _shaped(node: fx.Node) -> Callable[[], Any]:
    """Return a function that makes a tensor of a constant, which takes nothing but its shape from its source."""
    source, target, args, kwargs = node.all_input_nodes[0], node.target, node.args[1:], node.kwargs
    shape = tuple(source.meta["val"].shape)
    assert callable(target)
    return lambda: target(torch.zeros(shape, dtype=torch.float64), *args, **kwargs)


def _element(graph: Graph, node: fx.Node) -> Value:
    """Return the value of one of a node's several results."""
    source, index = node.args
    assert isinstance(source, fx.Node)
    assert isinstance(index, int)
    several = graph.scattered.get(source)
    if isinstance(several, list):
        part = several[index]
        if isinstance(part, int):
            return part
        graph.scattered[node] = part
        return part.value
    value = graph.values[source]
    results = value if isinstance(value, list) else [value]
    if index >= len(results):
        raise refusal(source, "of its several results only the first has a Lipschitz constant")
    return results[index]


def _used(links: list[Link], output: int) -> tuple[Link, ...]:
    """Keep the links that the output depends on, and renumber their values."""
    wanted, todo = set(), [output]
    while todo:
        value = todo.pop()
        if value > 0 and value not in wanted:
            wanted.add(value)
            todo.extend(links[value - 1].arguments)
    numbers = {0: 0, **{value: i for i, value in enumerate(sorted(wanted), start=1)}}
    kept = [links[value - 1] for value in sorted(wanted)]
    return tuple(replace(link, arguments=tuple(numbers[a] for a in link.arguments)) for link in kept)
