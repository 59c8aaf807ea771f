"""Options given as text: lists of names and numbers, checked."""

import shlex
from dataclasses import MISSING, Field, fields
from typing import Any

from cheaplip.data import Data
from cheaplip.errors import ConfigError
from cheaplip.trained.subject import data_of
from cheaplip.training.config import TrainConfig
from cheaplip.training.methods import method_named
from cheaplip.training.options import check_choice

__all__ = [
    "check_samples",
    "check_seconds",
    "command_line",
    "load_data",
    "parse_methods",
    "parse_names",
    "parse_norm",
    "parse_numbers",
    "parse_radii",
    "parse_seeds",
]


def load_data(config: TrainConfig) -> Data:
    config.check_device()
    return data_of(config)


def parse_names(option: str, text: str, choices: tuple[str, ...]) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    for name in names:
        check_choice(option, name, choices)
    return list(dict.fromkeys(names))


def parse_methods(text: str) -> list[str]:
    names = list(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in names:
        method_named(name, "methods")
    return names


def parse_numbers(option: str, text: str) -> list[float]:
    try:
        return list(dict.fromkeys(float(part) for part in text.split(",")))
    except ValueError:
        raise ConfigError(f"{option}: expected numbers separated by commas, got {text!r}") from None


def parse_norm(text: str) -> float:
    try:
        return {"1": 1.0, "2": 2.0, "inf": float("inf")}[text.strip()]
    except KeyError:
        raise ConfigError(f"norm: expected 1, 2 or inf, got {text!r}") from None


def parse_seeds(text: str) -> list[int]:
    try:
        return list(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        raise ConfigError(f"seeds: expected whole numbers separated by commas, got {text!r}") from None


def parse_radii(option: str, text: str) -> list[float]:
    radii = parse_numbers(option, text)
    if not all(0 <= radius < float("inf") for radius in radii):
        raise ConfigError(f"{option}: expected finite numbers of at least 0, got {text!r}")
    return radii


def check_samples(samples: int | None) -> None:
    if samples is not None and samples < 1:
        raise ConfigError(f"samples: expected 1 or more, got {samples}")


def check_seconds(seconds: float) -> None:
    if not 0 <= seconds < float("inf"):
        raise ConfigError(f"seconds: expected a finite number of at least 0, got {seconds}")


# Options that change how results are made or shown, and not what they are.
_HOW = ("resume", "overwrite", "json", "tensorboard", "mlflow")


def command_line(name: str, command: Any) -> str:
    """The command that makes a command object's results again: its data, and every option that is not the default.

    Args:
        name: of the command, such as ``train``.
        command: its dataclass, with the options of training in ``config``.
    """
    plain = TrainConfig(data=command.config.data)
    options = [*_set(command.config, plain), *_set(command)]
    return shlex.join(["cheaplip", name, command.config.data, *options])


def _set(options: Any, plain: Any = None) -> list[str]:
    """Options that differ from those of ``plain``, or else from their defaults."""
    named = [field for field in fields(options) if field.name not in ("config", "data", *_HOW)]
    changed = [
        field
        for field in named
        if getattr(options, field.name) != (_default(field) if plain is None else getattr(plain, field.name))
    ]
    return [
        part for field in changed for part in (f"--{field.name.replace('_', '-')}", str(getattr(options, field.name)))
    ]


def _default(field: Field[Any]) -> object:
    return field.default if field.default is not MISSING else None
