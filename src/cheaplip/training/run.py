"""``train``: one training run, from its options and its data to its folder and its metrics."""

import json
import os
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import nn

from cheaplip.data import Data
from cheaplip.distributed import ranks
from cheaplip.errors import Interrupted, RunError
from cheaplip.runs.checkpoints import unpack
from cheaplip.runs.folder import RunFolder, versions
from cheaplip.runs.naming import REFERENCE
from cheaplip.tracking import Tracker, pictures, tracked
from cheaplip.training.aim import Aim, aim_below, check_reference, plain_config
from cheaplip.training.config import TrainConfig, renamed
from cheaplip.training.loop import Training
from cheaplip.training.options import INDIFFERENT
from cheaplip.training.processes import any_process, broadcast, leads
from cheaplip.training.progress import Progress, in_few_characters, notebook_bar
from cheaplip.training.results import write_results

__all__ = ["train"]


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
    on_start: Callable[[], None] = lambda: None,
    reference: RunFolder | None = None,
    reference_progress: Progress | None = None,
) -> dict[str, Any]:
    """Train a model and write its run's folder.

    Where the options say what to give up, a plain network is trained first, in the subfolder ``reference``. An
    interrupted run continues with whichever of the two was being trained. In several processes each calls this
    function; the first one writes.

    Args:
        config: the options of the run.
        data: the data, as :func:`cheaplip.data.load` returns it.
        folder: the folder to write.
        resume: continue from the checkpoint in the folder if there is one. A finished run is not trained again.
        overwrite: replace a run that is already in the folder.
        progress: called every few steps. None: in a notebook a bar is shown, elsewhere nothing.
        stop: called after each step; when it returns True the state is saved and :class:`Interrupted` is raised.
        on_epoch: called with the model and the figures of each epoch; the figures it returns are added to them in
            ``history.jsonl``. If a resumed run repeats an epoch, it is called for that epoch again.
        on_start: called once before the first step; not for a run that is already finished.
        trackers: receive the figures of each epoch and the results; not called for a run that is already finished.
        reference: the folder of a finished run that takes the place of the plain network. None: that of the option
            ``reference``, or else one is trained.
        reference_progress: as ``progress``, for the plain network.

    Returns:
        The content of ``metrics.json``; in other processes than the first an empty dictionary.

    Raises:
        RunError: the folder is not empty, in use, cannot be written to, or holds a run with other options.
        DivergedError: the loss became NaN or infinite; the last checkpoint is kept.
        Interrupted: ``stop`` returned True.
    """
    started_before = leads() and resume and folder.exists()
    if started_before:
        config = _as_before(config, data, folder)
    if any_process(started_before and (folder.path / "metrics.json").is_file()):
        return folder.read_json("metrics.json") if leads() else {}
    config.check_device()
    if leads() and not (started_before or overwrite):
        folder.check_vacant()  # before a lock is left in a folder that holds something else
    if leads() and config.gives_up and reference is None and not (folder.path / "aim.json").is_file():
        check_reference(config, data)
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
            if leads() and checkpoint is None and data.recipe is not None and not (folder.path / "data.json").is_file():
                folder.write_json("data.json", data.recipe.to_json())
            checkpoint = broadcast(checkpoint)
            state = None if checkpoint is None else unpack(checkpoint)
            trackers = trackers if leads() else ()
            # Before anything is trained or printed: a tracker that cannot start is an error.
            with tracked(trackers, asdict(config), 1 if state is None else state["epoch"] + 1):
                if leads():
                    on_start()
                if config.gives_up:
                    shown = reference_progress or _shown_in_a_notebook("plain, for the target")
                    training.steer_to(_found_aim(training, folder, reference, overwrite, shown, stop))
                if state is not None:
                    training.load_state(state)
                if leads():
                    folder.write_history(training.history)
                return _train(
                    training, folder, progress or _shown_in_a_notebook(config.method), stop, on_epoch, trackers
                )


def _shown_in_a_notebook(name: str) -> Progress | None:
    """Return a callback that shows a bar, or None where this is no notebook, or another process shows it."""
    show = notebook_bar(f"train {name}") if leads() else None
    return None if show is None else lambda done, total, line: show(done / total, in_few_characters(line))


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
    if training.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(training.device)

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
    memory = torch.cuda.max_memory_allocated(training.device) if training.device.type == "cuda" else None
    training.task.check_model(model, data.test.x, data.outputs)
    lower, witness = training.search_largest_quotient(size=config.search)
    penalty = training.method.penalty
    lam = None if penalty is None else float(penalty.get_buffer("lam"))
    metrics = write_results(
        folder,
        config,
        data,
        model,
        lower=lower,
        witness=witness,
        lam=lam,
        aim=training.aim,
        history=training.history,
        peak_memory=memory,
    )
    for tracker in trackers:
        tracker.finish(metrics, pictures(*witness, data.domain))
    return metrics


def _found_aim(
    training: Training,
    folder: RunFolder,
    reference: RunFolder | None,
    overwrite: bool,
    progress: Progress | None,
    stop: Callable[[], bool],
) -> Aim:
    """Find the aim of a run from its reference, which is trained first where there is none, and keep it."""
    config, data = training.config, training.data
    if reference is None and config.reference is not None:
        reference = RunFolder(config.reference)
    kept = (folder.path / "aim.json").is_file() if leads() else False
    if not any_process(kept) and reference is None:
        reference = RunFolder(folder.path / REFERENCE)
        resume = not overwrite
        train(plain_config(config), data, reference, resume=resume, overwrite=overwrite, progress=progress, stop=stop)
    content: bytes | None = None
    if leads():
        if not kept:
            assert reference is not None
            inside = reference.path == folder.path / REFERENCE
            name = REFERENCE if inside else os.path.relpath(reference.path, folder.path)
            folder.write_json("aim.json", asdict(aim_below(config, data, reference, name)))
        content = folder.read_bytes("aim.json")
    shared = broadcast(content)
    assert shared is not None
    return Aim(**json.loads(shared))


def _as_before(config: TrainConfig, data: Data, folder: RunFolder) -> TrainConfig:
    """Return the options of a run that continues, after a check that they are those it began with."""
    saved = renamed(folder.read_json("config.json"))
    if "give_up" not in saved and config.gives_up and saved.get("target") is not None:
        config = replace(config, target=saved["target"], target_on=saved.get("target_on"))  # the default of its time
    wanted = asdict(config)
    if "give_up" not in saved and config.target_on is None:
        wanted["target_on"] = config.resolved_target_on
    changed = [name for name in wanted if name in saved and saved[name] != wanted[name] and name not in INDIFFERENT]
    if data.recipe is not None and (folder.path / "data.json").is_file():
        if folder.read_json("data.json").get("sha256") != data.recipe.sha256:
            raise RunError(
                f"cannot resume {folder.path}: the data are not those that it was started on: name those instead of "
                f"{config.data}, or choose another --out"
            )
        changed = [name for name in changed if name != "data"]  # the same data in another place
    if changed:
        differences = ", ".join(f"{name} was {saved[name]!r}, now {wanted[name]!r}" for name in changed)
        raise RunError(
            f"cannot resume {folder.path} with other options ({differences}): use the old ones, or another --out"
        )
    return config
