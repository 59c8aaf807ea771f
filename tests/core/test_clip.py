"""The penalty: its modes, lazy calls, inputs and models of every kind, errors, warnings and state."""

import copy
import math
import pickle
import re
import warnings

import pytest
import torch
from torch import Tensor, nn

from cheaplip import CLIP, Box, CheaplipWarning, DiscrepancyPrinciple, PairSet
from penalties import FORMS, SHAPES, BatchNormModel, Count, inputs, measured, penalty_of, seeded, small_clip, tanh_net

# Train and eval mode of the penalty


@pytest.mark.parametrize("form", FORMS)
def test_in_eval_mode_a_call_only_measures(form):
    model, clip, x = tanh_net(3, 16, 2), small_clip(grace=0, renew=2), inputs(16, 3)
    penalty_of(clip, form, model, x)
    clip.eval()
    before = {name: value.clone() for name, value in clip.state_dict().items() if name != "largest"}
    clip.largest.zero_()
    for _ in range(3):
        penalty_of(clip, form, model, x)
    assert all(torch.equal(clip.state_dict()[name], value) for name, value in before.items())
    assert clip.largest > 0


@pytest.mark.parametrize("form", FORMS)
def test_in_eval_mode_every_call_measures(form):
    model, clip, x = tanh_net(3, 16, 2), small_clip(every=3), inputs(16, 3)
    expected = small_clip().eval()(model).item()
    clip.eval()
    for _ in range(4):
        assert penalty_of(clip, form, model, x).item() == pytest.approx(expected)


def test_in_eval_mode_no_gradient_is_needed():
    model, clip = tanh_net(3, 16, 2), small_clip().eval()
    with torch.no_grad():
        output, penalty = clip.joint(model, inputs(16, 3))
    assert not output.requires_grad
    assert penalty > 0


def test_in_eval_mode_batch_norm_is_welcome_in_joint():
    x, model, clip = inputs(16, 3), BatchNormModel().train(), small_clip().eval()
    output, penalty = clip.joint(model, x)
    torch.testing.assert_close(output, model(x))
    assert penalty > 0


def test_pairs_climb_inside_no_grad():
    clip = small_clip()
    with torch.no_grad():
        penalty = clip(tanh_net(3, 16, 2))
    assert clip.pairs.age.tolist() == [1] * 8
    assert not penalty.requires_grad


# Lazy regularisation


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("every", [1, 2, 3])
def test_each_kth_call_has_weight_k_and_the_others_none(every, form):
    model, x = tanh_net(3, 16, 2), inputs(16, 3)
    fixed = {"step": "quotient", "renew": 0}  # pairs that move the same way, however seldom they are called
    lazy, eager = small_clip(every=every, **fixed), small_clip(**fixed)
    for call in range(7):
        penalty = penalty_of(lazy, form, model, x).item()
        expected = every * penalty_of(eager, form, model, x).item() if call % every == 0 else 0.0
        assert penalty == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("form", "between"), [("own pass", []), ("shared pass", [16])], ids=["own pass", "shared pass"]
)
def test_the_calls_between_cost_nothing(form, between):
    model, clip, x = Count(tanh_net(3, 16, 2)), small_clip(every=3), inputs(16, 3)
    for call in range(6):
        model.rows.clear()
        before = clip.pairs.u.clone()
        if form == "own pass":
            clip(model)
        else:
            output, penalty = clip.joint(model, x)
            (output.square().mean() + penalty).backward()
        due = call % 3 == 0
        assert (model.rows == between) is not due
        assert torch.equal(clip.pairs.u, before) is not due


# Inputs, types and models of every kind


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"rank{len(shape) - 1}")
def test_inputs_of_any_rank(shape, form):
    net = tanh_net(math.prod(shape[1:]), 8, 2)
    clip = CLIP(PairSet(inputs(*shape), size=8, grace=0, renew=2, domain=Box(0.0, 1.0)))
    for _ in range(3):
        penalty = penalty_of(clip, form, lambda x: net(x.reshape(len(x), -1)), inputs(16, *shape[1:], seed=1))
    assert penalty > 0
    assert clip.pairs.domain.contains(torch.cat([clip.pairs.u, clip.pairs.v]))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", [(), (4,), (2, 3)], ids=lambda shape: f"rank{len(shape)}")
