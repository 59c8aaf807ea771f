"""Radii of a certificate exported to ONNX: never above the exact distance, also in onnxruntime."""

import io
import itertools
import random

import pytest
import torch
from torch import nn

from cheaplip import Box, Certified, bracket
from networks import Apply, MaxMin

for package in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(package, reason="needs the extra onnx")

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")

ACTIVATIONS = {
    "relu": nn.ReLU,
    "leaky": lambda: nn.LeakyReLU(0.1),
    "elu": lambda: nn.ELU(0.7),
    "selu": nn.SELU,
    "celu": lambda: nn.CELU(1.3),
    "hardtanh": lambda: nn.Hardtanh(-0.1, 0.3),
    "relu6": nn.ReLU6,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "silu": nn.SiLU,
    "gelu-tanh": lambda: nn.GELU("tanh"),
}
EXTREMES = torch.tensor([0.0, 1e-300, -1e-30, 1e-12, -1e-8, 1e-4, -0.1, 0.1, 0.3, 3.0, -6.0, 40.0, -200.0, 1e6, -1e12])


def in_onnxruntime(served, x):
    """Export to ONNX for inputs of the type of x; return a function that gives predictions and radii."""
    import onnxruntime

    file = io.BytesIO()
    batch = {0: torch.export.Dim("batch", min=1)}
    options = {"output_names": ["prediction", "radius"], "dynamic_shapes": (batch,), "dynamo": True, "verbose": False}
    torch.onnx.export(served, (x,), **options).save(file)
    session = onnxruntime.InferenceSession(file.getvalue())
    name = session.get_inputs()[0].name
    return lambda x: tuple(map(torch.from_numpy, session.run(["prediction", "radius"], {name: x.numpy()})))


