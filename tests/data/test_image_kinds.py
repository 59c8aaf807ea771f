"""Images of every kind that a folder may hold: read and told, or refused with the file's name."""

import numpy as np
import pytest
import torch

from cheaplip import CheaplipWarning
from cheaplip.data import Reading, load
from data_files import refuses

Image = pytest.importorskip("PIL.Image", reason="needs the extra images")

RNG = np.random.default_rng(0)


def grey(size=(9, 8)):
    return RNG.integers(0, 256, size, dtype=np.uint8)


def colour(size=(9, 8)):
    return RNG.integers(0, 256, (*size, 3), dtype=np.uint8)


def deep(top=65535):
    pixels = RNG.integers(0, top + 1, (9, 8)).astype(np.uint16)
    pixels[0, 0] = top
    return pixels


def bits():
    return Image.fromarray(grey()).convert("1")


def veiled():
    return with_alpha(colour(), 99)


def partly():
    return Image.fromarray(RNG.integers(0, 255, (9, 8, 4), dtype=np.uint8))


def palette():
    return Image.fromarray(colour()).quantize(16)


def transparent_palette():
    image = palette()
    image.info["transparency"] = 0
    return image


def with_alpha(pixels, alpha=255):
    return Image.fromarray(np.concatenate([pixels, np.full_like(pixels[..., :1], alpha)], axis=-1))


