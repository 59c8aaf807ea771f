"""Records a training as TensorBoard event files."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, final

from torch import Tensor

from cheaplip.errors import RunError
from cheaplip.tracking import tracker

__all__ = ["TensorBoard"]


@final
class TensorBoard:
    """Writes scalars for each epoch, the final figures at the last one, options as text, the steepest pair as images.

    Args:
        folder: for the event files; look at them with ``tensorboard --logdir FOLDER``.

    Raises:
        ImportError: the package tensorboard is missing.
    """

    def __init__(self, folder: Path) -> None:
        if find_spec("tensorboard") is None:
            raise ImportError("--tensorboard needs tensorboard: pip install 'cheaplip[tensorboard]'")
        self.folder = folder
        self.last = 0

    def start(self, config: Mapping[str, Any], first: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.last = first - 1
        try:
            self.writer = SummaryWriter(str(self.folder), purge_step=first)
        except OSError as error:
            raise RunError(f"cannot write to {self.folder}: {error.strerror or error}") from error
        options = "\n".join(f"    {name} = {value}" for name, value in config.items())
        self.writer.add_text("options", options, first - 1)

    def epoch(self, line: Mapping[str, Any]) -> None:
        self.last = int(line["epoch"])
        for name, value in tracker.numbers(line).items():
            self.writer.add_scalar(f"epoch/{name}", value, self.last)
        self.writer.flush()

    def finish(self, metrics: Mapping[str, Any], images: Mapping[str, Tensor]) -> None:
        for name, value in tracker.final(metrics).items():
            self.writer.add_scalar(f"final/{name}", value, self.last)
        for name, image in images.items():
            self.writer.add_image(f"steepest pair/{name}", image, self.last)

    def stop(self, ending: tracker.Ending) -> None:  # noqa: ARG002
        self.writer.close()
