"""The model card: what is claimed of a run's weights, and for which data; ``verify.py`` checks it.

``verify`` compares ``card.md`` word for word with what :func:`markdown` makes of ``card.json``. Changing the text
makes ``verify`` reject cards that earlier versions wrote.
"""

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

__all__ = ["data_digest", "description", "markdown", "task_of_card", "weights_digest", "write_card"]

_UNITS = {
    "none": "",
    "standard": "Each feature is divided by its standard deviation on the training part, so distances count these.\n",
}


def write_card(folder: RunFolder, config: TrainConfig, data: Data, metrics: dict[str, Any], b: Bracket) -> None:
    """Write ``card.json`` and ``card.md`` next to the weights.

    Args:
        folder, config, data: the folder, the options and the data of the run.
        metrics: its metrics, with the certified figures.
        b: the bracket that these rest on.
    """
    about = description(config, data)
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


def description(config: TrainConfig, data: Data) -> dict[str, dict[str, Any]]:
    """Return what a card says about a run's model and its data, without their hashes."""
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
            "scaling": data.scaling,
        },
    }


def task_of_card(card: dict[str, Any]) -> Task:
    """Return the task that the model of a card was trained for."""
    return TASKS[card["training"]["task"]]


def weights_digest(folder: RunFolder) -> str:
    """Return the SHA-256 of the file of a run's weights.

    Raises:
        RunError: there is no such file.
    """
    return hashlib.sha256(folder.read_bytes("model.safetensors")).hexdigest()


def data_digest(data: Data) -> str:
    """Return the SHA-256 of the test inputs and labels, with their shapes."""
    digest = hashlib.sha256()
    for tensor in (data.test.x, data.test.y):
        digest.update(f"{tuple(tensor.shape)} {tensor.dtype};".encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def markdown(card: dict[str, Any]) -> str:
    """Write the content of ``card.json`` as text for people."""
    model, data, b = card["model"], card["data"], card["bracket"]
    task, training = task_of_card(card), card["training"]
    figures = card[task.figure]
    inputs = " × ".join(map(str, model["input"]))
    outputs = f"{model['outputs']} {task.output_meaning}"
    rows = [("clean", figures["clean"], data["test_inputs"])]
    counts = figures["attacked_inputs"]
    rows += [(f"attacked: {key}", value, counts.get(key, "")) for key, value in figures["attacked"].items()]
    rows += [(f"certified, ε = {key}", value, data["test_inputs"]) for key, value in figures["certified"].items()]
    table = "\n".join(f"| {name} | {task.format_figure(value)} | {count} |" for name, value, count in rows)
    options = ", ".join(f"{name} {value}" for name, value in training.items() if value is not None)
    units = _UNITS[data["scaling"]]
    packages = ", ".join(f"{name} {value}" for name, value in card["versions"].items())
    return f"""# Model card

`{model["architecture"]}`, {model["activation"]}: from inputs of shape {inputs} to {outputs}.

## What is proved

{b["lower"]:.6g} ≤ Lip(f) ≤ {b["upper"]:.6g} in the Euclidean norm, over {b["domain"]}; method `{b["method"]}`.
{units}The function meant is the one that the stored weights define in real arithmetic. {task.certificate_meaning}

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
