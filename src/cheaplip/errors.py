"""The package's own warning and error types."""

__all__ = ["BatchDependentLayerError", "CheaplipWarning", "UnsupportedLayerError"]


class CheaplipWarning(UserWarning):
    """Something works, but probably not as you meant; the message says what to do."""


class BatchDependentLayerError(ValueError):
    """A layer mixes the inputs of a batch, so pairs and batch cannot share one pass."""


class UnsupportedLayerError(ValueError):
    """A layer's Lipschitz constant is not known, so nothing is proved about the model."""
