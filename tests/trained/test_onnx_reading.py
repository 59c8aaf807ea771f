"""Models in ONNX files: what is read computes what the file says, and has the bracket of the model it came from."""

import re
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from cheaplip import Box, bracket
from cheaplip.cli import run
from cheaplip.errors import ModelError
from cheaplip.trained.onnx_files.model import load_onnx

onnx = pytest.importorskip("onnx", reason="needs the extra onnx")
pytest.importorskip("onnxruntime", reason="needs the extra onnx")
F32, I64 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64


def written(path, nodes, constants=(), shape=("batch", 6), opset=18, kind=F32, inputs=1):
    """A file with these nodes, from ``x`` to ``y``."""
    graph = onnx.helper.make_graph(
        nodes,
        "graph",
        [onnx.helper.make_tensor_value_info("x" + "x" * k, kind, shape) for k in range(inputs)],
        [onnx.helper.make_tensor_value_info("y", kind, None)],
        [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in dict(constants).items()],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=9)
    onnx.save(model, path)
    return path


def node(kind, *inputs, **attributes):
    return onnx.helper.make_node(kind, list(inputs or ("x",)), ["y"], **attributes)


rng = np.random.default_rng(0)
W = rng.standard_normal((6, 4)).astype("f")
B = rng.standard_normal(4).astype("f")
K = rng.standard_normal((3, 2, 3, 3)).astype("f")
IMAGE = ("batch", 2, 6, 6)
ONE, HALF = np.ones(2, "f"), np.full(2, 0.5, "f")
SIMPLE = [
    "Abs",
    "Cos",
    "Erf",
    "Exp",
    "Identity",
    "Neg",
    "Relu",
    "Selu",
    "Sigmoid",
    "Sin",
    "Softplus",
    "Softsign",
    "Tanh",
]
READ = {
    **{kind: ([node(kind)], {}, {}) for kind in SIMPLE},
    "MatMul": ([node("MatMul", "x", "w")], {"w": W}, {}),
    "Gemm": ([node("Gemm", "x", "w", "b", alpha=2.0, beta=0.5)], {"w": W, "b": B}, {}),
    "Gemm, transposed": ([node("Gemm", "x", "w", transB=1)], {"w": W.T.copy()}, {}),
    "Add": ([node("Add", "x", "c")], {"c": W[:, 0].copy()}, {}),
    "Sub": ([node("Sub", "c", "x")], {"c": W[:, 0].copy()}, {}),
    "Mul": ([node("Mul", "x", "c")], {"c": np.float32(3)}, {}),
    "Div": ([node("Div", "x", "c")], {"c": np.float32(3)}, {}),
    "Pow": ([node("Pow", "x", "c")], {"c": np.float32(2)}, {}),
    "LeakyRelu": ([node("LeakyRelu", alpha=0.3)], {}, {}),
    "Elu": ([node("Elu", alpha=0.5)], {}, {}),
    "PRelu": ([node("PRelu", "x", "c")], {"c": np.float32([0.2])}, {}),
    "Gelu": ([node("Gelu")], {}, {"opset": 20}),
    "Gelu, tanh": ([node("Gelu", approximate="tanh")], {}, {"opset": 20}),
    "Clip": ([node("Clip", "x", "c", "d")], {"c": np.float32(0.2), "d": np.float32(0.6)}, {}),
    "Clip, one end": ([node("Clip", "x", "", "d")], {"d": np.float32(0.6)}, {}),
    "Softmax": ([node("Softmax")], {}, {}),
    "Conv": ([node("Conv", "x", "w", pads=[1, 1, 1, 1], strides=[2, 2])], {"w": K}, {"shape": IMAGE}),
    "Conv, padded on one side": ([node("Conv", "x", "w", pads=[0, 1, 1, 0])], {"w": K}, {"shape": IMAGE}),
    "BatchNormalization": (
        [node("BatchNormalization", "x", "s", "b", "m", "v", epsilon=0.01)],
        {"s": ONE * 2, "b": HALF, "m": HALF, "v": ONE * 3},
        {"shape": IMAGE},
    ),
    "MaxPool": ([node("MaxPool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])], {}, {"shape": IMAGE}),
    "AveragePool": ([node("AveragePool", kernel_shape=[2, 2], pads=[1, 1, 1, 1])], {}, {"shape": IMAGE}),
    "GlobalAveragePool": ([node("GlobalAveragePool")], {}, {"shape": IMAGE}),
    "GlobalMaxPool": ([node("GlobalMaxPool")], {}, {"shape": IMAGE}),
    "Flatten": ([node("Flatten")], {}, {"shape": IMAGE}),
    "Reshape": ([node("Reshape", "x", "s")], {"s": np.int64([0, -1])}, {"shape": IMAGE}),
    "Transpose": ([node("Transpose", perm=[0, 2, 3, 1])], {}, {"shape": IMAGE}),
    "ReduceMean": ([node("ReduceMean", "x", "a", keepdims=0)], {"a": np.int64([2, 3])}, {"shape": IMAGE}),
    "Slice": ([node("Slice", "x", "a", "b", "c")], {"a": np.int64([1]), "b": np.int64([4]), "c": np.int64([1])}, {}),
    "Concat": ([node("Concat", "x", "x", axis=1)], {}, {}),
    "one input at a time": ([node("Reshape", "x", "s")], {"s": np.int64([1, 72])}, {"shape": (1, 2, 6, 6)}),
    "float64": ([node("MatMul", "x", "w")], {"w": W.astype("d")}, {"kind": onnx.TensorProto.DOUBLE}),
}


@pytest.mark.parametrize("case", READ)
def test_an_operator_is_read(case, tmp_path):
    nodes, constants, options = READ[case]
    model = load_onnx(written(tmp_path / "m.onnx", nodes, constants, **options))  # compared with onnxruntime there
    assert model(torch.rand(3, *model.shape, dtype=torch.float64 if "kind" in options else torch.float32)).shape[0] == 3


def exported(model, path, *shape, dynamo=True):
    torch.manual_seed(0)
    batch = {"dynamic_shapes": ({0: torch.export.Dim("batch")},)} if dynamo else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model.eval(), (torch.rand(2, *shape),), path, dynamo=dynamo, verbose=False, **batch)
    return path


def test_a_file_has_the_bracket_of_the_network_in_it(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 2))
    weights = {name.replace(".", "_"): value.detach().numpy() for name, value in model.named_parameters()}
    nodes = [
        onnx.helper.make_node("Gemm", ["x", "0_weight", "0_bias"], ["h"], transB=1),
        onnx.helper.make_node("Tanh", ["h"], ["t"]),
        onnx.helper.make_node("Gemm", ["t", "2_weight", "2_bias"], ["y"], transB=1),
    ]
    loaded = load_onnx(written(tmp_path / "m.onnx", nodes, weights))
    ours, theirs = (bracket(m, Box(0.0, 1.0), shape=(6,), method="norms", seconds=0.2) for m in (loaded, model))
    assert ours.upper == pytest.approx(theirs.upper)
    assert ours.lower <= ours.upper < float("inf")


@pytest.mark.slow
def test_a_file_that_torch_wrote_has_the_bracket_of_its_model(tmp_path):
    model = nn.Sequential(nn.Flatten(), nn.Linear(6, 8), nn.Sigmoid(), nn.Linear(8, 2))
    loaded = load_onnx(exported(model, tmp_path / "m.onnx", 2, 3))
    ours, theirs = (bracket(m, Box(0.0, 1.0), shape=(2, 3), method="norms", seconds=0.5) for m in (loaded, model))
    assert ours.upper == pytest.approx(theirs.upper)
    assert ours.lower <= ours.upper < float("inf")


BAD = {
    "an unknown operator": ([node("Hardmax")], {}, {}, "operator Hardmax (node 'y') is not read; read are: Abs, "),
    "two inputs": ([node("Add", "x", "xx")], {}, {"inputs": 2}, "expected one input and one output, got 2 and 1"),
    "an unknown size": (
        [node("Relu")],
        {},
        {"shape": ("batch", "n")},
        "expected an input (B, …) whose sizes are known",
    ),
    "half precision": (
        [node("MatMul", "x", "w")],
        {"w": W.astype("float16")},
        {"kind": onnx.TensorProto.FLOAT16},
        "expected weights in float32 or float64, got float16",
    ),
    "padding by rule": (
        [node("Conv", "x", "w", auto_pad="SAME_UPPER")],
        {"w": K},
        {"shape": IMAGE},
        "cannot be computed: auto_pad SAME_UPPER is not read: export with explicit pads",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_not_read_is_named(case, tmp_path):
    nodes, constants, options, message = BAD[case]
    path = written(tmp_path / "m.onnx", nodes, constants, **options)
    with pytest.raises(ModelError, match=f"^{re.escape(f'{path}: {message}')}"):
        load_onnx(path)


def test_the_command_brackets_a_file(tmp_path, capsys):
    path = written(tmp_path / "m.onnx", [node("Gemm", "x", "w", "b")], {"w": W, "b": B})
    assert run(["bracket", str(path), "--box", "0,1", "--seconds", "0.2", "--json"]) == 0
    assert f'"upper": {np.linalg.norm(W, 2):.4f}'[:14] in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.onnx"], "no such file none.onnx"),
        (["damaged.onnx"], "damaged.onnx: expected a model in ONNX, got a file that cannot be read"),
        (["m.onnx", "--box", "1,0"], "box: expected the smallest and the largest value, such as 0,1, got '1,0'"),
        (["m.onnx", "--box", "x"], "box: expected numbers separated by commas, got 'x'"),
        (["m.onnx", "--data", "digits", "--box", "0,1"], "box: expected with a .onnx file and no --data alone"),
        (["m.onnx", "--data", "digits", "--weights", "w"], "weights: a .onnx file holds its own, got w as well"),
        (["m.onnx", "--data", "digits"], "m.onnx"),
    ],
)
def test_bad_files_are_one_line(arguments, message, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "m.onnx", [node("Relu")])
    (tmp_path / "damaged.onnx").write_bytes(b"no model")
    assert run(["bracket", *arguments]) == 2
    shown = capfd.readouterr().err.replace("\n", " ")
    assert message in shown
