"""CLIP in a plain PyTorch loop.

python examples/plain.py
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import cheaplip
from cheaplip.lipschitz import largest_quotient


def main() -> None:
    torch.manual_seed(0)
    images, labels = load_digits(return_X_y=True)
    x, y = torch.from_numpy(images / 16).float(), torch.from_numpy(labels)
    loader = DataLoader(TensorDataset(x[:1400], y[:1400]), batch_size=64, shuffle=True)
    model = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    domain = cheaplip.Box(0.0, 1.0)

    clip = cheaplip.CLIP(cheaplip.PairSet(x[:1400], domain=domain), lam=0.1)
    controller = cheaplip.DiscrepancyPrinciple(clip, target=0.98)
    for _ in range(10):
        for inputs, targets in loader:
            output, penalty = clip.joint(model, inputs)
            loss = nn.functional.cross_entropy(output, targets) + penalty
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            controller.step((output.argmax(1) == targets).float().mean())

    accuracy = (model(x[1400:]).argmax(1) == y[1400:]).float().mean()
    quotient = largest_quotient(model, x[:1400], domain=domain, size=64, steps=50).value
    print(f"test accuracy {accuracy:.3f}, largest quotient found {quotient:.2f}, λ {clip.lam:.3g}")


if __name__ == "__main__":
    main()
