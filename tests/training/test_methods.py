"""What each training method adds to the loss, on problems with a known answer; a method of one's own."""

import dataclasses
import math
import re

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from cheaplip import Box
from cheaplip.cli import run
from cheaplip.data import Data, Split
from cheaplip.errors import ConfigError
from cheaplip.training import TrainConfig
from cheaplip.training.methods import METHODS, Losses, Method, Setting, method_named
from cheaplip.training.methods.adversarial import Adversarial
from cheaplip.training.methods.certified import hinge, orthogonal_
from cheaplip.training.methods.clip import Clip, every_for
from cheaplip.training.methods.clip_certified import ClipCertified
from cheaplip.training.methods.plain import Plain
from cheaplip.training.methods.weight import Weight, WeightPenalty
from cheaplip.training.options import SharedOptions
from cheaplip.training.tasks import task_of


@pytest.fixture
def problem():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand(32, 6, generator=generator), torch.randint(3, (32,), generator=generator)
    return nn.Linear(6, 3), x, y


def setting(problem, **options):
    model, x, y = problem
    split = Split(x, y)
    data = Data("toy", split, split, split, 3, Box(0.0, 1.0), epsilon=0.4, noise=0.2)
    config = TrainConfig(data="toy", **options)
    return Setting(config, model, data, x[:0], task_of(data), 100, torch.Generator().manual_seed(0))


def test_plain_is_the_cross_entropy(problem):
    model, x, y = problem
    loss, fit, output = Plain(setting(problem)).losses(model, x, y)
    assert loss.item() == fit.item() == cross_entropy(model(x), y).item()
    assert torch.equal(output, model(x))


def test_weight_penalty_counts_matrices_only(problem):
    model, x, y = problem
    loss, fit, _ = Weight(setting(problem, mu=0.5)).losses(model, x, y)
    assert (loss - fit).item() == pytest.approx(0.5 * model.weight.square().sum().item(), rel=1e-5)


@pytest.mark.parametrize("lam", [-1.0, math.nan, math.inf])
def test_weight_penalty_refuses_a_bad_weight(lam):
    with pytest.raises(ValueError, match="lam: expected a finite number of at least 0"):
        WeightPenalty(lam)


@pytest.mark.parametrize("form", ["joint", "separate"])
def test_clip_adds_lambda_times_the_quotient(problem, form):
    model, x, y = problem
    method = Clip(setting(problem, lam=0.3, pairs=4, aggregate="max", form=form))
    loss, fit, _ = method.losses(model, x, y)
    assert (loss - fit).item() == pytest.approx(0.3 * method.largest.item(), rel=1e-5)


def test_held_out_inputs_are_pairs_in_turns(problem):
    _, x, _ = problem
    given = dataclasses.replace(setting(problem, pairs=3, held_out=7), held_out=x[:7])
    method = Clip(given)
    seen = []
    for step in range(4):
        method.before_step(step, torch.arange(4))
        seen.append(method.pairs)
    assert [len(pairs) for pairs in seen] == [3, 3, 1, 3]
    assert seen[3] is seen[0]
    assert Clip.holds_out(given.options) == 7
    assert ClipCertified.holds_out(given.options) == Plain.holds_out(given.options) == 0


def test_adversarial_inputs_stay_in_ball_and_box_and_hurt(problem):
    model, x, y = problem
    seen = []

    class Recorder(nn.Module):
        def forward(self, z):
            seen.append(z.detach())
            return model(z)

    method = Adversarial(setting(problem, adversarial_epsilon=0.4, adversarial_steps=7))
    state = torch.random.get_rng_state()
    _, fit, _ = method.losses(Recorder(), x, y)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert len(seen) == 8
    perturbed = seen[-1]
    assert (perturbed - x).norm(dim=1).max() <= 0.4 * (1 + 1e-5)
    assert (perturbed - x).norm(dim=1).min() > 0.1
    assert Box(0.0, 1.0).contains(perturbed)
    assert fit > cross_entropy(model(x), y)
    assert all(p.grad is None for p in model.parameters())


def test_adversarial_takes_the_radius_of_the_data_by_default(problem):
    assert Adversarial(setting(problem)).epsilon == 0.4


def test_the_hinge_is_on_outputs_divided_by_the_bound():
    outputs = torch.tensor([[40.0, 1.0, 0.0], [10.0, 20.0, 50.0], [0.0, 90.0, 10.0]])
    y = torch.tensor([0, 1, 1])  # leads, halved: 19.5, −15, 40
    loss = hinge(outputs, y, torch.tensor(2.0), 2.0)
    assert loss.item() == pytest.approx((0 + (2 + 15) + 0) / 3, rel=1e-5)


