"""Reading is sound: what a model does besides one traced run is followed, or refused by name; never a false bound."""

import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

import cheaplip
from cheaplip import UnsupportedLayerError
from cheaplip.lipschitz import LipschitzBound, read, register_layer
from cheaplip.lipschitz.bounds.products import norm_product
from cheaplip.lipschitz.reading.layers import registered
from networks import Apply, mlp

VECTOR = (4,)


def with_linear(function):
    torch.manual_seed(0)
    return Apply(function, nn.Linear(4, 3)).eval()


def exact_constant(weight):
    return float(torch.linalg.matrix_norm(weight.double(), 2).detach())


def entry(x, a):
    x[:, 0] = 10 * x[:, 1]
    return a(x)


def entries(x, a):
    x[:, 1:3] *= 7
    return a(x)


def zeroed(x, a):
    x[:, 2] = 0
    return a(x)


def through_a_view(x, a):
    x.view(-1, 2, 2).mul_(10)
    return a(x)


def through_detach(x, a):
    x.detach().mul_(10)
    return a(x)


def without_gradients(x, a):
    with torch.no_grad():
        x.mul_(10)
    return a(x)


def into_itself(x, a):
    torch.mul(x, 10, out=x)
    return a(x)


def shifted(x, a):
    x -= 0.5
    return a(x)


def column_scaled(matrix):
    """What W diag(factors) has for a constant, for a model that scales some entries of its input in place."""
    return lambda a: exact_constant(a.weight.double() @ torch.tensor(matrix, dtype=torch.float64))


TEN = column_scaled([[10.0 * (i == j) for j in range(4)] for i in range(4)])


def bounded(model, shape=VECTOR):
    return float(LipschitzBound(model, shape)().detach())


WRITES = {
    "an entry": (entry, column_scaled([[0, 10, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])),
    "some entries": (entries, column_scaled([[1, 0, 0, 0], [0, 7, 0, 0], [0, 0, 7, 0], [0, 0, 0, 1]])),
    "a constant": (zeroed, column_scaled([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1]])),
    "a view": (through_a_view, TEN),
    "detached": (through_detach, TEN),
    "without gradients": (without_gradients, TEN),
    "out=": (into_itself, TEN),
    "shifted": (shifted, lambda a: exact_constant(a.weight)),
}


@pytest.mark.parametrize("name", WRITES)
def test_what_a_model_writes_into_its_input_is_followed(name):
    function, constant = WRITES[name]
    model = with_linear(function)
    true = constant(model.parts[0])
    assert bounded(model) >= true * (1 - 1e-9)
    assert norm_product(read(model, VECTOR)) >= true * (1 - 1e-9)


@pytest.mark.parametrize("name", ["an entry", "out=", "without gradients"])
def test_a_bracket_of_a_model_that_writes_is_tight(name):
    function, constant = WRITES[name]
    model = with_linear(function)
    true = constant(model.parts[0])
    b = cheaplip.bracket(model, shape=VECTOR, seconds=0.2)
    assert 0.9 * true <= b.lower <= true * (1 + 1e-9)
    assert true * (1 - 1e-9) <= b.upper <= true * (1 + 1e-6)


def test_an_input_that_is_used_again_after_relu_in_place():
    model = Apply(lambda x: F.relu(x, inplace=True) + 100 * x).eval()  # 101 relu(x)
    assert bounded(model) >= 101
    b = cheaplip.bracket(model, shape=VECTOR, seconds=0.2)
    assert b.lower <= 101 <= b.upper < 101.001


def test_clamped_in_place_and_returned():
    chain = read(Apply(lambda x: x.mul_(3).clamp_(-1, 1)), VECTOR)
    x = torch.linspace(-1, 1, 8).reshape(2, 4).double()
    assert torch.equal(chain(x), (3 * x).clamp(-1, 1))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: x.masked_fill_(x < 0, 0.0), "aten.lt"),
        (lambda x: x.index_fill_(1, torch.tensor([1]), 0.0), "aten.index_fill"),
        (lambda x: x.data.mul_(10) + x, "it writes into the .data of a tensor"),
        (lambda x: x[:, ::2].mul_(3) + x[:, 1::2], "only a slice with step 1 can be written to"),
    ],
    ids=["mask", "index", "data", "every second entry"],
)
def test_writes_that_are_not_known_are_refused_by_name(function, message):
    with pytest.raises(UnsupportedLayerError) as refusal:
        read(Apply(function), VECTOR)
    assert message in str(refusal.value)


