"""Print the rows of comparisons as one Markdown table, with mean ± standard deviation over seeds.

python benchmarks/table.py results/mnist/results.json
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tyro

from cheaplip.trained.compare import summarise

TITLES = {"lower": "largest quotient found", "upper": "upper bound", "lam": "λ or μ", "tracking": "tracking"}
HIDDEN = ("seconds_per_epoch",)  # these runs shared the machine; seconds.py measures time


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """Make the table, with a line for each configuration and a column for each figure that any of them has."""
    summaries = summarise(rows)
    keys = list(dict.fromkeys(key for summary in summaries for key in summary.columns if key not in HIDDEN))
    keys.sort(key=lambda key: list(TITLES).index(key) if key in TITLES else -1)
    head = ["", *(TITLES.get(key, f"{key} %") for key in keys)]
    body = [[summary.name, *(cell(key, summary.columns.get(key)) for key in keys)] for summary in summaries]
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *body])


def cell(key: str, column: tuple[float, float | None] | None) -> str:
    """Format a cell: mean ± standard deviation, accuracies in per cent."""
    if column is None:
        return "–"
    scale, form = (1, ".3g") if key in TITLES else (100, ".1f")
    mean, spread = column
    return f"{scale * mean:{form}}" + ("" if spread is None else f" ± {scale * spread:{form}}")


def main(results: tyro.conf.Positional[tuple[Path, ...]]) -> None:
    """Print one table of the rows of all files."""
    print(markdown([row for path in results for row in json.loads(path.read_text())]))


if __name__ == "__main__":
    tyro.cli(main)
