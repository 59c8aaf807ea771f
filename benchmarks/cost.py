"""Measure the cost of a training step with CLIP and other penalties, relative to plain training.

python benchmarks/cost.py

All variants take turns in each repeat, so that a noisy machine slows them equally. A ratio is the median over the
repeats of (variant / plain). A variant with ``every`` above 1 is timed over a whole cycle of ``every`` steps. With
``--composed``, for networks whose steps take long, the time of a cycle is computed from one step that regularises and
one that does not. Peak memory is that of the tensors that a step allocates, as counted by the profiler, above the
memory before the step.

``--predicted`` compares the time of a step with 512 pairs with the number of its floating-point operations, as counted
by PyTorch, both relative to a plain step. If tensors are large, glibc returns their memory after each step and pages it
in again in the next, which takes a good part of the time. To make it keep the memory, set
``GLIBC_TUNABLES=glibc.malloc.mmap_threshold=4294967296:glibc.malloc.trim_threshold=8589934592`` in the environment. The
rows record this setting.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from cheaplip import CLIP, Box, DiscrepancyPrinciple, PairSet
from cheaplip.clip import Aggregate
from cheaplip.runs.folder import versions
from cheaplip.training.pgd import perturb

CLASSES = 10
WITH_ACCURACY = "plain, with its accuracy"
Step = Callable[[], None]


def mlp(width: int = 200) -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(784, width), nn.Sigmoid(), nn.Linear(width, 80), nn.Sigmoid(), nn.Linear(80, CLASSES)
    )


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 32, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(3136, 1024),
        nn.ReLU(),
        nn.Linear(1024, CLASSES),
    )


class Residual(nn.Module):
    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(channels, out, 3, stride, 1), nn.ReLU(), nn.Conv2d(out, out, 3, 1, 1))
        same = stride == 1 and channels == out
        self.skip = nn.Identity() if same else nn.Conv2d(channels, out, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.skip(x) + 0.2 * self.body(x))


def resnet() -> nn.Module:
    """ResNet-18 for 32 × 32 images, without batch norm (11.2 million parameters)."""
    blocks: list[nn.Module] = []
    before = 64
    for channels, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        blocks += [Residual(before, channels, stride), Residual(channels, channels, 1)]
        before = channels
    return nn.Sequential(
        nn.Conv2d(3, 64, 3, 1, 1), nn.ReLU(), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, CLASSES)
    )


class Transformer(nn.Module):
    """Two encoder layers of width 64 over 49 patches of 4 × 4 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(1, 64, 4, 4)
        layer = nn.TransformerEncoderLayer(64, 4, 128, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(64, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.encoder(self.embed(x).flatten(2).transpose(1, 2)).mean(dim=1))
        return out


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (mlp, (1, 28, 28)),
    "cnn": (cnn, (1, 28, 28)),
    "resnet": (resnet, (3, 32, 32)),
    "transformer": (Transformer, (1, 28, 28)),
}


class Published:
    """The paper's algorithm: 500 pairs, one pass for the ascent, one to measure the quotients, one for the penalty."""

    def __init__(self, x: Tensor, size: int = 500) -> None:
        chosen = torch.randint(len(x), (size,))
        self.u, self.v = x[chosen].clone(), x[chosen] + 0.1 * torch.randn_like(x[chosen])

    def quotients(self, model: nn.Module, u: Tensor, v: Tensor) -> Tensor:
        return (model(u) - model(v)).flatten(1).norm(dim=1) / (u - v).flatten(1).norm(dim=1)

    def __call__(self, model: nn.Module) -> Tensor:
        u, v = self.u.requires_grad_(), self.v.requires_grad_()
        quotients = self.quotients(model, u, v)
        grad_u, grad_v = torch.autograd.grad(quotients.sum(), (u, v))
        level = quotients.detach().reshape(-1, *[1] * (u.dim() - 1))
        self.u, self.v = (u + level * grad_u).detach(), (v + level * grad_v).detach()
        with torch.no_grad():
            steepest = self.quotients(model, self.u, self.v).argmax()  # which pair to penalise
        return 0.1 * self.quotients(model, self.u, self.v)[steepest]