def test_a_registered_layer_may_write_into_its_input(monkeypatch):
    monkeypatch.setattr(registered, "_REGISTERED", {})

    class Halve(nn.Module):
        def forward(self, x):
            return torch.fft.fft(x.mul_(0.5), norm="ortho").real

    register_layer(Halve, lambda layer: 0.5)
    model = nn.Sequential(nn.Linear(4, 4), Halve()).eval()
    x = torch.randn(3, 4)
    torch.testing.assert_close(read(model, VECTOR)(x), model(x))


class Branch(nn.Module):
    """Ten times as steep where a condition holds."""

    def __init__(self, condition):
        super().__init__()
        self.linear, self.condition = nn.Linear(4, 3), condition

    def forward(self, x):
        return 10 * self.linear(x) if self.condition(x) else self.linear(x)


BRANCHES = {
    "a single input": (lambda x: len(x) == 1, "for a batch of 1"),
    "two inputs": (lambda x: len(x) == 2, "for a batch of 2"),
    "many inputs": (lambda x: len(x) > 100, "for a batch of 1024"),
    "traced": (lambda x: torch.compiler.is_compiling(), "for a batch of 1"),
    "not traced": (lambda x: not torch.compiler.is_compiling(), "for a batch of 1"),
    "exported": (lambda x: torch.compiler.is_exporting(), "for a batch of 1"),
    "float64": (lambda x: x.dtype == torch.float64, "in float64"),
    "gradients": (lambda x: x.requires_grad, "in float64, with gradients recorded"),
    "no gradients": (lambda x: not torch.is_grad_enabled(), "for a batch of 1"),
    "finite values": (lambda x: bool(torch.isfinite(x).all()), "cannot be traced"),
}


@pytest.mark.parametrize("name", BRANCHES)
def test_a_branch_that_the_trace_does_not_take_is_refused(name):
    condition, message = BRANCHES[name]
    model = Branch(condition).eval()
    with pytest.raises(UnsupportedLayerError, match=message):
        read(model, VECTOR)


def test_a_bracket_of_a_model_with_such_a_branch_proves_nothing_and_says_why():
    b = cheaplip.bracket(Branch(lambda x: len(x) == 1).eval(), shape=VECTOR, seconds=0.1)
    assert b.upper == math.inf
    assert "for a batch of 1" in b.reason


def test_a_factor_that_depends_on_the_batch_is_refused():
    with pytest.raises(UnsupportedLayerError, match="for a batch of 1"):
        read(Apply(lambda x: x / len(x)), VECTOR)


class Spin(nn.Module):
    def forward(self, x):
        return torch.fft.fft(x, norm="ortho").real


def forward_hook(layer):
    layer.register_forward_hook(lambda module, args, output: 50 * output)


def pre_hook(layer):
    layer.register_forward_pre_hook(lambda module, args: (50 * args[0],))


def own_forward(layer):
    layer.forward = lambda x: 50 * x


@pytest.mark.parametrize(
    ("change", "message"),
    [(forward_hook, "the forward hook"), (pre_hook, "the forward pre-hook"), (own_forward, "assigned to this one")],
)
def test_a_registered_layer_with_something_added_is_refused(monkeypatch, change, message):
    monkeypatch.setattr(registered, "_REGISTERED", {})
    register_layer(Spin, lambda layer: 1.0)
    model = nn.Sequential(nn.Linear(4, 4), Spin(), nn.Linear(4, 2)).eval()
    read(model, VECTOR)
    change(model[1])
    with pytest.raises(UnsupportedLayerError, match=r"^layer '1' \(Spin, ") as refusal:
        read(model, VECTOR)
    assert message in str(refusal.value)


class Scaled(nn.Module):
    """Reads numbers from everywhere."""

    shift = 0.0

    def __init__(self):
        super().__init__()
        self.inner, self.last = nn.Linear(4, 6), nn.Linear(6, 3)
        self.factors, self.options, self.tensor = [1.0, 1.0], {"gain": 1.0}, torch.ones(6)

    def forward(self, x):
        hidden = F.leaky_relu(self.inner(x) * self.tensor * self.factors[0] + self.shift)
        return self.last(hidden) * self.options["gain"]


def attribute(path, value):
    def change(model):
        *parents, name = path.split(".")
        for parent in parents:
            model = getattr(model, parent)
        setattr(model, name, value)

    return change


def small(activation):
    return lambda: nn.Sequential(nn.Linear(4, 6), activation, nn.Linear(6, 3))


def normalised():
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6, eps=1.0), nn.ReLU(), nn.Linear(6, 3))


