"""One training run: configuration and data in; model, history and metrics out."""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from cheaplip.clip import CLIP
from cheaplip.data import Data, Split
from cheaplip.distributed import average, rank, ranks
from cheaplip.errors import BatchDependentLayerError, ConfigError, DataError, DivergedError, Interrupted, RunError
from cheaplip.lipschitz import LipschitzBound, largest_quotient
from cheaplip.modes import evaluation_mode, refuse_batch_dependent_layers
from cheaplip.pairs import PairSet
from cheaplip.runs.checkpoints import unpack
from cheaplip.runs.folder import RunFolder, versions
from cheaplip.tracking import Tracker, pictures, tracked
from cheaplip.training import methods
from cheaplip.training.config import TrainConfig
from cheaplip.training.multipliers import CERTIFIED_RISE, Multipliers, one_cycle
from cheaplip.training.outcome import finish
from cheaplip.training.processes import agreed, broadcast, gathered, hold_all_, hold_own_, leads
from cheaplip.training.steering import controller
from cheaplip.training.tasks import task_of
from cheaplip.training.tasks.task import answers
from cheaplip.training.untrained import untrained

__all__ = ["Progress", "Training", "hold_out", "train"]

Progress = Callable[[int, int, dict[str, float]], None]
"""Called with (steps done, steps in all, the last epoch's numbers)."""