def gradient_penalty(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Return the cross-entropy plus the squared norm of its gradient with respect to the input, by double backward."""
    x = x.detach().requires_grad_()
    loss = cross_entropy(model(x), y)
    (gradient,) = torch.autograd.grad(loss, x, create_graph=True)
    return loss + 0.1 * len(x) * gradient.square().sum()


def make_step(
    name: str, network: str, batch: int, *, compiled: bool = False, pairs: int = 32, width: int = 200
) -> Step:
    """Return a function that takes one training step of a variant; ``name`` is a row of the table."""
    build, shape = MODELS[network]
    torch.manual_seed(0)
    model = mlp(width) if network == "mlp" else build()
    domain = Box(0.0, 1.0)
    batches = 4
    x, y = torch.rand(batches * batch, *shape), torch.randint(CLASSES, (batches * batch,))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, nesterov=True, weight_decay=2e-5)
    controller: DiscrepancyPrinciple | None = None
    objective: Callable[[Tensor, Tensor], tuple[Tensor, Tensor | None]]
    if name.startswith("clip"):
        form, _, every = name.removeprefix("clip ").removesuffix(" idle").partition(" every ")
        lazily = int(every or 1)
        aggregate: Aggregate = "softmax" if lazily == 1 else "mean"  # as recommended
        clip = CLIP(PairSet(x, size=pairs, domain=domain), 0.1, every=lazily, aggregate=aggregate)
        if name.endswith(" idle"):
            clip.every, clip.calls, clip.due = 10**9, 1, False
        controller = DiscrepancyPrinciple(clip, 0.97)

        def objective(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor | None]:
            if form == "separate":
                output = model(x)
                return cross_entropy(output, y) + clip(model), output
            output, penalty = clip.joint(model, x)
            return cross_entropy(output, y) + penalty, output

    elif name in ("plain", WITH_ACCURACY):

        def objective(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor | None]:
            output = model(x)
            return cross_entropy(output, y), output

    elif name == "published":
        published = Published(x[:500] if len(x) >= 500 else x.repeat(500 // len(x) + 1, 1, 1, 1)[:500])

        def objective(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor | None]:
            return cross_entropy(model(x), y) + published(model), None

    elif name == "gradient penalty":

        def objective(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor | None]:
            return gradient_penalty(model, x, y), None

    else:
        noise = torch.Generator().manual_seed(0)

        def summed(output: Tensor, y: Tensor) -> Tensor:
            return cross_entropy(output, y) * len(output)

        def objective(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor | None]:
            perturbed = perturb(model, summed, x, y, epsilon=2.0, steps=7, domain=domain, generator=noise)
            return cross_entropy(model(perturbed), y), None

    if compiled:
        objective = torch.compile(objective)
    position = 0

    def step() -> None:
        nonlocal position
        here = slice(position * batch, (position + 1) * batch)
        position = (position + 1) % batches
        loss, output = objective(x[here], y[here])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if output is not None and (controller is not None or name == WITH_ACCURACY):
            with torch.no_grad():
                hits = (output.argmax(dim=1) == y[here]).float().mean()
            if controller is not None:
                controller.step(hits)

    return step


def time_ratios(
    steps: dict[str, Step], cycles: dict[str, int], repeats: int, seconds: float
) -> dict[str, dict[str, float]]:
    """Return milliseconds per step (median) and the ratio to ``plain`` (median, least, most over the repeats)."""
    counts = {}
    for name, step in steps.items():
        for _ in range(cycles[name]):
            step()
        started = time.perf_counter()
        for _ in range(cycles[name]):
            step()
        once = (time.perf_counter() - started) / cycles[name]
        counts[name] = cycles[name] * max(1, round(seconds / once / cycles[name]))
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(repeats):
        for name, step in steps.items():
            started = time.perf_counter()
            for _ in range(counts[name]):
                step()
            times[name].append((time.perf_counter() - started) / counts[name])
    return {name: ratio_to(times["plain"], own) for name, own in times.items()}


def ratio_to(plain: list[float], own: list[float]) -> dict[str, float]:
    """Return milliseconds, and the ratio to the plain step of the same repeat."""
    ratios = [mine / base for mine, base in zip(own, plain, strict=True)]
    return {
        "milliseconds": 1e3 * statistics.median(own),
        "ratio": statistics.median(ratios),
        "least": min(ratios),
        "most": max(ratios),
    }


def composed_ratios(steps: dict[str, Step], everies: list[int], repeats: int) -> dict[str, dict[str, float]]:
    """Like :func:`time_ratios`, with the time of a cycle computed from one ``… every 1`` and one ``… idle`` step."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for repeat in range(repeats + 1):
        for name, step in steps.items():
            started = time.perf_counter()
            step()
            if repeat > 0:  # the first one warms up
                times[name].append(time.perf_counter() - started)
    for form in ("joint", "separate"):
        idle = times.pop(f"clip {form} idle", None)
        due = times.get(f"clip {form} every 1")
        if idle is not None and due is not None:
            for k in everies:
                mixed = [(one + (k - 1) * other) / k for one, other in zip(due, idle, strict=True)]
                times[f"clip {form} every {k}"] = mixed
    return {name: ratio_to(times["plain"], own) for name, own in times.items()}


def peak_megabytes(step: Step, cycle: int) -> float:
    """Return the peak of the allocated memory during a cycle of steps, above the memory before it."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        for _ in range(cycle):
            step()
    live = peak = 0
    for event in record.profiler.kineto_results.events():  # type: ignore[union-attr]
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    return peak / 1e6


def predicted(repeats: int, batch: int = 128, pairs: int = 512) -> list[dict[str, Any]]:
    """Compare a step of ``clip.joint`` on the ResNet with a plain one on as many inputs: time, and operations."""
    inputs = batch + 2 * pairs
    steps = {
        "plain": make_step("plain", "resnet", batch),
        f"plain, {inputs} inputs": make_step("plain", "resnet", inputs),
        f"clip joint, {pairs} pairs": make_step("clip joint every 1", "resnet", batch, pairs=pairs),
    }
    figures = composed_ratios(steps, [], repeats)
    rows: list[dict[str, Any]] = []
    operations = {}
    for name, step in steps.items():
        with FlopCounterMode(display=False) as counter:
            step()
        operations[name] = counter.get_total_flops()
        expected = operations[name] / operations["plain"]
        rows.append({"model": "resnet", "variant": name, **figures[name], "predicted": expected})
        print(
            f"resnet {name:24s} {figures[name]['milliseconds']:9.0f} ms, {figures[name]['ratio']:.2f} × plain "
            f"({figures[name]['least']:.2f} … {figures[name]['most']:.2f}), by its operations {expected:.2f}: "
            f"{figures[name]['ratio'] / expected:.3f} times the prediction",
            flush=True,
        )
    return rows


def tables(rows: list[dict[str, Any]]) -> str:
    """Make Markdown tables of a results file: steps by network and batch, eager and compiled, and the cost's growth."""
    steps = [row for row in rows if "compiled" in row]
    parts = []
    for compiled in (False, True):
        chosen = [row for row in steps if row["compiled"] is compiled]
        if not chosen:
            continue
        networks = {(row["model"], row["batch"]) for row in chosen}
        columns = sorted(networks, key=lambda network: (list(MODELS).index(network[0]), network[1]))
        cells = {(row["variant"], row["model"], row["batch"]): row for row in chosen}
        lines = [["compiled" if compiled else "step", *(f"{model}, {batch}" for model, batch in columns)]]
        lines += [["---"] * len(lines[0])]
        for variant in sorted({row["variant"] for row in chosen}, key=_order):
            found = [cells.get((variant, *column)) for column in columns]
            lines.append([str(variant), *("–" if row is None else _cell(row) for row in found)])
        parts.append(lines)
    for label in ("pairs", "width", "batch"):
        chosen = [row for row in rows if row.get("grows") == label and row["variant"] == "clip joint"]
        if chosen:
            head = [label, *(str(row[label]) for row in chosen)]
            parts.append([head, ["---"] * len(head), ["times plain", *(f"{row['ratio']:.2f}" for row in chosen)]])
    return "\n".join("".join("| " + " | ".join(line) + " |\n" for line in lines) for lines in parts)


def _cell(row: dict[str, Any]) -> str:
    return f"{row['milliseconds']:.4g} ms" if row["variant"] == "plain" else f"{row['ratio']:.2f}"


def _order(variant: object) -> tuple[int, str, int]:
    name, _, every = str(variant).partition(" every ")
    known = ["plain", WITH_ACCURACY, "clip joint", "clip separate"]
    return (known.index(name) if name in known else len(known), name, int(every or 0))


def cycle_of(name: str) -> int:
    return int(name.partition(" every ")[2] or 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--models", default="mlp,cnn,resnet,transformer")
    parser.add_argument("--batches", default="128,512")
    parser.add_argument("--every", default="1,2,4,8")
    parser.add_argument("--pairs", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.5, help="least time of each variant in a repeat")
    parser.add_argument("--compiled", action="store_true", help="run every variant under torch.compile, also plain")
    parser.add_argument("--growth", action="store_true", help="only the growth with pairs, width and batch (mlp)")
    parser.add_argument("--out", type=Path, default=None, help="append the rows to this JSON file")
    parser.add_argument("--composed", action="store_true", help="time cycles by two steps, for slow networks")
    parser.add_argument("--leave-out", default="", help="variants to leave out, separated by semicolons")
    parser.add_argument("--show", type=Path, default=None, help="measure nothing; print the tables of this JSON file")
    parser.add_argument("--predicted", action="store_true", help="only 512 pairs against their operations (resnet)")
    options = parser.parse_args()
    if options.show is not None:
        print(tables(json.loads(options.show.read_text())["rows"]))
        return
    everies = [int(part) for part in options.every.split(",")]
    forms = ("joint", "separate")
    lazy = ("every 1", "idle") if options.composed else tuple(f"every {k}" for k in everies)
    others = ("gradient penalty", "adversarial (PGD-7)", "published")
    names = ["plain", WITH_ACCURACY, *(f"clip {form} {when}" for form in forms for when in lazy), *others]
    left_out = options.leave_out.split(";")
    names = [name for name in names if name not in left_out]
    rows: list[dict[str, Any]] = []

    def measure(network: str, batch: int, variants: dict[str, Callable[[], Step]], **labels: object) -> None:
        steps = {name: make() for name, make in variants.items()}
        cycles = {name: cycle_of(name) for name in steps}
        if options.composed:
            times = composed_ratios(steps, everies, options.repeats)
        else:
            times = time_ratios(steps, cycles, options.repeats, options.seconds)
        for name, figures in times.items():
            step = name if name in steps else f"{name.partition(' every ')[0]} every 1"
            memory = peak_megabytes(steps[step], cycles[step])
            row = {"model": network, "batch": batch, "variant": name, **labels, **figures, "megabytes": memory}
            rows.append(row)
            print(
                f"{network:12s} {batch:4d} {' '.join(map(str, labels.values())):8s} {name:26s} "
                f"{figures['milliseconds']:9.2f} ms  {figures['ratio']:5.2f} × plain "
                f"({figures['least']:.2f} … {figures['most']:.2f})  {memory:8.1f} MB",
                flush=True,
            )

    make = partial(partial, make_step)
    if options.growth:
        for size in (8, 16, 32, 64, 128, 256, 512):
            step = make("clip joint", "mlp", 128, pairs=size)
            measure("mlp", 128, {"plain": make("plain", "mlp", 128), "clip joint": step}, grows="pairs", pairs=size)
        for width in (100, 400, 1600):
            variants = {name: make(name, "mlp", 128, width=width) for name in ("plain", "clip joint")}
            measure("mlp", 128, variants, grows="width", width=width)
        for batch in (32, 128, 512, 2048):
            variants = {name: make(name, "mlp", batch) for name in ("plain", "clip joint")}
            measure("mlp", batch, variants, grows="batch")
    elif options.predicted:
        rows += predicted(options.repeats)
    else:
        for network in options.models.split(","):
            for batch in map(int, options.batches.split(",")):
                chosen = {
                    name: make(name, network, batch, compiled=options.compiled, pairs=options.pairs)
                    for name in names
                    if (network, name) != ("transformer", "gradient penalty")  # attention has no second derivative here
                }
                measure(network, batch, chosen, compiled=options.compiled, pairs=options.pairs)
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        before = json.loads(options.out.read_text())["rows"] if options.out.exists() else []
        tunables = os.environ.get("GLIBC_TUNABLES", "")
        machine = {**versions(), "threads": torch.get_num_threads(), "GLIBC_TUNABLES": tunables}
        options.out.write_text(json.dumps({"machine": machine, "rows": before + rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