def convolution(**options):
    return lambda: nn.Sequential(nn.Conv2d(1, 2, 3, **options), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3))


def steeper_by_hook(model):
    model[0].register_forward_hook(lambda module, args, output: 30 * output)


def steeper_by_pre_hook(model):
    model[0].register_forward_pre_hook(lambda module, args: (30 * args[0],))


def replaced_layer(model):
    model[1] = nn.LeakyReLU(30.0)


def replaced_parameter(model):
    model[0].weight = nn.Parameter(30 * model[0].weight.detach())


def parametrised(model):
    nn.utils.parametrizations.weight_norm(model[0])
    with torch.no_grad():
        model[0].parametrizations.weight.original0.mul_(30)


def of_the_class(model):
    model.__class__ = type("Steep", (Scaled,), {"forward": lambda self, x: 30 * Scaled.forward(self, x)})


def own_code(model):
    plain = model[0].forward
    model[0].forward = lambda x: 30 * plain(x)


def in_a_list(model):
    model.factors[0] = 30.0


def in_a_dictionary(model):
    model.options["gain"] = 30.0


def in_a_tensor(model):
    model.tensor.mul_(30)


def another_tensor(model):
    model.tensor = torch.full((6,), 30.0)


def narrower(model):
    model[0], model[2] = nn.Linear(4, 5), nn.Linear(5, 3)


def without_bias(model):
    model[0].bias = None


CHANGES = {
    "negative slope": (small(nn.LeakyReLU(0.01)), attribute("1.negative_slope", 30.0)),
    "alpha": (small(nn.ELU(1.0)), attribute("1.alpha", 30.0)),
    "largest value": (small(nn.Hardtanh(0.0, 0.001)), attribute("1.max_val", 30.0)),
    "eps of batch norm": (normalised, attribute("1.eps", 1e-6)),
    "hook": (small(nn.ReLU()), steeper_by_hook),
    "pre-hook": (small(nn.ReLU()), steeper_by_pre_hook),
    "replaced layer": (small(nn.ReLU()), replaced_layer),
    "replaced parameter": (small(nn.ReLU()), replaced_parameter),
    "parametrised": (small(nn.ReLU()), parametrised),
    "forward of one layer": (small(nn.ReLU()), own_code),
    "no bias": (small(nn.ReLU()), without_bias),
    "narrower layers": (small(nn.ReLU()), narrower),
    "class": (Scaled, of_the_class),
    "attribute of the class": (Scaled, attribute("shift", -0.3)),
    "list": (Scaled, in_a_list),
    "dictionary": (Scaled, in_a_dictionary),
    "tensor": (Scaled, in_a_tensor),
    "another tensor": (Scaled, another_tensor),
}


def steepest(model, shape=VECTOR):
    x = 3 * torch.randn(200, *shape, generator=torch.Generator().manual_seed(0))
    jacobian = torch.func.vmap(torch.func.jacrev(lambda z: model(z[None])[0]))(x)
    return float(torch.linalg.matrix_norm(jacobian.detach().flatten(2), 2).max())


@pytest.mark.parametrize("name", CHANGES)
def test_a_bound_follows_a_model_that_was_changed_or_says_what_changed(name):
    make, change = CHANGES[name]
    torch.manual_seed(0)
    model = make().eval()
    bound = LipschitzBound(model, VECTOR)
    bound()
    change(model)
    try:
        after = float(bound().detach())
    except ValueError as error:
        assert "make a new LipschitzBound" in str(error)  # noqa: PT017 - either is right
        return
    assert steepest(model) * (1 - 1e-4) <= after < math.inf


@pytest.mark.parametrize(
    "change",
    [
        attribute("0.stride", (2, 2)),
        attribute("0.padding", (0, 0)),
        attribute("0.dilation", (2, 2)),
        attribute("0.padding_mode", "circular"),
    ],
    ids=["stride", "padding", "dilation", "padding mode"],
)
def test_a_bound_follows_a_convolution_that_was_changed(change):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    bound = LipschitzBound(model, (1, 6, 6))
    bound()
    change(model)
    try:
        after = float(bound().detach())
    except ValueError as error:
        assert "make a new LipschitzBound" in str(error)  # noqa: PT017 - either is right
        return
    assert after >= steepest(model, (1, 6, 6)) * (1 - 1e-4)


def test_a_bound_whose_layers_changed_keeps_its_multipliers_and_their_gradients():
    model = mlp(4, 6, 3, activation=lambda: nn.LeakyReLU(0.1)).eval()
    bound = LipschitzBound(model)
    multipliers = list(bound.parameters())
    model[1].negative_slope = 0.5
    value = bound()
    value.backward()
    assert list(bound.parameters()) == multipliers
    assert all(log.grad is not None for log in multipliers)
    assert model[0].weight.grad is not None


