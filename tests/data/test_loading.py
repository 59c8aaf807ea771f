"""Data that loads: how it is split, the box it lies in, its radii, its names."""

import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from cheaplip import Box, CheaplipWarning
from cheaplip.data import Data, Split, load, sources
from cheaplip.data.named import reader
from data_files import (
    blobs,
    save_csv,
    save_npz,
)


def test_digits_are_images_in_the_unit_box() -> None:
    digits = load("digits")
    assert (digits.name, digits.shape, digits.classes) == ("digits", (1, 8, 8), 10)
    assert [len(part.x) for part in (digits.train, digits.validation, digits.test)] == [1258, 180, 359]
    assert digits.train.x.dtype == torch.float32
    assert digits.train.y.dtype == torch.int64
    assert repr(digits.domain) == "Box(0, 1)"
    assert digits.train.x.max() == 1
    assert (digits.epsilon, digits.noise) == (0.6, 0.3)


def test_the_split_is_disjoint_complete_and_in_proportion(tmp_path: Path) -> None:
    x = np.arange(200.0)[:, None]
    y = (np.arange(200) >= 150).astype(int)
    found = load(save_npz(tmp_path, x=x, y=y))
    parts = (found.train, found.validation, found.test)
    assert torch.cat([part.x for part in parts]).flatten().sort().values.tolist() == x.flatten().tolist()
    assert [part.y.bincount().tolist() for part in parts] == [[105, 35], [15, 5], [30, 10]]
    assert all(torch.equal(part.y, (part.x.flatten() >= 150).long()) for part in parts)


@pytest.mark.parametrize("source", ["digits", "mnist"])
def test_the_seed_decides_the_split(source: str, mnist: Path) -> None:
    first, again, other = (load(source, split_seed=seed) for seed in (3, 3, 4))
    assert torch.equal(first.train.x, again.train.x)
    assert torch.equal(first.validation.x, again.validation.x)
    assert not torch.equal(first.validation.x, other.validation.x)


def test_fractions_are_of_all_samples() -> None:
    digits = load("digits", validation=0.3, test=0.5)
    assert [len(part.x) for part in (digits.train, digits.validation, digits.test)] == [360, 539, 898]


def test_bytes_in_an_npz_are_images_in_the_unit_box(tmp_path: Path) -> None:
    x = np.full((20, 2, 2), 51, dtype=np.uint8)
    found = load(save_npz(tmp_path, x=x, y=np.arange(20) % 2))
    assert found.train.x.unique().tolist() == [torch.tensor(0.2).item()]
    assert (found.shape, repr(found.domain)) == ((2, 2), "Box(0, 1)")


def test_the_box_spans_each_feature_over_all_parts(tmp_path: Path) -> None:
    x, y = blobs()
    domain = load(save_npz(tmp_path, x=x, y=y)).domain
    assert domain.low.tolist() == x.min(axis=0).tolist()
    assert domain.high.tolist() == x.max(axis=0).tolist()


@pytest.mark.parametrize(("low", "high"), [(-0.5, 1.0), (0.0, 1.5)])
def test_values_beyond_the_unit_interval_have_a_box_of_their_own(low: float, high: float, tmp_path: Path) -> None:
    domain = load(save_npz(tmp_path, x=np.linspace(low, high, 20)[:, None], y=np.arange(20) % 2)).domain
    assert (domain.low.tolist(), domain.high.tolist()) == ([low], [high])


@pytest.mark.parametrize(
    ("constant", "low", "high"), [(7.0, 6.5, 7.5), (-3.0, -3.5, -2.5), (1e9, 1e9 - 1024, 1e9 + 1024)]
)
def test_a_constant_feature_gets_room(constant: float, low: float, high: float, tmp_path: Path) -> None:
    x, y = blobs()
    x[:, 1] = constant
    found = load(save_npz(tmp_path, x=x, y=y))
    assert (found.domain.low[1].item(), found.domain.high[1].item()) == pytest.approx((low, high), rel=1e-6)
    assert all(found.domain.contains(part.x) for part in (found.train, found.validation, found.test))


