"""Lightning's callback, with the real Trainer: accumulation, precision, clipping, resume, and what it refuses."""

import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from cheaplip import Box
from cheaplip.lipschitz import largest_quotient

pytest.importorskip("lightning", reason="needs the extra lightning")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what lightning's own imports deprecate
    from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything

    from cheaplip.integrations.lazy import LazyCLIP
    from cheaplip.integrations.lightning import CLIPCallback

pytestmark = [
    pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.rank_zero.LightningDeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*The number of training batches.*"),
    pytest.mark.filterwarnings("ignore:.*Checkpoint directory.*"),
]

X = torch.rand(128, 4, generator=torch.Generator().manual_seed(0))
Y = (X.sum(1) > 2).long()


class Classifier(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 2))

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        x, y = batch
        output = self(x)
        loss = cross_entropy(output, y)
        self.log("train_acc", (output.argmax(1) == y).float().mean())
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.5)


class NoGradient(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    @torch.no_grad()
    def forward(self, x):
        return self.net(x)


def loader(batch_size=16):
    return DataLoader(TensorDataset(X, Y), batch_size=batch_size)


def make(module=Classifier):
    seed_everything(0, verbose=False)
    return module()


def trainer(*callbacks, max_epochs=2, **options):
    options = {"devices": 1, **options}
    return Trainer(
        accelerator="cpu",
        max_epochs=max_epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
        **options,
    )


def constant(module):
    return largest_quotient(module, X, domain=Box(0.0, 1.0), size=32, steps=20).value


def callback(**options):
    return CLIPCallback(**{"lam": 0.3, "target": 0.9, "rate": 0.05, "size": 8, "domain": Box(0.0, 1.0), **options})


@pytest.mark.parametrize(
    "options",
    [{}, {"accumulate_grad_batches": 2}, {"precision": "bf16-mixed"}, {"gradient_clip_val": 0.5}],
    ids=["plain", "accumulation", "bf16", "clipping"],
)
def test_training_lowers_the_constant_and_moves_pairs_and_lam(options):
    plain, stable, clip = make(), make(), callback(target=0.7, lam=1.0)
    trainer(max_epochs=4, **options).fit(plain, loader())
    fitting = trainer(clip, max_epochs=4, **options)
    fitting.fit(stable, loader())
    assert constant(stable) < 0.8 * constant(plain)
    assert clip.penalty.clip.lam != 1.0
    assert clip.penalty.clip.pairs.age.max() > 0
    assert fitting.callback_metrics["clip/largest"] == clip.penalty.clip.largest > 0


def test_one_step_adds_exactly_the_penaltys_gradient():
    module, other, clip = make(), make(), callback(target=None)
    trainer(clip, max_steps=1, max_epochs=-1).fit(module, loader())
    reference = callback(target=None).penalty
    (cross_entropy(other(X[:16]), Y[:16]) + reference(other, X[:16])).backward()
    for parameter, reached in zip(other.parameters(), module.parameters(), strict=True):
        torch.testing.assert_close(parameter - 0.5 * parameter.grad, reached)


def test_accumulation_takes_the_penalty_once_for_each_optimiser_step():
    clip = callback(every=1)
    trainer(clip, max_epochs=1, accumulate_grad_batches=4).fit(make(), loader())
    assert clip.penalty.clip.pairs.age.max() == 2  # 8 batches


def test_accumulation_is_the_large_batch():
    runs = []
    for batch_size, accumulate in ((32, 1), (16, 2)):
        module, clip = make(), callback(target=None)
        trainer(clip, max_steps=1, max_epochs=-1, accumulate_grad_batches=accumulate).fit(module, loader(batch_size))
        runs.append((module, clip.penalty.clip.lam))
    for one, other in zip(runs[0][0].parameters(), runs[1][0].parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=0.05, rtol=0)  # pairs start at the last batch, which differs


def test_clipping_acts_on_the_sum():
    start, module = make(), make()
    trainer(callback(lam=1e3, target=None), max_steps=1, max_epochs=-1, gradient_clip_val=0.01).fit(module, loader())
    moved = sum((a - b).square().sum() for a, b in zip(start.parameters(), module.parameters(), strict=True)).sqrt()
    assert moved <= 0.5 * 0.01 * 1.001


def test_resumed_equals_uninterrupted(tmp_path):
    whole, clip = make(), callback()
    trainer(clip, max_epochs=4).fit(whole, loader())
    first, first_clip = make(), callback()
    half = trainer(first_clip, max_epochs=2)
    half.fit(first, loader())
    half.save_checkpoint(tmp_path / "half.ckpt")
    resumed, resumed_clip = make(), callback()
    trainer(resumed_clip, max_epochs=4).fit(resumed, loader(), ckpt_path=tmp_path / "half.ckpt", weights_only=True)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    for name, value in clip.state_dict().items():
        assert torch.equal(value, resumed_clip.state_dict()[name]), name


def test_the_target_can_be_a_loss():
    clip = callback(mode="min", target=0.69, monitor="train_loss", lam=0.1)
    trainer(clip).fit(make(), loader())
    assert clip.penalty.clip.lam != 0.1


def test_the_metric_can_come_in_the_steps_output():
    class Returns(Classifier):
        def training_step(self, batch, batch_idx):
            x, y = batch
            output = self(x)
            return {"loss": cross_entropy(output, y), "hits": (output.argmax(1) == y).float().mean()}

    clip = callback(monitor="hits")
    trainer(clip).fit(make(Returns), loader())
    assert clip.penalty.clip.lam != 0.3


def test_a_part_of_the_module_can_be_regularised():
    clip = callback(model=lambda module: module.net)
    trainer(clip, max_epochs=1).fit(make(), loader())
    assert clip.penalty.clip.largest > 0


def test_a_missing_metric_is_named():
    message = (
        "monitor 'accuracy': expected self.log('accuracy', …, on_step=True) in training_step, or that key in the "
        "dictionary it returns; logged so far: train_acc, train_loss"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        trainer(callback(monitor="accuracy")).fit(make(), loader())


def test_manual_optimisation_is_refused():
    module = make()
    module.automatic_optimization = False
    with pytest.raises(TypeError, match=r"^CLIPCallback expects automatic optimisation: in your training_step, add"):
        trainer(callback()).fit(module, loader())


def test_a_module_without_forward_is_refused():
    class NoForward(Classifier):
        forward = LightningModule.forward

    with pytest.raises(TypeError, match=r"^NoForward has no forward: define it, or say CLIPCallback\(model="):
        trainer(callback()).fit(make(NoForward), loader())


def test_other_batches_name_the_remedy():
    data = DataLoader([{"x": x, "y": y} for x, y in zip(X, Y, strict=True)], batch_size=16)
    with pytest.raises(TypeError, match=r"^expected a batch \(x, y, …\) with a tensor first, got dict: say"):
        trainer(callback()).fit(make(), data)


def test_an_immovable_lam_is_refused_at_construction():
    with pytest.raises(ValueError, match=r"^lam = 0 never moves under the multiplicative rule: start from lam > 0"):
        callback(lam=0.0)


def test_before_training_there_are_no_pairs():
    with pytest.raises(RuntimeError, match=r"^no pairs yet: they are made from the first training batch; train for a"):
        callback().penalty.clip  # noqa: B018


@pytest.mark.parametrize(
    ("part", "error", "message"),
    [
        pytest.param(
            lambda module: module.net[0].requires_grad_(False),
            RuntimeError,
            "no parameter of the model requires a gradient, so the penalty does nothing: unfreeze some",
            id="frozen",
        ),
        pytest.param(
            lambda module: NoGradient(module.net),
            ValueError,
            "the model's output does not depend differentiably on its input, so pairs cannot climb: look for torch.no_",
            id="no_grad",
        ),
    ],
)
def test_a_part_without_gradients_is_refused(part, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}"):
        trainer(callback(model=part)).fit(make(), loader())


def test_steps_that_pass_the_hooks_by_are_refused():
    class Raw(Classifier):
        def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure=None):
            optimizer_closure()
            optimizer.optimizer.step()

    message = "an epoch without a call of on_before_optimizer_step, so the penalty did nothing: in Raw.optimizer_step, "
    with pytest.raises(RuntimeError, match=f"^{re.escape(message)}"):
        trainer(callback()).fit(make(Raw), loader())


def test_an_optimiser_step_before_any_batch_is_refused():
    with pytest.raises(RuntimeError, match=r"^an optimiser step before any batch: CLIPCallback belongs in"):
        callback().on_before_optimizer_step(None, make(), None)


class Skips(Classifier):
    """Learns from the batches whose number is in ``kept``."""

    kept = (0,)

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[torch.Tensor] = []

    def training_step(self, batch, batch_idx):
        self.seen.append(self.net[0].weight.detach().clone())
        return super().training_step(batch, batch_idx) if batch_idx in self.kept else None


@pytest.mark.filterwarnings("ignore:.*returned `None`.*")
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("kept", [(0,), (3,), (0, 1, 5), (1, 2)], ids=str)
def test_a_skipped_batch_moves_nothing(kept, accumulate):
    class Some(Skips):
        pass

    Some.kept = kept
    module, clip, lams = make(Some), callback(), []

    class Watch(Callback):
        def on_train_batch_end(self, *_):
            lams.append(float(clip.penalty.clip.lam) if clip.penalty.built else 0.3)

    trainer(clip, Watch(), max_epochs=1, accumulate_grad_batches=accumulate).fit(module, loader())
    weights = [*module.seen, module.net[0].weight.detach()]
    for number in range(8):
        group = range(number - number % accumulate, number + 1)
        stepped = (number + 1) % accumulate == 0 and any(part in kept for part in group)
        assert torch.equal(weights[number], weights[number + 1]) == (not stepped)
        if number not in kept and number > 0:
            assert lams[number] == pytest.approx(lams[number - 1], rel=1e-6)


@pytest.mark.filterwarnings("ignore:.*returned `None`.*")
def test_all_batches_may_be_skipped():
    class Never(Skips):
        kept = ()

    module = make(Never)
    before = module.net[0].weight.detach().clone()
    trainer(callback(), max_epochs=1).fit(module, loader())
    assert torch.equal(before, module.net[0].weight)


def test_it_takes_a_lazy_clip():
    lazy = LazyCLIP(lam=0.3, target=0.7, size=8)
    clip = CLIPCallback(lazy)
    assert clip.penalty is lazy
    trainer(clip, max_epochs=1).fit(make(), loader())
    assert lazy.clip.lam != 0.3


def test_options_beside_a_lazy_clip_are_refused():
    with pytest.raises(ValueError, match=r"^expected clip or the options of one, got clip and target, size: give them"):
        CLIPCallback(LazyCLIP(), target=0.9, size=4)


@pytest.mark.parametrize("clip", [0.1, nn.Linear(2, 2), "clip"], ids=["number", "module", "text"])
def test_something_else_than_a_lazy_clip_is_refused(clip):
    with pytest.raises(TypeError, match=r"^clip: expected a LazyCLIP, got \w+: cheaplip\.integrations\.lazy\.LazyCLIP"):
        CLIPCallback(clip)


def test_lam_is_steered_to_a_constant_without_a_metric():
    clip = callback(target=0.01, mode="lipschitz", monitor="nothing")
    trainer(clip, max_epochs=1).fit(make(), loader())
    assert clip.penalty.clip.lam > 0.3


def test_a_metric_in_percent_is_refused():
    class Percent(Classifier):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            self.log("percent", 100 * self.trainer.callback_metrics.get("train_acc", torch.tensor(0.9)) + 1)
            return loss

    with pytest.raises(ValueError, match=r"^metric: expected an accuracy in \[0, 1\], got .*: 97 % is 0\.97"):
        trainer(callback(monitor="percent")).fit(make(Percent), loader())


TWO_PROCESSES = """
import sys, warnings
warnings.simplefilter("ignore")
import torch
sys.path.insert(0, sys.argv[1])
from test_lightning import Classifier, X, Y, callback, loader, make, trainer

module, clip = make(), callback(target=0.7, lam=1.0)
fitting = trainer(clip, devices=2, strategy="ddp", gradient_clip_val=1.0)
fitting.fit(module, loader())
values = torch.cat([p.detach().flatten() for p in module.parameters()] + [clip.penalty.clip.lam[None]])
pairs = clip.penalty.clip.pairs.u
everywhere = fitting.strategy.all_gather(values)
print(f"equal {torch.equal(everywhere[0], everywhere[1])}", flush=True)
own = fitting.strategy.all_gather(pairs)
moved = bool(clip.penalty.clip.pairs.age.max() > 0)
print(f"pairs of its own {not torch.equal(own[0], own[1])}, moved {moved}", flush=True)
torch.distributed.barrier()
torch.distributed.destroy_process_group()  # Lightning leaves it open, and gloo's threads may then abort at exit
"""


def test_two_processes_agree_on_weights_and_lam(tmp_path):
    script = tmp_path / "fit.py"
    script.write_text(TWO_PROCESSES)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    here = str(Path(__file__).parent)
    done = subprocess.run([*launch, str(script), here], capture_output=True, text=True, timeout=280, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("equal True") == 2
    assert done.stdout.count("pairs of its own True, moved True") == 2
