"""The frontier: what stability costs in accuracy, as curves over what is given up or over margins.

The file is long because its networks, and how several processes fill one folder with them, are told together.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from cheaplip.data import Data
from cheaplip.errors import ConfigError, Interrupted, InUseError, RunError
from cheaplip.runs.folder import RunFolder
from cheaplip.runs.naming import run_name
from cheaplip.runs.workers import Report, work_through
from cheaplip.trained.compare import Attack, measure, row_of
from cheaplip.trained.display import frontier_table, plot_frontier
from cheaplip.trained.evaluate import check_norm, robust_key
from cheaplip.trained.knee import knee_of
from cheaplip.trained.loading import load_data
from cheaplip.training.config import TrainConfig
from cheaplip.training.methods.certified import Certified
from cheaplip.training.methods.clip import Clip
from cheaplip.training.methods.plain import Plain
from cheaplip.training.methods.scale_free import ScaleFree
from cheaplip.training.methods.weight import Weight
from cheaplip.training.options import INDIFFERENT
from cheaplip.training.progress import notebook_report
from cheaplip.training.run import train

__all__ = ["MARGIN_METHODS", "Frontier", "Point", "frontier", "points_of", "usual_attacks"]

MARGIN_METHODS = (ScaleFree.name, Certified.name)
"""The methods of a frontier over margins."""

_WAIT = 0.5  # seconds between two looks at a folder that another process is at work in
_TRAINED = 0.8  # of a point's work
_ABOUT = "frontier.json"
_ROW = "row.json"


@dataclass(frozen=True)
class Point:
    """A network to train: a method, and what it gives up.

    Attributes:
        name: in the table.
        config: its options.
        give_up: what is given up of the plain network's figure. None: nothing is said of that.
        margin: the margin that it is trained with. None: a default.
    """

    name: str
    config: TrainConfig
    give_up: float | None = None
    margin: float | None = None

    @property
    def folder(self) -> str:
        """The name of its folder."""
        return run_name(self.name, self.config.seed)


@dataclass(frozen=True)
class Frontier:
    """What was found: the rows of ``results.json``, as far as they are finished, and the knee of the curve.

    Attributes:
        rows: of the plain network, of CLIP, and of weight regularisation; with margins, of the methods that have one.
        attack: the key of the figure under attack, such as ``pgd@2.0``.
        knee: the name of the row from which on more stability costs more accuracy than before. None: there is none.
        missing: the names of the rows that are not finished.
    """

    rows: list[dict[str, Any]]
    attack: str
    knee: str | None
    missing: tuple[str, ...]

    def __repr__(self) -> str:
        names = ", ".join(row["name"] for row in self.rows)
        missing = f", missing={len(self.missing)}" if self.missing else ""
        return f"Frontier({len(self.rows)} rows: {names}; attack={self.attack!r}, knee={self.knee!r}{missing})"

    def _repr_html_(self) -> str:
        return frontier_table(self.rows, self.knee)

    def plot(self, ax: Any = None) -> Any:
        """Draw accuracy, or error, against that under attack on axes of matplotlib, or on new ones, and return them."""
        return plot_frontier(self.rows, self.attack, self.knee, ax)


def points_of(
    config: TrainConfig,
    give_up: Sequence[float],
    margins: Sequence[float] = (),
    methods: Sequence[str] = MARGIN_METHODS,
) -> list[Point]:
    """List the networks of a frontier: the plain one, then for each method one for each amount, or for each margin.

    Args:
        config: the options that all share.
        give_up: fractions.
        margins: take the place of ``give_up``.
        methods: names of methods with a margin.

    Raises:
        ConfigError: an amount or margin is out of range, there is none, or there are both.
    """
    if bool(give_up) == bool(margins):
        raise ConfigError("give_up: expected at least one amount, such as 0,0.5%,1%,2%, or margins in their place")
    points = [Point(Plain.name, replace(config, method=Plain.name))]
    for method in methods if margins else ():
        for margin in sorted(set(margins)):
            chosen = replace(config, method=method, margin=margin)
            points.append(Point(f"{method} margin {margin:.6g}", chosen, margin=margin))
    for method in (Clip.name, Weight.name) if give_up else ():
        for amount in sorted(set(give_up)):
            chosen = replace(config, method=method, give_up=amount, target="unset")
            points.append(Point(f"{method} {100 * amount:.6g} %", chosen, amount))
    return points


def frontier(
    config: TrainConfig,
    give_up: Sequence[float],
    out: Path,
    *,
    margins: Sequence[float] = (),
    methods: Sequence[str] = MARGIN_METHODS,
    attacks: Sequence[Attack] | None = None,
    jobs: int = 1,
    shard: tuple[int, int] = (1, 1),
    report: Report | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Frontier:
    """Train and attack the networks of a frontier.

    Finished ones are kept and interrupted ones continue, so the same call can be made again at any time, also by
    several processes with a shard each, on one folder. Whoever finishes last leaves the whole result.

    Args:
        config: the options that all networks share.
        give_up: what is given up of the plain network's figure, fractions; empty with ``margins``.
        margins: of scale-free CLIP and of certified training, in the place of ``give_up``: by how much the true class
            is to lead, over the constant, √2 × a distance between inputs.
        methods: names of the methods that are trained with the margins.
        out: the folder for all of them: ``results.json``, and a run's folder for each.
        attacks: what to measure; the last one is the frontier's. None: :func:`usual_attacks`.
        jobs: number of processes.
        shard: (i, n): every n-th network from the i-th, counted from 1.
        report: called with the progress of each network. None: in a notebook a bar is shown, elsewhere nothing.
        stop: once it returns True, every network saves its state.

    Raises:
        RunError: the folder holds something else, or a frontier with other options.
        DivergedError: a training diverged; raised when all others are finished.
        Interrupted: ``stop`` returned True.
    """
    index, count = shard
    if not 1 <= index <= count:
        raise ConfigError(f"shard: expected i/n with i from 1 to n, got {index}/{count}")
    points = points_of(config, give_up, margins, methods)
    _data.cache_clear()  # the file may have changed since an earlier call
    attacks = usual_attacks(_data_of(points[0])) if attacks is None else attacks
    _claim(out, config, attacks)
    plain, own = points[0], points[index - 1 :: count]
    report = report or notebook_report("frontier", len(own))
    todo = {}
    for point in own:
        finished = (out / point.folder / _ROW).is_file()
        report(point.name, float(finished), "")
        if not finished:
            todo[point.name] = partial(_work, point, plain, out, tuple(attacks))
    errors = []
    first = [{name: todo.pop(name)} for name in (plain.name,) if name in todo]  # the others need it
    for part in (*first, todo):
        if any(name != plain.name for name in part):
            _train_plain(plain, out, stop)
        for _, error in work_through(part, jobs=jobs if len(part) > 1 else 1, report=report, stop=stop):
            _collect(points, out, attacks)
            if error is not None:
                errors.append(error)
    if errors:
        raise errors[0]
    return _collect(points, out, attacks)


def usual_attacks(
    data: Data,
    *,
    noise: float | None = None,
    epsilon: float | None = None,
    samples: int | None = None,
    norm: float = 2,
) -> list[Attack]:
    """Return noise and PGD, with the data's radii or others, on the first ``samples`` test inputs or all.

    Raises:
        ConfigError: there is no such attack in this norm, or no radius for it.
    """
    check_norm(data, norm, epsilon is not None)
    return [
        Attack("noise", data.noise if noise is None else noise, samples),
        Attack("pgd", data.epsilon if epsilon is None else epsilon, samples, norm),
    ]


def _claim(out: Path, config: TrainConfig, attacks: Sequence[Attack]) -> None:
    """Make the folder this frontier's own, or check that it is already."""
    options = {
        name: value
        for name, value in asdict(config).items()
        if name not in (*INDIFFERENT, "give_up", "margin", "method")
    }
    about = {"options": options, "attacks": [{**asdict(attack), "norm": f"{attack.norm:g}"} for attack in attacks]}
    folder = RunFolder(out)
    if not (out / _ABOUT).is_file():
        folder.check_vacant()  # before a lock is left in a folder that holds something else
    with _alone(folder):
        if not (out / _ABOUT).is_file():
            folder.create()
            folder.write_json(_ABOUT, about)
            return
        saved = folder.read_json(_ABOUT)
    changed = [name for name in options if (saved.get("options") or {}).get(name) != options[name]]
    before = [{"norm": "2", **attack} for attack in saved.get("attacks") or []]
    changed += [] if before == about["attacks"] else ["attacks"]
    if changed:
        raise RunError(
            f"{out} holds a frontier with other options ({', '.join(changed)}): use the old ones, or another --out"
        )


