"""Folders of images: what they hold, how they are split, and which file is at fault."""

import json
import sys

import numpy as np
import pytest
import torch

from cheaplip.cli import run
from cheaplip.data import load
from cheaplip.errors import DataError

Image = pytest.importorskip("PIL.Image", reason="needs the extra images")


def draw(path, mode="L", size=(6, 5), level=0, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(level)
    width, height = size
    pixels = generator.integers(0, 256, (height, width) if mode == "L" else (height, width, len(mode)), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return pixels


@pytest.fixture
def folder(tmp_path):
    """20 cats and 10 dogs, 6 wide and 5 high."""
    for kind, count, base in (("cat", 20, 0), ("dog", 10, 100)):
        for i in range(count):
            draw(tmp_path / "pets" / kind / f"{i:02}.png", level=base + i)
    (tmp_path / "pets" / ".DS_Store").write_text("hidden")
    (tmp_path / "pets" / "cat" / ".hidden").write_text("hidden")
    return tmp_path / "pets"


def test_pixels_and_classes_arrive_as_they_are(folder):
    data = load(str(folder))
    assert (data.name, data.shape, data.classes, repr(data.domain)) == ("pets", (1, 5, 6), 2, "Box(0, 1)")
    x = torch.cat([data.train.x, data.validation.x, data.test.x])
    y = torch.cat([data.train.y, data.validation.y, data.test.y])
    assert y.bincount().tolist() == [20, 10]
    dog = torch.tensor(np.array(Image.open(folder / "dog" / "03.png"))) / 255
    where = (x[:, 0] - dog).abs().amax(dim=(1, 2)).argmin()
    torch.testing.assert_close(x[where, 0], dog)
    assert y[where] == 1


def test_the_split_is_stratified_and_seeded(folder):
    data, again, other = (load(str(folder), split_seed=seed) for seed in (3, 3, 4))
    assert [part.y.bincount().tolist() for part in (data.train, data.validation, data.test)] == [
        [14, 7],
        [2, 1],
        [4, 2],
    ]
    assert torch.equal(data.test.x, again.test.x)
    assert not torch.equal(data.test.x, other.test.x)


@pytest.mark.parametrize(("suffix", "error"), [("png", 1e-6), ("bmp", 1e-6), ("jpg", 0.8)])
def test_colour_anywhere_means_three_channels(suffix, error, folder):
    pixels = draw(folder / "cat" / f"extra.{suffix}", mode="RGB", level=7)
    data = load(str(folder))
    assert data.shape == (3, 5, 6)
    x = torch.cat([data.train.x, data.validation.x, data.test.x])
    assert float((x - torch.tensor(pixels).permute(2, 0, 1) / 255).abs().amax(dim=(1, 2, 3)).min()) < error


def test_a_camera_on_its_side_is_turned(folder):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    draw(folder / "dog" / "side.jpg", size=(5, 6), exif=exif)
    assert load(str(folder)).shape == (1, 5, 6)


def broken(folder):
    (folder / "dog" / "bad.png").write_bytes((folder / "dog" / "00.png").read_bytes()[:40])


def text(folder):
    (folder / "dog" / "notes.txt").write_text("not an image")


def loose(folder):
    draw(folder / "loose.png")


def empty(folder):
    (folder / "eel").mkdir()


def nothing(folder):
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()


def alone(folder):
    for path in (folder / "dog").iterdir():
        path.unlink()
    (folder / "dog").rmdir()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda f: draw(f / "dog" / "wide.png", size=(7, 5)),
            "dog/wide.png: expected 5 × 6 pixels (height × width), as ",
        ),
        (
            lambda f: draw(f / "dog" / "wide.png", size=(7, 5)),
            "cat/00.png, got 5 × 7; resize it, or all with resize=, --resize 5x6 on",
        ),
        (broken, "dog/bad.png: expected an image, which cannot be read: "),
        (text, "dog/notes.txt: expected an image, which cannot be read: "),
        (
            lambda f: draw(f / "cat" / "a.png", mode="RGBA"),
            "a.png: expected grey or colour in 8 bits, without transp",
        ),
        (loose, "loose.png: expected a folder for each class in "),
        (empty, "eel: expected images in the folder of a class, got none; add some, or remove it"),
        (nothing, "pets: expected a folder of images for each class, got an empty folder"),
        (alone, "expected at least two classes, got only class 0"),
    ],
    ids=["size", "size, the first", "broken", "no image", "transparent", "loose", "empty", "nothing", "one class"],
)
def test_the_file_at_fault_is_named(spoil, message, folder):
    spoil(folder)
    with pytest.raises(DataError) as refusal:
        load(str(folder))
    assert message in str(refusal.value)


def test_numbers_are_not_in_folders(folder):
    with pytest.raises(DataError, match="holds classes, not numbers"):
        load(str(folder), task="regression")


def test_a_folder_is_trained_on(folder, tmp_path, capsys):
    out = tmp_path / "run"
    assert (
        run(
            [
                "train",
                str(folder),
                "--out",
                str(out),
                "--epochs",
                "1",
                "--model",
                "mlp:4",
                "--probe",
                "0",
                "--no-measure",
            ]
        )
        == 0
    )
    assert json.loads((out / "config.json").read_text())["data"] == str(folder)
    broken(folder)
    capsys.readouterr()
    assert run(["train", str(folder), "--out", str(tmp_path / "other")]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "dog/bad.png" in err


def test_without_pillow_the_extra_is_named(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match=r"^folders of images need pillow: pip install 'cheaplip\[images\]'$"):
        load(str(folder))
