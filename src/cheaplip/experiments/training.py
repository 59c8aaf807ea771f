"""One training run: configuration and data in; model, history and metrics out."""

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from cheaplip.bracket import LipschitzBound, largest_quotient
from cheaplip.clip import CLIP
from cheaplip.discrepancy import DiscrepancyPrinciple
from cheaplip.distributed import average, rank, ranks
from cheaplip.errors import BatchDependentLayerError
from cheaplip.experiments import methods
from cheaplip.experiments.checkpoints import unpack
from cheaplip.experiments.config import ConfigError, TrainConfig
from cheaplip.experiments.data import Data, DataError, Split
from cheaplip.experiments.exhibits import exhibits
from cheaplip.experiments.processes import agreed, broadcast, gathered, hold_all_, hold_own_, leads
from cheaplip.experiments.runs import RunError, RunFolder, versions
from cheaplip.experiments.subjects import untrained
from cheaplip.modes import refuse_batch_dependent_layers
from cheaplip.pairs import PairSet
from cheaplip.robustness import accuracy, check_classifier

__all__ = ["DivergedError", "Interrupted", "Progress", "Training", "hold_out", "train"]

Progress = Callable[[int, int, dict[str, float]], None]
"""Called with (steps done, steps in all, the last epoch's numbers)."""

_CHECK_EVERY = 100  # steps between looks at whether the loss is still finite: each look waits for the device
_PROBE_STEPS = 30
_APART = 1_000_003  # between the seeds of processes
_MARGIN = 0.45  # of the data's ε
_RISE, _CERTIFIED_RISE = 0.3, 0.15  # part of the run in which the learning rate rises
_MULTIPLIER_RATE = 2e-2  # peak learning rate of log T
_SLOW = 0.5  # weights shrink slowly, so μ moves slower than λ and looks further ahead
_LEAST_STEPS = 80.0  # for an e-fold change of λ: in short runs a batch's accuracy is mostly noise
_WIDTH = 0.004  # error of the training accuracy at which λ moves at full speed, at most
_GAIN = 0.8  # accuracy climbs by itself as the rate falls: λ leans against it at once
_PACE = 3.0  # λ moves at full pace down to a third of the peak learning rate, then with its square root


class DivergedError(RunError):
    """The loss became NaN or infinite."""


class Interrupted(Exception):  # noqa: N818 - not an error: the run can be continued
    """The run was asked to stop; its state is saved."""


