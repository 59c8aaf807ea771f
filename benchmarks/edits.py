"""Random edits of a certified run: does ``cheaplip verify`` find them? ``python benchmarks/edits.py --edits 1000``.

A small network is trained on digits, certified, evaluated under attack and exported to ONNX. Then its model card,
tables, weights and exported file are edited at random, one edit at a time. An edit is

- *found* if verify refuses the folder, with one line;
- *harmless* if verify accepts it, and nothing that it confirms became false: the edit changes a statement that verify
  names as not checked, a number by less than another machine rounds, or a file that says or computes the same;
- *missed* otherwise. There must be none.

With ``--out`` the table and the missed edits are written to a JSON file. Needs the extras cli and onnx.
"""

import contextlib
import copy
import functools
import hashlib
import json
import math
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro

from cheaplip.cli import run
from cheaplip.data import Data, load
from cheaplip.errors import RunError
from cheaplip.lipschitz import certifiable
from cheaplip.runs.folder import RunFolder, versions
from cheaplip.trained import claims
from cheaplip.trained.card import markdown, weights_digest
from cheaplip.trained.card_form import differ
from cheaplip.trained.export import agree, for_the_source, run_onnx
from cheaplip.trained.loading import load_trained
from cheaplip.trained.verify import verify_card
from cheaplip.training.config import from_json

ROUNDING = 1e-8  # relative; verify allows 1e-9 for float64, and more only where it says so
SECONDS = 0.2
TRAIN = ["--method", "certified", "--epochs", "8", "--model", "mlp:16", "--probe", "0", "--search", "16"]


@dataclass(frozen=True)
class Kind:
    """A kind of edit.

    Attributes:
        name: for the table.
        apply: edits the folder; returns what it did, for people, and the words one of which verify must say if it
            accepts. None: the edit changes nothing that is stated.
    """

    name: str
    apply: Callable[[Path, random.Random], tuple[str, tuple[str, ...] | None]]


def prepare(path: Path, *, local: bool = False) -> Data:
    """Make the run whose files are edited; it is certified, attacked and exported."""
    certify = ["certify", str(path), "--epsilon", "0.05,0.1", "--seconds", "1", *(["--local"] if local else [])]
    for command in (
        ["train", "digits", "--no-measure", "--out", str(path), *TRAIN],
        certify,
        ["evaluate", str(path), "--attacks", "noise,pgd", "--epsilon", "0.05", "--samples", "50"],
        certify,
        ["export", str(path), "--format", "onnx"],
    ):
        if run(command) != 0:
            raise SystemExit(f"cheaplip {' '.join(command)} failed")
    return load("digits")


