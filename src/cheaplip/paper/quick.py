"""Small parts of the image data sets and a small network, for the quick versions of the experiments.

Configurations name them as users name their own: ``cheaplip.paper.quick:mnist``.
"""

from dataclasses import replace

from torch import nn

from cheaplip.data import Data, Split, load

__all__ = ["cnn", "digits", "fashion_mnist", "mnist"]


def cnn(shape: tuple[int, ...], outputs: int) -> nn.Module:
    """Build the network of Madry et al. 2018 with a quarter of its channels and neurons, for images (C, 28, 28)."""
    return nn.Sequential(
        nn.Conv2d(shape[0], 8, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * 7 * 7, 256),
        nn.ReLU(),
        nn.Linear(256, outputs),
    )


def digits() -> Data:
    """Load scikit-learn's handwritten digits, 600 of them for training."""
    return _first(load("digits"), 600, 100, 100)


def mnist() -> Data:
    """Load MNIST, 6,000 of its images for training."""
    return _first(load("mnist"), 6000, 500, 1000)


def fashion_mnist() -> Data:
    """Load Fashion-MNIST, 1,000 of its images for training."""
    return _first(load("fashion-mnist"), 1000, 100, 100)


def _first(data: Data, train: int, validation: int, test: int) -> Data:
    """Keep the first inputs of each part, as many as given."""

    def part(whole: Split, count: int) -> Split:
        return Split(whole.x[:count], whole.y[:count])

    return replace(
        data,
        train=part(data.train, train),
        validation=part(data.validation, validation),
        test=part(data.test, test),
    )