def test_outputs_of_any_rank(shape, form):
    matrix = inputs(3, max(math.prod(shape), 1))
    clip = small_clip(aggregate="max", lam=1.0)
    for _ in range(10):
        penalty = penalty_of(clip, form, lambda x: (x @ matrix).reshape(len(x), *shape), inputs(16, 3))
    assert penalty.item() == pytest.approx(torch.linalg.matrix_norm(matrix, ord=2).item(), rel=1e-3)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("dtype", "kept"),
    [(torch.float16, torch.float32), (torch.bfloat16, torch.float32), (torch.float64, torch.float64)],
    ids=str,
)
def test_inputs_of_other_types(dtype, kept, form):
    model = tanh_net(3, 16, 2)
    x = inputs(64, 3).to(dtype)
    # float32 arithmetic on the same values is the reference; ends are rounded to the inputs' type
    clip, reference = (CLIP(PairSet(data, size=8, renew=0), lam=1.0, aggregate="max") for data in (x, x.to(kept)))
    expected = penalty_of(reference, form, seeded(lambda: tanh_net(3, 16, 2)).to(kept), x.to(kept))
    penalty = penalty_of(clip, form, model.to(dtype), x)
    tolerance = 0.3 if dtype == torch.bfloat16 else 0.05
    assert penalty.dtype == clip.pairs.u.dtype == kept
    assert penalty.item() == pytest.approx(expected.item(), rel=tolerance)
    assert clip.pairs.age.tolist() == [1] * 8
    if dtype != torch.bfloat16:
        torch.testing.assert_close(clip.pairs.u, reference.pairs.u, rtol=0, atol=1e-2)


@pytest.mark.parametrize("training", [True, False], ids=["climbing", "measuring"])
def test_autocast_does_not_touch_the_pairs_own_pass(training):
    model, plain, cast = tanh_net(3, 16, 2), small_clip().train(training), small_clip().train(training)
    expected = plain(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        penalty = cast(model)
    assert torch.equal(penalty, expected)
    assert torch.equal(cast.pairs.u, plain.pairs.u)


def test_joint_under_autocast_gives_the_pairs_a_float32_pass_of_their_own():
    model, clip, x = tanh_net(3, 16, 2), small_clip(renew=0), inputs(16, 3)
    before = clip.pairs.u.clone()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output, penalty = clip.joint(model, x)
        loss = output.float().square().mean() + penalty
    loss.backward()
    assert output.dtype == torch.bfloat16
    assert penalty.dtype == torch.float32
    assert penalty.item() == measured(clip, model).item()
    assert bool(torch.isfinite(clip.pairs.u).all())
    assert not torch.equal(clip.pairs.u, before)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["lambda", "function", "method", "nested", "compiled from functions"])
def test_any_function_of_one_tensor_is_a_model(kind, form):
    net = tanh_net(3, 16, 2)

    def function(x: Tensor) -> Tensor:
        return net(x)

    model = {
        "lambda": lambda x: net(x),
        "function": function,
        "method": net.forward,
        "nested": nn.Sequential(nn.Sequential(net[0], nn.Sequential(net[1])), net[2]),
        "compiled from functions": torch.tanh,
    }[kind]
    clip = small_clip()
    penalty = penalty_of(clip, form, model, inputs(16, 3).requires_grad_())
    assert penalty > 0
    assert clip.pairs.age.tolist() == [1] * 8


# Errors


def test_arguments_in_the_wrong_order_are_named():
    model, x = tanh_net(3, 16, 2), inputs(16, 3)
    message = "joint: expected a model, and a tensor of inputs, got Tensor and Sequential: the model comes first"
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        small_clip().joint(x, model)
    message = "joint: expected a model, and a tensor of inputs, got Sequential and ndarray"
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        small_clip().joint(model, x.numpy())


