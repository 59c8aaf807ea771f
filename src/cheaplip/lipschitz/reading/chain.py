"""A model read as affine maps and slope ranges; what cannot be read is refused by path and type, never skipped."""

import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, fx, nn

from cheaplip.errors import UnsupportedLayerError
from cheaplip.lipschitz.reading.graph import BATCH, Graph, Step, Value, constant, export, placeholders, refusal
from cheaplip.lipschitz.reading.layers import read_node
from cheaplip.lipschitz.reading.operations import Contraction, Elementwise, Matrix, Reshape
from cheaplip.modes import evaluation_mode

__all__ = ["Chain", "Step", "check_chain_norm", "read", "register_layer"]

Layer = TypeVar("Layer", bound=nn.Module)


@dataclass(frozen=True)
class Chain:
    """A model as a program of known operations; it refers to the model's weights and follows their changes.

    Attributes:
        shape: of one input.
        steps: in order; the last one's value is the output.
        device: of the weights.
    """

    shape: tuple[int, ...]
    steps: tuple[Step, ...]
    device: torch.device

    def __call__(self, x: Tensor) -> Tensor:
        """Evaluate, in the type of ``x``: equal to the model up to rounding, for inputs (B, *shape)."""
        values = [x]
        for step in self.steps:
            values.append(step.operation(*(values[i] for i in step.arguments)))
        return values[-1]

    @property
    def out_shape(self) -> tuple[int, ...]:
        """Shape of one output."""
        return self.steps[-1].shape if self.steps else self.shape

    def dense(
        self, ranges: Mapping[int, tuple[Tensor, Tensor]] | None = None, *, limit: int = 1 << 24
    ) -> tuple[list[Tensor], list[tuple[Tensor, Tensor]]]:
        """The chain as f = W_L φ(… φ(W_1 x)), adjacent affine maps merged, constants left out.

        Values that pass an activation by, in a residual block, become neurons with slopes (1, 1).

        Args:
            ranges: narrower slopes of some activations, by the index of their step, each of the step's shape.
            limit: most entries a matrix may have.

        Returns:
            Weights W_1 … W_L, each (n_out, n_in) float64 and differentiable in the model's parameters; and for each
            hidden layer 1 … L−1 the smallest and the largest slope of each neuron, (n,) float64. A chain that ends in
            an activation ends with the identity as W_L.

        Raises:
            UnsupportedLayerError: an operation is neither affine nor elementwise, or a matrix would be too large.
        """
        ranges = ranges or {}
        last_use = {i: at for at, step in enumerate(self.steps) for i in step.arguments}
        last_use[len(self.steps)] = len(self.steps)
        width = math.prod(self.shape)
        state: dict[int, Tensor | None] = {0: None}  # each live value's matrix from the layer's input; None: identity
        shapes = [self.shape, *(step.shape for step in self.steps)]
        weights, slopes = [], []
        for at, step in enumerate(self.steps):
            if isinstance(step.operation, Elementwise):
                (source,) = step.arguments
                kept = [i for i in state if last_use[i] > at]
                sizes = [math.prod(shapes[i]) for i in (source, *kept)]
                _check_size(step, sum(sizes) * width, limit)
                rows = [self._rows(state[i], width) for i in (source, *kept)]
                weights.append(rows[0] if len(rows) == 1 else torch.cat(rows))
                low, high = ranges.get(at) or self._slopes(step)
                passed = torch.ones(sum(sizes[1:]), dtype=torch.float64, device=self.device)
                slopes.append((torch.cat([low.flatten(), passed]), torch.cat([high.flatten(), passed])))
                width = sum(sizes)
                if kept:
                    eye = torch.eye(width, dtype=torch.float64, device=self.device)
                    state = dict(zip((at + 1, *kept), torch.split(eye, sizes), strict=True))
                else:
                    state = {at + 1: None}
                continue
            linear = getattr(step.operation, "linear", None)
            if linear is None:
                raise UnsupportedLayerError(
                    f"layer {step.path!r} ({type(step.operation).__name__}) is neither affine nor elementwise, so the "
                    "model cannot be written as matrices and slopes"
                )
            _check_size(step, math.prod(step.shape) * width, limit)
            if isinstance(step.operation, Reshape):
                state[at + 1] = state[step.arguments[0]]
            elif isinstance(step.operation, Matrix) and state[step.arguments[0]] is None and len(step.shape) == 1:
                state[at + 1] = step.operation.weight().double()
            else:
                columns = [self._columns(state[i], width, shapes[i]) for i in step.arguments]
                state[at + 1] = linear(*columns).reshape(width, -1).T
            for i in [i for i in state if last_use.get(i, -1) <= at and i != at + 1]:
                del state[i]
        if self.steps:
            _check_size(self.steps[-1], math.prod(self.out_shape) * width, limit)
        weights.append(self._rows(state[len(self.steps)], width))
        return weights, slopes

    def _rows(self, matrix: Tensor | None, width: int) -> Tensor:
        return torch.eye(width, dtype=torch.float64, device=self.device) if matrix is None else matrix

    def _columns(self, matrix: Tensor | None, width: int, shape: tuple[int, ...]) -> Tensor:
        return self._rows(matrix, width).T.reshape(width, *shape)

    def _slopes(self, step: Step) -> tuple[Tensor, Tensor]:
        assert isinstance(step.operation, Elementwise)
        low, high = step.operation.activation.slopes
        full = torch.ones(math.prod(step.shape), dtype=torch.float64, device=self.device)
        return low * full, high * full


