"""The warning and the errors that cheaplip raises. Messages say what was expected, what came instead, what to do."""

__all__ = [
    "BatchDependentLayerError",
    "CertificateError",
    "CheaplipWarning",
    "ConfigError",
    "DataError",
    "DivergedError",
    "InUseError",
    "Interrupted",
    "ModelError",
    "RunError",
    "UnsupportedLayerError",
]


class CheaplipWarning(UserWarning):
    """Something works, but probably not as intended."""


class BatchDependentLayerError(ValueError):
    """A layer mixes the inputs of a batch, so that the pairs cannot pass the network together with the batch."""


class UnsupportedLayerError(ValueError):
    """The Lipschitz constant of a layer is not known, so that nothing can be proved about the model."""


class CertificateError(ValueError, TypeError):
    """A certificate is used with weights, a domain or a floating-point type that it was not made for."""


class ConfigError(ValueError):
    """An option is out of its range, or does not go with the others."""


class DataError(ValueError):
    """Data is missing, damaged, or of a form that cannot be used."""


class ModelError(ValueError):
    """A model cannot be built or loaded, or does not fit the data."""


class RunError(ValueError):
    """The folder of a run is missing, damaged, in use, or cannot be written to."""


class InUseError(RunError):
    """Another process is at work in the folder of a run."""


class DivergedError(RunError):
    """The loss became NaN or infinite during training."""


class Interrupted(Exception):  # noqa: N818 - not an error: the run can be resumed
    """A training was asked to stop; its state is saved."""
