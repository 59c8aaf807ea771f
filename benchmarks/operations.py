"""Count the operations of a training step, a figure that is the same on every machine.

python benchmarks/operations.py

These are the calls of ATen operators that PyTorch's profiler records, including nested ones, for the perceptron of
MNIST. They determine the cost of a step when launching an operation takes longer than computing it.
"""

import argparse

import torch
from torch.profiler import ProfilerActivity, profile

from cheaplip import CLIP, DiscrepancyPrinciple, PairSet

try:
    from benchmarks.cost import Step, cycle_of, make_step
except ModuleNotFoundError:
    from cost import Step, cycle_of, make_step


def calls(step: Step, cycle: int) -> float:
    """Count the ATen calls per step, over one cycle of steps, after three cycles to warm up."""
    for _ in range(3 * cycle):
        step()
    with profile(activities=[ProfilerActivity.CPU]) as record:
        for _ in range(cycle):
            step()
    return sum(event.name.startswith("aten::") for event in record.events() or []) / cycle


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument("--batch", type=int, default=128)
    options = parser.parse_args()
    controller = DiscrepancyPrinciple(CLIP(PairSet(torch.rand(8, 2))), 0.97)
    metric = torch.tensor(0.9)
    plain = calls(make_step("plain", "mlp", options.batch), 1)
    print(f"{'plain':24s} {plain:7.1f} calls a step")
    for form in ("joint", "separate"):
        for every in (1, 8):
            name = f"clip {form} every {every}"
            count = calls(make_step(name, "mlp", options.batch, pairs=options.pairs), cycle_of(name))
            print(f"{name:24s} {count:7.1f} calls a step, {count - plain:6.1f} above plain, accuracy and λ included")
    print(f"{'controller alone':24s} {calls(lambda: controller.step(metric), 1):7.1f} calls a step")


if __name__ == "__main__":
    main()