def test_a_bound_does_not_read_again_what_only_training_changes(monkeypatch):
    model = normalised()
    bound = LipschitzBound(model, VECTOR)
    monkeypatch.setattr("cheaplip.lipschitz.bounds.trainable.read", lambda *_: pytest.fail("read again"))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        (model.train()(torch.randn(8, 4)).square().mean() + bound()).backward()
        optimizer.step()
        optimizer.zero_grad()
        model.requires_grad_(True).eval()


def test_batch_norm_that_lost_its_statistics_is_refused_at_the_next_call():
    model = normalised().eval()
    bound = LipschitzBound(model, VECTOR)
    bound()
    model[1].running_mean = model[1].running_var = None
    with pytest.raises(UnsupportedLayerError):
        bound()


class Assigning(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x):
        self.linear.weight.data = self.linear.weight.data.clamp(-0.1, 0.1)
        return self.linear(x)


@pytest.mark.parametrize(
    "use",
    [lambda m: read(m, VECTOR), LipschitzBound, lambda m: cheaplip.bracket(m, shape=VECTOR, seconds=0.2)],
    ids=["read", "bound", "bracket"],
)
def test_a_forward_that_assigns_weights_is_refused_and_the_weights_stay(use):
    model = Assigning().eval()
    before = model.linear.weight.detach().clone()
    with pytest.raises(UnsupportedLayerError, match=r"it assigns 'linear\.weight' anew: compute the weight in a param"):
        use(model)
    assert torch.equal(model.linear.weight, before)
    assert bool(torch.isfinite(model(torch.ones(2, 4))).all())


REFUSED = {
    "times infinity": (lambda x: x * math.inf, "layer 'model' has a weight or constant that is NaN or infinite"),
    "times NaN": (lambda x: x * math.nan, "layer 'model' has a weight or constant that is NaN or infinite"),
    "divided by zero": (lambda x: x / torch.zeros(4), "layer 'model' has a weight or constant that is NaN or infinite"),
    "plus infinity": (lambda x: x + math.inf, "layer 'model' has a weight or constant that is NaN or infinite"),
    "steps": (lambda x: (x * math.inf).clamp(-1, 1), "a weight or constant that is NaN or infinite"),
    "float16 inside": (lambda x: x.half().float(), "it rounds to float16, which jumps: compute in float32"),
    "bfloat16 inside": (lambda x: x.bfloat16().relu().float(), "it rounds to bfloat16"),
    "complex": (lambda x: torch.complex(x, x), "aten.complex"),
    "integers": (lambda x: x.argmax(dim=1), "aten.argmax"),
    "matrix from the left": (lambda x: (torch.ones(3, 4) @ x.T).T, "write x @ W.T for (W @ x.T).T"),
    "a row for each input": (lambda x: x * torch.arange(len(x))[:, None], "treats them differently"),
    "random": (lambda x: F.dropout(x, 0.5), "two calls on the same input differ"),
    "noise": (lambda x: x + torch.rand_like(x), "two calls on the same input differ"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_a_reason(name):
    function, message = REFUSED[name]
    with pytest.raises(UnsupportedLayerError) as refusal:
        read(Apply(function).eval(), VECTOR)
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_autocast_inside_is_refused():
    def rounded(x, a):
        with torch.autocast("cpu", torch.bfloat16):
            return a(x).float()

    with pytest.raises(UnsupportedLayerError, match="it rounds to bfloat16"):
        read(with_linear(rounded), VECTOR)


def test_a_negative_running_variance_is_named():
    model = normalised().eval()
    model[1].running_var[2] = -5.0
    message = r"^layer '1' \(BatchNorm1d, .*: its running variance is -5, expected 0 or more"
    with pytest.raises(UnsupportedLayerError, match=message):
        LipschitzBound(model, VECTOR)
    b = cheaplip.bracket(model, shape=VECTOR, seconds=0.2)
    assert b.upper == math.inf
    assert "its running variance is -5" in b.reason


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x: x + torch.ones(len(x), 4), 1.0),
        (lambda x: x * torch.full((len(x), 1), 2.0), 2.0),
        (lambda x: x + torch.arange(4.0).expand(len(x), 4), 1.0),
    ],
    ids=["sum", "product", "expanded"],
)
def test_a_constant_of_the_batch_s_length_with_equal_rows_is_read(function, expected):
    assert norm_product(read(Apply(function), VECTOR)) == pytest.approx(expected)


