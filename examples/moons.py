"""Draw the decision regions of a network on two moons, trained without and with CLIP.

python examples/moons.py docs/moons.png     (needs pip install 'cheaplip[cli,plots]')

The colour is the probability that the network gives to a class. The black line is the decision boundary; on the dashed
lines, the probability is 90 %. The margin of a point is its distance to the boundary.
"""

import sys

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import make_moons
from torch import Tensor, nn

import cheaplip
from cheaplip.lipschitz import largest_quotient

DOMAIN = cheaplip.Box(torch.tensor([-1.6, -1.1]), torch.tensor([2.6, 1.6]))
GRID = 400
TARGET = 0.99


def moons(count: int, seed: int) -> tuple[Tensor, Tensor]:
    x, y = make_moons(count, noise=0.15, random_state=seed)
    x = DOMAIN.project(torch.from_numpy(x).float())
    return x, torch.from_numpy(y)


def train(x: Tensor, y: Tensor, target: float | None, steps: int = 2000) -> nn.Module:
    """Train a network with CLIP, or without it if ``target`` is None."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=steps)
    clip = cheaplip.CLIP(cheaplip.PairSet(x, domain=DOMAIN), lam=0.01)
    controller = None if target is None else cheaplip.DiscrepancyPrinciple(clip, target)
    for _ in range(steps):
        output, penalty = (model(x), 0.0) if controller is None else clip.joint(model, x)
        loss = nn.functional.cross_entropy(output, y) + penalty
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if controller is not None:
            controller.step((output.argmax(1) == y).float().mean())
    return model


@torch.no_grad()
def draw(axis: plt.Axes, model: nn.Module, x: Tensor, y: Tensor, title: str) -> None:
    across, up = (
        torch.linspace(float(low), float(high), GRID) for low, high in zip(DOMAIN.low, DOMAIN.high, strict=True)
    )
    grid = torch.stack(torch.meshgrid(across, up, indexing="xy"), dim=-1)
    probability = model(grid.reshape(-1, 2)).softmax(1)[:, 1].reshape(GRID, GRID)
    axis.contourf(across, up, probability, levels=[i / 20 for i in range(21)], cmap="RdBu_r", alpha=0.6)
    axis.contour(across, up, probability, levels=[0.1, 0.9], colors="black", linewidths=0.8, linestyles="dashed")
    axis.contour(across, up, probability, levels=[0.5], colors="black", linewidths=1.8)
    axis.scatter(*x.T, c=y, cmap="RdBu_r", s=18, edgecolors="white", linewidths=0.6)
    test_x, test_y = moons(5000, seed=1)
    accuracies = [float((model(at).argmax(1) == label).float().mean()) for at, label in ((x, y), (test_x, test_y))]
    quotient = largest_quotient(model, x, domain=DOMAIN, size=128, steps=60).value
    side = probability > 0.5
    border = torch.zeros_like(side)
    border[:, 1:] |= side[:, 1:] != side[:, :-1]
    border[1:] |= side[1:] != side[:-1]
    right = model(x).argmax(1) == y
    margins = torch.cdist(x[right], grid[border]).amin(dim=1)
    numbers = (
        f"accuracy: training {100 * accuracies[0]:.1f} %, test {100 * accuracies[1]:.1f} %\n"
        f"largest quotient found {quotient:.1f}, margin of the closest tenth {margins.quantile(0.1):.3f}"
    )
    print(f"{title}: {numbers}".replace("\n", ", "))
    axis.set_title(title, fontweight="bold")
    axis.set_xlabel(numbers)
    axis.set(xticks=[], yticks=[], aspect="equal")


def main(path: str) -> None:
    x, y = moons(150, seed=0)
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.6), layout="constrained")
    draw(axes[0], train(x, y, None), x, y, "plain")
    draw(axes[1], train(x, y, TARGET), x, y, f"CLIP, target {TARGET:g}")
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "moons.png")
