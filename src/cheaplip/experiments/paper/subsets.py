"""Small parts of the image data, for the quick versions; named in a run's configuration like any function."""

from dataclasses import replace

from cheaplip.experiments.data import Data, Split, load

__all__ = ["digits", "fashion_mnist", "mnist"]


def digits() -> Data:
    """Handwritten digits, 600 for training."""
    return _first(load("digits"), 600, 100, 100)


def mnist() -> Data:
    """MNIST, 6,000 images for training."""
    return _first(load("mnist"), 6000, 500, 1000)


def fashion_mnist() -> Data:
    """Fashion-MNIST, 1,000 images for training."""
    return _first(load("fashion-mnist"), 1000, 100, 100)


def _first(data: Data, train: int, validation: int, test: int) -> Data:
    """The first so many of each part."""

    def part(whole: Split, count: int) -> Split:
        return Split(whole.x[:count], whole.y[:count])

    return replace(
        data,
        train=part(data.train, train),
        validation=part(data.validation, validation),
        test=part(data.test, test),
    )