class Several(nn.Module):
    """Every activation side by side, after a batch norm and an addition of a constant."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(3, eps=1e-5)
        self.activations = nn.ModuleList([make() for make in ACTIVATIONS.values()])
        self.enter = nn.ModuleList([nn.Linear(3, 4) for _ in ACTIVATIONS])
        self.leave = nn.Linear(4 * len(ACTIVATIONS), 3)

    def forward(self, x):
        x = 1.1 * self.norm(x) + 0.7
        parts = [activation(enter(x)) for activation, enter in zip(self.activations, self.enter, strict=True)]
        return self.leave(torch.cat(parts, dim=1)) / 0.3


def test_every_activation_is_exported_in_float64():
    torch.manual_seed(0)
    model = Several().eval()
    served = Certified(model, bracket(model, shape=(3,), steps=2, seconds=1.0, method="norms"))
    x = torch.randn(40, 3)
    run = in_onnxruntime(served, x)
    for size in (1e-30, 1e-8, 1e-3, 1.0, 30.0, 1e5):
        prediction, radius = served(size * x)
        got, found = run(size * x)
        assert torch.equal(got, prediction)
        assert bool((radius > 0).any())
        torch.testing.assert_close(found, radius, rtol=1e-13, atol=1e-300)


class Affine(nn.Module):
    """Logits (a, −a), a = scale·φ(x): the radius is exact where φ is affine."""

    def __init__(self, activation, offset, scale=1.0):
        super().__init__()
        self.activation = activation
        self.register_buffer("row", torch.tensor([[scale], [-scale]], dtype=torch.float64))
        self.register_buffer("offset", torch.tensor(offset, dtype=torch.float64))

    def forward(self, x):
        return nn.functional.linear(self.activation(x) - self.offset, self.row)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*ACTIVATIONS, "identity"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_radius_on_a_line_is_at_most_the_exact_distance(name, dtype):
    activation = ACTIVATIONS.get(name, nn.Identity)()
    border = torch.tensor([0.05], dtype=torch.float64)
    offset = activation(border).item()
    model = Affine(activation, offset)
    served = Certified(model, bracket(model, Box(-1e13, 1e13), (1,), steps=2, seconds=1.0))
    x = torch.cat([EXTREMES, torch.linspace(-2, 2, 100)]).to(dtype).unsqueeze(1)
    run = in_onnxruntime(served, x)
    for found in (served(x)[1], run(x)[1]):
        exact = (x.double().squeeze(1) - border).abs()
        assert bool((found <= exact).all())
        assert bool((found > 0).any())


@pytest.mark.slow
def test_large_logits_have_the_model_s_class():
    model = Affine(nn.Hardtanh(-0.1, 0.1), 0.1 - 1e-11, scale=1e9)
    served = Certified(model, bracket(model, shape=(1,), steps=2, seconds=1.0))
    x = torch.linspace(-0.2, 0.2, 101, dtype=torch.float64).unsqueeze(1)
    prediction, radius = in_onnxruntime(served, x)(x)
    assert torch.equal(prediction, model(x).argmax(1))
    assert bool((radius <= (x.squeeze(1) - (0.1 - 1e-11)).abs() + 1e-15).all())


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100))
def test_the_radii_of_random_networks_are_at_most_the_exact_distance(seed):
    draw = random.Random(seed)
    torch.manual_seed(seed)
    dtype = draw.choice([torch.float32, torch.float64])
    kinds = draw.choices(list(ACTIVATIONS), k=2)
    widths = 1, draw.randint(1, 6), draw.randint(1, 6), draw.randint(2, 4)
    layers = [nn.Linear(a, b) for a, b in itertools.pairwise(widths)]
    model = nn.Sequential(layers[0], ACTIVATIONS[kinds[0]](), layers[1], ACTIVATIONS[kinds[1]](), layers[2])
    domain = draw.choice([None, Box(-4.0, 4.0)])
    served = Certified(model, bracket(model, domain, (1,), steps=2, seconds=1.0))
    x = torch.cat([EXTREMES[:11], 2 * torch.randn(50)]).to(dtype).unsqueeze(1)
    exact = distances(model.double(), x.double().squeeze(1))
    run = in_onnxruntime(served, x)
    for prediction, radius in (served(x), run(x)):
        sure = radius > 0
        assert torch.equal(prediction[sure], model(x.double()).argmax(1)[sure])
        assert bool((radius[sure] <= exact[sure]).all()), (kinds, dtype, (radius - exact).max())


@pytest.mark.slow
def test_a_network_of_many_kinds_of_layers_has_the_same_radii():
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.ConvTranspose2d(1, 4, 3, stride=2, padding=1, output_padding=1), nn.PReLU(4), MaxMin(), nn.Mish()),
        *(nn.GroupNorm(2, 4, eps=0.1), Apply(lambda x: x.masked_fill(torch.arange(6) == 2, 0.5)), nn.PixelUnshuffle(2)),
        Apply(lambda x: x * torch.sigmoid(x.mean(dim=(2, 3), keepdim=True))),
        *(nn.Flatten(2), Apply(lambda x: nn.functional.scaled_dot_product_attention(x, x, x)), nn.Flatten()),
        *(nn.Hardswish(), nn.Linear(144, 3), nn.LogSigmoid()),
    ).eval()
    served = Certified(model, bracket(model, Box(0.0, 1.0), (1, 3, 3), steps=2, seconds=1.0))
    x = torch.rand(6, 1, 3, 3)
    for found, expected in zip(in_onnxruntime(served, x)(x), served(x), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-12)
    assert bool((served(x)[1] > 0).all())


@torch.no_grad()
def distances(model, x):
    """Return the distance of each input to the nearest other class on the line, found on a grid and by bisection."""
    grid = torch.linspace(-12, 12, 480_001, dtype=torch.float64)
    classes = model(grid.unsqueeze(1)).argmax(1)
    (at,) = torch.nonzero(classes[1:] != classes[:-1], as_tuple=True)
    low, high, left = grid[at], grid[at + 1], classes[at]
    for _ in range(60):
        middle = (low + high) / 2
        same = model(middle.unsqueeze(1)).argmax(1) == left
        low, high = torch.where(same, middle, low), torch.where(same, high, middle)
    borders = torch.cat([high, torch.tensor([torch.inf, -torch.inf], dtype=torch.float64)])
    return (x[:, None] - borders).abs().amin(1) + 1e-14
