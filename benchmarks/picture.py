"""Draw docs/mnist.svg: accuracy under attack for each method, and λ, accuracy and constant while CLIP trains.

python benchmarks/picture.py docs/mnist.svg results/mnist results/mnist-rivals     (needs 'cheaplip[plots]')
"""

import json
from pathlib import Path

import matplotlib.pyplot as plt
import tyro

from cheaplip.runs.folder import RunFolder
from cheaplip.trained.compare import summarise

COLOURS = {"plain": "#9a9a9a", "weight": "#d9a441", "clip": "#1f6fb4", "adversarial": "#b4472e"}


def main(out: tyro.conf.Positional[Path], results: tyro.conf.Positional[tuple[Path, ...]]) -> None:
    """Draw the picture from folders that ``cheaplip compare`` wrote; the first one must hold runs of clip."""
    summaries = summarise([row for folder in results for row in json.loads((folder / "results.json").read_text())])
    run = RunFolder(min(results[0].glob("clip-seed*")))
    history = run.history()
    target = run.read_json("config.json")["target"]
    plt.rcParams["svg.hashsalt"] = "cheaplip"
    figure, (bars, curves) = plt.subplots(1, 2, figsize=(11, 3.6), layout="constrained")
    shown = ["test", *(key for key in summaries[0].columns if "@" in key)]
    for i, summary in enumerate(summaries):
        means, spreads = zip(*(summary.columns[key] for key in shown), strict=True)
        places = [k + (i - 1.5) * 0.2 for k in range(len(shown))]
        errors = [0 if spread is None else 100 * spread for spread in spreads]
        bars.bar(places, [100 * m for m in means], 0.2, yerr=errors, color=COLOURS[summary.name], label=summary.name)
    bars.set_xticks(range(len(shown)), [key.replace("@", "\n") for key in shown])
    bars.set_ylabel("accuracy in %")
    bars.legend(frameon=False, ncols=4, loc="upper center", bbox_to_anchor=(0.5, 1.14))
    epochs = [line["epoch"] for line in history]
    curves.plot(epochs, [line["lower"] for line in history], color="#1f6fb4", label="largest quotient found")
    curves.plot(
        epochs, [line["largest"] for line in history], "--", color="#1f6fb4", label="largest quotient of the pairs"
    )
    curves.plot(epochs, [line["lam"] for line in history], color="#666666", label="λ")
    curves.set_xlabel("epoch")
    curves.set_ylim(bottom=0)
    accuracies = curves.twinx()
    accuracies.plot(
        epochs, [100 * line["train_accuracy"] for line in history], color="#3a8f4d", label="training accuracy"
    )
    accuracies.axhline(100 * target, color="#3a8f4d", linewidth=0.8, linestyle=":")
    accuracies.set_ylim(90, 100)
    accuracies.set_ylabel("training accuracy in %, target dotted")
    lines = curves.get_lines() + accuracies.get_lines()[:1]
    names = [str(line.get_label()) for line in lines]
    curves.legend(lines, names, frameon=False, ncols=2, loc="upper center", bbox_to_anchor=(0.5, 1.22), fontsize=9)
    for axis in (bars, curves, accuracies):
        axis.spines["top"].set_visible(False)
    figure.savefig(out, metadata={"Date": None})


if __name__ == "__main__":
    tyro.cli(main)
