"""Measure on a large GPU, in one command of at most nine minutes: steps, pairs, a ResNet with and without CLIP, bounds.

python benchmarks/gpu.py --out results/gpu.json
python benchmarks/gpu.py --quick          # small networks, in about a minute on a CPU

It needs no network: the images are made, in the shape of CIFAR-10, or read from a folder of images with ``--data``.

Four networks (a perceptron, a convolutional one, ResNet-18 without batch norm, a small vision transformer) take plain
steps, steps with CLIP, adversarial ones (PGD-7) and certified ones, in float32 and under autocast to bfloat16, as they
are and compiled, with convolutions in both memory formats. A cycle of CLIP with ``every`` k is computed from a step
that regularises and one that does not. Each figure is the median over the repeats. What the time does not allow is
listed under ``left_out``, and what a network does not support is given with the reason.

``--show FILE`` prints the tables of a results file.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from cheaplip import CLIP, Box, DiscrepancyPrinciple, LipschitzBound, PairSet, bracket
from cheaplip.data import load
from cheaplip.runs.folder import versions
from cheaplip.training.methods.certified import hinge
from cheaplip.training.pgd import perturb

try:
    from benchmarks.cost import CLASSES, resnet
except ModuleNotFoundError:
    from cost import CLASSES, resnet

SHAPE = (3, 32, 32)
METHODS = ("plain", "clip", "clip idle", "adversarial", "certified")
EVERY = (1, 4, 16)
DOMAIN = Box(0.0, 1.0)
TOGETHER = 0.02  # seconds of steps between two looks at the clock
LONGEST = 5.0  # seconds for a step of one kind, about
SLACK = 75.0  # seconds that a compilation may take; none is begun later than that before the end


def mlp(width: int) -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(3072, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, CLASSES)
    )


def cnn(width: int) -> nn.Module:
    """Two convolutions and two linear layers without pooling, so that its bound can be trained."""
    return nn.Sequential(
        nn.Conv2d(3, width, 4, 2, 1),
        nn.ReLU(),
        nn.Conv2d(width, 2 * width, 4, 2, 1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(128 * width, 8 * width),
        nn.ReLU(),
        nn.Linear(8 * width, CLASSES),
    )


class ViT(nn.Module):
    """Encoder layers over patches of 4 × 4 pixels, before each of which the tokens are normalised."""

    def __init__(self, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, width, 4, 4)
        self.position = nn.Parameter(0.02 * torch.randn(64, width))
        layer = nn.TransformerEncoderLayer(width, heads, 4 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x).flatten(2).transpose(1, 2) + self.position
        out: Tensor = self.head(self.encoder(tokens).mean(dim=1))
        return out


@dataclass
class Plan:
    """What is measured, and how long it may take."""

    device: torch.device
    seconds: float
    models: dict[str, Callable[[], nn.Module]]
    batch: int
    pairs: int
    growth: tuple[int, ...]
    repeats: int
    train_steps: int
    bracket_seconds: float
    compiled: bool
    started: float = field(default_factory=time.perf_counter)
    left_out: list[str] = field(default_factory=list)

    @property
    def left(self) -> float:
        return self.seconds - (time.perf_counter() - self.started)

    def allows(self, what: str, seconds: float) -> bool:
        """Tell whether there is time for something; if not, note it."""
        if self.left < seconds:
            self.left_out.append(what)
            return False
        return True

    @staticmethod
    def full(device: torch.device, minutes: float) -> "Plan":
        models: dict[str, Callable[[], nn.Module]] = {
            "mlp": lambda: mlp(2048),
            "cnn": lambda: cnn(64),
            "resnet": resnet,
            "vit": lambda: ViT(384, 12, 6),
        }
        growth = (64, 256, 1024, 4096)
        return Plan(device, 60 * minutes, models, 512, 64, growth, 15, 400, 10.0, compiled=True)

    @staticmethod
    def small(device: torch.device, minutes: float) -> "Plan":
        models: dict[str, Callable[[], nn.Module]] = {
            "mlp": lambda: mlp(64),
            "cnn": lambda: cnn(4),
            "vit": lambda: ViT(32, 2, 2),
        }
        return Plan(device, 60 * minutes, models, 16, 8, (8, 16), 3, 10, 1.0, compiled=False)


@dataclass(frozen=True)
class Variant:
    """A training step to be measured."""

    model: str
    method: str
    dtype: str = "float32"
    compiled: bool = False
    channels_last: bool = False
    pairs: int = 64

    @property
    def label(self) -> str:
        ways = [self.dtype, *["compiled"] * self.compiled, *["channels last"] * self.channels_last]
        return f"{self.model}, {self.method}, {self.pairs} pairs, {', '.join(ways)}"


def make_step(variant: Variant, plan: Plan, x: Tensor, y: Tensor) -> Callable[[], None]:
    """Return a function that takes a training step on the batch."""
    torch.manual_seed(0)
    model = plan.models[variant.model]().to(plan.device)
    if variant.channels_last:
        model, x = model.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    parameters = list(model.parameters())
    controller: DiscrepancyPrinciple | None = None
    objective: Callable[[], tuple[Tensor, Tensor]]
    if variant.method.startswith("clip"):
        clip = CLIP(PairSet(x, size=variant.pairs, domain=DOMAIN), 0.1).to(plan.device)
        if variant.method == "clip idle":
            clip.every, clip.calls, clip.due = 10**9, 1, False
        controller = DiscrepancyPrinciple(clip, 0.97)

        def objective() -> tuple[Tensor, Tensor]:
            output, penalty = clip.joint(model, x)
            return cross_entropy(output, y) + penalty, output

    elif variant.method == "certified":
        bound = LipschitzBound(model, SHAPE)
        parameters += list(bound.parameters())

        def objective() -> tuple[Tensor, Tensor]:
            output = model(x)
            return hinge(output, y, bound().to(output.dtype), 0.5), output

    elif variant.method == "adversarial":
        noise = torch.Generator(plan.device).manual_seed(0)

        def summed(output: Tensor, y: Tensor) -> Tensor:
            return cross_entropy(output, y) * len(output)

        def objective() -> tuple[Tensor, Tensor]:
            moved = perturb(model, summed, x, y, epsilon=0.5, steps=7, domain=DOMAIN, generator=noise)
            output = model(moved)
            return cross_entropy(output, y), output

    else:

        def objective() -> tuple[Tensor, Tensor]:
            output = model(x)
            return cross_entropy(output, y), output

    if variant.compiled:
        objective = torch.compile(objective)
    optimizer = torch.optim.SGD(parameters, lr=1e-3, momentum=0.9, nesterov=True)
    low = variant.dtype == "bfloat16"

    def step() -> None:
        with torch.autocast(plan.device.type, torch.bfloat16) if low else nullcontext():
            loss, output = objective()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if controller is not None:
            with torch.no_grad():
                controller.step((output.argmax(dim=1) == y).float().mean())

    return step


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(variant: Variant, plan: Plan, x: Tensor, y: Tensor) -> dict[str, Any]:
    """Time a step: its median in milliseconds, and on a GPU the peak of the memory above what was held before."""
    row: dict[str, Any] = {**variant.__dict__, "batch": len(x)}
    cuda = plan.device.type == "cuda"
    try:
        before = torch.cuda.memory_allocated(plan.device) if cuda else 0
        step = make_step(variant, plan, x, y)
        for _ in range(2):  # the first one compiles, and picks algorithms
            wait(plan.device)
            started = time.perf_counter()
            step()
            wait(plan.device)
            once = time.perf_counter() - started
        together = max(1, round(TOGETHER / once))  # so that waiting for the device counts little
        repeats = max(1, min(plan.repeats, round(LONGEST / once / together)))
        if cuda:
            torch.cuda.reset_peak_memory_stats(plan.device)
        times = []
        for _ in range(repeats):
            wait(plan.device)
            started = time.perf_counter()
            for _ in range(together):
                step()
            wait(plan.device)
            times.append(1e3 * (time.perf_counter() - started) / together)
        row |= {"milliseconds": statistics.median(times), "least": min(times), "most": max(times)}
        if cuda:
            row["megabytes"] = (torch.cuda.max_memory_allocated(plan.device) - before) / 1e6
    except (ValueError, TypeError, RuntimeError, NotImplementedError) as error:
        row["reason"] = " ".join(str(error).split())[:200]
    return row


def variants(plan: Plan) -> Iterator[Variant]:
    """List the steps to measure, the most telling ones first."""
    for dtype in ("float32", "bfloat16"):
        for model in plan.models:
            for method in METHODS:
                if (model, method) != ("resnet", "certified"):
                    yield Variant(model, method, dtype, pairs=plan.pairs)
    for dtype in ("float32", "bfloat16"):
        for model in plan.models:
            if model in ("mlp", "cnn", "resnet"):
                yield from (Variant(model, "clip", dtype, pairs=pairs) for pairs in plan.growth if pairs != plan.pairs)
    for dtype in ("float32", "bfloat16"):
        for model in ("cnn", "resnet"):
            if model in plan.models:
                for method in ("plain", "clip"):
                    yield Variant(model, method, dtype, channels_last=True, pairs=plan.pairs)
    if plan.compiled:
        for dtype in ("bfloat16", "float32"):
            for model in plan.models:
                for method in ("plain", "clip", "clip idle"):
                    yield Variant(model, method, dtype, compiled=True, pairs=plan.pairs)
    if "resnet" in plan.models:  # the norms of its convolutions take by far the longest
        yield Variant("resnet", "certified", pairs=plan.pairs)


def slow(variant: Variant) -> bool:
    return variant.compiled or (variant.model, variant.method) == ("resnet", "certified")


def with_ratios(rows: list[dict[str, Any]], every: tuple[int, ...] = EVERY) -> list[dict[str, Any]]:
    """Add the cycles of CLIP to measured steps, and to each step its ratio to the plain one of the same kind."""

    def kind(row: dict[str, Any]) -> tuple[object, ...]:
        return tuple(row[key] for key in ("model", "dtype", "compiled", "channels_last", "batch"))

    timed = [row for row in rows if "milliseconds" in row]
    plain = {kind(row): row["milliseconds"] for row in timed if row["method"] == "plain"}
    idle = {kind(row): row["milliseconds"] for row in timed if row["method"] == "clip idle"}
    found = []
    for row in rows:
        own = row.get("milliseconds")
        if own is None or kind(row) not in plain:
            found.append(row)
        elif row["method"] == "clip" and kind(row) in idle:
            for k in every:
                mixed = (own + (k - 1) * idle[kind(row)]) / k
                cycle = {**row, "method": f"clip every {k}", "milliseconds": mixed, "ratio": mixed / plain[kind(row)]}
                found.append({key: value for key, value in cycle.items() if k == 1 or key not in ("least", "most")})
        else:
            found.append({**row, "ratio": own / plain[kind(row)]})
    return found


def train(name: str, plan: Plan, x: Tensor, y: Tensor, *, lam: float) -> dict[str, Any]:
    """Train a network for a number of steps with CLIP (λ = 0: without), then attack its constant from below."""
    torch.manual_seed(0)
    model = plan.models[name]().to(plan.device)
    clip = CLIP(PairSet(x, size=plan.pairs, domain=DOMAIN), lam, every=4, aggregate="mean").to(plan.device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9, nesterov=True)
    rows = torch.Generator(x.device).manual_seed(0)
    wait(plan.device)
    started = time.perf_counter()
    for _ in range(plan.train_steps):
        chosen = torch.randint(len(x), (plan.batch,), generator=rows, device=x.device)
        if lam:
            output, penalty = clip.joint(model, x[chosen])
            loss = cross_entropy(output, y[chosen]) + penalty
        else:
            loss = cross_entropy(model(x[chosen]), y[chosen])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    wait(plan.device)
    seconds = time.perf_counter() - started
    with torch.no_grad():
        output = torch.cat([model(part) for part in x.split(plan.batch)])
    return {
        "model": name,
        "method": f"clip, λ = {lam:g}" if lam else "plain",
        "steps": plan.train_steps,
        "seconds": seconds,
        "loss": float(cross_entropy(output, y)),
        "accuracy": float((output.argmax(dim=1) == y).float().mean()),
        **bounds(model, plan, x),
    }


def bounds(model: nn.Module, plan: Plan, x: Tensor) -> dict[str, Any]:
    """Bracket the constant of a model, and time it."""
    started = time.perf_counter()
    b = bracket(model, DOMAIN, x=x, seconds=plan.bracket_seconds)
    wait(plan.device)
    return {
        "lower": b.lower,
        "upper": b.upper if b.upper < float("inf") else None,
        "upper_method": b.method,
        "reason": b.reason,
        "bracket_seconds": time.perf_counter() - started,
    }


def images(plan: Plan, folder: str | None) -> tuple[Tensor, Tensor, str]:
    """Return images, their classes, and a word on where they come from."""
    if folder is not None:
        data = load(folder)
        if data.shape != SHAPE:
            raise SystemExit(f"{folder}: expected images of shape {SHAPE}, got {data.shape}")
        return data.train.x.to(plan.device), data.train.y.to(plan.device), data.name
    generator = torch.Generator().manual_seed(0)
    count = 20 * plan.batch
    y = torch.randint(CLASSES, (count,), generator=generator)
    patterns = torch.rand(CLASSES, *SHAPE, generator=generator)
    x = 0.5 * patterns[y] + 0.5 * torch.rand(count, *SHAPE, generator=generator)
    return x.to(plan.device), y.to(plan.device), "made: a pattern for each class, and noise"


def tables(result: dict[str, Any]) -> str:
    """Make Markdown tables of a result."""
    lines = ["| step | ms | times plain | MB |", "| --- | --- | --- | --- |"]
    for row in result["steps"]:
        ways = [row["dtype"], *(way for way in ("compiled", "channels_last") if row[way])]
        name = f"{row['model']}, {row['method']}, {row['pairs']} pairs, {', '.join(ways)}"
        if "milliseconds" not in row:
            lines.append(f"| {name} | {row['reason']} | | |")
            continue
        ratio = f"{row['ratio']:.2f}" if "ratio" in row else "–"
        memory = f"{row['megabytes']:.0f}" if "megabytes" in row else "–"
        lines.append(f"| {name} | {row['milliseconds']:.2f} | {ratio} | {memory} |")
    lines += ["", "| training | s | accuracy | Lip ≥ | Lip ≤ | bracket, s |", "| --- | --- | --- | --- | --- | --- |"]
    for row in result["training"]:
        upper = "–" if row["upper"] is None else f"{row['upper']:.4g}"
        lines.append(
            f"| {row['model']}, {row['method']} | {row['seconds']:.2f} | {100 * row['accuracy']:.1f} % | "
            f"{row['lower']:.4g} | {upper} | {row['bracket_seconds']:.1f} |"
        )
    return "\n".join(lines) + "\n"


def run(plan: Plan, folder: str | None) -> dict[str, Any]:
    """Measure all that the time allows."""
    x, y, source = images(plan, folder)
    batch_x, batch_y = x[: plan.batch], y[: plan.batch]
    steps: list[dict[str, Any]] = []
    training: list[dict[str, Any]] = []

    def step(variant: Variant, seconds: float) -> None:
        if plan.allows(variant.label, seconds):
            row = measure(variant, plan, batch_x, batch_y)
            steps.append(row)
            figure = f"{row['milliseconds']:.2f} ms" if "milliseconds" in row else row["reason"]
            print(f"{variant.label}: {figure}", flush=True)

    for variant in variants(plan):
        if not slow(variant):
            step(variant, 10.0)
    for name in plan.models:
        for lam in (0.0, 0.1):
            what = f"training of {name} with λ = {lam:g}"
            if name != "vit" and plan.allows(what, 4 * plan.bracket_seconds):
                training.append(train(name, plan, x, y, lam=lam))
                print(f"{what}: {training[-1]['seconds']:.1f} s", flush=True)
    for variant in variants(plan):
        if slow(variant):
            step(variant, SLACK)
    cuda = plan.device.type == "cuda"
    name = torch.cuda.get_device_name(plan.device) if cuda else platform.processor() or platform.machine()
    return {
        "machine": {
            **versions(),
            "device": name,
            "cuda": torch.version.cuda if cuda else None,
            "threads": torch.get_num_threads(),
        },
        "data": source,
        "seconds": time.perf_counter() - plan.started,
        "steps": with_ratios(steps),
        "training": training,
        "left_out": plan.left_out,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="small networks, for a CPU")
    parser.add_argument("--data", default=None, help="a folder of images of 32 × 32 pixels in colour")
    parser.add_argument("--minutes", type=float, default=8.5, help="time after which nothing more is begun")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=None, help="write the result to this JSON file")
    parser.add_argument("--show", type=Path, default=None, help="measure nothing; print the tables of this JSON file")
    options = parser.parse_args()
    if options.show is not None:
        print(tables(json.loads(options.show.read_text())))
        return
    device = torch.device(options.device)
    if device.type == "cpu" and not options.quick:
        raise SystemExit("expected a GPU, got none: on a CPU use --quick")
    plan = Plan.small(device, options.minutes) if options.quick else Plan.full(device, options.minutes)
    result = run(plan, options.data)
    print(tables(result))
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
