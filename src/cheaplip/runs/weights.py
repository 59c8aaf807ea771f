"""Models from elsewhere: a state dict from a file, a program of torch.export. Pickled objects are refused."""

import warnings
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, fx, nn

from cheaplip.errors import ModelError

__all__ = ["load_program", "load_weights"]


def load_weights(model: nn.Module, path: Path) -> None:
    """Load a state dict into ``model``, every name and shape as the model has them.

    Args:
        model: takes them.
        path: a ``.safetensors`` file, or what ``torch.save(model.state_dict(), path)`` wrote.

    Raises:
        ModelError: no such file, not a state dict, or one of another model.
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
    r"""A program of torch.export as an ordinary module: it copies and changes its type as others do.

    ``torch.export.load`` may unpickle what the file holds: load only what you trust.

    Args:
        path: a ``.pt2`` file.
        shape: that one input should have.

    Raises:
        ModelError: no such file, not a program, or one that does not take one tensor (B, \*shape) with B free, or
            return one tensor.
    """
    if not path.is_file():
        raise ModelError(f"no such file {path}; check the path, which starts at {Path.cwd()}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own, about its internals
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
    """The same graph without the checks and the calling convention of torch.export, which cannot be copied."""
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
