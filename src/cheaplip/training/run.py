"""``train``: one training run, from its options and its data to its folder and its metrics."""

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
from cheaplip.training.config import TrainConfig, renamed
from cheaplip.training.loop import Training
from cheaplip.training.options import INDIFFERENT
from cheaplip.training.processes import any_process, broadcast, leads
from cheaplip.training.results import write_results

__all__ = ["Progress", "train"]

Progress = Callable[[int, int, dict[str, float]], None]
"""A callback: (steps done, steps in all, figures of the last epoch)."""


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
    """Train a model and write its run's folder.

    In several processes each calls this function; the first one writes.

    Args:
        config: the options of the run.
        data: the data, as :func:`cheaplip.data.load` returns it.
        folder: the folder to write.
        resume: continue from the checkpoint in the folder if there is one. A finished run is not trained again.
        overwrite: replace a run that is already in the folder.
        progress: called every few steps.
        stop: called after each step; when it returns True the state is saved and :class:`Interrupted` is raised.
        on_epoch: called with the model and the figures of each epoch; the figures it returns are added to them in
            ``history.jsonl``. If a resumed run repeats an epoch, it is called for that epoch again.
        trackers: receive the figures of each epoch and the results; not called for a run that is already finished.

    Returns:
        The content of ``metrics.json``; in other processes than the first an empty dictionary.

    Raises:
        RunError: the folder is not empty, in use, cannot be written to, or holds a run with other options.
        DivergedError: the loss became NaN or infinite; the last checkpoint is kept.
        Interrupted: ``stop`` returned True.
    """
    started_before = leads() and resume and folder.exists()
    if started_before:
        _check_same(config, folder)
    if any_process(started_before and (folder.path / "metrics.json").is_file()):
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
        # Several processes must stop at the same step, and asking all of them takes time.
        if ranks() > 1 and training.step % 10 != 0:
            return False
        return any_process(stop() or time_is_up())

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
        interrupted, time_passed = any_process(stop()), any_process(time_is_up())
        last = training.epoch == config.resolved_epochs
        every = config.checkpoint_epochs
        if interrupted or time_passed or last or (ended and every is not None and training.epoch % every == 0):
            training.check_weights()
            state = training.state()
            if leads():
                folder.save_checkpoint(state)
            saved = time.monotonic()
        if interrupted and not last:
            raise Interrupted
    report()
    training.hold_all_pairs()
    return _finish(training, folder, trackers) if leads() else {}


def _finish(training: Training, folder: RunFolder, trackers: Sequence[Tracker]) -> dict[str, Any]:
    config, data, model = training.config, training.data, training.model
    training.task.check_model(model, data.test.x, data.outputs)
    lower, witness = training.search_largest_quotient(size=config.search)
    penalty = training.method.penalty
    lam = None if penalty is None else float(penalty.get_buffer("lam"))
    metrics = write_results(
        folder, config, data, model, lower=lower, witness=witness, lam=lam, history=training.history
    )
    for tracker in trackers:
        tracker.finish(metrics, pictures(*witness, data.domain))
    return metrics


def _check_same(config: TrainConfig, folder: RunFolder) -> None:
    saved = renamed(folder.read_json("config.json"))
    wanted = asdict(config)
    changed = [name for name in wanted if name in saved and saved[name] != wanted[name] and name not in INDIFFERENT]
    if changed:
        differences = ", ".join(f"{name} was {saved[name]!r}, now {wanted[name]!r}" for name in changed)
        raise RunError(
            f"cannot resume {folder.path} with other options ({differences}): use the old ones, or another --out"
        )