def save(image, path, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(path, **options)


def folder_of(make, root, suffix="png", count=10, **options):
    for kind in ("cat", "dog"):
        for number in range(count):
            save(make(), root / kind / f"{number}.{suffix}", **options)
    return root


def everything(data):
    return torch.cat([data.train.x, data.validation.x, data.test.x])


KINDS = {
    "grey": (grey, "png", "20 images, 9 × 8, grey, 0 to 255, read as 0 to 1", (1, 9, 8)),
    "colour": (colour, "png", "20 images, 9 × 8, colour, 0 to 255, read as 0 to 1", (3, 9, 8)),
    "black and white": (bits, "png", "grey, 0 to 255, read as 0 to 1", (1, 9, 8)),
    "palette": (palette, "png", "colour, 0 to 255", (3, 9, 8)),
    "gif": (palette, "gif", "colour, 0 to 255", (3, 9, 8)),
    "opaque": (lambda: with_alpha(colour()), "png", "20 images with an opaque alpha channel, left out", (3, 9, 8)),
    "grey, opaque": (
        lambda: Image.merge("LA", [Image.fromarray(grey()), Image.new("L", (8, 9), 255)]),
        "png",
        "with an opaque alpha channel",
        (1, 9, 8),
    ),
    "16 bits": (deep, "png", "grey, 0 to 65,535, read as 0 to 1", (1, 9, 8)),
    "16 bits, tiff": (deep, "tiff", "grey, 0 to 65,535, read as 0 to 1", (1, 9, 8)),
    "12 bits in 16": (lambda: deep(4095), "png", "grey, 0 to 4,095, read as 0 to 1", (1, 9, 8)),
    "floats": (lambda: grey().astype(np.float32) / 255, "tiff", "grey, 0 to 1, as they are", (1, 9, 8)),
    "CMYK": (lambda: Image.fromarray(colour()).convert("CMYK"), "jpg", "20 images in CMYK, read as RGB", (3, 9, 8)),
    "YCbCr": (lambda: Image.fromarray(colour()).convert("YCbCr"), "jpg", "colour, 0 to 255", (3, 9, 8)),
    "bmp": (grey, "bmp", "grey, 0 to 255", (1, 9, 8)),
    "webp": (colour, "webp", "colour, 0 to 255", (3, 9, 8)),
    "tiff": (colour, "tiff", "colour, 0 to 255", (3, 9, 8)),
    "jpg": (grey, "jpg", "grey, 0 to 255", (1, 9, 8)),
    "ppm": (colour, "ppm", "colour, 0 to 255", (3, 9, 8)),
}  # fmt: skip


@pytest.mark.parametrize(("make", "suffix", "words", "shape"), KINDS.values(), ids=KINDS)
def test_a_kind_of_image_is_read_and_told(make, suffix, words, shape, tmp_path):
    data = load(str(folder_of(make, tmp_path / "pets", suffix)))
    assert data.shape == shape
    assert words in " ".join(data.recipe.description)
    assert repr(data.domain) == "Box(0, 1)"
    assert float(everything(data).max()) > 0.9


def test_sixteen_bits_keep_all_their_levels(tmp_path):
    pixels = deep()
    save(pixels, folder_of(deep, tmp_path / "pets") / "cat" / "a.png")
    wanted = torch.from_numpy(pixels.astype(np.float64) / 65535)
    assert float((everything(load(str(tmp_path / "pets")))[:, 0] - wanted).abs().amax((1, 2)).min()) < 1e-6


def frames():
    return Image.fromarray(grey()), [Image.fromarray(grey()), Image.fromarray(grey())]


def animated(suffix):
    def spoil(root):
        first, others = frames()
        save(first, root / "cat" / f"z.{suffix}", save_all=True, append_images=others)

    return spoil


def put(image, name="z.png"):
    return lambda root: save(image() if callable(image) else image, root / "cat" / name)


REFUSED = {
    "transparent": (put(veiled), "cat/z.png: expected grey or colour in 8 bits, without transp"),
    "partly transparent": (put(partly), "transparent"),
    "grey, transparent": (
        put(lambda: Image.merge("LA", [Image.fromarray(grey())] * 2)),
        "cat/z.png: expected grey or colour in 8 bits, without transparency, got transparent pixels",
    ),
    "transparent palette": (put(transparent_palette), "got transparent pixels; put it on a background"),
    "animated gif": (animated("gif"), "cat/z.gif: expected one picture, got 3; save one of them alone"),
    "tiff of several pages": (animated("tiff"), "cat/z.tiff: expected one picture, got 3"),
    "animated png": (animated("png"), "cat/z.png: expected one picture, got 3"),
    "animated webp": (animated("webp"), "cat/z.webp: expected one picture, got 3"),
    "another depth": (put(deep), "cat/z.png: expected 8 bits, as "),
    "another size": (put(lambda: grey((9, 7))), "expected 9 × 8 pixels (height × width), as "),
    "another size, told": (put(lambda: grey((9, 7))), "got 9 × 7; resize it, or all with resize=, --resize 9x8 on"),
    "a folder": (lambda root: (root / "cat" / "zoo").mkdir(), "cat/zoo: expected images in the folder of a class"),
    "text": (lambda root: (root / "cat" / "a.txt").write_text("no"), "cat/a.txt: expected an image, which"),
    "an empty file": (lambda root: (root / "cat" / "a.png").write_bytes(b""), "cat/a.png: expected an image"),
    "LAB": (put(lambda: Image.new("LAB", (8, 9)), "z.tiff"), "cat/z.tiff: expected grey or colour in 8 bits, without"),
}  # fmt: skip


@pytest.mark.parametrize(("spoil", "message"), REFUSED.values(), ids=REFUSED)
def test_an_image_that_cannot_be_used_is_named(spoil, message, tmp_path):
    root = folder_of(grey, tmp_path / "pets")
    spoil(root)
    with refuses(message) as caught:
        load(str(root))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("litter", ["Thumbs.db", "desktop.ini", ".DS_Store"])
def test_what_systems_leave_behind_is_skipped(litter, tmp_path):
    root = folder_of(grey, tmp_path / "pets")
    (root / "cat" / litter).write_text("no image")
    (root / litter).write_text("no image")
    assert len(everything(load(str(root)))) == 20


@pytest.mark.parametrize(("text", "shape"), [("4", (4, 4)), ("4x6", (4, 6)), ("4,6", (4, 6)), ("12×16", (12, 16))])
@pytest.mark.parametrize("make", [grey, colour, deep])
def test_unequal_sizes_are_brought_to_one(text, shape, make, tmp_path):
    root = folder_of(make, tmp_path / "pets")
    save(make() if make is deep else make((20, 30)), root / "dog" / "large.png")
    data = load(str(root), reading=Reading.parse(resize=text))
    assert data.shape[1:] == shape
    assert f"resized to {shape[0]} × {shape[1]}" in data.recipe.description[1]
    assert 0.2 < float(everything(data).mean()) < 0.8


@pytest.mark.parametrize("text", ["0", "-4", "4x", "4x0", "big", "4x4x4", ""])
def test_a_size_of_another_form_is_refused(text):
    with refuses("resize: expected the pixels of a side, such as 32, or height and width, such as 28x32, got"):
        Reading.parse(resize=text)


PARTS = {
    "train, test": (("train", "test"), (20, 3), "split by the folders train, test"),
    "Train, Test": (("Train", "Test"), (20, 3), "split by the folders Train, Test"),
    "training, testing": (("training", "testing"), (20, 3), "split by the folders"),
    "train, val": (("train", "val"), (20, 3), "the source's validation part is the test"),
    "train, val, test": (("train", "val", "test"), (20, 2, 3), "as the source gives them"),
    "train, valid, test": (("train", "valid", "test"), (20, 2, 3), "as the source gives them"),
    "train, validation, test": (("train", "validation", "test"), (20, 2, 3), "as the source gives them"),
    "train, dev, test": (("train", "dev", "test"), (20, 2, 3), "as the source gives them"),
}


@pytest.mark.parametrize(("names", "counts", "words"), PARTS.values(), ids=PARTS)
def test_folders_of_parts_give_the_split(names, counts, words, tmp_path):
    for name, count in zip(names, counts, strict=True):
        folder_of(grey, tmp_path / "pets" / name, count=count)
    data = load(str(tmp_path / "pets"))
    assert data.class_names == ("cat", "dog")
    assert data.test.y.bincount().tolist() == [counts[-1]] * 2
    if len(names) == 3:
        assert data.validation.y.bincount().tolist() == [2, 2]
        assert len(data.train.x) == 40
    else:
        assert len(data.train.x) + len(data.validation.x) == 40
    assert words in " ".join(data.recipe.description)


def test_a_class_that_is_not_trained_on_is_refused(tmp_path):
    folder_of(grey, tmp_path / "pets" / "train")
    folder_of(grey, tmp_path / "pets" / "test", count=2)
    save(grey(), tmp_path / "pets" / "test" / "eel" / "0.png")
    with refuses("test/eel: expected the classes of the training part, cat, dog, got eel; rename the folder"):
        load(str(tmp_path / "pets"))


def test_classes_that_are_called_train_and_test_are_classes(tmp_path):
    for kind in ("train", "test"):
        for number in range(10):
            save(grey(), tmp_path / "toys" / kind / f"{number}.png")
    assert load(str(tmp_path / "toys")).class_names == ("test", "train")


def test_an_image_in_two_parts_is_warned_of(tmp_path):
    root = tmp_path / "pets"
    for part in ("train", "test"):
        folder_of(grey, root / part, count=20)
    pixels = grey()
    save(pixels, root / "train" / "cat" / "same.png")
    save(pixels, root / "test" / "cat" / "same.png")
    with pytest.warns(CheaplipWarning, match="1 of the 41 test inputs are training inputs, too"):
        load(str(root), split_seed=1)
