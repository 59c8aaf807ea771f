"""Options given as text: functions that parse and check them, and one that writes a command out again."""

import os
import shlex
from dataclasses import MISSING, Field, fields
from typing import Any

import torch

from cheaplip.data import Data
from cheaplip.errors import ConfigError
from cheaplip.reference import read_fraction
from cheaplip.runs.folder import RunFolder
from cheaplip.trained import loading
from cheaplip.training.config import TrainConfig
from cheaplip.training.methods import METHODS, method_named
from cheaplip.training.options import check_choice, check_whole

__all__ = [
    "ALL_METHODS",
    "check_jobs",
    "check_samples",
    "check_seconds",
    "command_line",
    "load_data",
    "parse_fractions",
    "parse_methods",
    "parse_names",
    "parse_norm",
    "parse_numbers",
    "parse_radii",
    "parse_seeds",
    "parse_shard",
    "usual_jobs",
]


ALL_METHODS = "all"
"""What stands for all methods where a command takes several."""

_MOST_JOBS = 8


def load_data(config: TrainConfig, folder: RunFolder | None = None) -> Data:
    """Load the data that a configuration names, after a check that its device can be used.

    Args:
        config: the configuration.
        folder: the folder of a run that is continued: its data are read as they were. None: they are read anew.
    """
    config.check_device()
    return loading.load_data(config, folder)


def parse_names(option: str, text: str, choices: tuple[str, ...]) -> list[str]:
    """Parse names separated by commas, each one of ``choices``; a repeated name counts once."""
    names = [name.strip() for name in text.split(",")]
    for name in names:
        check_choice(option, name, choices)
    return list(dict.fromkeys(names))


def parse_methods(text: str) -> list[str]:
    """Parse the names of training methods, separated by commas; ``all`` stands for every registered one."""
    if text.strip() == ALL_METHODS:
        return list(METHODS)
    names = list(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in names:
        method_named(name, "methods")
    return names


def parse_numbers(option: str, text: str) -> list[float]:
    """Parse numbers or fractions separated by commas, such as ``0.5,8/255``; a repeated number counts once."""
    try:
        return list(dict.fromkeys(_number(part) for part in text.split(",")))
    except (ValueError, ZeroDivisionError):
        raise ConfigError(f"{option}: expected numbers separated by commas, got {text!r}") from None


def _number(text: str) -> float:
    numerator, slash, denominator = text.partition("/")
    return float(numerator) / float(denominator) if slash else float(text)


def parse_norm(text: str) -> float:
    """Parse the order of a norm: 1, 2 or inf."""
    try:
        return {"1": 1.0, "2": 2.0, "inf": float("inf")}[text.strip()]
    except KeyError:
        raise ConfigError(f"norm: expected 1, 2 or inf, got {text!r}") from None


def parse_seeds(text: str) -> list[int]:
    """Parse seeds separated by commas."""
    try:
        seeds = list(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        raise ConfigError(f"seeds: expected whole numbers separated by commas, got {text!r}") from None
    for seed in seeds:
        check_whole("seeds", seed, 0)
    return seeds


def parse_radii(option: str, text: str) -> list[float]:
    """Parse finite numbers of at least 0, separated by commas."""
    radii = parse_numbers(option, text)
    if not all(0 <= radius < float("inf") for radius in radii):
        raise ConfigError(f"{option}: expected finite numbers of at least 0, got {text!r}")
    return radii


def parse_fractions(option: str, text: str) -> list[float]:
    """Parse fractions or percentages separated by commas, such as ``0,0.5%,1%``; a repeated one counts once."""
    return list(dict.fromkeys(read_fraction(option, part) for part in text.split(",")))


def parse_shard(text: str) -> tuple[int, int]:
    """Parse a part of the work, such as 1/4, the first of four."""
    index, slash, count = text.partition("/")
    if not (slash and index.strip().isdecimal() and count.strip().isdecimal() and 1 <= int(index) <= int(count)):
        raise ConfigError(f"shard: expected i/n with i from 1 to n, such as 1/4, got {text!r}")
    return int(index), int(count)


def check_jobs(jobs: int | None) -> None:
    """Raise a :class:`ConfigError` unless a number of processes is unset or at least 1."""
    if jobs is not None and jobs < 1:
        raise ConfigError(f"jobs: expected 1 or more, got {jobs}")


def usual_jobs() -> int:
    """Return the default number of processes: one for each core, at most 8; 1 with a GPU."""
    return 1 if torch.cuda.is_available() else min(_MOST_JOBS, os.cpu_count() or 1)


def check_samples(samples: int | None) -> None:
    """Raise a :class:`ConfigError` unless a number of test inputs is unset or at least 1."""
    if samples is not None and samples < 1:
        raise ConfigError(f"samples: expected 1 or more, got {samples}")


def check_seconds(seconds: float) -> None:
    """Raise a :class:`ConfigError` unless a time is finite and at least 0."""
    if not 0 <= seconds < float("inf"):
        raise ConfigError(f"seconds: expected a finite number of at least 0, got {seconds}")


# Options that change how results are made or shown, but not the results.
_NOT_REPEATED = ("resume", "overwrite", "json", "measure", "tensorboard", "mlflow")


def command_line(name: str, command: Any) -> str:
    """Write the command that makes the same results again: its data, and every option that differs from its default.

    Args:
        name: the name of the command, such as ``train``.
        command: the command's object, with the options of training in its field ``config``.
    """
    defaults = TrainConfig(data=command.config.data)
    options = [*_changed(command.config, defaults), *_changed(command)]
    return shlex.join(["cheaplip", name, command.config.data, *options])


def _changed(options: Any, defaults: Any = None) -> list[str]:
    """Write the options that differ from those of ``defaults``; without it, from the defaults of their fields."""
    named = [field for field in fields(options) if field.name not in ("config", "data", *_NOT_REPEATED)]
    changed = [
        field
        for field in named
        if getattr(options, field.name) != (_default(field) if defaults is None else getattr(defaults, field.name))
    ]
    return [
        part for field in changed for part in (f"--{field.name.replace('_', '-')}", str(getattr(options, field.name)))
    ]


def _default(field: Field[Any]) -> object:
    return field.default if field.default is not MISSING else None
