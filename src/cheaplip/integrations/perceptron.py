"""The network of a scikit-learn estimator that was given none, and how its data is prepared."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from sklearn.utils import check_array
from torch import Tensor, nn

__all__ = ["DEFAULTS", "Perceptron", "as_features"]

DEFAULTS: dict[str, Any] = {
    "optimizer": torch.optim.Adam,
    "lr": 0.005,
    "batch_size": 64,
    "max_epochs": 100,
    "train_split": None,
    "verbose": 0,
}
"""skorch's options for a perceptron; skorch's own defaults, SGD for 10 epochs, would leave it untrained."""


class Perceptron(nn.Module):
    """Layers of linear maps with ReLU between them, as scikit-learn's ``MLPClassifier`` has.

    Args:
        inputs: number of features.
        outputs: number of outputs.
        hidden_layer_sizes: widths of the hidden layers.
    """

    def __init__(self, inputs: int, outputs: int, hidden_layer_sizes: Sequence[int] = (100,)) -> None:
        super().__init__()
        widths = [inputs, *hidden_layer_sizes]
        hidden = [layer for pair in pairwise(widths) for layer in (nn.Linear(*pair), nn.ReLU())]
        self.layers = nn.Sequential(nn.Flatten(), *hidden, nn.Linear(widths[-1], outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Compute the outputs, (B, outputs)."""
        output: Tensor = self.layers(x)
        return output


def as_features(X: Any, expected: int | None = None) -> np.ndarray:
    """Return inputs of any kind that scikit-learn takes as a float32 array.

    Args:
        X: an array, a list or a data frame, (N, *input).
        expected: the number of features in training.

    Raises:
        ValueError: there are strings, NaN or infinity, or another number of features than in training.
    """
    array = X.detach().cpu().numpy() if isinstance(X, Tensor) else X
    features: np.ndarray = check_array(array, dtype=np.float32, allow_nd=True)
    if expected is not None and features[0].size != expected:
        raise ValueError(f"X: expected {expected} features, as in training, got {features[0].size}")
    return features
