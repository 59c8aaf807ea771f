"""CLIP with DistributedDataParallel: each process holds its own pairs, and λ is the same in all of them.

torchrun --nproc-per-node 2 examples/ddp.py
"""

import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import cheaplip
from cheaplip.lipschitz import largest_quotient


def main() -> None:
    dist.init_process_group("gloo")
    torch.manual_seed(0)
    images, labels = load_digits(return_X_y=True)
    x, y = torch.from_numpy(images / 16).float(), torch.from_numpy(labels)
    data = TensorDataset(x[:1400], y[:1400])
    sampler = DistributedSampler(data)
    loader = DataLoader(data, batch_size=32, sampler=sampler)
    model = DistributedDataParallel(nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    domain = cheaplip.Box(0.0, 1.0)

    generator = torch.Generator().manual_seed(dist.get_rank())
    clip = cheaplip.CLIP(cheaplip.PairSet(x[:1400], size=16, domain=domain, generator=generator), lam=0.1)
    controller = cheaplip.DiscrepancyPrinciple(clip, target=0.98)
    for epoch in range(10):
        sampler.set_epoch(epoch)
        for inputs, targets in loader:
            output, penalty = clip.joint(model, inputs)
            loss = nn.functional.cross_entropy(output, targets) + penalty
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            accuracy = (output.argmax(1) == targets).float().mean()
            dist.all_reduce(accuracy)
            controller.step(accuracy / dist.get_world_size())

    if dist.get_rank() == 0:
        report(model.module, x, y, domain, clip.lam)
    dist.destroy_process_group()


def report(model: nn.Module, x: torch.Tensor, y: torch.Tensor, domain: cheaplip.Box, lam: torch.Tensor) -> None:
    accuracy = (model(x[1400:]).argmax(1) == y[1400:]).float().mean()
    quotient = largest_quotient(model, x[:1400], domain=domain, size=64, steps=50).value
    print(f"test accuracy {accuracy:.3f}, largest quotient found {quotient:.2f}, λ {lam:.3g}")


if __name__ == "__main__":
    main()