@contextmanager
def _alone(folder: RunFolder) -> Iterator[None]:
    """Lock a folder inside the block; wait while another process holds the lock, which it does for a moment only."""
    while True:
        lock = folder.locked()
        try:
            lock.__enter__()
        except InUseError:
            time.sleep(_WAIT / 10)
            continue
        try:
            yield
        finally:
            lock.__exit__(None, None, None)
        return


@cache
def _data(config: TrainConfig) -> Data:
    return load_data(config)


def _data_of(point: Point) -> Data:
    """The data of a point; all points of a frontier share one copy in each process."""
    return _data(replace(point.config, method=Plain.name, give_up=0.0, target=None))


def _train_plain(plain: Point, out: Path, stop: Callable[[], bool], report: Report = lambda *_: None) -> dict[str, Any]:
    """Train the plain network, or wait until another process has done that; return its metrics."""
    folder = RunFolder(out / plain.folder)
    tries = 0
    while True:
        if stop():
            raise Interrupted
        try:
            return train(
                plain.config,
                _data_of(plain),
                folder,
                resume=folder.exists(),
                progress=lambda done, total, _: report(plain.name, _TRAINED * done / total, "trains"),
                stop=stop,
            )
        except InUseError:
            time.sleep(_WAIT)
        except RunError:  # another process may have begun the run after we looked
            tries += 1
            if tries > 1 or not folder.exists():
                raise


