"""Spectral norms: never below the true one, close above it."""

import itertools

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st

from cheaplip.lipschitz import spectral
from cheaplip.lipschitz.spectral import convolution_norm, matrix_norm

fast = settings(deadline=None, max_examples=40, derandomize=True)


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def true_norm(convolve, shape):
    """Of the convolution, written out as a matrix."""
    size = torch.Size(shape).numel()
    matrix = convolve(torch.eye(size, dtype=torch.float64).reshape(size, *shape)).flatten(1)
    return float(torch.linalg.svdvals(matrix)[0])


@fast
@given(st.integers(0, 1000), st.integers(1, 30), st.integers(1, 30), st.integers(-150, 150))
def test_matrix_norm_is_the_largest_singular_value_rounded_up(seed, rows, columns, exponent):
    weight = drawn(rows, columns, seed=seed) * 10.0**exponent
    truth = float(torch.linalg.svdvals(weight)[0])
    assert truth * (1 - 1e-14) <= matrix_norm(weight) <= truth * (1 + 1e-9)


def test_matrix_norm_of_a_stack_is_the_largest():
    stack = torch.stack([drawn(3, 5), 9 * drawn(3, 5, seed=1)])
    assert float(matrix_norm(stack)) == pytest.approx(float(torch.linalg.svdvals(stack).max()))


@pytest.mark.parametrize("weight", [torch.zeros(3, 4).double(), torch.zeros(0, 4).double()], ids=["zero", "empty"])
def test_matrix_norm_of_nothing_is_zero(weight):
    assert matrix_norm(weight) == 0


@pytest.mark.parametrize("seed", range(5))
def test_gram_iterations_of_large_matrices_stay_above(monkeypatch, seed):
    monkeypatch.setattr(spectral, "_EIGENVALUES", 1)
    weight = drawn(12, 20, seed=seed)
    truth = float(torch.linalg.svdvals(weight)[0])
    assert truth <= matrix_norm(weight) <= 1.02 * truth


def test_gram_iterations_of_an_orthogonal_matrix_stay_above(monkeypatch):
    monkeypatch.setattr(spectral, "_EIGENVALUES", 1)
    assert 1 <= matrix_norm(torch.linalg.qr(drawn(40, 40)).Q) <= 1.02


CONVOLUTIONS = [
    (kernel, stride, dilation, groups, padding)
    for kernel, stride, dilation, groups, padding in itertools.product([1, 2, 3], [1, 2, 3], [1, 2], [1, 2], [0, 1, 2])
]


@pytest.mark.parametrize(("kernel", "stride", "dilation", "groups", "padding"), CONVOLUTIONS)
def test_convolution_norm_is_never_below_the_true_one(kernel, stride, dilation, groups, padding):
    weight = drawn(4, 2 // groups, kernel, kernel, seed=kernel)
    truth = true_norm(lambda x: F.conv2d(x, weight, None, stride, padding, dilation, groups), (2, 6, 6))
    found = convolution_norm(
        weight, (6 + 2 * padding,) * 2, stride=(stride,) * 2, dilation=(dilation,) * 2, groups=groups
    )
    assert truth * (1 - 1e-12) <= found <= 3 * truth


def test_convolution_norm_is_close_on_larger_images():
    weight = drawn(4, 3, 3, 3)
    truth = true_norm(lambda x: F.conv2d(x, weight, padding=1), (3, 16, 16))
    found = convolution_norm(weight, (18, 18), stride=(1, 1), dilation=(1, 1), groups=1)
    assert truth <= found <= 1.05 * truth


@pytest.mark.parametrize("kernel", [1, 3, 5], ids=lambda k: f"kernel {k}")
def test_convolution_norm_is_exact_on_a_torus(kernel):
    weight = drawn(3, 2, kernel, kernel)
    half = kernel // 2
    truth = true_norm(lambda x: F.conv2d(F.pad(x, (half,) * 4, mode="circular"), weight), (2, 5, 5))
    found = convolution_norm(weight, (5, 5), stride=(1, 1), dilation=(1, 1), groups=1, circular=True)
    assert truth * (1 - 1e-13) <= found <= truth * (1 + 1e-9)


def test_convolution_norm_in_chunks_and_without_eigenvalues_stays_above(monkeypatch):
    monkeypatch.setattr(spectral, "_CHUNK", 30)
    monkeypatch.setattr(spectral, "_SURVIVORS", 0)
    weight = drawn(4, 3, 3)
    truth = true_norm(lambda x: F.conv1d(x, weight, padding=1), (3, 30))
    found = convolution_norm(weight, (32,), stride=(1,), dilation=(1,), groups=1)
    assert truth <= found <= 1.05 * truth


def test_convolution_norm_of_zero_weights_is_zero():
    assert convolution_norm(torch.zeros(2, 2, 3).double(), (8,), stride=(1,), dilation=(1,), groups=1) == 0
