"""Real processes: the same weights, pairs and λ as one process that holds everything; DDP and FSDP."""

import os
from functools import partial

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from cheaplip import CLIP, Box, DiscrepancyPrinciple, PairSet
from cheaplip.distributed import own, ranks, union
from several_processes import on_ranks

pytestmark = pytest.mark.skipif(not dist.is_gloo_available() or os.name != "posix", reason="needs gloo and fork")

FORMS = ("own pass", "shared pass")


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 24), nn.Tanh(), nn.Linear(24, 24), nn.Tanh(), nn.Linear(24, 3))


def batch_norm() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 24), nn.BatchNorm1d(24), nn.Tanh(), nn.Linear(24, 3))


def problem() -> tuple[Tensor, Tensor]:
    x = torch.rand(96, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return x, (3 * x.mean(dim=1).argsort().argsort() // 96).long()


def penalty_on(x: Tensor, options: dict) -> CLIP:
    """Twelve pairs, of which each rank keeps its part."""
    own_options = {name: options[name] for name in options if name in ("aggregate", "every")}
    pair_options = {name: options[name] for name in options if name in ("step", "renew", "grace")}
    pairs = PairSet(x, size=12, domain=Box(0.0, 1.0), **{"grace": 3, **pair_options})
    for name in ("u", "v", "age"):
        setattr(pairs, name, own(getattr(pairs, name)))
    return CLIP(pairs, lam=0.3, **own_options)


def losses(clip: CLIP, form: str, model, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    if form == "own pass":
        output = model(x)
        penalty = clip(model)
    else:
        output, penalty = clip.joint(model, x)
    return output, penalty, cross_entropy(output, y) + penalty


def fit(form: str, wrap: str, options: dict, steps: int = 12) -> dict:
    torch.manual_seed(0)
    net = mlp().double()
    x, y = problem()
    clip = penalty_on(x, options)
    controller = DiscrepancyPrinciple(clip, target=0.5, rate=0.1, smoothing=0.5)
    model = net
    if ranks() > 1 and wrap == "FSDP":
        for layer in net:
            if isinstance(layer, nn.Linear):
                fully_shard(layer)
        fully_shard(net)
    elif ranks() > 1:
        model = DistributedDataParallel(
            net, find_unused_parameters=wrap == "DDP, unused", static_graph=wrap == "DDP, static graph"
        )
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    order = torch.Generator().manual_seed(2)
    seen = []
    for _ in range(steps):
        chosen = own(torch.randperm(len(x), generator=order)[:24])
        output, penalty, loss = losses(clip, form, model, x[chosen], y[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        controller.step((output.argmax(dim=1) == y[chosen]).float().mean())
        seen.append(torch.stack([penalty.detach(), clip.largest, clip.lam]))
    clip.eval()
    seen.append(torch.stack([clip(model).detach(), clip.largest, clip.lam]))
    weights = {name: p.full_tensor() if wrap == "FSDP" and ranks() > 1 else p for name, p in net.named_parameters()}
    pairs = {name: union(getattr(clip.pairs, name)) for name in ("u", "v", "age")}
    return {"seen": torch.stack(seen), **{name: value.detach().clone() for name, value in (weights | pairs).items()}}


def check_equal(count: int, tmp_path, form: str, wrap: str = "DDP", **options) -> None:
    alone = fit(form, wrap, options)
    together = on_ranks(count, fit, tmp_path, form, wrap, options)
    close = partial(torch.testing.assert_close, rtol=1e-6, atol=1e-8)
    for result in together:
        assert result.keys() == alone.keys()
        for name, value in alone.items():
            close(result[name], value, msg=lambda m, name=name: f"{name}: {m}")
    assert float((alone["age"] < 12).sum()) > 0 or options.get("renew") == 0  # the tournament took place


@pytest.mark.parametrize("form", FORMS)
def test_two_processes_equal_one(form, tmp_path):
    check_equal(2, tmp_path, form)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("count", "step", "aggregate"), [(4, "power", "softmax"), (3, "gradient", "mean"), (2, "quotient", "max")]
)
@pytest.mark.parametrize("form", FORMS)
def test_processes_equal_one_whatever_the_options(form, step, aggregate, count, tmp_path):
    check_equal(count, tmp_path, form, step=step, aggregate=aggregate, every=2)


@pytest.mark.skipif(torch.__version__.startswith("2.6."), reason="torch 2.6 shards on accelerators only")
@pytest.mark.parametrize("form", ["shared pass", pytest.param("own pass", marks=pytest.mark.slow)])
def test_a_sharded_model(form, tmp_path):
    check_equal(2, tmp_path, form, "FSDP")


@pytest.mark.slow
@pytest.mark.parametrize("wrap", ["DDP, unused", "DDP, static graph"])
@pytest.mark.parametrize("form", FORMS)
def test_options_of_the_wrapper(form, wrap, tmp_path):
    check_equal(2, tmp_path, form, wrap)


def fit_batch_norm(form: str) -> dict:
    torch.manual_seed(0)
    net = batch_norm().double()
    model = DistributedDataParallel(net)
    x, y = problem()
    clip = penalty_on(x, {})
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for step in range(6):
        chosen = own(torch.arange(16 * step, 16 * (step + 1)))
        optimizer.zero_grad()
        fit = cross_entropy(model(x[chosen]), y[chosen])
        if form == "one backward pass":
            (fit + clip(model)).backward()
        else:
            fit.backward()
            clip(model).backward()
        optimizer.step()
    assert model.broadcast_buffers
    return {name: p.detach() for name, p in net.named_parameters()}


@pytest.mark.parametrize("form", ["one backward pass", pytest.param("two backward passes", marks=pytest.mark.slow)])
def test_batch_norm_in_its_wrapper(form, tmp_path):
    one, other = on_ranks(2, fit_batch_norm, tmp_path, form)
    assert all(torch.equal(one[name], other[name]) for name in one)
