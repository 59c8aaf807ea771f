"""The model card: what is claimed of a run's weights, and for which data; ``verify.py`` checks it.

``verify`` compares ``card.md`` word for word with what :func:`markdown` makes of ``card.json``. Changing the text
makes ``verify`` reject cards that earlier versions wrote.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from cheaplip.data import Data
from cheaplip.data.recipe import part_digest
from cheaplip.lipschitz.bracket import Bracket
from cheaplip.runs.folder import RunFolder, versions
from cheaplip.runs.words import constant_in_words
from cheaplip.training.config import TrainConfig
from cheaplip.training.options import INDIFFERENT
from cheaplip.training.tasks import TASKS, Task, task_of

__all__ = ["content", "data_digest", "description", "markdown", "task_of_card", "weights_digest", "write_card"]

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
    card = content(folder, config, data, metrics, b)
    folder.write_json("card.json", card)
    folder.write_text("card.md", markdown(card))


def content(
    folder: RunFolder, config: TrainConfig, data: Data, metrics: dict[str, Any], b: Bracket
) -> dict[str, dict[str, Any]]:
    """Return what ``card.json`` says; arguments as in :func:`write_card`."""
    about = description(config, data)
    return {
        "model": {**about["model"], "sha256": weights_digest(folder)},
        "data": {**about["data"], "sha256": data_digest(data)},
        "bracket": {
            "lower": b.lower,
            "upper": b.upper,
            "gap": b.gap,
            "method": b.method,
            "norm": int(b.norm),
            "domain": repr(b.domain),
            **({"local": True} if metrics.get("local") else {}),
        },
        task_of(data).figure: {
            "clean": metrics[task_of(data).figure]["test"],
            "attacked": metrics.get("robust") or {},
            "attacked_inputs": metrics.get("robust_samples") or {},
            "certified": metrics["certified"],
        },
        **({"constant_answer": metrics["constant_answer"]} if metrics.get("constant_answer") else {}),
        "training": {
            **{name: value for name, value in asdict(config).items() if name not in INDIFFERENT},
            "epochs": metrics["epochs"],
        },
        "versions": versions(),
    }


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
            **({"categories": list(data.categorical)} if data.categorical else {}),
            **({} if (scaler := data.label_scaling) is None else {"label_deviations": scaler.deviation.tolist()}),
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
    return part_digest(data.test)


def markdown(card: dict[str, Any]) -> str:
    """Write the content of ``card.json`` as text for people."""
    model, data, b = card["model"], card["data"], card["bracket"]
    task, training = task_of_card(card), card["training"]
    figures = card[task.figure]
    inputs = " × ".join(map(str, model["input"]))
    deviations = data.get("label_deviations", [])
    meaning = "predictions, each in standard deviations of its label" if deviations else task.output_meaning
    outputs = f"{model['outputs']} {meaning}"
    rows = [("clean", figures["clean"], data["test_inputs"])]
    counts = figures["attacked_inputs"]
    rows += [(f"attacked: {key}", value, counts.get(key, "")) for key, value in figures["attacked"].items()]
    rows += [(f"certified, ε = {key}", value, data["test_inputs"]) for key, value in figures["certified"].items()]
    table = "\n".join(f"| {name} | {task.format_figure(value)} | {count} |" for name, value, count in rows)
    options = ", ".join(f"{name} {_one_line(value)}" for name, value in training.items() if value is not None)
    units = _UNITS[data["scaling"]] + _categories(data.get("categories", [])) + _labels(deviations)
    constant = f"{words}\n\n" if (words := constant_in_words(card)) else ""
    packages = ", ".join(f"{name} {value}" for name, value in card["versions"].items())
    return f"""# Model card

`{_one_line(model["architecture"])}`, {model["activation"]}: from inputs of shape {inputs} to {outputs}.

{constant}## What is proved

{b["lower"]:.6g} ≤ Lip(f) ≤ {b["upper"]:.6g} in the Euclidean norm, over {b["domain"]}; method `{b["method"]}`.
{units}The function meant is the one that the stored weights define in real arithmetic. {task.certificate_meaning}

| {task.figure} on {_one_line(data["name"])} | | inputs |
|---|---|---|
{table}

Attacked figures are what some attacks left; they prove nothing. Certified ones are proved.

## How it was trained

{options}. With {packages}.

## What this card is about

- weights `{model["weights"]}`, SHA-256 `{model["sha256"]}`
- test data {_one_line(data["name"])}, SHA-256 `{data["sha256"]}`

`cheaplip verify` on this folder proves the bound and the certified figures again, from the weights.
"""


def _categories(columns: Sequence[str]) -> str:
    """Say what a distance means for columns that hold categories."""
    if not columns:
        return ""
    return (
        f"Each category of {', '.join(columns)} is a feature, 0 or 1, so another category in one of these columns is a "
        "distance of √2 = 1.41; a certified radius below that says nothing about other categories.\n"
    )


def _labels(deviations: Sequence[float]) -> str:
    """Say what outputs and errors are measured in where labels have different units."""
    if not deviations:
        return ""
    listed = ", ".join(f"{value:.6g}" for value in deviations)
    return (
        f"The labels' standard deviations on the training part are {listed}. "
        "Outputs, errors and bounds count these: times its label's, they are in the units of that label.\n"
    )


def _one_line(value: object) -> str:
    """Write a value that may be any text, such as a file's name, so that it cannot look like a line of the card."""
    return " ".join(str(value).split()).replace("|", "\\|")
