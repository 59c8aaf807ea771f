"""The model card: what is claimed of a run's weights, on which data, and whether it is true."""

import hashlib
from dataclasses import asdict
from typing import Any

import torch

from cheaplip.data import Data
from cheaplip.lipschitz.bracket import Bracket
from cheaplip.runs.folder import RunFolder, versions
from cheaplip.training.config import TrainConfig
from cheaplip.training.options import INDIFFERENT
from cheaplip.training.tasks import TASKS, Task, task_of

__all__ = ["data_digest", "described", "markdown", "task_of_card", "weights_digest", "write_card"]

_UNITS = {
    "none": "",
    "standard": "Each feature is divided by its standard deviation on the training part, so distances count these.\n",
}


def write_card(folder: RunFolder, config: TrainConfig, data: Data, metrics: dict[str, Any], b: Bracket) -> None:
    """Write ``card.json`` and ``card.md`` next to the weights.

    Args:
        folder: of the run.
        config: of the run.
        data: that it was trained and tested on.
        metrics: of the run, certified.
        b: what the certificate rests on.
    """
    about = described(config, data)
    card = {
        "model": {**about["model"], "sha256": weights_digest(folder)},
        "data": {**about["data"], "sha256": data_digest(data)},
        "bracket": {
            "lower": b.lower,
            "upper": b.upper,
            "gap": b.gap,
            "method": b.method,
            "norm": int(b.norm),
            "domain": repr(b.domain),
        },
        task_of(data).figure: {
            "clean": metrics[task_of(data).figure]["test"],
            "attacked": metrics.get("robust") or {},
            "attacked_inputs": metrics.get("robust_samples") or {},
            "certified": metrics["certified"],
        },
        "training": {
            **{name: value for name, value in asdict(config).items() if name not in INDIFFERENT},
            "epochs": metrics["epochs"],
        },
        "versions": versions(),
    }
    folder.write_json("card.json", card)
    folder.write_text("card.md", markdown(card))


def described(config: TrainConfig, data: Data) -> dict[str, dict[str, Any]]:
    """What a card says of a run's model and of its data, but for their hashes."""
    return {
        "model": {
            "architecture": config.model,
            "activation": config.resolved_activation,
            "input": list(data.shape),
            "outputs": data.outputs,
            "weights": "model.safetensors",
        },
        "data": {
            "name": data.name,
            "test_inputs": len(data.test.x),
            "scaling": "none" if data.scaling is None else "standard",
        },
    }


def task_of_card(card: dict[str, Any]) -> Task:
    """The task that a card is about."""
    return TASKS[card["training"].get("task", "classification")]


def weights_digest(folder: RunFolder) -> str:
    """SHA-256 of the weights' file.

    Raises:
        RunError: there is none.
    """
    return hashlib.sha256(folder.read_bytes("model.safetensors")).hexdigest()


def data_digest(data: Data) -> str:
    """SHA-256 of the test inputs and labels, with their shapes."""
    digest = hashlib.sha256()
    for tensor in (data.test.x, data.test.y):
        digest.update(f"{tuple(tensor.shape)} {tensor.dtype};".encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def markdown(card: dict[str, Any]) -> str:
    """The card, to be read."""
    model, data, b = card["model"], card["data"], card["bracket"]
    task, training = task_of_card(card), card["training"]
    figures = card[task.figure]
    inputs = " × ".join(map(str, model["input"]))
    rows = [("clean", figures["clean"], data["test_inputs"])]
    counts = figures["attacked_inputs"]
    rows += [(f"attacked: {key}", value, counts.get(key, "")) for key, value in figures["attacked"].items()]
    rows += [(f"certified, ε = {key}", value, data["test_inputs"]) for key, value in figures["certified"].items()]
    table = "\n".join(f"| {name} | {task.write(value)} | {count} |" for name, value, count in rows)
    options = ", ".join(f"{name} {value}" for name, value in training.items() if value is not None)
    units = _UNITS[data.get("scaling", "none")]
    packages = ", ".join(f"{name} {value}" for name, value in card["versions"].items())
    return f"""# Model card

`{model["architecture"]}`, {model["activation"]}: from inputs of shape {inputs} to {model["outputs"]} {task.meaning}.

## What is proved

{b["lower"]:.6g} ≤ Lip(f) ≤ {b["upper"]:.6g} in the Euclidean norm, over {b["domain"]}; method `{b["method"]}`.
{units}The function meant is the one that the stored weights define in real arithmetic. {task.claim}

| {task.figure} on {data["name"]} | | inputs |
|---|---|---|
{table}

Attacked figures are what some attacks left; they prove nothing. Certified ones are proved.

## How it was trained

{options}. With {packages}.

## What this card is about

- weights `{model["weights"]}`, SHA-256 `{model["sha256"]}`
- test data {data["name"]}, SHA-256 `{data["sha256"]}`

`cheaplip verify` on this folder proves the bound and the certified figures again, from the weights.
"""
