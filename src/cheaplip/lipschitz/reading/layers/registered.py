"""Layers of your own: their Lipschitz constants as you register them, and how their calls are read."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.parametrize import is_parametrized

from cheaplip.lipschitz.reading.chain import check_chain_norm
from cheaplip.lipschitz.reading.graph import Graph, refusal
from cheaplip.lipschitz.reading.operations import LipschitzMap
from cheaplip.modes import evaluation_mode

__all__ = ["Call", "calls_of_registered_layers", "read_call", "register_layer"]

Layer = TypeVar("Layer", bound=nn.Module)

_REGISTERED: dict[type[nn.Module], dict[float, Callable[[Any], float]]] = {}


def register_layer(kind: type[Layer], bound: Callable[[Layer], float], *, norm: float = 2) -> None:
    """Register the Lipschitz constant of a layer of your own, which need not consist of known operations.

    Args:
        kind: its exact type; one tensor (B, …) in, one tensor (B, …) out, each input of a batch on its own.
        bound: a function from the layer to an upper bound of its Lipschitz constant.
        norm: of inputs and outputs: 1, 2 or inf; call again for another.

    Example:
        >>> class Spin(nn.Module):
        ...     def forward(self, x):
        ...         return torch.fft.fft(x, norm="ortho").real
        >>> register_layer(Spin, lambda layer: 1.0)
        >>> from cheaplip.lipschitz import read
        >>> len(read(nn.Sequential(Spin(), nn.Linear(3, 2)), (3,)).links)
        2
    """
    _REGISTERED.setdefault(kind, {})[check_chain_norm(norm)] = bound


@dataclass(frozen=True)
class Call:
    """One call of a registered layer: its path in the model, and the nodes of the graph that it was traced into."""

    path: str
    nodes: tuple[fx.Node, ...]


def calls_of_registered_layers(graph: fx.Graph, model: nn.Module) -> dict[fx.Node, Call]:
    """Return, for each node inside a registered layer, the call that it belongs to."""
    paths = {path for path, module in model.named_modules(remove_duplicate=False) if type(module) in _REGISTERED}
    calls: dict[str, list[fx.Node]] = {}
    for node in graph.nodes:
        stack = node.meta.get("nn_module_stack", {})
        outermost = next((key for key, (path, _) in stack.items() if path.partition("@")[0] in paths), None)
        if outermost is not None:
            calls.setdefault(outermost, []).append(node)
    found = {}
    for key, nodes in calls.items():
        path = nodes[0].meta["nn_module_stack"][key][0].partition("@")[0]
        found.update(dict.fromkeys(nodes, Call(path, tuple(nodes))))
    return found


def read_call(graph: Graph, node: fx.Node, call: Call, model: nn.Module) -> None:
    """Add one link for the whole call to the graph, once its last node is reached."""
    inside = set(call.nodes)
    if node is not call.nodes[-1]:
        return
    sources = {s for n in call.nodes for s in n.all_input_nodes if s not in inside and s in graph.values}
    results = [n for n in call.nodes if any(user not in inside for user in n.users)]
    if len(sources) != 1 or len(results) != 1:
        raise refusal(node, f"a registered layer has one input and one output, got {len(sources)} and {len(results)}")
    (source,) = sources
    if changed := _changed_by(model.get_submodule(call.path)):
        raise refusal(
            node,
            f"its registered constant does not count {changed}: remove it, or put what it does into a layer of its own",
        )
    path, bounds = call.path, _REGISTERED[type(model.get_submodule(call.path))]

    def run(x: Tensor) -> Tensor:
        layer = model.get_submodule(path)
        tensors = dict((*layer.named_parameters(), *layer.named_buffers()))
        casted = {name: t.to(x.dtype) if t.is_floating_point() else t for name, t in tensors.items()}
        with evaluation_mode(layer):
            result: Tensor = torch.func.functional_call(layer, casted, (x.clone(),))
        return result

    constants = {norm: partial(_registered_bound, model, path, norm, bound) for norm, bound in bounds.items()}
    operation = LipschitzMap(run, constants, type(model.get_submodule(path)).__name__)
    graph.values[results[0]] = graph.emit(results[0], operation, graph.live(node, source))


def _changed_by(layer: nn.Module) -> str:
    """Name what may change the outputs of a layer besides its type: hooks, or a forward of its own; else empty."""
    for path, module in layer.named_modules():
        where = f" of {path!r}" if path else ""
        for kind, hooks in (("forward", module._forward_hooks), ("forward pre-", module._forward_pre_hooks)):
            if hooks:
                name = next(iter(hooks.values()))
                return f"the {kind} hook{where} ({getattr(name, '__name__', type(name).__name__)})".replace("- ", "-")
        if "forward" in vars(module):
            return f"the forward{where} that was assigned to this one layer"
        if is_parametrized(module):
            return f"the parametrization{where}"
    return ""


def _registered_bound(
    model: nn.Module, path: str, norm: float, bound: Callable[[Any], float], _: tuple[int, ...]
) -> float:
    value = float(bound(model.get_submodule(path)))
    if not value >= 0:
        raise ValueError(f"layer {path!r}: expected a registered bound of 0 or more in norm {norm:g}, got {value}")
    return value
