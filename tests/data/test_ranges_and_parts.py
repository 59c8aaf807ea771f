"""Arrays and images of other ranges, layouts and names: looked at, told, and overruled by the user."""

import warnings

import numpy as np
import pytest
import torch

from cheaplip import CheaplipWarning
from cheaplip.data import Reading, load
from data_files import refuses, save_npz

RNG = np.random.default_rng(0)
Y = np.arange(40) % 2
GREY = RNG.integers(0, 256, (40, 8, 8))
COLOUR = RNG.integers(0, 256, (40, 3, 8, 8))


def spread(x, low, high):
    """Integers stretched so that both ends are there."""
    return low + (x - x.min()) * (high - low) / (x.max() - x.min())


def everything(data):
    return torch.cat([data.train.x, data.validation.x, data.test.x])


READ = {  # inputs, the words for them, the box's ends; None: they stay as they are
    "bytes": (GREY.astype(np.uint8), "40 images, 8 × 8, grey, 0 to 255, read as 0 to 1", (0, 1)),
    "bytes, colour": (COLOUR.astype(np.uint8), "40 images, 8 × 8, colour, 0 to 255, read as 0 to 1", (0, 1)),
    "bytes of 0 and 1": ((GREY > 99).astype(np.uint8), "grey, 0 to 1, as they are", (0, 1)),
    "bytes of 0 to 16": ((GREY // 16 + GREY // 255).astype(np.uint8), "grey, 0 to 16, read as 0 to 1", (0, 1)),
    "truth values": (GREY > 99, "grey, 0 to 1, as they are", (0, 1)),
    "floats of 0 to 1": (GREY / 255, "grey, 0 to 1, as they are", (0, 1)),
    "floats of 0 to 255": (GREY.astype(np.float32), "grey, 0 to 255, read as 0 to 1", (0, 1)),
    "floats of 0 to 255, smooth": (spread(GREY + 0.5, 0, 255), "grey, 0 to 255, read as 0 to 1", (0, 1)),
    "floats of -1 to 1": (GREY / 127.5 - 1, "grey, -1 to 1, as they are", None),
    "floats of -0.5 to 0.5": (GREY / 255 - 0.5, "grey, -0.5 to 0.5, as they are", None),
    "normalised images": (RNG.normal(size=(40, 8, 8)), "as they are", None),
    "half precision": ((GREY / 255).astype(np.float16), "grey, 0 to 1, as they are", (0, 1)),
    "whole numbers of 64 bits": (GREY.astype(np.int64), "grey, 0 to 255, read as 0 to 1", (0, 1)),
    "whole numbers of 32 bits, colour": (COLOUR.astype(np.int32), "colour, 0 to 255, read as 0 to 1", (0, 1)),
    "10 bits in 16": (spread(GREY, 0, 1023).astype(np.uint16), "grey, 0 to 1,023, read as 0 to 1", (0, 1)),
    "12 bits in 16": (spread(GREY, 0, 4095).astype(np.uint16), "grey, 0 to 4,095, read as 0 to 1", (0, 1)),
    "16 bits": (spread(GREY, 0, 65535).astype(np.uint16), "grey, 0 to 65,535, read as 0 to 1", (0, 1)),
    "other order of bytes": (GREY.astype(">u2"), "grey, 0 to 255, read as 0 to 1", (0, 1)),
    "flat images": (GREY.reshape(40, 64).astype(np.float64), "64 features, 0 to 255, read as 0 to 1", (0, 1)),
    "a few columns of bytes' size": (GREY.reshape(40, 64)[:, :5].astype(float), "5 features, ", None),
    "signals": (RNG.normal(size=(40, 2, 50)), "as they are", None),
    "counts": (RNG.poisson(3.0, (40, 5)).astype(float), "40 samples, 5 features, 0 to ", None),
}


@pytest.mark.parametrize(("x", "words", "box"), READ.values(), ids=READ)
def test_the_range_of_values_is_looked_at_and_told(x, words, box, tmp_path):
    data = load(save_npz(tmp_path, x=x, y=Y))
    assert words in data.recipe.description[0]
    assert data.train.x.dtype == torch.float32
    assert data.shape == x.shape[1:]
    if box is None:
        assert data.from_source is None
        np.testing.assert_allclose(everything(data).sum(), x.astype(float).sum(), rtol=1e-3)
    else:
        assert repr(data.domain) == "Box(0, 1)"
        assert float(everything(data).max()) > 0.9
        assert torch.equal(everything(data).min(), torch.tensor(0.0))


RANGES = {
    "wider": (GREY.astype(np.uint8), "0,510", (0, 0.5)),
    "as bytes": ((GREY > 99).astype(np.uint8), "0,255", (0, 1 / 255)),
    "to both sides": (GREY / 127.5 - 1, "-1,1", (0, 1)),
    "of a table": (RNG.random((40, 3)) * 9 + 1, "0,10", (0.1, 1)),
}


@pytest.mark.parametrize(("x", "bounds", "ends"), RANGES.values(), ids=RANGES)
def test_the_range_is_the_user_s_word(x, bounds, ends, tmp_path):
    data = load(save_npz(tmp_path, x=x, y=Y), reading=Reading.parse(bounds=bounds))
    assert repr(data.domain) == "Box(0, 1)"
    found = everything(data)
    assert (float(found.min()), float(found.max())) == pytest.approx(ends, abs=0.02)
    source = data.rescaling.inverse(found.double())
    np.testing.assert_allclose(source.sum(), x.astype(float).sum(), rtol=1e-5)


@pytest.mark.parametrize(
    ("bounds", "scaling", "message"),
    [
        ("0,100", None, "expected values from 0 to 100, as --range says, got 0 to 255; name the range that holds them"),
        ("255,0", None, "range: expected the smallest and the largest value, such as 0,255, got '255,0'"),
        ("0,inf", None, "range: expected the smallest and the largest value"),
        ("zero", None, "range: expected the smallest and the largest value"),
        ("0,1,2", None, "range: expected the smallest and the largest value"),
        ("0,255", "standard", "scaling: expected none with --range, got standard: use one of them"),
    ],
)
def test_a_range_that_does_not_fit(bounds, scaling, message, tmp_path):
    with refuses(message):
        load(save_npz(tmp_path, x=GREY, y=Y), scaling=scaling, reading=Reading.parse(bounds=bounds))


X = RNG.normal(size=(40, 4))
NAMED = {
    "upper case": {"X": X, "y": Y},
    "data and target": {"data": X, "target": Y},
    "data and labels": {"data": X, "labels": Y},
    "images and labels": {"images": X, "labels": Y},
    "features and labels": {"features": X, "labels": Y},
    "X and labels": {"X": X, "labels": Y},
    "data and y": {"data": X, "y": Y},
    "features and label": {"Features": X, "Label": Y},
    "images and target": {"images": X, "target": Y},
    "inputs and ids": {"ids": np.arange(40), "inputs": X, "label": Y},
    "two of inputs, one usual pair": {"images": X[:, :1], "data": X, "target": Y},
    "inputs and targets": {"inputs": X, "targets": Y},
    "without names": {"arr_0": X, "arr_1": Y},
    "more arrays": {"x": X, "y": Y, "groups": Y, "feature_names": np.array(list("abcd"))},
    "labels as a column": {"x": X, "y": Y[:, None]},
}


@pytest.mark.parametrize("arrays", NAMED.values(), ids=NAMED)
def test_the_usual_names_of_arrays_are_read(arrays, tmp_path):
    data = load(save_npz(tmp_path, **arrays))
    assert (data.shape, data.classes) == ((4,), 2)
    np.testing.assert_allclose(everything(data).sum(), X.sum(), rtol=1e-4)


def parts(train, test, validation=None):
    """Arrays of a given split: 30 to train on, 6 for the test, 4 for validation or none."""
    arrays = {train[0]: X[:30], train[1]: Y[:30], test[0]: X[30:36], test[1]: Y[30:36]}
    return arrays | ({} if validation is None else {validation[0]: X[36:], validation[1]: Y[36:]})


SPLITS = {
    "x_train": parts(("x_train", "y_train"), ("x_test", "y_test")),
    "X_train": parts(("X_train", "y_train"), ("X_test", "y_test")),
    "train_x": parts(("train_x", "train_y"), ("test_x", "test_y")),
    "trainX": parts(("trainX", "trainY"), ("testX", "testY")),
    "Xtrain": parts(("Xtrain", "ytrain"), ("Xtest", "ytest")),
    "xtr": parts(("xtr", "ytr"), ("xte", "yte")),
    "train_images": parts(("train_images", "train_labels"), ("test_images", "test_labels")),
    "train_data": parts(("train_data", "train_labels"), ("test_data", "test_labels")),
    "data_train": parts(("data_train", "target_train"), ("data_test", "target_test")),
    "images and targets": parts(("train_images", "train_targets"), ("test_images", "test_targets")),
    "with validation": parts(("x_train", "y_train"), ("x_test", "y_test"), ("x_val", "y_val")),
    "with valid": parts(("x_train", "y_train"), ("x_test", "y_test"), ("x_valid", "y_valid")),
    "with dev": parts(("x_train", "y_train"), ("x_test", "y_test"), ("x_dev", "y_dev")),
    "medical": parts(("train_images", "train_labels"), ("test_images", "test_labels"), ("val_images", "val_labels")),
    "validation alone": parts(("x_train", "y_train"), ("x_val", "y_val")),
}


@pytest.mark.parametrize("name", SPLITS)
def test_a_given_split_is_used(name, tmp_path):
    data = load(save_npz(tmp_path, **SPLITS[name]))
    np.testing.assert_allclose(data.test.x, X[30:36].astype(np.float32))
    held_out = 4 if len(SPLITS[name]) == 6 else 3
    assert len(data.validation.x) == held_out
    assert len(data.train.x) == (30 if held_out == 4 else 27)
    words = "the source's validation part is the test" if name == "validation alone" else "as the source gives them"
    assert words in data.recipe.description[2]


def test_test_inputs_that_were_trained_on_are_warned_of(tmp_path):
    arrays = {"x_train": X[:30], "y_train": Y[:30], "x_test": X[28:36], "y_test": Y[28:36]}
    with pytest.warns(CheaplipWarning, match="of the 8 test inputs are training inputs, too"):
        load(save_npz(tmp_path, **arrays))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x_train": X, "y_train": Y}, "expected arrays named x and y, got x_train, y_train"),
        ({"a": X, "b": Y}, "expected arrays named x and y, got a, b"),
        (
            {"x_train": X, "y_train": Y, "x_test": X[:, :2], "y_test": Y},
            "expected parts with inputs of one shape and a label for each, got x_train and y_train, x_test and y_test",
        ),
        ({"x_train": X, "y_train": Y, "x_test": X[:9], "y_test": Y}, "and a label for each"),
        ({"X_train": X, "y_train": Y / 2, "X_test": X, "y_test": Y / 2}, "number the classes from 0"),
        ({"x": X, "image": X, "targets": Y}, "expected arrays named x and y, got x, image, targets; write them"),
    ],
)
def test_arrays_that_do_not_fit_each_other(arrays, message, tmp_path):
    with refuses(message):
        load(save_npz(tmp_path, **arrays))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_channels_are_moved_to_the_front_and_that_is_told(channels, tmp_path):
    x = RNG.integers(0, 256, (40, 8, 9, channels), dtype=np.uint8)
    data = load(save_npz(tmp_path, x=x, y=Y))
    assert data.shape == (channels, 8, 9)
    assert f"{channels} channels moved from last to first" in data.recipe.description[1]
    np.testing.assert_allclose(everything(data).sum((0, 2, 3)), x.sum((0, 1, 2)) / 255, rtol=1e-4)