def _check_size(step: Step, entries: int, limit: int) -> None:
    if entries > limit:
        raise UnsupportedLayerError(
            f"layer {step.path!r} ({type(step.operation).__name__}) would need a matrix of {entries} entries, more "
            f"than the limit of {limit}: bound it by norms (method='norms')"
        )


_REGISTERED: dict[type[nn.Module], dict[float, Callable[[Any], float]]] = {}


def register_layer(kind: type[Layer], bound: Callable[[Layer], float], *, norm: float = 2) -> None:
    """Tell the Lipschitz constant of a layer of your own, which then need not be made of known operations.

    Args:
        kind: its exact type; one tensor (B, …) in, one tensor (B, …) out, each input of a batch on its own.
        bound: an upper bound of its Lipschitz constant, from the layer.
        norm: in which norm: 1, 2 or inf; call again for another.

    Example:
        >>> class Spin(nn.Module):
        ...     def forward(self, x):
        ...         return torch.fft.fft(x, norm="ortho").real
        >>> register_layer(Spin, lambda layer: 1.0)
        >>> len(read(nn.Sequential(Spin(), nn.Linear(3, 2)), (3,)).steps)
        2
    """
    _REGISTERED.setdefault(kind, {})[check_chain_norm(norm)] = bound


def read(model: nn.Module, shape: tuple[int, ...]) -> Chain:
    r"""Read a model into a chain, in evaluation mode, from what torch.export traces.

    The reading is checked: on random inputs, chain and model must agree.

    Args:
        model: one tensor (B, \*shape) in, one tensor (B, …) out; its modes are left as they were.
        shape: of one input.

    Raises:
        UnsupportedLayerError: names the layer that is not known, its type, and what is supported.
    """
    shape = tuple(shape)
    like = next((t for t in (*model.parameters(), *model.buffers()) if t.is_floating_point()), torch.zeros(()))
    program = export(model, shape, like)
    known = placeholders(program, model)
    graph = Graph(shape)
    signature = program.graph_signature
    if signature.buffers_to_mutate or len(signature.user_outputs) != 1:
        raise UnsupportedLayerError(
            f"model ({type(model).__name__}): expected one tensor out and buffers that stay as they are in evaluation "
            f"mode, got {len(signature.user_outputs)} outputs and changes to {[*signature.buffers_to_mutate.values()]}"
        )
    own = _own_layers(program.graph, model)
    output = -1
    for node in program.graph.nodes:
        if node.op == "placeholder":
            if node.name in signature.user_inputs:
                graph.values[node] = 0
            else:
                graph.constants[node] = known[node.name]
        elif node.op == "output":
            output = graph.live(node, node.args[0][0])
        elif node in own:
            _read_own(graph, node, own[node], model)
        elif not any(source in graph.values for source in node.all_input_nodes):
            graph.constants[node] = constant(node, graph.constants)
        elif node.target is operator.getitem:
            graph.values[node] = _element(graph, node)
        elif not str(node.target).startswith("aten._assert"):
            graph.values[node] = read_node(graph, node)
    chain = Chain(shape, _used(graph.steps, output), like.device)
    _check(chain, model, like)
    return chain


