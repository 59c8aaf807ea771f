"""How numbers, attacks and pixels are read and written."""

import base64
import math
import struct
import zlib

import pytest

from cheaplip.report.attacks import read_attack
from cheaplip.report.cards.png import data_uri
from cheaplip.report.study import number
from cheaplip.runs.numbers import spread, three_digits
from cheaplip.runs.words import ACCURACY, words_of


def test_a_picture_is_a_png_of_its_pixels():
    pixels = [[(0, 1, 2), (255, 254, 253)]]
    content = base64.b64decode(data_uri(pixels).removeprefix("data:image/png;base64,"))
    assert struct.unpack(">II", content[16:24]) == (2, 1)
    start = content.index(b"IDAT")
    (length,) = struct.unpack(">I", content[start - 4 : start])
    assert zlib.decompress(content[start + 4 : start + 4 + length]) == bytes([0, 0, 1, 2, 255, 254, 253])
    assert content.endswith(struct.pack(">I", zlib.crc32(b"IEND")))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.0633, "0.0633"),
        (1.67, "1.67"),
        (33.8, "33.8"),
        (0.85, "0.850"),
        (64.76, "64.8"),
        (338.4, "338"),
        (12987.4, "12987"),
        (2.46e-4, "2.46·10⁻⁴"),
        (-1.5, "-1.50"),
        (3e5, "3.00·10⁵"),
    ],
)
def test_three_digits(value, text):
    assert three_digits(value) == text


@pytest.mark.parametrize(
    ("value", "mean", "text"),
    [
        (0.235, "1.49", "0.23"),
        (0.00603, "0.844", "0.006"),
        (0.0001, "1.49", "0.0001"),
        (0.0, "1.49", "0.00"),
        (1.1e-5, "2.46·10⁻⁴", "1.10·10⁻⁵"),
        (0.007, "67.5\u202f%", "0.7\u202f%"),
        (4.2, "338", "4"),
    ],
)
def test_a_spread_is_as_fine_as_its_mean(value, mean, text):
    assert spread(value, mean) == text


@pytest.mark.parametrize("value", [None, True, "1", math.nan, math.inf, -math.inf, 10**400, [1]])
def test_what_is_no_finite_number(value):
    assert number(value) is None


@pytest.mark.parametrize("key", ["pgd", "pgd@", "pgd@x", "pgd@-1", "pgd@nan", "pgd@inf", ""])
def test_what_is_no_attack(key):
    assert read_attack(key) is None


def test_a_regression_is_known_by_its_figures_or_by_its_task():
    assert words_of([{"accuracy": {}}], [{"label": "kind"}]) is ACCURACY
    measured = words_of([{"rmse": {"test": 1.0}}])
    assert (measured.key, measured.heading("mae"), measured.axis("test")) == (
        "rmse",
        "MAE",
        "test RMSE (units of the label)",
    )
    unfinished = words_of([{}], [{"task": "regression", "label": "price"}])
    assert (unfinished.unit, unfinished.heading("rmse"), unfinished.better) == ("price", "RMSE, price", -1)


@pytest.mark.parametrize(
    ("words", "texts"),
    [
        pytest.param(ACCURACY, ("97.56 %", "97.6\u202f%", "97.6\u202f%"), id="accuracy"),
        pytest.param(words_of([{"rmse": {}}]), ("0.97564", "0.976", "0.976"), id="error"),
        pytest.param(
            words_of([], [{"task": "regression", "label": "price"}]), ("0.97564", "0.976", "0.976 in price"), id="unit"
        ),
    ],
)
def test_a_terminal_shows_more_digits_than_a_page(words, texts):
    assert (words.exact(0.97564), words.short(0.97564), words.in_text(0.97564)) == texts
