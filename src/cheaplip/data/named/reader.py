"""``read_named``: read a data set by its name."""

from cheaplip.data.named import cifar, medmnist, mnist
from cheaplip.data.named.official import Official

__all__ = ["LISTED", "NAMES", "read_named"]

NAMES = (*mnist.NAMES, mnist.LETTERS, cifar.NAME, *medmnist.NAMES)
"""Every name."""

LISTED = (*mnist.NAMES, mnist.LETTERS, cifar.NAME, "pneumoniamnist or another 2-D MedMNIST set")
"""The names in short, for messages."""


def read_named(name: str) -> Official:
    """Read a data set.

    Args:
        name: one of ``NAMES``.

    Raises:
        DataError: a file is missing, damaged or cannot be downloaded; the message names it and the remedy.
    """
    if name in mnist.NAMES:
        return mnist.read_mnist(name)
    if name == mnist.LETTERS:
        return mnist.read_emnist_letters()
    if name == cifar.NAME:
        return cifar.read_cifar()
    return medmnist.read_medmnist(name)
