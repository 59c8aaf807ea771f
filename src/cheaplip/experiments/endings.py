"""How a training ends before its time."""

from cheaplip.experiments.files import RunError

__all__ = ["DivergedError", "Interrupted"]


class DivergedError(RunError):
    """The loss became NaN or infinite."""


class Interrupted(Exception):  # noqa: N818 - not an error: the run can be continued
    """The run was asked to stop; its state is saved."""