def test_a_matrix_on_the_left_is_read():
    torch.manual_seed(0)
    model = Apply(lambda x, a: a.weight @ x, nn.Linear(4, 3)).eval()
    assert norm_product(read(model, (4, 2))) == pytest.approx(exact_constant(model.parts[0].weight), rel=1e-6)
    message = "a matrix on the left works along the batch: write x @ W.T"
    with pytest.raises(UnsupportedLayerError, match=message):  # 5 is the number of inputs in a trace
        read(Apply(lambda x, a: a.weight @ x, nn.Linear(5, 3)), VECTOR)


@pytest.mark.parametrize(
    ("activation", "scaled", "dtype"),
    [(nn.ReLU, False, torch.float32), (nn.Tanh, True, torch.float64)],
    ids=["relu", "tanh, scaled, float64"],
)
def test_one_number_for_each_input_is_as_good_as_one_in_a_row(activation, scaled, dtype):
    torch.manual_seed(0)
    net = mlp(3, 8, 1, activation=activation).to(dtype).eval()
    flat = Apply(lambda x, a: 250 * a(x).squeeze(-1) + 1000 if scaled else a(x).squeeze(-1), net).eval()
    row = Apply(lambda x, a: 250 * a(x) + 1000 if scaled else a(x), net).eval()
    x = torch.randn(5, 3, dtype=dtype)
    for norm in (2, math.inf):
        one, other = (cheaplip.bracket(m, shape=(3,), norm=norm, method="norms", seconds=0.2) for m in (flat, row))
        assert one.lower <= one.upper
        assert one.upper == pytest.approx(other.upper, rel=1e-6)
    assert bounded(flat, (3,)) == pytest.approx(bounded(row, (3,)), rel=1e-6)
    b = cheaplip.bracket(flat, shape=(3,), seconds=0.2)
    low, high = cheaplip.certified_interval(flat, x, b, 0.1)
    assert low.shape == high.shape == (5,)
    assert bool((low <= flat(x)).all() & (flat(x) <= high).all())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_bracket_names_an_inner_layer_in_lower_precision(dtype):
    model = Apply(lambda x, a, b: b(a(x).to(dtype)).float(), nn.Linear(4, 4), nn.Linear(4, 3).to(dtype)).eval()
    message = rf"expected weights in float32 or float64, got {dtype} in 'parts\.1\.weight'"
    with pytest.raises(TypeError, match=message):
        cheaplip.bracket(model, shape=VECTOR, seconds=0.2)


def test_weights_made_in_inference_mode():
    torch.manual_seed(0)
    with torch.inference_mode():
        model = mlp(4, 6, 3).eval()
    b = cheaplip.bracket(model, shape=VECTOR, seconds=0.2)
    assert 0 < b.lower <= b.upper < math.inf
    assert bounded(model) >= b.lower


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda x, a: a(x).argmax(dim=1), "aten.argmax"),
        (lambda x, a: a(x).argmax(dim=1, keepdim=True).float(), "aten.argmax"),
        (torch.no_grad()(lambda x, a: a(x)), "torch.no_grad()"),
        (lambda x, a: a(x.detach()), ".detach()"),
    ],
    ids=["argmax", "argmax as a number", "no_grad", "detach"],
)
def test_an_output_without_gradient_has_no_upper_bound_and_a_reason(function, reason):
    b = cheaplip.bracket(with_linear(function), shape=VECTOR, seconds=0.1)
    assert 0 < b.lower < b.upper == math.inf
    assert reason in b.reason


@pytest.mark.parametrize(
    "function",
    [
        lambda x, a: F.dropout(a(x), 0.5),
        lambda x, a: a(x) + 1e-5 * torch.randn(3),
        lambda x, a: x * torch.bernoulli(torch.full((4,), 0.5)),
    ],
    ids=["dropout", "faint noise", "mask"],
)
def test_bracket_measures_nothing_on_a_random_model_and_leaves_the_random_state_alone(function):
    model = with_linear(function)
    state = torch.get_rng_state()
    with pytest.raises(ValueError, match="two calls on the same input differ"):
        cheaplip.bracket(model, shape=VECTOR, seconds=0.2)
    with pytest.raises(ValueError, match="two calls on the same input differ"):
        cheaplip.lipschitz.pairwise(model, shape=VECTOR)
    with pytest.raises(ValueError, match="two calls on the same input differ"):
        LipschitzBound(model, VECTOR)
    assert torch.equal(torch.get_rng_state(), state)
