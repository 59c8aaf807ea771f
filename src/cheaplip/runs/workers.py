"""Works through pieces of work that are independent of each other, in this process or in several."""

import multiprocessing
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.synchronize import Event
from typing import Any

import torch

from cheaplip.errors import DivergedError, Interrupted, RunError

__all__ = ["Report", "Work", "work_through"]

Report = Callable[[str, float, str], None]
"""Called with (name of a piece of work, fraction done, note); the fraction is 1 once it is finished."""

Work = Callable[[Report, Callable[[], bool]], None]
"""A piece of work, which can be pickled. It is given a report, and a function ``stop``: once that returns True, it
saves its state and raises :class:`~cheaplip.errors.Interrupted`."""

_PAUSE = 0.2  # seconds between two messages of a worker process, at least

_Outcome = tuple[str, DivergedError | None]  # of a piece that is finished, or whose training diverged


def work_through(
    todo: Mapping[str, Work],
    *,
    jobs: int = 1,
    report: Report = lambda *_: None,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[_Outcome]:
    """Do every piece of work, and yield its name as soon as it is finished.

    Args:
        todo: the pieces, by name.
        jobs: number of processes, at most one for each core; each gets its share of this process's threads.
        report: called with the progress of each piece, up to 1.
        stop: called often; once it returns True, every piece saves its state.

    Yields:
        The name, and the error where the training diverged; the others still run.

    Raises:
        Interrupted: ``stop`` returned True.
        RunError: a process was ended from outside.
    """
    workers = min(jobs, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    yield from _in_this_process(todo, report, stop) if workers == 1 else _in_workers(todo, workers, report, stop)


def _in_this_process(todo: Mapping[str, Work], report: Report, stop: Callable[[], bool]) -> Iterator[_Outcome]:
    for name, work in todo.items():
        try:
            work(report, stop)
            yield name, None
        except DivergedError as error:
            yield name, error


def _in_workers(todo: Mapping[str, Work], workers: int, report: Report, stop: Callable[[], bool]) -> Iterator[_Outcome]:
    context = multiprocessing.get_context("spawn")
    messages: multiprocessing.Queue[tuple[str, float, str]] = context.Queue()
    stopping = context.Event()
    threads = max(1, torch.get_num_threads() // workers)
    with ProcessPoolExecutor(workers, context, _start, (threads, messages, stopping)) as pool:
        futures = {pool.submit(_work_here, work): name for name, work in todo.items()}
        try:
            yield from _outcomes(futures, messages, stopping, report, stop)
        except BaseException:  # let the other workers save their state
            stopping.set()
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _outcomes(
    futures: Mapping[Future[None], str],
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
            name = futures[future]
            try:
                future.result()
            except DivergedError as error:
                yield name, error
                continue
            except BrokenProcessPool as error:
                raise RunError(
                    "a process was ended from outside, perhaps for want of memory; what was finished is kept: the same "
                    "command continues, with fewer --jobs if need be"
                ) from error
            if name not in finished:  # a worker's last message may arrive after its result, or not at all
                finished.add(name)
                report(name, 1.0, "")
            yield name, None
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


def _work_here(work: Work) -> None:
    work(_send, _worker["stopping"].is_set)


def _send(name: str, fraction: float, note: str) -> None:
    """Report progress to the parent, but not too often."""
    if fraction == 1 or time.monotonic() - _worker["spoke"] > _PAUSE:
        _worker["messages"].put((name, fraction, note))
        _worker["spoke"] = time.monotonic()
