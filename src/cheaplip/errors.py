"""The package's own warning and error types."""

__all__ = [
    "BatchDependentLayerError",
    "CheaplipWarning",
    "ConfigError",
    "DataError",
    "DivergedError",
    "Interrupted",
    "ModelError",
    "RunError",
    "UnsupportedLayerError",
]


class CheaplipWarning(UserWarning):
    """Something works, but probably not as you meant; the message says what to do."""


class BatchDependentLayerError(ValueError):
    """A layer mixes the inputs of a batch, so pairs and batch cannot share one pass."""


class UnsupportedLayerError(ValueError):
    """A layer's Lipschitz constant is not known, so nothing is proved about the model."""


class ConfigError(ValueError):
    """An option is out of range; the message says what was expected, what came, and what to do."""


class DataError(ValueError):
    """Data cannot be used; the message says what was expected, what came, and what to do."""


class ModelError(ValueError):
    """A model cannot be built or does not fit the data; the message says what was expected."""


class RunError(ValueError):
    """A run's folder is missing, in the way, or holds something that is not a run."""


class DivergedError(RunError):
    """The loss became NaN or infinite while training."""


class Interrupted(Exception):  # noqa: N818 - not an error: the run can be continued
    """The training was asked to stop; its state is saved."""
