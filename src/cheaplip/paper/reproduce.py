"""Runs the units of experiments, in this process or in several.

Finished units are kept and interrupted ones continue, so the same command can be given again at any time.
"""

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
"""Called with (experiment/unit, fraction done, note); the fraction is 1 once the unit is finished."""

_PAUSE = 0.2  # seconds between two messages of a worker process, at least


def reproduce(
    experiments: Sequence[Experiment],
    out: Path,
    *,
    quick: bool = False,
    jobs: int = 1,
    report: Report = lambda _unit, _fraction, _note: None,
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, list[Row]]:
    """Run every unit that is not finished.

    The folder ``out/EXPERIMENT`` gets a subfolder for each unit, and ``results.json`` and ``table.md``, which are
    written again whenever a unit is finished. If the training of a unit diverges, the other units still run.

    Args:
        experiments: to run.
        out: a folder for all of them.
        quick: whether to run the small version, which cannot share a folder with the full one.
        jobs: number of processes, at most one for each core; each gets its share of this process's threads.
        report: called with the progress of each unit, from 0 (not started) to 1.
        stop: called often; once it returns True, every unit saves its state.

    Returns:
        The rows of each experiment, by name.

    Raises:
        RunError: a folder holds something else.
        DivergedError: the training of a unit diverged; raised when all others are finished.
        Interrupted: ``stop`` returned True.
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
    if workers == 1:
        outcomes = _in_this_process(todo, out, quick, report, stop)
    else:
        outcomes = _in_workers(todo, out, quick, workers, report, stop)
    for experiment, error in outcomes:
        _collect(experiment, out, quick)
        if error is not None:
            errors.append(error)
    if errors:
        raise errors[0]
    return {experiment.name: _collect(experiment, out, quick) for experiment in experiments}


def _claim(folder: RunFolder, name: str, quick: bool) -> None:
    """Make the folder this experiment's own, or check that it is already."""
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
    """Read the rows of all finished units, and write ``results.json`` and ``table.md`` from them."""
    folder = RunFolder(out / experiment.name)
    units = [RunFolder(folder.path / unit.name) for unit in experiment.units(quick)]
    rows = [row for unit in units if (unit.path / "rows.json").is_file() for row in unit.read_json("rows.json")["rows"]]
    folder.write_rows(rows)
    folder.write_text("table.md", experiment.table(rows) if rows else "")
    return rows


_Outcome = tuple[Experiment, DivergedError | None]  # of a unit that is finished, or whose training diverged


def _in_this_process(
    todo: Sequence[tuple[Experiment, Unit]],
    out: Path,
    quick: bool,
    report: Report,
    stop: Callable[[], bool],
) -> Iterator[_Outcome]:
    for experiment, unit in todo:
        try:
            _run(unit, f"{experiment.name}/{unit.name}", out, quick, report, stop)
            yield experiment, None
        except DivergedError as error:
            yield experiment, error


def _in_workers(
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
        futures: dict[Future[None], tuple[Experiment, str]] = {}
        for experiment, unit in todo:
            name = f"{experiment.name}/{unit.name}"
            futures[pool.submit(_run_in_worker, unit, name, out, quick)] = experiment, name
        try:
            yield from _outcomes(futures, messages, stopping, report, stop)
        except BaseException:  # let the other workers save their state
            stopping.set()
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _outcomes(
    futures: Mapping[Future[None], tuple[Experiment, str]],
    messages: "multiprocessing.Queue[tuple[str, float, str]]",
    stopping: Event,
    report: Report,
    stop: Callable[[], bool],
) -> Iterator[_Outcome]:
    """Yield the outcomes as they come, and pass on what the workers report meanwhile."""
    left, finished = set(futures), set[str]()
    while left:
        done, left = wait(left, timeout=_PAUSE, return_when=FIRST_COMPLETED)
        for name, fraction, note in _waiting(messages):
            if name not in finished:
                report(name, fraction, note)
            if fraction == 1:
                finished.add(name)
        for future in done:
            experiment, name = futures[future]
            try:
                future.result()
            except DivergedError as error:
                yield experiment, error
                continue
            if name not in finished:  # a worker's last message may arrive after its result, or not at all
                finished.add(name)
                report(name, 1.0, "")
            yield experiment, None
        if stop() and not stopping.is_set():
            stopping.set()
            for future in left:
                future.cancel()
            left = {future for future in left if not future.cancelled()}
            if not left:
                raise Interrupted


def _waiting(messages: "multiprocessing.Queue[tuple[str, float, str]]") -> Iterator[tuple[str, float, str]]:
    """The messages that wait in the queue now."""
    while True:
        try:
            yield messages.get_nowait()
        except queue.Empty:
            return


def _run(unit: Unit, name: str, out: Path, quick: bool, report: Report, stop: Callable[[], bool]) -> None:
    """Run a unit and write its rows, which mark it as finished."""
    if stop():
        raise Interrupted
    folder = RunFolder(out / name)
    folder.path.mkdir(parents=True, exist_ok=True)
    rows = unit.run(Job(folder, quick, lambda fraction, note: report(name, min(fraction, 0.999), note), stop))
    folder.write_json("rows.json", {"rows": rows})
    report(name, 1.0, "")


_worker: dict[str, Any] = {}  # state of a worker process: message queue, stop event, time of the last message


def _start(threads: int, messages: "multiprocessing.Queue[tuple[str, float, str]]", stopping: Event) -> None:
    """Set up a worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the parent decides and sets the event
    torch.set_num_threads(threads)
    _worker.update(messages=messages, stopping=stopping, spoke=0.0)
    threading.Thread(target=_follow_the_parent, daemon=True).start()


def _follow_the_parent() -> None:
    """End this process when its parent ends, even by a crash. Files are written whole, so none is left half written."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _run_in_worker(unit: Unit, name: str, out: Path, quick: bool) -> None:
    _run(unit, name, out, quick, _send, _worker["stopping"].is_set)


def _send(name: str, fraction: float, note: str) -> None:
    """Report progress to the parent, but not too often."""
    if fraction == 1 or time.monotonic() - _worker["spoke"] > _PAUSE:
        _worker["messages"].put((name, fraction, note))
        _worker["spoke"] = time.monotonic()