def check_chain_norm(norm: float) -> float:
    """Return a norm that chains are bounded in.

    Raises:
        ValueError: it is another.
    """
    if isinstance(norm, bool) or norm not in (1, 2, math.inf):
        raise ValueError(f"norm: expected 1, 2 or inf, got {norm!r}")
    return float(norm)


def _element(graph: Graph, node: fx.Node) -> Value:
    source, index = node.args
    assert isinstance(source, fx.Node)
    assert isinstance(index, int)
    value = graph.values[source]
    results = value if isinstance(value, list) else [value]
    if index >= len(results):
        raise refusal(source, "of its several results only the first has a Lipschitz constant")
    return results[index]


@dataclass(frozen=True)
class _Call:
    """One call of a registered layer: its path, and the nodes of the graph that it was traced into."""

    path: str
    nodes: tuple[fx.Node, ...]


def _own_layers(graph: fx.Graph, model: nn.Module) -> dict[fx.Node, _Call]:
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
        found.update(dict.fromkeys(nodes, _Call(path, tuple(nodes))))
    return found


def _read_own(graph: Graph, node: fx.Node, call: _Call, model: nn.Module) -> None:
    inside = set(call.nodes)
    if node is not call.nodes[-1]:
        return
    sources = {s for n in call.nodes for s in n.all_input_nodes if s not in inside and s in graph.values}
    results = [n for n in call.nodes if any(user not in inside for user in n.users)]
    if len(sources) != 1 or len(results) != 1:
        raise refusal(node, f"a registered layer has one input and one output, got {len(sources)} and {len(results)}")
    (source,) = sources
    path, bounds = call.path, _REGISTERED[type(model.get_submodule(call.path))]

    def run(x: Tensor) -> Tensor:
        layer = model.get_submodule(path)
        tensors = dict((*layer.named_parameters(), *layer.named_buffers()))
        casted = {name: t.to(x.dtype) if t.is_floating_point() else t for name, t in tensors.items()}
        with evaluation_mode(layer):
            result: Tensor = torch.func.functional_call(layer, casted, (x,))
        return result

    constants = {norm: partial(_own_bound, model, path, norm, bound) for norm, bound in bounds.items()}
    operation = Contraction(run, constants, type(model.get_submodule(path)).__name__)
    graph.values[results[0]] = graph.emit(results[0], operation, graph.live(node, source))


def _own_bound(model: nn.Module, path: str, norm: float, bound: Callable[[Any], float], _: tuple[int, ...]) -> float:
    value = float(bound(model.get_submodule(path)))
    if not value >= 0:
        raise ValueError(f"layer {path!r}: expected a registered bound of 0 or more in norm {norm:g}, got {value}")
    return value


def _used(steps: list[Step], output: int) -> tuple[Step, ...]:
    """The steps that the output depends on, renumbered."""
    wanted, todo = set(), [output]
    while todo:
        value = todo.pop()
        if value > 0 and value not in wanted:
            wanted.add(value)
            todo.extend(steps[value - 1].arguments)
    numbers = {0: 0, **{value: i for i, value in enumerate(sorted(wanted), start=1)}}
    kept = [steps[value - 1] for value in sorted(wanted)]
    return tuple(replace(step, arguments=tuple(numbers[a] for a in step.arguments)) for step in kept)


@torch.no_grad()
def _check(chain: Chain, model: nn.Module, like: Tensor) -> None:
    """Refuse a model that its reading does not reproduce: one with state or randomness that tracing cannot see."""
    x = torch.randn(BATCH, *chain.shape, generator=torch.Generator().manual_seed(0)).to(like)
    with evaluation_mode(model):
        expected = model(x)
    got = chain(x)
    scale = expected.abs().amax().nan_to_num(1.0) if expected.numel() else 1.0
    precision = math.sqrt(torch.finfo(like.dtype).eps)
    same = got.shape == expected.shape and bool(
        torch.isclose(got, expected, rtol=precision, atol=float(precision * scale), equal_nan=True).all()
    )
    if not same:
        raise UnsupportedLayerError(
            f"model ({type(model).__name__}) does not compute what its traced graph computes: expected a forward whose "
            "result depends on its input and weights alone"
        )
