"""Which methods fit a model and its data."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from cheaplip.data import Data
from cheaplip.errors import ConfigError, UnsupportedLayerError
from cheaplip.lipschitz import read
from cheaplip.training.config import TrainConfig
from cheaplip.training.loop import Training
from cheaplip.training.methods import method_named

__all__ = ["Field", "field_of", "one_line"]


@dataclass(frozen=True)
class Field:
    """The methods that can be compared on a model and its data.

    Attributes:
        configs: the options of each method that fits.
        left_out: for each other method the reason, in one line.
        unproved: why nothing can be proved about the model, in one line; empty where a certificate can be tried.
    """

    configs: Mapping[str, TrainConfig]
    left_out: Mapping[str, str]
    unproved: str = ""


def field_of(config: TrainConfig, methods: Sequence[str], data: Data) -> Field:
    """Find out which methods fit a model and its data, by taking a training step with each.

    A model whose layers mix the inputs of a batch, such as batch norm, is trained with a separate pass for pairs.

    Args:
        config: the options that all methods share.
        methods: their names.
        data: the data.

    Raises:
        ConfigError: no method fits.
    """
    configs: dict[str, TrainConfig] = {}
    left_out: dict[str, str] = {}
    for name in methods:
        method_named(name)
        try:
            configs[name] = _prepared(config, name, data)
        except (ValueError, TypeError) as error:
            left_out[name] = one_line(error)
    if not configs:
        raise ConfigError(f"methods: expected one that fits, got none: {'; '.join(left_out.values())}")
    try:
        read(next(iter(configs.values())).build_model(data), data.shape)
    except UnsupportedLayerError as error:
        return Field(configs, left_out, one_line(error))
    return Field(configs, left_out)


def _prepared(config: TrainConfig, method: str, data: Data) -> TrainConfig:
    """Return the options with which a method can train, after a trial."""
    joint = replace(config, method=method)
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is to be said is said when it trains
        try:
            _take_a_step(joint, data)
        except ConfigError:
            if joint.form == "separate":
                raise
        else:
            return joint
        separate = replace(joint, form="separate")
        try:
            _take_a_step(separate, data)
        except ConfigError:
            _take_a_step(joint, data)  # raises the first error: the form was not the cause
        return separate


def _take_a_step(config: TrainConfig, data: Data) -> None:
    """Take the first step of a training that is then forgotten: some problems show only there."""
    Training(config, data).run_epoch(lambda: True)


def one_line(error: Exception) -> str:
    """Return the message of an error without line breaks."""
    return " ".join(str(error).split())
