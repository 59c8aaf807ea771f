"""What a page lacks, and the command that adds it."""

from collections.abc import Sequence
from dataclasses import dataclass

from cheaplip.report.methods import OURS, method_title
from cheaplip.report.study import Study
from cheaplip.report.table import UPPER, Column

__all__ = ["Gap", "gaps", "problems"]


@dataclass(frozen=True)
class Gap:
    """Something that the page lacks, and the command that adds it; ``""`` where there is none."""

    text: str
    command: str = ""


def gaps(study: Study, shown: Sequence[Column]) -> list[Gap]:
    """List the figures that were not measured, each with the command that measures them, and what could not be read.

    Args:
        study: what the page shows.
        shown: the columns of its table.
    """
    run = next((run for run in study.runs if run.method == OURS), study.runs[0])
    folder = study.folder if study.alone else study.folder / run.folder
    here = (folder / "model.safetensors").is_file()
    name = str(folder) if here else "RUN"
    where = "" if here else " (the weights are not in this folder; RUN stands for the folder that holds them)"
    found = []
    if not any(column.attack for column in shown):
        found.append(Gap(f"No {study.words.noun} under noise or attack{where}", f"cheaplip evaluate {name}"))
    if all(column.certified_radius is None for column in shown):
        proved = "certified intervals" if study.words.errors else "certified radii"
        found.append(Gap(f"No {proved}{where}", f"cheaplip certify {name}"))
    if UPPER not in {column.path for column in shown}:
        found.append(Gap(f"No upper bound of the Lipschitz constant{where}", f"cheaplip bracket {name}"))
    found += [Gap(f"No {method_title(name)}: {reason}") for name, reason in (study.left_out or {}).items()]
    if study.words.errors:
        found.append(Gap("No accuracies, no confusion matrix and no AutoAttack: the labels are numbers, not classes."))
    return [*found, *(Gap(problem) for problem in problems(study))]


def problems(study: Study) -> list[str]:
    """List what could not be read, each problem once."""
    return list(dict.fromkeys((*study.problems, *(problem for run in study.runs for problem in run.problems))))
