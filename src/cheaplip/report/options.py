"""How the runs of a page were made: their options, and the versions of the packages."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cheaplip.report.study import Study, section
from cheaplip.report.table import Group

__all__ = ["Options", "options", "versions"]

_UNSET = "unset"
_SHOWN_ELSEWHERE = ("versions", "seed")


@dataclass(frozen=True)
class Options:
    """The options of several configurations.

    Attributes:
        names: of the configurations.
        different: options that differ, with the value of each configuration.
        shared: options that all configurations share and that have a value, with their value.
    """

    names: tuple[str, ...]
    different: tuple[tuple[str, tuple[str, ...]], ...]
    shared: tuple[tuple[str, str], ...]


def options(rows: Sequence[Group]) -> Options:
    """Compare the ``config.json`` of each configuration's first run; those without one are left out."""
    configs = [(group.name, group.runs[0].config) for group in rows if group.runs[0].config]
    keys = dict.fromkeys(key for _, config in configs for key in config if key not in _SHOWN_ELSEWHERE)
    values = {key: tuple(_written(config.get(key)) for _, config in configs) for key in keys}
    return Options(
        tuple(name for name, _ in configs),
        tuple((key, several) for key, several in values.items() if len(set(several)) > 1),
        tuple((key, several[0]) for key, several in values.items() if len(set(several)) == 1 and several[0] != _UNSET),
    )


def versions(study: Study) -> str:
    """List the versions of the packages that made the runs, each set of versions once; ``""`` where unknown."""
    made = [{} if study.experiment is None else study.experiment.versions]
    made += [section(run.config, "versions") for run in study.runs]
    sets = [", ".join(f"{name} {version}" for name, version in each.items()) for each in made]
    return "; ".join(dict.fromkeys(text for text in sets if text))


def _written(value: Any) -> str:
    return _UNSET if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