@pytest.mark.parametrize("form", FORMS)
def test_a_model_with_several_outputs_is_refused(form):
    message = (
        "expected a model with one tensor out, got tuple: "
        "wrap it in a module whose forward returns the tensor that matters"
    )

    class Pair(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, x

    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        penalty_of(small_clip(), form, Pair(), inputs(16, 3))


@pytest.mark.parametrize("form", FORMS)
def test_a_function_with_several_outputs_is_refused(form):
    with pytest.raises(TypeError, match="expected a model with one tensor out, got tuple: wrap it in a module"):
        penalty_of(small_clip(), form, lambda x: (x, x), inputs(16, 3))


@pytest.mark.parametrize(
    ("model", "shape"),
    [(lambda x: x.sum(), "()"), (lambda x: x[:4], "(4, 3)")],
    ids=["scalar", "too few"],
)
def test_a_model_without_one_output_per_input_is_refused(model, shape):
    message = f"expected one output per input, (16, *output), got shape {shape}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        small_clip()(model)


@pytest.mark.parametrize("kind", ["no_grad", "detach", "detached features"])
def test_a_model_that_does_not_pass_gradients_to_its_input_is_refused(kind):
    message = (
        "the model's output does not depend differentiably on its input, so pairs cannot climb: "
        "look for torch.no_grad(), .detach() or integer operations inside the model"
    )
    net = tanh_net(3, 16, 2)
    model = {
        "no_grad": torch.no_grad()(lambda x: net(x)),
        "detach": lambda x: net(x).detach(),
        "detached features": lambda x: net[2](net[:2](x).detach()),
    }[kind]
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        small_clip()(model)


def test_joint_refuses_inputs_of_another_shape():
    message = "x: expected inputs of shape (3,) as the pairs, got (4,)"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        small_clip().joint(nn.Linear(4, 2), inputs(16, 4))


_NORM = "expected 1, 2, inf or a callable from differences (B, *shape) to norms (B,), got"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lam": -0.1}, "lam: expected a finite number of at least 0, got -0.1"),
        ({"lam": math.nan}, "lam: expected a finite number of at least 0, got nan"),
        ({"lam": math.inf}, "lam: expected a finite number of at least 0, got inf"),
        ({"aggregate": "sum"}, "aggregate: expected one of max, softmax, mean, got 'sum'"),
        ({"every": 0}, "every: expected 1 or more, got 0"),
        ({"norm_in": 3}, f"norm_in: {_NORM} 3"),
        ({"norm_out": "2"}, f"norm_out: {_NORM} '2'"),
    ],
    ids=lambda value: "-".join(f"{name}={value[name]}" for name in value) if isinstance(value, dict) else "",
)
def test_options_are_checked(options, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        CLIP(PairSet(inputs(8, 3)), **options)


def test_pairs_must_be_a_pair_set():
    with pytest.raises(TypeError, match=r"^pairs: expected a PairSet, got Tensor: cheaplip\.PairSet\(x\) makes one$"):
        CLIP(inputs(8, 3))


def test_a_misspelt_option_is_refused():
    with pytest.raises(TypeError, match="agregate"):
        CLIP(PairSet(inputs(8, 3)), agregate="max")


# The warning about a missing backward pass


WARNING = (
    "20 calls of clip.joint and no backward pass through the penalty, so pairs never moved: "
    "call loss.backward() on a loss that contains the penalty, or use clip(model)"
)


def test_twenty_joint_calls_without_a_backward_pass_warn_once():
    model, clip, x = tanh_net(3, 16, 2), small_clip(), inputs(16, 3)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(19):
            clip.joint(model, x)
        assert not caught
        for _ in range(30):
            clip.joint(model, x)
    assert [(warning.category, str(warning.message)) for warning in caught] == [(CheaplipWarning, WARNING)]


def test_the_warning_points_at_the_caller():
    model, clip, x = tanh_net(3, 16, 2), small_clip(), inputs(16, 3)
    for _ in range(19):
        clip.joint(model, x)
    with pytest.warns(CheaplipWarning, match=f"^{re.escape(WARNING)}$") as caught:
        clip.joint(model, x)
    assert caught[0].filename == __file__


def test_a_backward_pass_resets_the_count():
    model, clip, x = tanh_net(3, 16, 2), small_clip(), inputs(16, 3)
    for _ in range(3):
        for _ in range(18):
            clip.joint(model, x)
        penalty_of(clip, "shared pass", model, x)


@pytest.mark.parametrize("context", ["eval mode", "no_grad"])
def test_calls_that_only_measure_do_not_warn(context):
    model, clip, x = tanh_net(3, 16, 2), small_clip().train(context != "eval mode"), inputs(16, 3)
    with torch.set_grad_enabled(context != "no_grad"):
        for _ in range(25):
            clip.joint(model, x)


# State


def test_state_is_in_buffers_alone():
    clip = small_clip(domain=Box(0.0, 1.0))
    assert not list(clip.parameters())
    assert dict(clip.named_buffers()).keys() >= {"lam", "largest", "pairs.u", "pairs.v", "pairs.age", "pairs.scale"}


def test_the_model_is_not_part_of_the_penalty():
    model, clip, x = tanh_net(3, 16, 2), small_clip(), inputs(16, 3)
    for form in FORMS:
        penalty_of(clip, form, model, x)
    assert not list(clip.parameters())
    assert model not in list(clip.modules())


def test_state_dict_holds_everything_that_changes():
    keys = small_clip().state_dict().keys()
    pairs = {f"pairs.{name}" for name in ("u", "v", "age", "scale", "_extra_state")}
    assert keys == {"lam", "largest", "_extra_state"} | pairs


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("start", ["noise", "data", "batch", "uniform"])
def test_resuming_is_bit_identical(start, form, tmp_path):
    def build():
        clip = small_clip(start=start, domain=Box(0.0, 1.0), grace=2, renew=2, every=3)
        model = tanh_net(3, 16, 2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        return {"clip": clip, "model": model, "optimizer": optimizer, "control": DiscrepancyPrinciple(clip, 0.9)}

    def train(run, steps):
        for step in steps:
            x = inputs(16, 3, seed=step)
            run["optimizer"].zero_grad()
            clip, model = run["clip"], run["model"]
            output, penalty = (model(x), clip(model)) if form == "own pass" else clip.joint(model, x)
            (output.square().mean() + penalty).backward()
            run["optimizer"].step()
            run["control"].step(0.8 + 0.02 * (step % 11))

    one, other = build(), build()
    train(one, range(10))
    torch.save({name: part.state_dict() for name, part in one.items()}, tmp_path / "state.pt")
    train(one, range(10, 20))
    for name, state in torch.load(tmp_path / "state.pt").items():
        other[name].load_state_dict(state)
    train(other, range(10, 20))
    for part in ("clip", "model", "control"):
        state, wanted = other[part].state_dict(), one[part].state_dict()
        assert state.keys() == wanted.keys()
        assert all(torch.equal(state[name], wanted[name]) for name in wanted), part


def test_the_count_of_calls_survives_a_checkpoint():
    model, one, other = tanh_net(3, 16, 2), small_clip(every=3), small_clip(every=3)
    one(model)
    other.load_state_dict(one.state_dict())
    assert [other(model).item() > 0 for _ in range(4)] == [False, False, True, False]


def test_to_converts_penalty_and_pairs():
    clip = small_clip().to(torch.float64)
    model = tanh_net(3, 16, 2).double()
    assert clip(model).dtype == clip.lam.dtype == clip.largest.dtype == torch.float64


@pytest.mark.parametrize("form", FORMS)
def test_the_same_seed_gives_the_same_run(form):
    runs = []
    for _ in range(2):
        model, clip = tanh_net(3, 16, 2), small_clip(grace=1, renew=2)
        for step in range(4):
            penalty_of(clip, form, model, inputs(16, 3, seed=step))
        runs.append(clip.pairs.u)
    assert torch.equal(*runs)


def test_repr_shows_the_options():
    assert "aggregate='max', every=2, norm_in=1.0, norm_out=inf" in repr(
        small_clip(aggregate="max", every=2, norm_in=1, norm_out=math.inf)
    )


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda clip: pickle.loads(pickle.dumps(clip))], ids=["copy", "pickle"]
)
def test_a_copy_goes_on_as_the_original_would(duplicate):
    model, clip = tanh_net(3, 8, 2), small_clip()
    output, penalty = clip.joint(model, inputs(16, 3))
    (output.sum() + penalty).backward()
    other = duplicate(clip)
    assert other(model).item() == clip(model).item()
    assert torch.equal(other.pairs.u, clip.pairs.u)
