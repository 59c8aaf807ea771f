"""A training run: configuration and data in; a run's folder, history and metrics out."""

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from typing import Any

import torch
from torch import nn

from cheaplip.data import Data
from cheaplip.distributed import ranks
from cheaplip.errors import Interrupted, RunError
from cheaplip.runs.checkpoints import unpack
from cheaplip.runs.folder import RunFolder, versions
from cheaplip.tracking import Tracker, pictures, tracked
from cheaplip.training.config import TrainConfig
from cheaplip.training.loop import Training
from cheaplip.training.options import INDIFFERENT
from cheaplip.training.outcome import finish
from cheaplip.training.processes import agreed, broadcast, leads

__all__ = ["Progress", "train"]

Progress = Callable[[int, int, dict[str, float]], None]
"""Called with (steps done, steps in all, the last epoch's numbers)."""


def train(
    config: TrainConfig,
    data: Data,
    folder: RunFolder,
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
    stop: Callable[[], bool] = lambda: False,
    on_epoch: Callable[[nn.Module, dict[str, Any]], dict[str, Any]] | None = None,
    trackers: Sequence[Tracker] = (),
) -> dict[str, Any]:
    """Train, leaving a run's folder; returns its metrics (in several processes: in the first one, which writes).

    Args:
        config: the run's options.
        data: what :func:`cheaplip.data.sources.load` returned.
        folder: where to write.
        resume: continue from the folder's checkpoint where there is one; a finished run only returns its metrics.
        overwrite: replace a run that is already there.
        progress: called now and then.
        stop: asked after each step; True saves the state and raises :class:`Interrupted`.
        on_epoch: called with the model and the epoch's numbers; what it returns joins them in ``history.jsonl``. An
            epoch that a resumed run repeats is shown to it again, as it was.
        trackers: told of the training by the process that writes; a finished run tells them nothing.

    Raises:
        RunError: the folder is in the way, in use, cannot be written to, or holds a run with other options.
        DivergedError: the loss became NaN or infinite; the last good checkpoint stays.
        Interrupted: ``stop`` said so.
    """
    started_before = leads() and resume and folder.exists()
    if started_before:
        _check_same(config, folder)
    if agreed(started_before and (folder.path / "metrics.json").is_file()):
        return folder.read_json("metrics.json") if leads() else {}
    config.check_device()
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        training = Training(config, data.to(config.resolved_device))
        with folder.locked() if leads() else nullcontext():
            checkpoint = None
            if started_before:
                checkpoint = folder.load_checkpoint()
            elif leads():
                folder.create(overwrite=overwrite)
                folder.write_json("config.json", {**asdict(config), "versions": versions()})
            checkpoint = broadcast(checkpoint)
            if checkpoint is not None:
                training.load_state(unpack(checkpoint))
            if leads():
                folder.write_history(training.history)
            trackers = trackers if leads() else ()
            with tracked(trackers, asdict(config), training.epoch + 1):
                return _train(training, folder, progress, stop, on_epoch, trackers)


def _train(
    training: Training,
    folder: RunFolder,
    progress: Progress | None,
    stop: Callable[[], bool],
    on_epoch: Callable[[nn.Module, dict[str, Any]], dict[str, Any]] | None,
    trackers: Sequence[Tracker],
) -> dict[str, Any]:
    config = training.config
    saved = time.monotonic()

    def report() -> None:
        if progress is not None:
            progress(training.step, training.total_steps, training.history[-1] if training.history else {})

    def time_is_up() -> bool:
        return config.checkpoint_seconds is not None and time.monotonic() - saved >= config.checkpoint_seconds

    def on_step() -> bool:
        if training.step % 10 == 0:
            report()
        if ranks() > 1 and training.step % 10 != 0:  # processes stop at the same step, and agreeing takes time
            return False
        return agreed(stop() or time_is_up())

    while training.epoch < config.resolved_epochs:
        ended = training.run_epoch(on_step)
        if ended:
            line = training.end_epoch()
            if on_epoch is not None:
                line |= on_epoch(training.model, line)
            if leads():
                folder.append_history(line)
                for tracker in trackers:
                    tracker.epoch(line)
        interrupted, late, last = agreed(stop()), agreed(time_is_up()), training.epoch == config.resolved_epochs
        every = config.checkpoint_epochs
        if interrupted or late or last or (ended and every is not None and training.epoch % every == 0):
            training.check_weights()
            state = training.state()
            if leads():
                folder.save_checkpoint(state)
            saved = time.monotonic()
        if interrupted and not last:
            raise Interrupted
    report()
    training.hold_all()
    return _finish(training, folder, trackers) if leads() else {}


def _finish(training: Training, folder: RunFolder, trackers: Sequence[Tracker]) -> dict[str, Any]:
    config, data, model = training.config, training.data, training.model
    training.task.check_model(model, data.test.x[:256], data.outputs)
    lower, witness = training.lower(size=config.search)
    penalty = training.method.penalty
    lam = None if penalty is None else float(penalty.get_buffer("lam"))
    metrics = finish(folder, config, data, model, lower=lower, witness=witness, lam=lam, history=training.history)
    for tracker in trackers:
        tracker.finish(metrics, pictures(*witness, data.domain))
    return metrics


def _check_same(config: TrainConfig, folder: RunFolder) -> None:
    saved = folder.read_json("config.json")
    wanted = asdict(config)
    changed = [name for name in wanted if name in saved and saved[name] != wanted[name] and name not in INDIFFERENT]
    if changed:
        differences = ", ".join(f"{name} was {saved[name]!r}, now {wanted[name]!r}" for name in changed)
        raise RunError(
            f"cannot resume {folder.path} with other options ({differences}): use the old ones, or another --out"
        )
