"""Records a training as a run of MLflow, on a tracking server or in a local store."""

import json
import time
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, final

from torch import Tensor

from cheaplip.errors import CheaplipWarning, RunError
from cheaplip.runs.files import write_whole
from cheaplip.tracking import tracker

__all__ = ["MLflow"]

_STATUS = {"finished": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}
_LONGEST = 250  # characters of a parameter; longer ones are cut


@final
class MLflow:
    """Makes a run in the experiment named after the data.

    Options become parameters, figures become metrics, and the steepest pair becomes images. The run's id is kept in
    ``mlflow.json``, so a training that is continued goes on in the same run. A store that cannot be reached at the
    start is an error. If it is lost later, there is a warning, and the training goes on without it.

    Args:
        uri: of a tracking server, such as http://localhost:5000, or of a store.
        folder: of the training; the run is named after it.

    Raises:
        ImportError: the package mlflow is missing.
    """

    def __init__(self, uri: str, folder: Path) -> None:
        missing = [name for name in ("mlflow", "PIL") if find_spec(name) is None]
        if missing:
            raise ImportError(f"--mlflow needs {' and '.join(missing)}: pip install 'cheaplip[mlflow]'")
        self.uri = uri
        self.folder = folder
        self.last = 0
        self.lost = False

    def start(self, config: Mapping[str, Any], first: int) -> None:  # noqa: ARG002 - a repeated epoch logs the same again
        try:
            self._open(config)
        except Exception as error:  # each kind of store raises errors of its own
            reason = " ".join(str(error).split()) or type(error).__name__
            raise RunError(f"mlflow: cannot track to {self.uri}: {reason}") from error

    def epoch(self, line: Mapping[str, Any]) -> None:
        self.last = int(line["epoch"])
        self._log({f"epoch/{name}": value for name, value in tracker.numbers(line).items()})

    def finish(self, metrics: Mapping[str, Any], images: Mapping[str, Tensor]) -> None:
        self._log({f"final/{name}": value for name, value in tracker.final(metrics).items()})
        for name, image in images.items():
            pixels = (255 * image).round().byte().permute(1, 2, 0).numpy()
            self._send(partial(self.client.log_image, self.run, pixels, f"steepest pair/{name}.png"))

    def stop(self, ending: tracker.Ending) -> None:
        self._send(partial(self.client.set_terminated, self.run, _STATUS[ending]))

    def _open(self, config: Mapping[str, Any]) -> None:
        """Continue the run that ``mlflow.json`` names if it is in this store, else begin a new one."""
        from mlflow.entities import Param
        from mlflow.tracking import MlflowClient

        self.client = MlflowClient(tracking_uri=self.uri)
        kept = self.folder / "mlflow.json"
        known = json.loads(kept.read_text()) if kept.is_file() else {}
        if known.get("uri") == self.uri:
            self.run = str(known["run"])
            self.client.update_run(self.run, status="RUNNING")
            return
        name = Path(str(config["data"])).name or "cheaplip"
        experiment = self.client.get_experiment_by_name(name)
        number = self.client.create_experiment(name) if experiment is None else experiment.experiment_id
        self.run = self.client.create_run(number, run_name=self.folder.resolve().name).info.run_id
        parameters = [Param(option, str(value)[:_LONGEST]) for option, value in config.items()]
        self.client.log_batch(self.run, params=parameters)
        write_whole(kept, (json.dumps({"uri": self.uri, "run": self.run}, indent=2) + "\n").encode())

    def _log(self, values: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        metrics = [Metric(name, value, now, self.last) for name, value in values.items()]
        self._send(partial(self.client.log_batch, self.run, metrics=metrics))

    def _send(self, call: Callable[[], object]) -> None:
        """Send something to the store; after a first failure, send nothing any more."""
        if self.lost:
            return
        try:
            call()
        except Exception as error:  # each kind of store raises errors of its own
            self.lost = True
            warnings.warn(
                f"mlflow: tracking to {self.uri} ended, the training goes on: {' '.join(str(error).split())}",
                CheaplipWarning,
                stacklevel=3,
            )