_CHECK_EVERY = 100  # steps between looks at whether the loss is still finite: each look waits for the device
_PROBE_STEPS = 30
_APART = 1_000_003  # between the seeds of processes
_MARGIN = 0.45  # of the data's ε
_LONGEST = 1.0  # gradient of the certified loss: one long step inflates the network, whose scale nothing brings back
_RISE = 0.3  # part of the run in which the learning rate rises
_PACE = 3.0  # λ moves at full pace down to a third of the peak learning rate, then with its square root


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
        self.task = task_of(data)
        self.model = untrained(config, data).to(self.device)
        self.inner, self.scale = self.task.network(self.model)  # what is trained, on labels to match
        self.labels = self.task.trained_on(data.train.y, self.model)
        if config.method == "certified":
            methods.orthogonal_(self.inner, config.seed)
        self.network = self.inner if ranks() == 1 else DistributedDataParallel(self.inner)
        self.optimizer = self._optimizer()
        rise = CERTIFIED_RISE if config.method == "certified" else _RISE
        self.scheduler = one_cycle(self.optimizer, config.resolved_lr, self.total_steps, rise)
        self.shuffle = torch.Generator().manual_seed(config.seed)
        # What pairs draw is the same in every process, as in one alone; what perturbs a process's own batch is not.
        own_noise = 0 if config.method == "clip" else _APART * rank()
        self.noise = torch.Generator(self.device).manual_seed(config.seed + 1 + own_noise)
        if rank() > 0:  # dropout, say
            torch.manual_seed(config.seed + _APART * rank())
        if config.method in ("clip", "clip+certified") and config.form == "joint":
            _check_joint(self.inner)
        self.parts = nn.ModuleList([self._pairs(part) for part in torch.split(held_out, config.pairs) if len(part)])
        self.objective = self._objective()
        bound = self.objective.bound
        trained = bound is not None and any(True for _ in bound.parameters())  # norms have no multipliers
        self.multipliers = Multipliers(bound, self.total_steps) if bound is not None and trained else None
        self.controller = controller(self.objective.penalty, config, self.task, data.train.y, self.total_steps)
        self.epoch = 0
        self.step = 0
        self.history: list[dict[str, Any]] = []
        self._start_epoch()

    def _optimizer(self) -> torch.optim.Optimizer:
        config = self.config
        if config.method == "certified":
            return torch.optim.Adam(self.inner.parameters(), lr=config.resolved_lr)
        return torch.optim.SGD(
            self.inner.parameters(),
            lr=config.resolved_lr,
            momentum=config.momentum,
            nesterov=config.momentum > 0,
            weight_decay=config.weight_decay,
        )

    def _objective(self) -> methods.Objective:
        config, data, loss = self.config, self.data, self.task.loss
        if config.method == "plain":
            return methods.plain(loss)
        if config.method == "weight":
            return methods.penalised(methods.WeightPenalty(config.resolved_lam).to(self.device), loss)
        if config.method == "adversarial":
            epsilon = config.adversarial_epsilon or data.epsilon
            return methods.adversarial(epsilon, config.adversarial_steps, data.domain, self.noise, loss)
        if config.method == "certified":
            return methods.certified(LipschitzBound(self.inner, data.shape), config.margin or _MARGIN * data.epsilon)
        pairs = self._part(0) if len(self.parts) else self._pairs(data.train.x)
        hold_own_(pairs)
        every = config.every or _every(self.total_steps)
        aggregate = config.aggregate or ("softmax" if every == 1 else "mean")
        clip = CLIP(pairs, config.resolved_lam, aggregate=aggregate, every=every).to(self.device)
        objective = methods.joint(clip, loss) if config.form == "joint" else methods.penalised(clip, loss)
        if config.method == "clip":
            return objective
        return methods.bounded(objective, LipschitzBound(self.inner, data.shape))

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

    def _start_epoch(self) -> None:
        self.order_state = self.shuffle.get_state()
        self.order = torch.randperm(len(self.data.train.x), generator=self.shuffle).to(self.device)
        self.sums = torch.zeros(4, dtype=torch.float64, device=self.device)  # loss, score, largest, late steps
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

    def _pace(self) -> float:
        return min(1.0, math.sqrt(_PACE * self._learning_rate() / self.config.resolved_lr))

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
            x, y = self.data.train.x[chosen], self.labels[chosen]
            if len(self.parts):
                assert isinstance(penalty, CLIP)
                penalty.pairs = self._part(self.step)
            loss, fit, output = self.objective.step(self.network, x, y)
            if share != 1:
                loss = loss + (share - 1) * fit
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            if self.config.method == "certified":
                nn.utils.clip_grad_norm_(self.model.parameters(), _LONGEST)
            self.optimizer.step()
            if self.multipliers is not None:
                self.multipliers.step()
            with torch.no_grad():
                score = share * self.task.score(output, y)
                if self.controller is not None and self.config.target_on == "train":
                    self.controller.step(score, pace=self._pace())
                self.sums[0] += share * fit.detach()
                self.sums[1] += score
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
        self.hold_all()
        line = self._line(*sums) if leads() else {}
        self._hold_own()
        self.epoch += 1
        if self.config.target_on == "validation" and self.epoch < self.config.resolved_epochs:
            self._steer_by_validation()
        self._start_epoch()
        if line:
            self.history.append(line)
        return line

    def _steer_by_validation(self) -> None:
        """Move λ by the figure of the validation data, the same in every process."""
        if self.controller is not None:
            x, y = self.data.validation
            with evaluation_mode(self.inner):
                score = self.task.score(answers(self.inner, x), self.task.trained_on(y, self.model))
            self.controller.step(score, pace=self._pace())

    def _line(self, loss: float, score: float, largest: float, late: float) -> dict[str, Any]:
        data, penalty = self.data, self.objective.penalty
        line: dict[str, Any] = {
            "epoch": self.epoch + 1,
            "loss": loss / self.steps_per_epoch,
            **_prefixed("train", self.task.seen(score / self.steps_per_epoch, self.scale)),
            **_prefixed("validation", self.task.figures(self.model, *data.validation)),
            "learning_rate": self._learning_rate(),
            "seconds": self.seconds,
        }
        if penalty is not None:
            line["lam"] = float(penalty.get_buffer("lam"))
        if self.objective.bound is not None:
            with torch.no_grad():
                line["bound"] = self.scale * float(self.objective.bound())
        if self.config.probe:
            line["lower"] = self.lower(size=self.config.probe, steps=_PROBE_STEPS)[0]
        if isinstance(penalty, CLIP):
            line["largest"] = self.scale * largest / late
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

    def hold_all(self) -> None:
        """Put the pairs of all processes into the penalty."""
        if isinstance(self.objective.penalty, CLIP):
            hold_all_(self.objective.penalty.pairs)

    def _hold_own(self) -> None:
        if isinstance(self.objective.penalty, CLIP):
            hold_own_(self.objective.penalty.pairs)

    def state(self) -> dict[str, Any]:
        """Everything a resumed run needs to continue as if it had never stopped, with any number of processes."""
        penalty, controller = self.objective.penalty, self.controller
        self.hold_all()
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
            self.hold_all()
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
    trackers: Sequence[Tracker] = (),
) -> dict[str, Any]:
    """Train, leaving a run's folder; returns its metrics (in several processes: in the first one, which writes).

    Args:
        config: the run's options.
        data: what :func:`cheaplip.data.sources.load` returned.
        folder: where to write.
        resume: continue from the folder's checkpoint where there is one; a finished run only returns its metrics.
        overwrite: replace a run that is already there.
        progress: called now and then.
        stop: asked after each step; True saves the state and raises :class:`Interrupted`.
        on_epoch: called with the model and the epoch's numbers; what it returns joins them in ``history.jsonl``. An
            epoch that a resumed run repeats is shown to it again, as it was.
        trackers: told of the training by the process that writes; a finished run tells them nothing.

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
            trackers = trackers if leads() else ()
            with tracked(trackers, asdict(config), training.epoch + 1):
                return _train(training, folder, progress, stop, on_epoch, trackers)


def _train(
    training: Training,
    folder: RunFolder,
    progress: Progress | None,
    stop: Callable[[], bool],
    on_epoch: Callable[[nn.Module, dict[str, Any]], dict[str, Any]] | None,
    trackers: Sequence[Tracker],
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
                for tracker in trackers:
                    tracker.epoch(line)
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
    training.hold_all()
    return _finish(training, folder, trackers) if leads() else {}


def _finish(training: Training, folder: RunFolder, trackers: Sequence[Tracker]) -> dict[str, Any]:
    config, data, model = training.config, training.data, training.model
    training.task.check_model(model, data.test.x[:256], data.outputs)
    lower, witness = training.lower(size=config.search)
    penalty = training.objective.penalty
    lam = None if penalty is None else float(penalty.get_buffer("lam"))
    metrics = finish(folder, config, data, model, lower=lower, witness=witness, lam=lam, history=training.history)
    for tracker in trackers:
        tracker.finish(metrics, pictures(*witness, data.domain))
    return metrics


def hold_out(data: Data, count: int, seed: int) -> tuple[Data, Tensor]:
    """The data with so many training inputs fewer, and those inputs."""
    x, y = data.train
    if count >= len(x):
        raise DataError(f"held_out: expected fewer than the {len(x)} training inputs, got {count}")
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed)).to(x.device)
    if not count:
        return data, x[:0]
    return replace(data, train=Split(x[order[count:]], y[order[count:]])), x[order[:count]]


def _prefixed(part: str, figures: dict[str, float]) -> dict[str, float]:
    return {f"{part}_{name}": value for name, value in figures.items()}


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
    """Lazily in runs of 2,000 steps or more, as far as pairs still climb eight hundred times or more."""
    return min(16, steps // 800) if steps >= 2000 else 1


def _batch_size(method: str, rows: int) -> int:
    """256 for certified, else 128; less where an epoch would have fewer than 40 steps."""
    return max(1, min(256 if method == "certified" else 128, rows // 40))