def test_identical_inputs_still_have_an_epsilon(tmp_path: Path) -> None:
    found = load(save_npz(tmp_path, x=np.ones((20, 2)), y=np.arange(20) % 2))
    assert (found.epsilon, found.noise) == (0.2, 0.1)


def test_epsilon_is_a_fifth_of_the_median_distance_to_one_digit(tmp_path: Path) -> None:
    x, y = blobs(400, (50,), 2)  # the distance of two normal vectors in 50 dimensions is 10, give or take 1
    found = load(save_npz(tmp_path, x=100 * x, y=y))
    assert (found.epsilon, found.noise) == (200.0, 100.0)


def test_csv_labels_of_any_kind_are_numbered_in_order(tmp_path: Path) -> None:
    names = ((0, "apple"), (0, "apple "), (1, '"pear, ripe"'), (1, ' "pear, ripe"'))
    rows = [f"{i},{name}, {size}" for i in range(5) for size, name in names]
    source = save_csv(tmp_path, "\ufeffweight, kind ,size\n" + "\n".join(rows) + "\n\n")
    found = load(source, label="kind")
    assert (found.name, found.shape, found.classes) == ("table.csv", (2,), 2)
    x, y = (torch.cat(ts) for ts in zip(found.train, found.validation, found.test, strict=True))
    assert y.bincount().tolist() == [10, 10]
    assert torch.equal(found.standardisation.inverse(x)[:, 1], y.float())
    assert (found.class_names, found.feature_names) == (("apple", "pear, ripe"), ("weight", "size"))


def test_csv_labels_that_are_numbers_are_ordered_as_numbers(tmp_path: Path) -> None:
    rows = [f"{kind},{kind}" for kind in (10, 9, 200) for _ in range(10)]
    found = load(save_csv(tmp_path, "x,y\n" + "\n".join(rows)), label="y")
    assert {(x.item(), y.item()) for x, y in zip(found.train.x, found.train.y, strict=True)} == {
        (9, 0),
        (10, 1),
        (200, 2),
    }


def test_to_moves_a_copy() -> None:
    box = Box(torch.zeros(2), torch.ones(2))
    part = Split(torch.rand(4, 2), torch.tensor([0, 1, 0, 1]))
    here = Data("toy", part, part, part, 2, box, 0.1, 0.05)
    there = here.to("meta")
    assert {t.device.type for t in (*there.train, *there.validation, *there.test, there.domain.low)} == {"meta"}
    assert {t.device.type for t in (*here.train, here.domain.low)} == {"cpu"}


def test_the_public_names_exist_and_are_sorted() -> None:
    for module in (sources, reader):
        assert all(hasattr(module, name) for name in module.__all__)
        assert module.__all__ == sorted(
            module.__all__, key=lambda name: (not name.isupper(), not name[0].isupper(), name)
        )


@pytest.mark.parametrize(
    ("scales", "expected"),
    [
        ((1.0, 1.0, 300.0), "feature 2 .* deviation of 300, the median feature one of 1"),
        ((0.1, 0.1, 20.0), "feature 2"),
        ((900.0, 900.0, 900.0), None),
        ((0.1, 0.1, 5.0), None),
        ((1.0, 50.0, 1.0), None),
        ((1e-6, 1e-6, 0.5), None),
    ],
)
def test_features_in_different_units_are_warned_of(scales, expected, tmp_path):
    x = np.tile([-1.0, 1.0], 30)[:, None] * np.array(scales)
    np.savez(tmp_path / "d.npz", x=x * np.sqrt(59 / 60), y=np.repeat([0, 1], 30))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        load(str(tmp_path / "d.npz"))
    found = [str(w.message) for w in caught if w.category is CheaplipWarning]
    assert len(found) == (expected is not None)
    if expected:
        assert re.search(expected, found[0])
