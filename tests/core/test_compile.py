"""Compiled steps: one graph, or two where calls are left out, the same weights, pairs and λ; and no step waits."""

import shutil
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode

from cheaplip import CLIP, Box, DiscrepancyPrinciple, PairSet

STEPS = 7
FORMS = ["own pass", "shared pass"]
needs_compiler = pytest.mark.skipif(not shutil.which("g++"), reason="inductor needs a C++ compiler")
BACKENDS = ["aot_eager", pytest.param("inductor", marks=[pytest.mark.slow, needs_compiler])]

# Dynamo instantiates every autograd.Function it traces, and then warns of it
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning"),  # of inductor's own imports
]


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(STEPS, 32, 5, generator=generator), torch.randint(3, (STEPS, 32), generator=generator)


def made(every: int = 1, *, dropout: float = 0.0, **options) -> tuple[nn.Module, CLIP]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Dropout(dropout), nn.Linear(16, 3))
    x, _ = data()
    pairs = {"grace": 2, "domain": Box(0.0, 1.0), **options}
    return model, CLIP(PairSet(x.flatten(0, 1), size=8, **pairs), lam=0.3, every=every)


def objective(form: str, model: nn.Module, clip: CLIP):
    def own_pass(x: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(model(x), y) + clip(model)

    def shared_pass(x: Tensor, y: Tensor) -> Tensor:
        output, penalty = clip.joint(model, x)
        return cross_entropy(output, y) + penalty

    return own_pass if form == "own pass" else shared_pass


def train(form: str, backend: str | None, every: int = 1, **options) -> tuple[dict[str, Tensor], int]:
    """Everything there is after some steps, and the number of graphs."""
    model, clip = made(every, **options)
    graphs = CompileCounterWithBackend(backend or "eager")
    loss_of = objective(form, model, clip)
    if backend is not None:
        loss_of = torch.compile(loss_of, fullgraph=True, backend=graphs)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    controller, losses = DiscrepancyPrinciple(clip, 0.5, rate=0.1), []
    for x, y in zip(*data(), strict=True):
        loss = loss_of(x, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        controller.step(loss.detach().sigmoid())
        losses.append(loss.detach())
    return {"losses": torch.stack(losses), **model.state_dict(), **clip.state_dict()}, graphs.frame_count


def check_equal(form: str, backend: str, every: int = 1, **options) -> None:
    eager, _ = train(form, None, every, **options)
    compiled, graphs = train(form, backend, every, **options)
    assert graphs == (1 if every == 1 else 2)
    assert eager.keys() == compiled.keys()
    for name, value in eager.items():
        torch.testing.assert_close(
            compiled[name], value, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )
    assert int(compiled["pairs.age"].min()) < STEPS or options.get("renew") == 0  # newcomers came


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("form", FORMS)
def test_a_compiled_step_equals_an_eager_one(form, every, backend):
    check_equal(form, backend, every)


@pytest.mark.parametrize(
    ("step", "start"), [("gradient", "data"), ("quotient", "batch"), ("power", "uniform")], ids=lambda option: option
)
@pytest.mark.parametrize("form", ["shared pass", pytest.param("own pass", marks=pytest.mark.slow)])
def test_whatever_the_options(form, step, start):
    check_equal(form, "aot_eager", step=step, start=start)


def test_two_penalties_take_their_own_turns():
    (model, one), (_, other) = made(2), made(3)
    both = torch.compile(lambda: torch.stack([one(model), other(model)]), fullgraph=True, backend="aot_eager")
    due = torch.stack([both().detach() > 0 for _ in range(6)])
    assert due[:, 0].tolist() == [True, False] * 3
    assert due[:, 1].tolist() == [True, False, False] * 2


def test_with_active_dropout_a_compiled_joint_call_takes_the_own_pass():
    model, clip = made(dropout=0.5)
    reference, x = made(dropout=0.5)[1], data()[0][0]
    output, penalty = torch.compile(clip.joint, fullgraph=True, backend="aot_eager")(model, x)
    assert penalty.item() == pytest.approx(reference(model).item(), rel=1e-5)
    assert torch.equal(clip.pairs.age, reference.pairs.age)
    assert output.shape == (32, 3)


@pytest.mark.parametrize("form", FORMS)
def test_the_global_generator_is_left_alone(form):
    before = torch.random.get_rng_state()
    train(form, "aot_eager", start="data")
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("rule", ["multiplicative", "additive"])
def test_a_compiled_controller_equals_an_eager_one(rule):
    courses = []
    graphs = CompileCounterWithBackend("aot_eager")
    for compiled in (False, True):
        _, clip = made()
        controller = DiscrepancyPrinciple(clip, 0.7, rule=rule, warmup=2, rate=0.05)
        step = torch.compile(controller.step, fullgraph=True, backend=graphs) if compiled else controller.step
        course = []
        for k in range(STEPS):
            step(torch.tensor(0.5 + 0.08 * k), pace=1 - 0.1 * k)
            course.append(clip.lam.clone())
        courses.append(torch.stack([*course, controller.average]))
    torch.testing.assert_close(*courses, rtol=1e-6, atol=0)
    assert graphs.frame_count == 2  # the pace is a constant until it changes for the first time


# No host sync


class NeverWaits(TorchDispatchMode):
    """Refuses whatever reads a tensor's value on the host."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket.__name__ in ("_local_scalar_dense", "nonzero", "is_nonzero", "item", "equal"):
            raise AssertionError(f"the host waits: {func}")
        return func(*args, **(kwargs or {}))


def test_the_watch_sees_a_wait():
    with NeverWaits(), pytest.raises(AssertionError, match=r"the host waits: aten\._local_scalar_dense"):
        torch.ones(()).item()


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("step", ["power", "gradient", "quotient"])
@pytest.mark.parametrize("form", FORMS)
def test_no_step_waits_for_the_device(form, step, every):
    model, clip = made(every, step=step)
    controller = DiscrepancyPrinciple(clip, 0.5)
    for k, (x, y) in enumerate(zip(*data(), strict=True)):
        with NeverWaits() if k > 0 else nullcontext():  # the first call looks at the model
            loss = objective(form, model, clip)(x, y)
            loss.backward()
            controller.step(loss.detach().sigmoid())
    assert int(clip.pairs.age.min()) < STEPS
