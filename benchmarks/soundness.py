"""Examine random models for a false proof or a crash: every kind of layer, weight, domain and norm.

python benchmarks/soundness.py --models 100000 --seed 0 --jobs 2 --out results/soundness
python benchmarks/soundness.py --models 1 --seed 1234        what came of one model

Each seed is a model, see tests/proofs. Seeds of one family share an architecture; a job examines a family at a time.
A family's results are a line of ``families.jsonl`` in ``--out``. A run that was stopped, in whatever way, continues
there. At the end, ``table.md`` shows by layer how many models were proved and how tightly. It lists each false
statement and each crash with its seed.
"""

import json
import os
import statistics
import sys
import threading
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any

import tyro

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from proofs.models import FAMILY, random_model

Row = dict[str, Any]
_WAITING = 2  # families that wait for each job, so that none is idle


def main(models: int = 1000, seed: int = 0, jobs: int = 1, out: Path | None = None) -> None:
    """Examine ``models`` models, from ``seed`` on, in ``jobs`` processes; print the table, and write it to ``out``."""
    wanted = range(seed, seed + models)
    file = None if out is None else out / "families.jsonl"
    rows = [] if file is None else finished(file)
    missing = remaining(wanted, rows)
    started, found, total = time.monotonic(), 0, sum(map(len, missing))
    for row in examined(missing, jobs):
        rows.append(row)
        if file is not None:
            append(file, row)
        found += row["last"] - row["first"]
        for note in row["notes"]:
            print(note, flush=True)
        if models > FAMILY:
            print(f"{found} of {total}, {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    text = table([row for row in rows if wanted.start <= row["first"] and row["last"] <= wanted.stop])
    print(text)
    if models == 1:
        print(f"{random_model(seed)}: {rows[-1]['outcomes']}")
    if out is not None:
        (out / "table.md").write_text(text + "\n")


def remaining(wanted: range, rows: list[Row]) -> list[range]:
    """Split the wanted seeds that no row covers into ranges of one family each."""
    done = {seed for row in rows for seed in range(row["first"], row["last"])}
    ranges: list[range] = []
    for start in range(wanted.start - wanted.start % FAMILY, wanted.stop, FAMILY):
        family = range(max(start, wanted.start), min(start + FAMILY, wanted.stop))
        if not done.issuperset(family):
            ranges.append(family)
    return ranges


def examined(ranges: list[range], jobs: int) -> Iterator[Row]:
    """Examine ranges of seeds in several processes. Where one dies, its ranges are tried once more, each alone."""
    again: list[range] = []
    todo = list(reversed(ranges))
    while todo:
        with _pool(jobs) as pool:
            running: dict[Future[Row], range] = {}
            broken = False
            while (todo and not broken) or running:
                while todo and not broken and len(running) < jobs * _WAITING:
                    seeds = todo.pop()
                    running[pool.submit(family_row, seeds)] = seeds
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    seeds = running.pop(future)
                    try:
                        yield future.result()
                    except BrokenProcessPool:
                        broken = True
                        again.append(seeds)
    for seeds in again:
        yield from _alone(seeds)


def _alone(seeds: range) -> Iterator[Row]:
    """Examine each seed in a process of its own; one that dies is a crash."""
    for seed in seeds:
        with _pool(1) as pool:
            try:
                yield pool.submit(family_row, range(seed, seed + 1)).result()
            except BrokenProcessPool:
                note = f"{seed} crash: the process died: {random_model(seed)}"
                layers = {layer: {"crash": 1} for layer in random_model(seed).layers}
                yield _row(range(seed, seed + 1), {"crash": 1}, layers, {}, [note], {}, 0.0)


def _pool(jobs: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=_end_with_parent)


def _end_with_parent() -> None:
    """Let a worker end when the process that started it is killed."""
    parent = parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def family_row(seeds: range) -> Row:
    """Examine the models of seeds of one family, and sum up."""
    import torch

    from proofs.examine import examine

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    outcomes: Counter[str] = Counter()
    layers: dict[str, Counter[str]] = defaultdict(Counter)
    gaps: dict[str, list[float]] = defaultdict(list)
    refusals: dict[str, int] = Counter()
    notes, seconds = [], 0.0
    for seed in seeds:
        verdict = examine(seed)
        outcomes[verdict.outcome] += 1
        seconds = max(seconds, verdict.seconds)
        for layer in set(verdict.layers):
            layers[layer][verdict.outcome] += 1
            if verdict.gap is not None:
                gaps[layer].append(float(f"{verdict.gap:.4g}"))
        wrong = [note for note in verdict.notes if not note.startswith("refused")]
        notes += [f"{seed} {note} | {random_model(seed)}" for note in wrong]
        refusals.update(note for note in verdict.notes if note.startswith("refused"))
    return _row(seeds, outcomes, layers, gaps, notes, refusals, seconds)


def _row(seeds, outcomes, layers, gaps, notes, refusals, seconds) -> Row:
    return {
        "first": seeds.start,
        "last": seeds.stop,
        "outcomes": outcomes,
        "layers": layers,
        "gaps": gaps,
        "notes": notes,
        "refusals": refusals,
        "slowest": round(seconds, 2),
    }


def finished(file: Path) -> list[Row]:
    """Read the rows of a file, and cut off a last line that was not written to its end."""
    if not file.exists():
        return []
    whole = file.read_bytes()
    complete = whole[: whole.rfind(b"\n") + 1]
    if len(complete) < len(whole):
        os.truncate(file, len(complete))
    return [json.loads(line) for line in complete.splitlines()]


def append(file: Path, row: Row) -> None:
    """Write a row, and have it on the disk before the next one starts."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as stream:
        stream.write(json.dumps(row) + "\n")
        stream.flush()
        os.fsync(stream.fileno())


def table(rows: list[Row]) -> str:
    """Make the Markdown: totals, a line for each layer, each false statement and crash, and the commonest refusals."""
    totals: Counter[str] = sum((Counter(row["outcomes"]) for row in rows), Counter())
    layers: dict[str, Counter[str]] = defaultdict(Counter)
    gaps: dict[str, list[float]] = defaultdict(list)
    refusals: Counter[str] = Counter()
    for row in rows:
        refusals.update(row["refusals"])
        for layer, counts in row["layers"].items():
            layers[layer].update(counts)
        for layer, some in row["gaps"].items():
            gaps[layer] += some
    covered = sorted((row["first"], row["last"]) for row in rows)
    seeds = f"{covered[0][0]} to {covered[-1][1] - 1}" if covered else "none"
    lines = [
        f"Seeds {seeds}: {totals.total()} models, {totals['proved']} proved, {totals['refused']} refused, "
        f"{totals['false']} false, {totals['crash']} crashed; the slowest took "
        f"{max((row['slowest'] for row in rows), default=0):.1f} s.",
        "",
        "| layer | models | proved | refused | median upper / lower | false | crashes |",
        "|---|---|---|---|---|---|---|",
    ]
    for layer in sorted(layers):
        counts = layers[layer]
        tight = f"{statistics.median(gaps[layer]):.3g}" if gaps[layer] else "–"
        lines.append(
            f"| {layer} | {counts.total()} | {counts['proved']} | {counts['refused']} | {tight} | {counts['false']} | "
            f"{counts['crash']} |"
        )
    notes = sorted((note for row in rows for note in row["notes"]), key=lambda note: int(note.split()[0]))
    lines += ["", "## False statements and crashes", "", *([f"- {note}" for note in notes] or ["None."])]
    lines += ["", "## The commonest refusals", ""]
    lines += [f"- {count} × {reason}" for reason, count in refusals.most_common(20)]
    return "\n".join(lines)


if __name__ == "__main__":
    tyro.cli(main)