def test_a_small_column_of_an_array_is_warned_of(tmp_path):
    x = RNG.random((60, 2)) * [1, 0.005]
    with pytest.warns(CheaplipWarning, match="feature 1 .* distances then hardly depend on the first"):
        load(save_npz(tmp_path, x=x, y=np.arange(60) % 2))


def test_what_float32_loses_in_an_array_is_named(tmp_path):
    x = np.stack([1.7e9 + 2 * np.arange(60), RNG.normal(size=60)], axis=1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        load(save_npz(tmp_path, x=x, y=np.arange(60) % 2))
    assert any("feature 0 (counted from 0) has values so large" in str(w.message) for w in caught)
    assert load(save_npz(tmp_path, x=x, y=np.arange(60) % 2), scaling="standard").scaling == "standard"


def test_what_a_function_makes_keeps_its_values_and_that_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pixels.py").write_text(
        "import numpy as np\n\ndef make():\n"
        "    return np.random.default_rng(0).integers(0, 256, (40, 8, 8)).astype(float), np.arange(40) % 2\n"
    )
    data = load("pixels:make")
    assert data.from_source is None
    assert data.recipe.description[1] == "read with: values up to 255, which --range 0,255 would read as 0 to 1"
    assert repr(load("pixels:make", reading=Reading.parse(bounds="0,255")).domain) == "Box(0, 1)"