class Training:
    """All that changes while a run trains: model, optimiser, penalty, λ, random states, position.

    Args:
        config: the run's options.
        data: where it trains, on the device it trains on.
    """

    def __init__(self, config: TrainConfig, data: Data) -> None:
        self.config = config
        if "certified" in config.method and ranks() > 1:
            raise ConfigError(f"method: {config.method} trains in one process only: train without torchrun")
        if config.held_out and ranks() > 1:
            raise ConfigError("held_out: works in one process only: train without torchrun, or say --held-out 0")
        data, held_out = hold_out(data, config.held_out, config.split_seed)
        self.data = data
        self.device = data.train.x.device
        self.batch_size = min(config.batch_size or _batch_size(config.method, len(data.train.x)), len(data.train.x))
        self.steps_per_epoch = len(data.train.x) // self.batch_size
        self.total_steps = self.steps_per_epoch * config.resolved_epochs
        self._check_divisible()
        self.model = untrained(config, data).to(self.device)
        if config.method == "certified":
            methods.orthogonal_(self.model, config.seed)
        self.network = self.model if ranks() == 1 else DistributedDataParallel(self.model)
        self.optimizer = self._optimizer()
        rise = _CERTIFIED_RISE if config.method == "certified" else _RISE
        self.scheduler = _one_cycle(self.optimizer, config.resolved_lr, self.total_steps, rise)
        self.shuffle = torch.Generator().manual_seed(config.seed)
        # What pairs draw is the same in every process, as in one alone; what perturbs a process's own batch is not.
        own_noise = 0 if config.method == "clip" else _APART * rank()
        self.noise = torch.Generator(self.device).manual_seed(config.seed + 1 + own_noise)
        if rank() > 0:  # dropout, say
            torch.manual_seed(config.seed + _APART * rank())
        if config.method in ("clip", "clip+certified") and config.form == "joint":
            _check_joint(self.model)
        self.parts = nn.ModuleList([self._pairs(part) for part in torch.split(held_out, config.pairs) if len(part)])
        self.objective = self._objective()
        bound = self.objective.bound
        self.multipliers = None if bound is None else _Multipliers(bound, self.total_steps)
        self.controller = self._controller()
        self.epoch = 0
        self.step = 0
        self.history: list[dict[str, Any]] = []
        self._start_epoch()

    def _optimizer(self) -> torch.optim.Optimizer:
        config = self.config
        if config.method == "certified":
            return torch.optim.Adam(self.model.parameters(), lr=config.resolved_lr)
        return torch.optim.SGD(
            self.model.parameters(),
            lr=config.resolved_lr,
            momentum=config.momentum,
            nesterov=config.momentum > 0,
            weight_decay=config.weight_decay,
        )

    def _objective(self) -> methods.Objective:
        config, data = self.config, self.data
        if config.method == "plain":
            return methods.plain()
        if config.method == "weight":
            return methods.penalised(methods.WeightPenalty(config.resolved_lam).to(self.device))
        if config.method == "adversarial":
            epsilon = config.adversarial_epsilon or data.epsilon
            return methods.adversarial(epsilon, config.adversarial_steps, data.domain, self.noise)
        if config.method == "certified":
            return methods.certified(LipschitzBound(self.model, data.shape), config.margin or _MARGIN * data.epsilon)
        pairs = self._part(0) if len(self.parts) else self._pairs(data.train.x)
        hold_own_(pairs)
        every = config.every or _every(self.total_steps)
        aggregate = config.aggregate or ("softmax" if every == 1 else "mean")
        clip = CLIP(pairs, config.resolved_lam, aggregate=aggregate, every=every).to(self.device)
        objective = methods.joint(clip) if config.form == "joint" else methods.penalised(clip)
        if config.method == "clip":
            return objective
        return methods.bounded(objective, LipschitzBound(self.model, data.shape))

    def _pairs(self, x: Tensor) -> PairSet:
        """Pairs that start at ``x``: the training inputs, or a part of those held out."""
        config = self.config
        return PairSet(
            x,
            size=min(config.pairs, len(x)) if config.held_out else config.pairs,
            domain=self.data.domain,
            start=config.start,
            step=config.step,
            step_size=config.step_size,
            renew=config.renew,
            grace=config.grace,
            generator=self.noise,
        )

    def _part(self, step: int) -> PairSet:
        """The pairs whose turn it is."""
        part = self.parts[step % len(self.parts)]
        assert isinstance(part, PairSet)
        return part

    def _controller(self) -> DiscrepancyPrinciple | None:
        """λ's speed follows the length of the run: thirty memories of the moving average, or more."""
        penalty, config = self.objective.penalty, self.config
        if penalty is None or config.target is None:
            return None
        if config.rule == "additive":
            return DiscrepancyPrinciple(penalty, config.target, rule="additive", rate=config.rate or 1e-3)
        memory = min(100.0, max(10.0, self.total_steps / 30))
        return DiscrepancyPrinciple(
            penalty,
            config.target,
            rate=config.rate or (_SLOW if config.method == "weight" else 1.0) / max(memory, _LEAST_STEPS),
            gain=0.0 if config.method == "weight" else _GAIN,
            damping=3 / _SLOW if config.method == "weight" else 3.0,
            smoothing=1 - 1 / memory,
            width=min(_WIDTH, (1 - config.target) / 4),
            bounds=(1e-3 * config.resolved_lam, 1e3 * config.resolved_lam),
        )

    def _start_epoch(self) -> None:
        self.order_state = self.shuffle.get_state()
        self.order = torch.randperm(len(self.data.train.x), generator=self.shuffle).to(self.device)
        self.sums = torch.zeros(4, dtype=torch.float64, device=self.device)  # loss, correct, largest, late steps
        self.seconds = 0.0

    def _check_divisible(self) -> None:
        if self.batch_size < ranks():
            raise ConfigError(f"batch_size: expected an input for each of {ranks()} processes, got {self.batch_size}")
        if self.config.method == "clip" and self.config.pairs % ranks():
            raise ConfigError(
                f"pairs: expected a multiple of the number of processes ({ranks()}), got {self.config.pairs}"
            )

    def _learning_rate(self) -> float:
        return float(self.scheduler.get_last_lr()[0])

    def run_epoch(self, on_step: Callable[[], bool]) -> bool:
        """Train to the end of the epoch, or until ``on_step`` returns True; returns whether it got to the end.

        Raises:
            DivergedError: the loss is no longer finite; names the step.
        """
        started = time.perf_counter()
        penalty = self.objective.penalty
        late = self.steps_per_epoch - max(1, self.steps_per_epoch // 10)
        first_bad = torch.full((), -1, device=self.device)
        while (position := self.step - self.epoch * self.steps_per_epoch) < self.steps_per_epoch:
            chosen = self.order[position * self.batch_size : (position + 1) * self.batch_size]
            chosen = chosen.tensor_split(ranks())[rank()]
            share = len(chosen) * ranks() / self.batch_size  # 1 where the batch divides evenly
            x, y = self.data.train.x[chosen], self.data.train.y[chosen]
            if len(self.parts):
                assert isinstance(penalty, CLIP)
                penalty.pairs = self._part(self.step)
            loss, fit, output = self.objective.step(self.network, x, y)
            if share != 1:
                loss = loss + (share - 1) * fit
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            if self.multipliers is not None:
                self.multipliers.step()
            with torch.no_grad():
                correct = share * (output.argmax(dim=1) == y).float().mean()
                if self.controller is not None:
                    self.controller.step(
                        correct, pace=min(1.0, math.sqrt(_PACE * self._learning_rate() / self.config.resolved_lr))
                    )
                self.sums[0] += share * fit.detach()
                self.sums[1] += correct
                if position >= late and isinstance(penalty, CLIP):
                    self.sums[2] += penalty.largest
                    self.sums[3] += 1
                first_bad = torch.where((first_bad < 0) & ~torch.isfinite(loss.detach()), self.step, first_bad)
            self.scheduler.step()
            self.step += 1
            if self.step % _CHECK_EVERY == 0 or position + 1 == self.steps_per_epoch:
                self._check(int(first_bad))
            if on_step():
                self._check(int(first_bad))
                self.seconds += time.perf_counter() - started
                return position + 1 == self.steps_per_epoch
        self.seconds += time.perf_counter() - started
        return True

    def _check(self, first_bad: int) -> None:
        if first_bad >= 0:
            raise DivergedError(
                f"the loss became NaN or infinite at step {first_bad} (epoch {self.epoch + 1}); the checkpoint before "
                "it, if there is one, is kept: train again with a lower --lr or --lam, in another --out"
            )

    def end_epoch(self) -> dict[str, Any]:
        """The epoch's numbers, one line of ``history.jsonl``, in the process that leads; moves on to the next epoch."""
        sums = average(self.sums).tolist()
        self._hold_all()
        line = self._line(*sums) if leads() else {}
        self._hold_own()
        self.epoch += 1
        self._start_epoch()
        if line:
            self.history.append(line)
        return line

    def _line(self, loss: float, correct: float, largest: float, late: float) -> dict[str, Any]:
        data, penalty = self.data, self.objective.penalty
        line: dict[str, Any] = {
            "epoch": self.epoch + 1,
            "loss": loss / self.steps_per_epoch,
            "train_accuracy": correct / self.steps_per_epoch,
            "validation_accuracy": accuracy(self.model, data.validation.x, data.validation.y),
            "learning_rate": self._learning_rate(),
            "seconds": self.seconds,
        }
        if penalty is not None:
            line["lam"] = float(penalty.get_buffer("lam"))
        if self.objective.bound is not None:
            with torch.no_grad():
                line["bound"] = float(self.objective.bound())
        if self.config.probe:
            line["lower"] = self.lower(size=self.config.probe, steps=_PROBE_STEPS)[0]
        if isinstance(penalty, CLIP):
            line["largest"] = largest / late
            if self.config.probe:
                line["tracking"] = line["largest"] / line["lower"] if line["lower"] > 0 else None
        return line

    def lower(self, *, size: int, steps: int = 100) -> tuple[float, tuple[Tensor, Tensor]]:
        """The largest quotient found by a search of its own, and its pair; the training pairs start there, too."""
        penalty = self.objective.penalty
        starts = penalty.pairs if isinstance(penalty, CLIP) else None
        generator = torch.Generator(self.device).manual_seed(self.epoch)
        found = largest_quotient(
            self.model,
            self.data.train.x,
            domain=self.data.domain,
            starts=starts,
            size=size,
            steps=steps,
            generator=generator,
        )
        return found.value, found.witness

    def _hold_all(self) -> None:
        if isinstance(self.objective.penalty, CLIP):
            hold_all_(self.objective.penalty.pairs)

    def _hold_own(self) -> None:
        if isinstance(self.objective.penalty, CLIP):
            hold_own_(self.objective.penalty.pairs)

    def state(self) -> dict[str, Any]:
        """Everything a resumed run needs to continue as if it had never stopped, with any number of processes."""
        penalty, controller = self.objective.penalty, self.controller
        self._hold_all()
        penalty_state = None if penalty is None else penalty.state_dict()
        self._hold_own()
        return {
            "epoch": self.epoch,
            "step": self.step,
            "seconds": self.seconds,
            "sums": gathered(self.sums),
            "order": self.order_state,
            "noise": gathered(self.noise.get_state()),
            "global": gathered(torch.get_rng_state()),
            "cuda": gathered(torch.cuda.get_rng_state()) if self.device.type == "cuda" else None,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "penalty": penalty_state,
            "parts": self.parts.state_dict(),
            "controller": None if controller is None else controller.state_dict(),
            "multipliers": None if self.multipliers is None else self.multipliers.state(),
            "history": self.history,
        }

    def check_weights(self) -> None:
        """Raise :class:`DivergedError` unless every weight is finite."""
        if not all(bool(torch.isfinite(p).all()) for p in self.model.parameters()):
            self._check(self.step - 1)

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from what :meth:`state` returned."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        if self.objective.penalty is not None:
            self._hold_all()
            self.objective.penalty.load_state_dict(state["penalty"])
            self._hold_own()
        self.parts.load_state_dict(state.get("parts", {}))  # after the penalty, whose pairs are one of them
        if self.controller is not None:
            self.controller.load_state_dict(state["controller"])
        if self.multipliers is not None:
            self.multipliers.load_state(state["multipliers"])
        self.epoch, self.step, self.history = state["epoch"], state["step"], list(state["history"])
        self.shuffle.set_state(state["order"])
        self._start_epoch()
        self.sums, self.seconds = state["sums"].mean(dim=0).to(self.device), state["seconds"]
        if self.config.method == "clip":
            self.noise.set_state(state["noise"][0].clone())  # torch crashes on a view that starts later in its storage
        if len(state["sums"]) != ranks():  # another number of processes: random states of their own start anew
            return
        self.sums = state["sums"][rank()].to(self.device)
        self.noise.set_state(state["noise"][rank()].clone())
        torch.set_rng_state(state["global"][rank()].clone())
        if state["cuda"] is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda"][rank()].clone())


def train(
    config: TrainConfig,
    data: Data,
    folder: RunFolder,
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
    stop: Callable[[], bool] = lambda: False,
    on_epoch: Callable[[nn.Module, dict[str, Any]], dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Train, leaving a run's folder; returns its metrics (in several processes: in the first one, which writes).

    Args:
        config: the run's options.
        data: what :func:`cheaplip.experiments.data.load` returned.
        folder: where to write.
        resume: continue from the folder's checkpoint where there is one; a finished run only returns its metrics.
        overwrite: replace a run that is already there.
        progress: called now and then.
        stop: asked after each step; True saves the state and raises :class:`Interrupted`.
        on_epoch: called with the model and the epoch's numbers; what it returns joins them in ``history.jsonl``. An
            epoch that a resumed run repeats is shown to it again, as it was.

    Raises:
        RunError: the folder is in the way, in use, cannot be written to, or holds a run with other options.
        DivergedError: the loss became NaN or infinite; the last good checkpoint stays.
        Interrupted: ``stop`` said so.
    """
    started_before = leads() and resume and folder.exists()
    if started_before:
        _check_same(config, folder)
    if agreed(started_before and (folder.path / "metrics.json").is_file()):
        return folder.read_json("metrics.json") if leads() else {}
    config.check_device()
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        training = Training(config, data.to(config.resolved_device))
        with folder.locked() if leads() else nullcontext():
            checkpoint = None
            if started_before:
                checkpoint = folder.load_checkpoint()
            elif leads():
                folder.create(overwrite=overwrite)
                folder.write_json("config.json", {**asdict(config), "versions": versions()})
            checkpoint = broadcast(checkpoint)
            if checkpoint is not None:
                training.load_state(unpack(checkpoint))
            if leads():
                folder.write_history(training.history)
            return _train(training, folder, progress, stop, on_epoch)


def _train(
    training: Training,
    folder: RunFolder,
    progress: Progress | None,
    stop: Callable[[], bool],
    on_epoch: Callable[[nn.Module, dict[str, Any]], dict[str, Any]] | None,
) -> dict[str, Any]:
    config = training.config
    saved = time.monotonic()

    def report() -> None:
        if progress is not None:
            progress(training.step, training.total_steps, training.history[-1] if training.history else {})

    def time_is_up() -> bool:
        return config.checkpoint_seconds is not None and time.monotonic() - saved >= config.checkpoint_seconds

    def on_step() -> bool:
        if training.step % 10 == 0:
            report()
        if ranks() > 1 and training.step % 10 != 0:  # processes stop at the same step, and agreeing takes time
            return False
        return agreed(stop() or time_is_up())

    while training.epoch < config.resolved_epochs:
        ended = training.run_epoch(on_step)
        if ended:
            line = training.end_epoch()
            if on_epoch is not None:
                line |= on_epoch(training.model, line)
            if leads():
                folder.append_history(line)
        interrupted, late, last = agreed(stop()), agreed(time_is_up()), training.epoch == config.resolved_epochs
        every = config.checkpoint_epochs
        if interrupted or late or last or (ended and every is not None and training.epoch % every == 0):
            training.check_weights()
            state = training.state()
            if leads():
                folder.save_checkpoint(state)
            saved = time.monotonic()
        if interrupted and not last:
            raise Interrupted
    report()
    training._hold_all()
    return _finish(training, folder) if leads() else {}


def _finish(training: Training, folder: RunFolder) -> dict[str, Any]:
    config, data, model = training.config, training.data, training.model
    check_classifier(model, data.test.x[:256], data.classes)
    folder.save_model(model)
    lower, witness = training.lower(size=config.search)
    folder.save_witness(*witness)
    folder.write_json("report.json", exhibits(model, data, witness, lower))
    penalty = training.objective.penalty
    metrics = {
        "accuracy": {
            "train": accuracy(model, data.train.x, data.train.y),
            "validation": accuracy(model, data.validation.x, data.validation.y),
            "test": accuracy(model, data.test.x, data.test.y),
        },
        "robust": {},
        "certified": {},
        "lipschitz": {"lower": lower},
        **_tracking(training.history),
        **({} if penalty is None else {"lam": float(penalty.get_buffer("lam"))}),
        "epochs": training.epoch,
        "seconds_per_epoch": sorted(line["seconds"] for line in training.history)[training.epoch // 2],
        "seed": config.seed,
    }
    folder.write_json("metrics.json", metrics)
    return metrics


def _tracking(history: list[dict[str, Any]]) -> dict[str, float]:
    """Largest quotient of the pairs (mean of an epoch's last tenth) over the one found, mean of the last third."""
    ratios = [line["tracking"] for line in history[2 * len(history) // 3 :] if line.get("tracking") is not None]
    return {"tracking": sum(ratios) / len(ratios)} if ratios else {}


def hold_out(data: Data, count: int, seed: int) -> tuple[Data, Tensor]:
    """The data with so many training inputs fewer, and those inputs."""
    x, y = data.train
    if count >= len(x):
        raise DataError(f"held_out: expected fewer than the {len(x)} training inputs, got {count}")
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed)).to(x.device)
    if not count:
        return data, x[:0]
    return replace(data, train=Split(x[order[count:]], y[order[count:]])), x[order[:count]]


def _check_joint(model: nn.Module) -> None:
    try:
        refuse_batch_dependent_layers(model)
    except BatchDependentLayerError as error:
        raise ConfigError(f"{str(error).partition(': use clip')[0]}: say --form separate") from error


def _check_same(config: TrainConfig, folder: RunFolder) -> None:
    saved = folder.read_json("config.json")
    wanted = asdict(config)
    changed = [name for name in wanted if name in saved and saved[name] != wanted[name] and name not in _FREE]
    if changed:
        differences = ", ".join(f"{name} was {saved[name]!r}, now {wanted[name]!r}" for name in changed)
        raise RunError(
            f"cannot resume {folder.path} with other options ({differences}): use the old ones, or another --out"
        )


_FREE = ("device", "checkpoint_every")


def _every(steps: int) -> int:
    """Lazily, as far as pairs still climb a thousand times or more."""
    return min(12, max(1, steps // 1000))


class _Multipliers:
    """The multipliers of a bound: Adam, whatever trains the weights, for only their direction matters."""

    def __init__(self, bound: nn.Module, total_steps: int) -> None:
        self.bound = bound
        self.optimizer = torch.optim.Adam(bound.parameters(), lr=_MULTIPLIER_RATE)
        self.scheduler = _one_cycle(self.optimizer, _MULTIPLIER_RATE, total_steps, _CERTIFIED_RISE)

    def step(self) -> None:
        """Use the gradients that the loss left."""
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.scheduler.step()

    def state(self) -> dict[str, Any]:
        """What a resumed run needs."""
        return {
            "bound": self.bound.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from what :meth:`state` returned."""
        self.bound.load_state_dict(state["bound"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])


def _one_cycle(
    optimizer: torch.optim.Optimizer, peak: float, steps: int, rise: float
) -> torch.optim.lr_scheduler.OneCycleLR:
    return torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=peak, total_steps=max(steps, 2), pct_start=rise, cycle_momentum=False
    )


def _batch_size(method: str, rows: int) -> int:
    """256 for certified, else 128; less where an epoch would have fewer than 40 steps."""
    return max(1, min(256 if method == "certified" else 128, rows // 40))
