"""Weights and models that no run of ours wrote: state dicts and programs of torch.export."""

import warnings
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, fx, nn

from cheaplip.errors import ModelError

__all__ = ["load_program", "load_weights"]


def load_weights(model: nn.Module, path: Path) -> None:
    """Load a state dict from a file into ``model``.

    Args:
        model: receives the weights; their names and shapes must be the same.
        path: a ``.safetensors`` file, or a file written by ``torch.save(model.state_dict(), path)``. Pickled objects
            are refused.

    Raises:
        ModelError: there is no such file, or it holds no state dict, or one of another model.
    """
    state = _read(path)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ModelError(f"{path} does not fit the model: {error}") from error


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise ModelError(f"weights: no such file {path}; check the path, which starts at {Path.cwd()}")
    expected = "expected a .safetensors file, or what torch.save(model.state_dict(), path) writes"
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file may raise almost anything
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ModelError(f"weights: cannot read {path}: {expected}, and nothing pickled: {reason}") from error
    if not isinstance(state, dict):
        raise ModelError(f"weights: {expected}, got {type(state).__name__} in {path}: save the state dict alone")
    if not all(isinstance(value, Tensor) for value in state.values()):
        keys = ", ".join(map(str, list(state)[:5]))
        raise ModelError(f"weights: {expected}, got a dictionary of {keys} in {path}: save the state dict alone")
    return state


def load_program(path: Path, shape: tuple[int, ...]) -> nn.Module:
    r"""Load a program of torch.export as an ordinary module, which can be copied and converted to another dtype.

    ``torch.export.load`` may unpickle what the file holds: load only files that you trust.

    Args:
        path: a ``.pt2`` file.
        shape: the shape that one input must have.

    Raises:
        ModelError: there is no such file, or it holds no program from one tensor (B, \*shape), for any B, to one
            tensor.
    """
    if not path.is_file():
        raise ModelError(f"no such file {path}; check the path, which starts at {Path.cwd()}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns about its own internals
            program = torch.export.load(path)
            module = program.module()
    except Exception as error:  # a damaged archive may raise almost anything
        raise ModelError(f"{path}: expected a program written by torch.export.save, got {error}") from error
    inputs = [node for node in program.graph.nodes if node.name in program.graph_signature.user_inputs]
    taken = [tuple(node.meta["val"].shape) for node in inputs if "val" in node.meta]
    if len(taken) != 1 or taken[0][1:] != shape:
        got = f"inputs {taken[0]}" if len(taken) == 1 else f"{len(taken)} inputs"
        raise ModelError(f"{path}: expected a program with one input (B, {', '.join(map(str, shape))}), got {got}")
    if isinstance(taken[0][0], int):
        raise ModelError(
            f"{path}: expected a program that takes any number of inputs, got one for {taken[0][0]}: export it with "
            'dynamic_shapes=({0: torch.export.Dim("batch")},)'
        )
    return _plain(module, path)


def _plain(module: nn.Module, path: Path) -> nn.Module:
    """Rebuild a graph without the input checks and the calling convention of torch.export, which cannot be copied."""
    assert isinstance(module, fx.GraphModule)
    graph = module.graph
    for node in list(graph.nodes):
        if node.op == "call_module" and node.target == "_guards_fn":
            graph.erase_node(node)
        elif node.op == "output":
            (results,) = node.args
            if len(results) != 1:
                raise ModelError(f"{path}: expected a program with one output, got {len(results)}")
            node.args = (results[0],)
    graph.set_codegen(fx.graph.CodeGen())
    return fx.GraphModule(module, graph)
