"""Models in ONNX files, read as modules of torch."""

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from cheaplip.errors import ModelError
from cheaplip.trained.onnx_files.operators import OPERATORS

__all__ = ["OnnxModel", "load_onnx"]

_CHECKED = 4  # random inputs for which the module and onnxruntime must agree
_TOLERANCE = 1e-4  # relative to the largest output


class _Node(NamedTuple):
    operator: str
    name: str
    attributes: dict[str, Any]
    inputs: list[str]
    output: str


class OnnxModel(nn.Module):
    r"""The graph of an ONNX file: from inputs (B, \*shape) to its output.

    Args:
        nodes: in the order they are computed.
        constants: weights, and integers such as shapes, by name.
        source: the name of the input.
        result: the name of the output.
        shape: of one input.
    """

    def __init__(
        self, nodes: list[_Node], constants: dict[str, np.ndarray], source: str, result: str, shape: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.nodes, self.source, self.result, self.shape = nodes, source, result, shape
        self.arrays: dict[str, np.ndarray] = {}
        self.weights: dict[str, str] = {}
        for name, value in constants.items():
            if value.dtype.kind == "f":
                self.weights[name] = f"weight_{len(self.weights)}"
                self.register_buffer(self.weights[name], torch.from_numpy(value.copy()))
            else:
                self.arrays[name] = value

    def forward(self, x: Tensor) -> Tensor:
        """Compute the output."""
        values: dict[str, Any] = {self.source: x, **self.arrays}
        values |= {name: getattr(self, buffer) for name, buffer in self.weights.items()}
        for node in self.nodes:
            inputs = [values[name] if name else None for name in node.inputs]
            values[node.output] = OPERATORS[node.operator](node.attributes, *inputs)
        result: Tensor = values[self.result]
        return result


def load_onnx(path: Path) -> OnnxModel:
    r"""Read the model of an ONNX file.

    What the module computes is compared with onnxruntime on random inputs.

    Args:
        path: a ``.onnx`` file with one floating-point input (B, \*shape) and one output.

    Raises:
        ModelError: there is no such file, it is damaged, or it holds what is not read: an unknown operator, control
            flow, several inputs, an unknown shape, weights in less than float32.
        ImportError: the packages for ONNX are missing.
    """
    if not path.is_file():
        raise ModelError(f"no such file {path}; check the path, which starts at {Path.cwd()}")
    try:
        import onnx
        import onnx.inliner
        import onnxruntime
    except ImportError as error:
        raise ImportError("reading .onnx files needs onnx and onnxruntime: pip install 'cheaplip[onnx]'") from error
    try:
        proto = onnx.inliner.inline_local_functions(onnx.load(path))
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    except Exception as error:  # a damaged file may raise almost anything
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ModelError(f"{path}: expected a model in ONNX, got a file that cannot be read: {reason}") from error
    graph = proto.graph
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants]
    if len(inputs) != 1 or len(graph.output) != 1:
        raise ModelError(f"{path}: expected one input and one output, got {len(inputs)} and {len(graph.output)}")
    sizes = inputs[0].type.tensor_type.shape.dim
    batch = sizes[0].dim_value or None if sizes else None
    shape = tuple(size.dim_value for size in sizes[1:])
    if not shape or 0 in shape:
        got = ", ".join(size.dim_param or str(size.dim_value or "?") for size in sizes)
        raise ModelError(f"{path}: expected an input (B, …) whose sizes are known but for B, got ({got})")
    opset = max((entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), default=0)
    nodes = []
    for node in graph.node:
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        if node.op_type == "Constant" and "value" in attributes:
            constants[node.output[0]] = onnx.numpy_helper.to_array(attributes["value"])
            continue
        if node.op_type not in OPERATORS or sum(map(bool, node.output)) != 1:
            raise ModelError(
                f"{path}: operator {node.op_type} (node {node.name or node.output[0]!r}) is not read; read are: "
                f"{', '.join(sorted(OPERATORS))}"
            )
        attributes |= {"opset": opset, "batch": batch}
        nodes.append(_Node(node.op_type, node.name, attributes, list(node.input), node.output[0]))
    if small := sorted(
        {str(v.dtype) for v in constants.values() if v.dtype.kind not in "biuf" or v.dtype == np.float16}
    ):
        raise ModelError(f"{path}: expected weights in float32 or float64, got {', '.join(small)}")
    model = OnnxModel(nodes, constants, inputs[0].name, graph.output[0].name, shape).eval()
    kind = {onnx.TensorProto.FLOAT: torch.float32, onnx.TensorProto.DOUBLE: torch.float64}
    dtype = kind.get(inputs[0].type.tensor_type.elem_type)
    if dtype is None:
        raise ModelError(f"{path}: expected a floating-point input, float32 or float64")
    _check(path, model, session, batch or _CHECKED, dtype)
    return model


@torch.no_grad()
def _check(path: Path, model: OnnxModel, session: Any, batch: int, dtype: torch.dtype) -> None:
    """Raise unless module and runtime agree on random inputs, given in several batches to the runtime."""
    parts = 1 if batch >= _CHECKED else math.ceil(_CHECKED / batch)
    x = torch.rand(parts * batch, *model.shape, generator=torch.Generator().manual_seed(0), dtype=dtype)
    try:
        found = model(x)
    except Exception as error:  # the operations of torch raise errors of many types
        raise ModelError(f"{path}: cannot be computed: {str(error).splitlines()[0]}") from error
    runs = [session.run(None, {model.source: part.numpy()})[0] for part in torch.split(x, batch)]
    expected = torch.from_numpy(np.concatenate(runs))
    if found.shape != expected.shape or not bool(
        ((found - expected).abs() <= _TOLERANCE * expected.abs().amax().clamp_min(1e-6)).all()
    ):
        raise ModelError(f"{path}: what was read computes something else than onnxruntime: please report this")