def _work(
    point: Point, plain: Point, out: Path, attacks: Sequence[Attack], report: Report, stop: Callable[[], bool]
) -> None:
    """Train and attack a network, and write its row, which marks it as finished."""
    if stop():
        raise Interrupted
    folder, data = RunFolder(out / point.folder), _data_of(point)
    if point.name == plain.name:
        metrics = _train_plain(plain, out, stop, report)
    else:
        metrics = train(
            point.config,
            data,
            folder,
            resume=folder.exists(),
            progress=lambda done, total, _: report(point.name, _TRAINED * done / total, "trains"),
            stop=stop,
            reference=RunFolder(out / plain.folder),
        )

    def attacking(name: str, done: int, total: int) -> None:
        if stop():
            raise Interrupted
        report(point.name, min(0.999, _TRAINED + (1 - _TRAINED) * done / max(1, total)), name)

    metrics = measure(metrics, folder, data, attacks=attacks, attacking=attacking)
    given = {name: value for name in ("give_up", "margin") if (value := getattr(point, name)) is not None}
    folder.write_json(_ROW, {**row_of(point.name, point.config), **given, **metrics})
    report(point.name, 1.0, "")


def _collect(points: Sequence[Point], out: Path, attacks: Sequence[Attack]) -> Frontier:
    """Read the rows that are finished, mark the knee, and write ``results.json``."""
    folder, attack = RunFolder(out), robust_key(attacks[-1].name, attacks[-1].epsilon, attacks[-1].norm)
    with _alone(folder):
        there = [point for point in points if (out / point.folder / _ROW).is_file()]
        rows = [RunFolder(out / point.folder).read_json(_ROW) for point in there]
        missing = tuple(point.name for point in points if point not in there)
        method = points[1].config.method if len(points) > 1 else Clip.name
        found = None if missing else knee_of(rows, method, attack)
        rows = [{**row, **({"knee": True} if row["name"] == found else {})} for row in rows]
        folder.write_rows(rows)
    return Frontier(rows, attack, found, missing)
