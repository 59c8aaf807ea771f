"""Runs the units of experiments, here or in parallel processes; finished ones are kept, interrupted ones continue."""

import multiprocessing
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import torch

from cheaplip.errors import DivergedError, Interrupted, RunError
from cheaplip.paper.experiment import Experiment, Job, Row, Unit
from cheaplip.runs.folder import RunFolder, versions

__all__ = ["Report", "reproduce"]

Report = Callable[[str, float, str], None]
"""Called with (experiment/unit, fraction done, note); fraction 1 says that it is finished."""

_PAUSE = 0.2  # seconds between two messages of a process


def reproduce(
    experiments: Sequence[Experiment],
    out: Path,
    *,
    quick: bool = False,
    jobs: int = 1,
    report: Report = lambda _unit, _fraction, _note: None,
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, list[Row]]:
    """Run every unit that is not finished; returns each experiment's rows.

    ``out/EXPERIMENT`` gets ``results.json`` and ``table.md``, written anew whenever a unit is finished, and a folder
    for each unit. A unit whose training diverges does not keep the others from running.

    Args:
        experiments: which.
        out: a folder for all of them.
        quick: the small version, which cannot share a folder with the full one.
        jobs: processes; more than there are cores are not started. Each gets its share of this process's threads.
        report: the progress of each unit, from 0 (known, not started) to 1.
        stop: True makes every unit save its state.

    Raises:
        RunError: a folder holds something else.
        DivergedError: a unit did, once all others are finished.
        Interrupted: ``stop`` said so.
    """
    if jobs < 1:
        raise ValueError(f"jobs: expected 1 or more processes, got {jobs}")
    for experiment in experiments:
        _claim(RunFolder(out / experiment.name), experiment.name, quick)
    todo = []
    for experiment in experiments:
        for unit in experiment.units(quick):
            name = f"{experiment.name}/{unit.name}"
            finished = (out / name / "rows.json").is_file()
            report(name, float(finished), "")
            if not finished:
                todo.append((experiment, unit))
        _collect(experiment, out, quick)
    errors = []
    workers = min(jobs, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    for experiment, error in (_here if workers == 1 else _apart)(todo, out, quick, workers, report, stop):
        _collect(experiment, out, quick)
        if error is not None:
            errors.append(error)
    if errors:
        raise errors[0]
    return {experiment.name: _collect(experiment, out, quick) for experiment in experiments}


def _claim(folder: RunFolder, name: str, quick: bool) -> None:
    """Make the folder this experiment's, or find that it is."""
    if (folder.path / "experiment.json").is_file():
        found = folder.read_json("experiment.json")
        if (found.get("experiment"), found.get("quick")) != (name, quick):
            kind = "quick" if found.get("quick") else "full"
            raise RunError(
                f"{folder.path} holds the {kind} version of {found.get('experiment')!r}: choose another --out"
            )
    else:
        folder.create()
        folder.write_json("experiment.json", {"experiment": name, "quick": quick, "versions": versions()})


def _collect(experiment: Experiment, out: Path, quick: bool) -> list[Row]:
    """The rows of all finished units, and the files they make."""
    folder = RunFolder(out / experiment.name)
    units = [RunFolder(folder.path / unit.name) for unit in experiment.units(quick)]
    rows = [row for unit in units if (unit.path / "rows.json").is_file() for row in unit.read_json("rows.json")["rows"]]
    folder.write_rows(rows)
    folder.write_text("table.md", experiment.table(rows) if rows else "")
    return rows


_Outcome = tuple[Experiment, DivergedError | None]


def _here(
    todo: Sequence[tuple[Experiment, Unit]],
    out: Path,
    quick: bool,
    _workers: int,
    report: Report,
    stop: Callable[[], bool],
) -> Iterator[_Outcome]:
    for experiment, unit in todo:
        try:
            _run(unit, f"{experiment.name}/{unit.name}", out, quick, report, stop)
            yield experiment, None
        except DivergedError as error:
            yield experiment, error


def _apart(
    todo: Sequence[tuple[Experiment, Unit]],
    out: Path,
    quick: bool,
    workers: int,
    report: Report,
    stop: Callable[[], bool],
) -> Iterator[_Outcome]:
    context = multiprocessing.get_context("spawn")
    messages: multiprocessing.Queue[tuple[str, float, str]] = context.Queue()
    stopping = context.Event()
    threads = max(1, torch.get_num_threads() // workers)
    with ProcessPoolExecutor(workers, context, _start, (threads, messages, stopping)) as pool:
        futures: dict[Future[None], Experiment] = {
            pool.submit(_run_in_worker, unit, f"{experiment.name}/{unit.name}", out, quick): experiment
            for experiment, unit in todo
        }
        try:
            yield from _outcomes(futures, messages, stopping, report, stop)
        except BaseException:  # let the others save their state
            stopping.set()
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _outcomes(
    futures: Mapping[Future[None], Experiment],
    messages: "multiprocessing.Queue[tuple[str, float, str]]",
    stopping: Event,
    report: Report,
    stop: Callable[[], bool],
) -> Iterator[_Outcome]:
    left = set(futures)
    while left:
        done, left = wait(left, timeout=_PAUSE, return_when=FIRST_COMPLETED)
        for message in _waiting(messages):
            report(*message)
        for future in done:
            try:
                future.result()
                yield futures[future], None
            except DivergedError as error:
                yield futures[future], error
        if stop() and not stopping.is_set():
            stopping.set()
            for future in left:
                future.cancel()
            left = {future for future in left if not future.cancelled()}
            if not left:
                raise Interrupted


def _waiting(messages: "multiprocessing.Queue[tuple[str, float, str]]") -> Iterator[tuple[str, float, str]]:
    while True:
        try:
            yield messages.get_nowait()
        except queue.Empty:
            return


def _run(unit: Unit, name: str, out: Path, quick: bool, report: Report, stop: Callable[[], bool]) -> None:
    """Run one unit and write its rows, which marks it finished."""
    if stop():
        raise Interrupted
    folder = RunFolder(out / name)
    folder.path.mkdir(parents=True, exist_ok=True)
    rows = unit.run(Job(folder, quick, lambda fraction, note: report(name, min(fraction, 0.999), note), stop))
    folder.write_json("rows.json", {"rows": rows})
    report(name, 1.0, "")


_worker: dict[str, Any] = {}  # of a worker process: the message queue, the event, the time of the last message


def _start(threads: int, messages: "multiprocessing.Queue[tuple[str, float, str]]", stopping: Event) -> None:
    """Set up a worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent asks to stop
    torch.set_num_threads(threads)
    _worker.update(messages=messages, stopping=stopping, spoke=0.0)
    threading.Thread(target=_follow_the_parent, daemon=True).start()


def _follow_the_parent() -> None:
    """End at once when the parent does, however it does: files are written whole, so nothing is lost by it."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _run_in_worker(unit: Unit, name: str, out: Path, quick: bool) -> None:
    _run(unit, name, out, quick, _send, _worker["stopping"].is_set)


def _send(name: str, fraction: float, note: str) -> None:
    if fraction == 1 or time.monotonic() - _worker["spoke"] > _PAUSE:
        _worker["messages"].put((name, fraction, note))
        _worker["spoke"] = time.monotonic()
