"""Augmentation: which views there are, that they repeat and resume bit for bit, and what perturbed inputs become."""

import dataclasses
import re

import pytest
import torch
from torch.nn import functional

from cheaplip import Box
from cheaplip.data import load
from cheaplip.data.augmentation import Augmentation
from cheaplip.errors import ConfigError
from cheaplip.runs.checkpoints import pack, unpack
from cheaplip.training.config import TrainConfig
from cheaplip.training.loop import Training
from training_runs import QUICK


@pytest.fixture(scope="module")
def digits():
    return load("digits")


def augmentation(text, shape=(3, 16, 24), seed=0, domain=None):
    return Augmentation(text, shape, domain or Box(0.0, 1.0), torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def images():
    return torch.rand(200, 3, 16, 24, generator=torch.Generator().manual_seed(1))


def shifted(image, down, right):
    """The image moved, with zeros where nothing was."""
    padded = functional.pad(image, (3, 3, 2, 2))
    return padded[:, 2 - down : 18 - down, 3 - right : 27 - right]


def test_a_flip_mirrors_about_half_of_the_images(images):
    views = augmentation("flip")(images)
    mirrored = [torch.equal(view, image.flip(-1)) for view, image in zip(views, images, strict=True)]
    kept = [torch.equal(view, image) for view, image in zip(views, images, strict=True)]
    assert [m != k for m, k in zip(mirrored, kept, strict=True)] == [True] * 200
    assert 70 < sum(mirrored) < 130


def test_a_crop_moves_each_image_by_an_eighth_of_its_side_at_most(images):
    places = []
    for view, image in zip(augmentation("crop")(images), images, strict=True):
        fits = [(d, r) for d in range(-2, 3) for r in range(-3, 4) if torch.equal(view, shifted(image, d, r))]
        assert len(fits) == 1
        places += fits
    assert {down for down, _ in places} == set(range(-2, 3))
    assert {right for _, right in places} == set(range(-3, 4))


def test_crop_and_flip_together(images):
    for view, image in zip(augmentation("crop,flip")(images[:50]), images, strict=False):
        candidates = [shifted(i, d, r) for i in (image, image.flip(-1)) for d in range(-2, 3) for r in range(-3, 4)]
        assert sum(torch.equal(view, candidate) for candidate in candidates) == 1


def test_views_stay_in_the_domain():
    x = torch.full((20, 1, 16, 16), 3.0)
    views = augmentation("crop", (1, 16, 16), domain=Box(2.0, 4.0))(x)
    assert (views.min(), views.max()) == (2, 3)


def test_the_gradient_reaches_the_pixel_that_a_view_shows():
    x = torch.rand(4, 1, 8, 8, requires_grad=True)
    views = augmentation("flip", (1, 8, 8))(x)
    weight = torch.rand(4, 1, 8, 8)
    (gradient,) = torch.autograd.grad((weight * views).sum(), x)
    mirrored = [torch.equal(view, image.flip(-1)) for view, image in zip(views, x, strict=True)]
    wanted = [w.flip(-1) if m else w for w, m in zip(weight, mirrored, strict=True)]
    assert torch.equal(gradient, torch.stack(wanted))


def test_the_generator_alone_decides(images):
    one, same, other = (augmentation("crop,flip", seed=seed)(images) for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("text", ["rotate", "crop,crop", "", "crop,"])
def test_unknown_views_are_refused(text):
    with pytest.raises(
        ConfigError, match=re.escape(f"expected crop, flip or both, separated by a comma, got {text!r}")
    ):
        TrainConfig(data="digits", augment=text)


def test_inputs_that_are_no_images_are_refused(digits):
    flat = dataclasses.replace(
        digits, **{part: getattr(digits, part)._replace(x=getattr(digits, part).x.flatten(1)) for part in ("train",)}
    )
    with pytest.raises(ConfigError, match=re.escape("expected images of shape (channels, height, width), got inputs")):
        Training(dataclasses.replace(QUICK, augment="flip"), flat)


@pytest.mark.parametrize("method", ["plain", "clip", "scale-free"])
def test_an_augmented_run_continues_bit_for_bit(method, digits):
    def training():
        return Training(dataclasses.replace(QUICK, method=method, augment="crop,flip"), digits)

    def weights(found):
        return torch.cat([p.detach().flatten() for p in found.inner.parameters()])

    whole, cut, resumed = training(), training(), training()
    whole.run_epoch(lambda: whole.step == 8)
    cut.run_epoch(lambda: cut.step == 5)
    resumed.load_state(unpack(pack(cut.state())))
    resumed.run_epoch(lambda: resumed.step == 8)
    assert torch.equal(weights(resumed), weights(whole))
    assert not torch.equal(weights(cut), weights(whole))


def test_augmentation_changes_what_is_learnt(digits):
    def weights(augment):
        training = Training(dataclasses.replace(QUICK, method="plain", augment=augment), digits)
        training.run_epoch(lambda: False)
        return torch.cat([p.detach().flatten() for p in training.inner.parameters()])

    assert not torch.equal(weights(None), weights("flip"))


def test_a_stored_perturbation_is_of_the_image_as_it_is(digits, monkeypatch):
    """Views mirror the image together with its perturbation, which climbs in the image's own frame."""
    training = Training(dataclasses.replace(QUICK, method="scale-free", augment="flip"), digits)
    training.method.partners.ramp = 0
    monkeypatch.setattr(training.augmentation, "__class__", Mirror)
    seen = []
    training.inner.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    for _ in range(2):  # the first epoch moves the perturbations
        training.run_epoch(lambda: False)
        training.end_epoch()
    seen.clear()
    training.run_epoch(lambda: training.step % training.steps_per_epoch == 1)
    rows = training.order[: training.batch_size][1:]  # the first input of a batch gets noise
    perturbed = training.data.train.x[rows]
    batch = next(x for x in seen if len(x) >= training.batch_size)[1 : training.batch_size]
    shift = batch.flip(-1) - perturbed
    assert 0 < shift.flatten(1).norm(dim=1).max() <= training.method.partners.radius * (1 + 1e-5)


class Mirror(Augmentation):
    """Mirrors every image."""

    def __call__(self, x):
        return x.flip(-1)
