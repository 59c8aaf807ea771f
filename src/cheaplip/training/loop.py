"""The training loop: everything that changes while a run trains, and an epoch of steps."""

import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from cheaplip.data import Data, Split
from cheaplip.distributed import average, rank, ranks
from cheaplip.errors import ConfigError, DataError, DivergedError
from cheaplip.lipschitz import largest_quotient
from cheaplip.modes import evaluation_mode
from cheaplip.training.config import TrainConfig
from cheaplip.training.methods import Setting
from cheaplip.training.multipliers import Multipliers, one_cycle
from cheaplip.training.processes import gathered, hold_all_, hold_own_, leads
from cheaplip.training.steering import controller
from cheaplip.training.tasks import task_of
from cheaplip.training.tasks.task import answers
from cheaplip.training.untrained import untrained

__all__ = ["Training", "hold_out"]

_CHECK_EVERY = 100  # steps between looks at whether the loss is still finite: each look waits for the device
_PROBE_STEPS = 30
_APART = 1_000_003  # between the seeds of processes
_PACE = 3.0  # λ moves at full pace down to a third of the peak learning rate, then with its square root


class Training:
    """All that changes while a run trains: model, optimiser, penalty, λ, random states, position.

    Args:
        config: the run's options.
        data: where it trains, on the device it trains on.
    """

    def __init__(self, config: TrainConfig, data: Data) -> None:
        self.config = config
        kind = config.method_class
        if not kind.distributed and ranks() > 1:
            raise ConfigError(f"method: {config.method} trains in one process only: train without torchrun")
        data, held_out = hold_out(data, kind.holds_out(config), config.split_seed)
        self.data = data
        self.device = data.train.x.device
        self.batch_size = min(config.batch_size or _batch_size(kind.batch_size, len(data.train.x)), len(data.train.x))
        self.steps_per_epoch = len(data.train.x) // self.batch_size
        self.total_steps = self.steps_per_epoch * config.resolved_epochs
        if self.batch_size < ranks():
            raise ConfigError(f"batch_size: expected an input for each of {ranks()} processes, got {self.batch_size}")
        self.task = task_of(data)
        self.model = untrained(config, data).to(self.device)
        self.inner, self.scale = self.task.network(self.model)  # what is trained, on labels to match
        self.labels = self.task.trained_on(data.train.y, self.model)
        kind.initialise_(self.inner, config.seed)
        self.network = self.inner if ranks() == 1 else DistributedDataParallel(self.inner)
        self.shuffle = torch.Generator().manual_seed(config.seed)
        # What pairs draw is the same in every process, as in one alone; what perturbs a process's own batch is not.
        own_noise = 0 if kind.same_noise else _APART * rank()
        self.noise = torch.Generator(self.device).manual_seed(config.seed + 1 + own_noise)
        if rank() > 0:  # dropout, say
            torch.manual_seed(config.seed + _APART * rank())
        self.method = kind(Setting(config, self.inner, data, held_out, self.task, self.total_steps, self.noise))
        self.optimizer = self.method.optimizer(self.inner.parameters(), config.resolved_lr, config)
        self.scheduler = one_cycle(self.optimizer, config.resolved_lr, self.total_steps, kind.rise)
        bound = self.method.bound
        trained = bound is not None and any(True for _ in bound.parameters())  # norms have no multipliers
        self.multipliers = Multipliers(bound, self.total_steps) if bound is not None and trained else None
        self.controller = controller(self.method, config, self.task, data.train.y, self.total_steps)
        self.epoch = 0
        self.step = 0
        self.history: list[dict[str, Any]] = []
        self._start_epoch()

    def _start_epoch(self) -> None:
        self.order_state = self.shuffle.get_state()
        self.order = torch.randperm(len(self.data.train.x), generator=self.shuffle).to(self.device)
        self.sums = torch.zeros(4, dtype=torch.float64, device=self.device)  # loss, score, largest, late steps
        self.seconds = 0.0

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
        method = self.method
        late = self.steps_per_epoch - max(1, self.steps_per_epoch // 10)
        first_bad = torch.full((), -1, device=self.device)
        while (position := self.step - self.epoch * self.steps_per_epoch) < self.steps_per_epoch:
            chosen = self.order[position * self.batch_size : (position + 1) * self.batch_size]
            chosen = chosen.tensor_split(ranks())[rank()]
            share = len(chosen) * ranks() / self.batch_size  # 1 where the batch divides evenly
            x, y = self.data.train.x[chosen], self.labels[chosen]
            method.before_step(self.step)
            loss, fit, output = method.losses(self.network, x, y)
            if share != 1:
                loss = loss + (share - 1) * fit
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            if method.longest_gradient is not None:
                nn.utils.clip_grad_norm_(self.model.parameters(), method.longest_gradient)
            self.optimizer.step()
            if self.multipliers is not None:
                self.multipliers.step()
            with torch.no_grad():
                score = share * self.task.score(output, y)
                if self.controller is not None and self.config.target_on == "train":
                    self.controller.step(score, pace=self._pace())
                self.sums[0] += share * fit.detach()
                self.sums[1] += score
                if position >= late and method.largest is not None:
                    self.sums[2] += method.largest
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
        data, penalty, bound = self.data, self.method.penalty, self.method.bound
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
        if bound is not None:
            with torch.no_grad():
                line["bound"] = self.scale * float(bound())
        if self.config.probe:
            line["lower"] = self.lower(size=self.config.probe, steps=_PROBE_STEPS)[0]
        if self.method.pairs is not None:
            line["largest"] = self.scale * largest / late
            if self.config.probe:
                line["tracking"] = line["largest"] / line["lower"] if line["lower"] > 0 else None
        return line

    def lower(self, *, size: int, steps: int = 100) -> tuple[float, tuple[Tensor, Tensor]]:
        """The largest quotient found by a search of its own, and its pair; the training pairs start there, too."""
        generator = torch.Generator(self.device).manual_seed(self.epoch)
        found = largest_quotient(
            self.model,
            self.data.train.x,
            domain=self.data.domain,
            starts=self.method.pairs,
            size=size,
            steps=steps,
            generator=generator,
        )
        return found.value, found.witness

    def hold_all(self) -> None:
        """Put the pairs of all processes into the penalty."""
        if self.method.pairs is not None:
            hold_all_(self.method.pairs)

    def _hold_own(self) -> None:
        if self.method.pairs is not None:
            hold_own_(self.method.pairs)

    def state(self) -> dict[str, Any]:
        """Everything a resumed run needs to continue as if it had never stopped, with any number of processes."""
        controller = self.controller
        self.hold_all()
        of_method = self.method.state()
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
            **of_method,
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
        self.hold_all()
        self.method.load_state(state)
        self._hold_own()
        if self.controller is not None:
            self.controller.load_state_dict(state["controller"])
        if self.multipliers is not None:
            self.multipliers.load_state(state["multipliers"])
        self.epoch, self.step, self.history = state["epoch"], state["step"], list(state["history"])
        self.shuffle.set_state(state["order"])
        self._start_epoch()
        self.sums, self.seconds = state["sums"].mean(dim=0).to(self.device), state["seconds"]
        if self.method.same_noise:
            self.noise.set_state(state["noise"][0].clone())  # torch crashes on a view that starts later in its storage
        if len(state["sums"]) != ranks():  # another number of processes: random states of their own start anew
            return
        self.sums = state["sums"][rank()].to(self.device)
        self.noise.set_state(state["noise"][rank()].clone())
        torch.set_rng_state(state["global"][rank()].clone())
        if state["cuda"] is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda"][rank()].clone())


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


def _batch_size(usual: int, rows: int) -> int:
    """The usual one; less where an epoch would have fewer than 40 steps."""
    return max(1, min(usual, rows // 40))
