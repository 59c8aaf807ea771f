"""Checks of an exported model in a run's folder: its card, and whether the file computes what the model does."""

import copy
import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from cheaplip.data import Data
from cheaplip.errors import RunError
from cheaplip.runs.folder import RunFolder
from cheaplip.trained.card_form import UntrueCardError, differ, shown
from cheaplip.trained.export import EXPORTED, agree, for_the_source, model_card, run_onnx
from cheaplip.training.config import TrainConfig

__all__ = ["check_exported"]


def check_exported(
    folder: RunFolder, config: TrainConfig, data: Data, model: nn.Module, metrics: Mapping[str, Any]
) -> list[str]:
    """Check the exported files of a run and their card, where there are any.

    An ONNX file is run on test inputs. A ``.pt2`` program is not loaded, since that could run code.

    Args:
        folder, config, data: of the run.
        model: its model.
        metrics: the content of its ``metrics.json``.

    Returns:
        What could not be checked, in words.

    Raises:
        UntrueCardError: the card of the export is not true, or a file is another one or computes something else.
        RunError: a file cannot be read.
    """
    names = [name for name in EXPORTED if (folder.path / name).is_file()]
    unchecked = _check_card(folder, config, data, metrics, names)
    for name in names:
        if name.endswith(".onnx"):
            unchecked += _check_onnx(folder, name, data, model)
        else:
            unchecked.append(f"{name}: what it computes")
    return unchecked


def _check_card(
    folder: RunFolder, config: TrainConfig, data: Data, metrics: Mapping[str, Any], names: list[str]
) -> list[str]:
    if not (folder.path / "model-card.json").is_file():
        return [f"{name}: it has no model-card.json" for name in names]
    card = folder.read_json("model-card.json")
    expected = model_card(config, data.to("cpu"))
    files = card.get("files", {})
    for name, value in card.items():
        if name not in {*expected, "metrics", "files"} or not isinstance(files, dict):
            raise UntrueCardError(
                f"no: model-card.json has the key {shown(name)}, which 'cheaplip export' does not write"
            )
        if name in expected and name != "versions" and differ(value, expected[name]):
            raise UntrueCardError(f"no: model-card.json says {name} {shown(value)}, here it is {shown(expected[name])}")
    if missing := set(expected) - set(card):
        raise UntrueCardError(
            f"no: model-card.json does not say {', '.join(sorted(missing))}, as 'cheaplip export' does"
        )
    for name, claimed in files.items():
        found = hashlib.sha256(folder.read_bytes(name)).hexdigest() if name in names else "no such file"
        if claimed != found:
            raise UntrueCardError(
                f"no: {shown(name)} is not the file that model-card.json is about (SHA-256 {found[:12]}…)"
            )
    unchecked = ["model-card.json: versions"]
    if differ(card.get("metrics"), metrics):
        unchecked.append("model-card.json: metrics, which differ from metrics.json")
    return [
        *unchecked,
        *(f"{name}: its SHA-256, which model-card.json does not state" for name in names if name not in files),
    ]


def _check_onnx(folder: RunFolder, name: str, data: Data, model: nn.Module) -> list[str]:
    whole, x = for_the_source(copy.deepcopy(model).cpu(), data.to("cpu"))
    try:
        outputs = run_onnx(folder.path / name)(x)
    except ImportError:
        return [f"{name}: what it computes, for onnxruntime is not installed"]
    except Exception as error:  # onnxruntime's errors have no common class
        raise RunError(f"cannot run {folder.path / name}: {str(error).splitlines()[0][:200]}") from error
    with torch.no_grad():
        if not agree(outputs, whole(x), data.to("cpu")):
            raise UntrueCardError(f"no: the outputs of {name} differ from the model's: export it again")
    return []
