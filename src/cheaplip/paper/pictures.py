"""Pictures of results, which matplotlib draws from the rows alone."""

import math
from collections.abc import Sequence
from typing import Any

from cheaplip.paper.experiment import Row

__all__ = ["draw_curves", "draw_pair"]


def draw_curves(rows: Sequence[Row], file: str) -> None:
    """Draw a panel for each row: true function, samples, network, and the line through its steepest pair."""
    figure, panels = _panels(len(rows), min(4, len(rows)), (3.4, 2.6))
    for panel, row in zip(panels, rows, strict=True):
        curve, pair = row["curve"], row["steepest"]
        panel.plot(curve["x"], curve["truth"], color="0.6", linestyle="--", label="truth")
        panel.plot(row["samples"]["x"], row["samples"]["y"], ".", color="#E69F00", markersize=3, label="samples")
        panel.plot(curve["x"], curve["y"], color="#0072B2", label="network")
        slope = (pair["y"][1] - pair["y"][0]) / (pair["x"][1] - pair["x"][0])
        reach = (-0.5, 0.5)
        height = (pair["y"][0] + pair["y"][1]) / 2
        panel.plot(
            [pair["at"] + d for d in reach], [height + slope * d for d in reach], color="#D55E00", label="steepest pair"
        )
        panel.set_title(f"{row['name']}: Lip {row['lipschitz']['lower']:.3g}", fontsize=9)
        panel.set_xlabel("x")
        panel.set_ylabel("f(x)")
    panels[0].legend(fontsize=7)
    figure.savefig(file)


def draw_pair(rows: Sequence[Row], file: str) -> None:
    """Draw the two images of each row before and after the ascent, with class and confidence."""
    figure, panels = _panels(4 * len(rows), 4, (2.2, 2.6))
    for row, four in zip(rows, (panels[i : i + 4] for i in range(0, len(panels), 4)), strict=True):
        shown = [(when, image) for when in ("before", "after") for image in row[when]]
        for panel, (when, image) in zip(four, shown, strict=True):
            panel.imshow(image["pixels"], cmap="gray", vmin=0, vmax=1)
            panel.set_title(
                f"{when}: {image['class']}\n{row['confidence']} {100 * image['confidence']:.0f} %", fontsize=8
            )
            panel.set_axis_off()
    figure.savefig(file)


def _panels(count: int, columns: int, size: tuple[float, float]) -> tuple[Any, list[Any]]:
    try:
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("pictures need matplotlib: pip install 'cheaplip[plots]'") from error
    lines = math.ceil(count / columns)
    figure = Figure(figsize=(columns * size[0], lines * size[1]), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.subplots(lines, columns, squeeze=False)
    return figure, [axis for line in axes for axis in line][:count]