@contextlib.contextmanager
def remembered(data: Data) -> Iterator[None]:
    """Read and bracket a model once for each state of its weights: most edits leave these as they are."""
    originals = {(module, name): getattr(module, name) for module, name in _SLOW}
    known: dict[tuple[Any, ...], Any] = {}

    def remember(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(model: torch.nn.Module, *args: Any, **options: Any) -> Any:
            state = tuple(tensor.numpy().tobytes() for tensor in model.state_dict().values())
            plain = tuple(arg for arg in args if arg is not data)
            options.pop("progress", None)
            key = (name, state, plain, tuple(sorted(options.items())))
            if key not in known:
                known[key] = function(copy.deepcopy(model), *args, **options)
            return known[key]

        return call

    for (module, name), function in originals.items():
        setattr(module, name, remember(name, function))
    try:
        yield
    finally:
        for (module, name), function in originals.items():
            setattr(module, name, function)


_SLOW = ((claims, "read"), (certifiable, "read"), (claims, "bracket"))


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of each number, text and null in JSON."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if items is None:
        yield path
        return
    for key, item in items:
        yield from leaves(item, (*path, key))


def changed_value(value: Any, draw: random.Random) -> Any:
    """Draw another value for a leaf: another number, type, sign or text."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return draw.choice(
            [f"{value}2", "", f"{value}\n| certified, ε = 9.0 | 100.00 % | 359 |", 1.5, None, [value], True]
        )
    smaller = value - 1 if isinstance(value, int) else value * (1 - 10 ** draw.uniform(-12, -0.1))
    larger = value + 1 if isinstance(value, int) else value * (1 + 10 ** draw.uniform(-12, 1))
    return draw.choice([smaller, larger, larger, -value, math.nan, math.inf, 10**400, True, str(value), None, [value]])


def edit_leaf(name: str) -> Callable[[Path, random.Random], tuple[str, tuple[str, ...] | None]]:
    """Change one value of a JSON file; of the card, in every second edit also its text."""

    def apply(path: Path, draw: random.Random) -> tuple[str, tuple[str, ...] | None]:
        content = json.loads((path / name).read_text())
        place = draw.choice(list(leaves(content)))
        inner = content
        for key in place[:-1]:
            inner = inner[key]
        before = inner[place[-1]]
        inner[place[-1]] = after = changed_value(before, draw)
        _write(path, name, content, draw)
        return f"{name} {'.'.join(map(str, place))}: {before!r} → {str(after)[:60]!r}", _allowed(
            name, place, before, after
        )

    return apply


def edit_keys(name: str) -> Callable[[Path, random.Random], tuple[str, tuple[str, ...] | None]]:
    """Add, remove, rename or repeat a key of a JSON file, or nest something deep in it."""

    def apply(path: Path, draw: random.Random) -> tuple[str, tuple[str, ...] | None]:
        content = json.loads((path / name).read_text())
        objects = [content, *(value for value in content.values() if isinstance(value, dict))]
        inner = draw.choice([value for value in objects if value])
        key, how = draw.choice(list(inner)), draw.choice(["add", "remove", "rename", "twice", "deep", "line"])
        place = (next((outer for outer, value in content.items() if value is inner), key), key)
        value = inner[key]
        text = None
        if how == "add":
            inner["proved"] = 1.0
            place = (*place[: inner is not content], "proved")
        elif how == "remove":
            del inner[key]
        elif how == "rename":
            inner[f"{key}2"] = inner.pop(key)
        elif how == "line":
            inner[f"{key} | 100.00 % | 359 |\n| certified, ε = 9.0"] = inner.pop(key)
        elif how == "deep":
            text = json.dumps(content).replace("{", '{"deep": ' + "[" * 100_000 + "]" * 100_000 + ", ", 1)
        else:
            text = json.dumps(content).replace(json.dumps(key) + ":", f"{json.dumps(key)}: 1, {json.dumps(key)}:", 1)
        _write(path, name, content, draw) if text is None else (path / name).write_text(text)
        same = how == "remove" and name == "card.json" and place[0] == "training"  # it states less, and nothing false
        return f"{name} {how} {'.'.join(map(str, place))}", ("how it was trained",) if same else _allowed(
            name, place, value, ...
        )

    return apply


def _write(path: Path, name: str, content: Any, draw: random.Random) -> None:
    (path / name).write_text(json.dumps(content))
    if name == "card.json" and draw.random() < 0.5:
        with contextlib.suppress(Exception):  # a card so damaged that it has no text
            (path / "card.md").write_text(markdown(content))


def _allowed(name: str, place: tuple[Any, ...], before: Any, after: Any) -> tuple[str, ...] | None:
    """Return the words by which verify names a changed statement as not checked; None where nothing false is stated."""
    if not differ(before, after if after is not ... else "removed"):
        return None
    numbers = [v for v in (before, after) if isinstance(v, (int, float)) and not isinstance(v, bool)]
    if len(numbers) == 2 and abs(numbers[0]) < 1e300 > abs(numbers[1]) and math.isclose(*numbers, rel_tol=ROUNDING):
        return None
    if name in ("card.json", "config.json") and place[0] == "versions":
        return ("with which versions",)
    if name == "config.json" and place[0] in ("device", "checkpoint_every"):
        return None  # they do not change which network comes out
    if name == "card.json" and place[:2] in (("accuracy", "attacked"), ("accuracy", "attacked_inputs")):
        return ("figures under attack",)
    if name == "metrics.json":
        return tuple(f"{left}{place[0]}{right}" for left in ("in metrics.json: ", ", ") for right in (",", "\n", "2"))
    if name == "model-card.json" and place[0] in ("versions", "metrics"):
        return (f"model-card.json: {place[0]}",)
    if name == "model-card.json" and place[0] == "files":
        return ("its SHA-256, which model-card.json does not state",)
    return ("never",)


def claim_exact(path: Path, draw: random.Random) -> tuple[str, tuple[str, ...] | None]:
    """Claim that both ends of the bracket meet, in the card and its text, and perhaps in metrics.json."""
    card = json.loads((path / "card.json").read_text())
    b = card["bracket"]
    end = draw.choice([b["lower"], b["upper"], (b["lower"] + b["upper"]) / 2])
    b.update(lower=end, upper=end, gap=1.0, method=draw.choice(["exact", b["method"]]))
    (path / "card.json").write_text(json.dumps(card))
    (path / "card.md").write_text(markdown(card))
    if draw.random() < 0.5:
        metrics = json.loads((path / "metrics.json").read_text())
        metrics["lipschitz"].update(lower=end, upper=end, upper_method=b["method"])
        (path / "metrics.json").write_text(json.dumps(metrics))
    return f"lower = upper = {end}, {b['method']}", ("never",)


def edit_lines(name: str) -> Callable[[Path, random.Random], tuple[str, tuple[str, ...] | None]]:
    """Remove, repeat, swap or add a line of a text, or change a digit."""

    def apply(path: Path, draw: random.Random) -> tuple[str, tuple[str, ...] | None]:
        before = (path / name).read_text()
        lines = before.split("\n")
        at, how = (
            draw.randrange(len(lines) - 1),
            draw.choice(["remove", "repeat", "swap", "add", "digit", "digit", "cell"]),
        )
        if how == "remove":
            del lines[at]
        elif how == "repeat":
            lines.insert(at, lines[at])
        elif how == "swap":
            lines[at], lines[at + 1] = lines[at + 1], lines[at]
        elif how == "add":
            lines.insert(at, draw.choice(["## Also proved\n\nLip(f) ≤ 0.001.", "359,1,1,9.0", " ", "# note"]))
        elif how == "cell":
            lines[at] += draw.choice([",9.0", " ", "\t", "\r"])
        else:
            places = [i for i, letter in enumerate(lines[at]) if letter.isdecimal()]
            if places:
                i = draw.choice(places)
                lines[at] = lines[at][:i] + str((int(lines[at][i]) + draw.randint(1, 9)) % 10) + lines[at][i + 1 :]
        after = "\n".join(lines)
        (path / name).write_text(after)
        return f"{name} {how} line {at + 1}", None if _same_text(before, after) else ("never",)

    return apply


def _same_text(before: str, after: str) -> bool:
    """Return whether texts are equal, or differ in numbers by less than another machine's rounding."""
    if before == after:
        return True
    cells = [text.replace("\n", ",\n,").split(",") for text in (before, after)]
    if len(cells[0]) != len(cells[1]):
        return False
    try:
        return all(
            one == other or math.isclose(float(one), float(other), rel_tol=ROUNDING, abs_tol=ROUNDING)
            for one, other in zip(*cells, strict=True)
        )
    except ValueError:
        return False


def edit_bytes(name: str, *, rehashed: bool) -> Callable[[Path, random.Random], tuple[str, tuple[str, ...] | None]]:
    """Change bytes of a file; ``rehashed``: and write its new hash where the old one is stated."""

    def apply(path: Path, draw: random.Random) -> tuple[str, tuple[str, ...] | None]:
        content = bytearray((path / name).read_bytes())
        old, how = hashlib.sha256(content).hexdigest(), draw.choice(["bit", "bit", "bit", "byte", "cut", "append"])
        at = draw.randrange(len(content))
        if how == "bit":
            content[at] ^= 1 << draw.randrange(8)
        elif how == "byte":
            content[at] = (content[at] + draw.randint(1, 255)) % 256
        elif how == "cut":
            del content[at:]
        else:
            content += draw.randbytes(8)
        (path / name).write_bytes(content)
        if rehashed:
            new = hashlib.sha256(content).hexdigest()
            for other in ("card.json", "card.md", "model-card.json"):
                (path / other).write_text((path / other).read_text().replace(old, new))
        return f"{name} {how} at {at}{', rehashed' if rehashed else ''}", ("computes the same",) if rehashed else (
            "never",
        )

    return apply


def other_file(path: Path, draw: random.Random) -> tuple[str, tuple[str, ...] | None]:
    """Add a file, or remove one that the card is about."""
    if draw.random() < 0.5:
        name = draw.choice(["proof.md", "certified-2.csv", "card-of-another.json", "\n| certified"])
        (path / name).write_text("Lip(f) ≤ 0")
        return f"new file {name!r}", ("other files",)
    name = draw.choice(["card.md", "certified.csv", "metrics.json", "config.json", "model.safetensors", "card.json"])
    (path / name).unlink()
    return f"{name} removed", ("never",)


FILES = ("card.json", "metrics.json", "config.json", "model-card.json")
KINDS = [
    *(Kind(f"{name}: a value", edit_leaf(name)) for name in FILES),
    *(Kind(f"{name}: a key", edit_keys(name)) for name in FILES[:2]),
    Kind("card: lower = upper", claim_exact),
    *(Kind(f"{name}: a line", edit_lines(name)) for name in ("card.md", "certified.csv")),
    *(
        Kind(f"{name}: bytes{', rehashed' if rehashed else ''}", edit_bytes(name, rehashed=rehashed))
        for name in ("model.safetensors", "model.onnx")
        for rehashed in (False, True)
    ),
    Kind("witness.safetensors: bytes", edit_bytes("witness.safetensors", rehashed=True)),
    Kind("a file more or less", other_file),
]


def judge(path: Path, data: Data, words: tuple[str, ...] | None) -> tuple[str, str]:
    """Return whether an edit was found, harmless or missed, and what verify said."""
    try:
        unchecked = "\n".join(verify_card(RunFolder(path), seconds=SECONDS, data=data).unchecked) + "\n"
    except (RunError, ValueError) as error:
        return ("found" if "\n" not in str(error) and len(str(error)) < 2000 else "missed"), str(error)[:300]
    except Exception as error:
        return "missed", f"{type(error).__name__}: {error}"[:300]
    if words is None or any(word in unchecked for word in words):
        return "harmless", unchecked
    if words == ("computes the same",) and computes_the_same(path, data):
        return "harmless", unchecked
    return "missed", unchecked


def computes_the_same(path: Path, data: Data) -> bool:
    """Return whether the card is true of the files as they are: their hashes are right, and so are their outputs."""
    folder = RunFolder(path)
    model = load_trained(folder, from_json(folder.read_json("config.json")), data)
    whole, x = for_the_source(model, data)
    with torch.no_grad():
        same = agree(run_onnx(path / "model.onnx")(x), whole(x), data)
    return same and folder.read_json("card.json")["model"]["sha256"] == weights_digest(folder)


def edited(source: Path, data: Data, edits: int, seed: int) -> Iterator[tuple[str, str, str, str]]:
    """Make random edits, the kinds in turn; yield the kind, what was done, the verdict, and what verify said."""
    with tempfile.TemporaryDirectory() as scratch, remembered(data):
        for number in range(edits):
            kind, path = KINDS[number % len(KINDS)], Path(scratch) / "run"
            shutil.copytree(source, path)
            done, words = kind.apply(path, random.Random(f"{seed} {number}"))
            yield kind.name, done, *judge(path, data, words)
            shutil.rmtree(path)


def main(
    edits: int = 1000, seed: int = 0, out: Path | None = None, run_folder: Path | None = None, *, local: bool = False
) -> None:
    """Make the edits and print the table.

    Args:
        edits: how many.
        seed: of the edits.
        out: the JSON file to write.
        run_folder: a run from an earlier call.
        local: edit a run with certificates around each input; each edit takes ten times as long.
    """
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "source" if run_folder is None else run_folder
        data = load("digits") if source.is_dir() else prepare(source, local=local)
        counts: dict[str, Counter[str]] = {kind.name: Counter() for kind in KINDS}
        missed = []
        for name, done, verdict, said in edited(source, data, edits, seed):
            counts[name][verdict] += 1
            if verdict == "missed":
                missed.append({"kind": name, "edit": done, "verify": said})
                print(f"missed: {done}: {said}")
    print(f"{'':40} {'found':>9} {'harmless':>9} {'missed':>9}")
    rows = [
        {"kind": name, **{verdict: count[verdict] for verdict in ("found", "harmless", "missed")}}
        for name, count in counts.items()
    ]
    for row in [*rows, {"kind": "all", **{v: sum(r[v] for r in rows) for v in ("found", "harmless", "missed")}}]:
        print(f"{row['kind']:40} {row['found']:9} {row['harmless']:9} {row['missed']:9}")
    if out is not None:
        content = {"edits": edits, "seed": seed, "local": local, "versions": versions(), "kinds": rows}
        content["missed"] = missed
        out.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    tyro.cli(main)