def test_the_hinge_is_smooth_and_counts_every_rival():
    outputs = torch.tensor([[4.0, 1.0, 0.0]])  # leads, halved: 1.5 and 2
    loss = hinge(outputs, torch.tensor([0]), torch.tensor(2.0), 2.0)
    t = 0.4
    expected = t * math.log(1 + math.exp((2 - 1.5) / t) + math.exp((2 - 2) / t))
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_certified_is_the_hinge_at_a_margin_from_the_data(problem):
    model, x, y = problem
    method = METHODS["certified"](setting(problem))
    loss, fit, output = method.losses(model, x, y)
    assert loss.item() == fit.item() == pytest.approx(hinge(output, y, method.bound(), 0.45 * 0.4).item())


def test_clip_certified_adds_lambda_times_the_bound(problem):
    model, x, y = problem
    method = ClipCertified(setting(problem, lam=0.3, pairs=4, aggregate="max"))
    loss, fit, _ = method.losses(model, x, y)
    bound = torch.linalg.matrix_norm(model.weight, 2).item()
    assert method.bound().item() == pytest.approx(bound, rel=1e-5)
    assert (loss - fit).item() == pytest.approx(0.3 * (method.largest.item() + bound), rel=1e-4)


def test_the_orthogonal_start_depends_on_the_seed_alone():
    def start(seed):
        model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(16, 6))
        orthogonal_(model, seed)
        return model

    one, same, other = start(0), start(0), start(1)
    torch.testing.assert_close(one[2].weight @ one[2].weight.T, torch.eye(6))
    torch.testing.assert_close(one[0].weight.flatten(1) @ one[0].weight.flatten(1).T, torch.eye(4))
    assert not one[2].bias.any()
    assert torch.equal(one[0].weight, same[0].weight)
    assert not torch.equal(one[2].weight, other[2].weight)
    state = torch.random.get_rng_state()
    orthogonal_(one, 3)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_long_runs_regularise_rarely_as_long_as_pairs_climb_often_enough():
    assert [every_for(steps) for steps in (10, 1999, 2000, 8000, 12_800, 10**6)] == [1, 1, 2, 10, 16, 16]


@pytest.mark.parametrize("name", METHODS)
def test_a_method_describes_itself(name):
    method = METHODS[name]
    assert method.name == name
    assert method.adds
    assert method.cost
    assert issubclass(TrainConfig, method.options)
    assert TrainConfig(data="digits", method=name).method_class is method


MINE = """
import torch
from cheaplip.training.methods import Losses, Method


class Doubled(Method):
    name = "doubled"
    adds = "the loss once more"
    cost = "1"
    epochs = 2

    def losses(self, network, x, y):
        output = network(x)
        fit = self.loss(output, y)
        return Losses(2 * fit, fit, output)


class Broken(Method):
    name = "broken"


class NoMethod:
    pass
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    (tmp_path / "doubling.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_method_of_ones_own_trains_and_resumes(mine, capsys):
    options = ["--model", "mlp:8", "--probe", "0", "--search", "4"]
    command = ["train", "digits", "--method", "doubling:Doubled", *options, "--no-measure"]
    assert run([*command, "--out", "one", "--json"]) == 0
    assert '"epochs": 2' in capsys.readouterr().out
    assert run([*command, "--out", "one", "--resume"]) == 0
    assert run(["evaluate", "one", "--attacks", "noise", "--samples", "10"]) == 0
    plain = ["train", "digits", "--method", "plain", *options, "--no-measure", "--epochs", "2"]
    assert run(["compare", "digits", *options, "--methods", "plain,doubling:Doubled", "--attacks", "noise",
                "--samples", "10", "--out", "both"]) == 0  # fmt: skip
    assert run([*plain, "--out", "two"]) == 0
    one, two = ((mine / name / "model.safetensors").read_bytes() for name in ("one", "two"))
    assert one != two


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("doubling:Broken", "method: 'doubling:Broken' lacks adds, cost, losses: give the class a value for each"),
        ("doubling:NoMethod", "expected package.module:Class, a subclass of cheaplip.training.methods.Method, got NoM"),
        ("doubling:Missing", "cannot import 'doubling:Missing'"),
        ("nowhere:Missing", "cannot import 'nowhere:Missing'"),
        ("clipp", f"method: expected one of {', '.join(METHODS)}, got 'clipp'; did you mean 'clip'?"),
    ],
)
@pytest.mark.usefixtures("mine")
def test_a_method_that_is_none_is_refused(name, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        TrainConfig(data="digits", method=name)


def test_the_shared_options_are_enough_for_a_method():
    class Mine(Method):
        name, adds, cost = "mine", "nothing", "1"

        def losses(self, network, x, y):
            output = network(x)
            return Losses(output.sum(), output.sum(), output)

    assert Mine.options is SharedOptions
    assert method_named("plain") is Plain
