"""``Training``: the state of a run while it trains, the loop over the steps of an epoch, what an epoch reports.

The file is long because all that a checkpoint must hold is made, moved and saved in this one class.
"""

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from cheaplip.data import Data
from cheaplip.data.augmentation import Augmentation
from cheaplip.data.splits import hold_out
from cheaplip.discrepancy import DiscrepancyPrinciple
from cheaplip.distributed import average, rank, ranks
from cheaplip.errors import ConfigError, DivergedError
from cheaplip.lipschitz import largest_quotient
from cheaplip.modes import evaluation_mode
from cheaplip.training.aim import Aim, named_aim
from cheaplip.training.config import TrainConfig
from cheaplip.training.methods import Setting
from cheaplip.training.optimizers import MultiplierOptimizer, one_cycle
from cheaplip.training.processes import gathered, hold_all_, hold_own_, leads
from cheaplip.training.targets import make_controller
from cheaplip.training.tasks import task_of
from cheaplip.training.tasks.task import predict

__all__ = ["Training"]

_CHECK_EVERY = 100  # steps between two checks that the loss is finite; each check waits for the device
_PROBE_STEPS = (5, 30)  # of the search for the largest quotient after each epoch, at least and at most
_PROBE_INPUTS = 100  # training inputs for each of these steps: the epochs of small data are short
_SEARCH_STEPS = 100  # of the search after training
_SEED_STRIDE = 1_000_003  # difference between the seeds of two processes
_FULL_BATCH = 8  # inputs in a batch for which the default learning rates are meant, at least
_FULL_PACE = 3.0  # λ moves at full speed while the learning rate is at least its peak divided by this


class Training:
    """The state of a run while it trains: model, optimizer, penalty, λ, random states, position.

    Args:
        config: the options of the run.
        data: the data, on the device to train on.

    Raises:
        ConfigError: the method or the batch size does not suit the number of processes, or inputs that are no images
            are to be augmented.
        DataError: more inputs are to be held out than there are.
    """

    def __init__(self, config: TrainConfig, data: Data) -> None:
        self.config = config
        method_class = config.method_class
        if not method_class.distributed and ranks() > 1:
            raise ConfigError(f"method: {config.method} trains in one process only: train without torchrun")
        data, held_out = hold_out(data, method_class.holds_out(config), config.split_seed)
        self.data = data
        self.device = data.train.x.device
        default_size = _batch_size(method_class.batch_size, len(data.train.x))
        self.batch_size = min(config.batch_size or default_size, len(data.train.x))
        self.lr = _peak(config, self.batch_size)
        self.steps_per_epoch = len(data.train.x) // self.batch_size
        self.total_steps = self.steps_per_epoch * config.resolved_epochs
        if self.batch_size < ranks():
            raise ConfigError(f"batch_size: expected an input for each of {ranks()} processes, got {self.batch_size}")
        self.task = task_of(data)
        self.model = config.build_model(data).to(self.device)
        self.inner, self.output_scale = self.task.unwrap(self.model)  # the network that is trained
        self.labels = self.task.network_labels(data.train.y, self.model)
        method_class.initialise_(self.inner, config.seed)
        self.network = self.inner if ranks() == 1 else DistributedDataParallel(self.inner)
        self.shuffle = torch.Generator().manual_seed(config.seed)
        # Pairs must draw the same numbers in every process; perturbations of a process's own batch must not.
        own_noise = 0 if method_class.same_noise else _SEED_STRIDE * rank()
        self.noise = torch.Generator(self.device).manual_seed(config.seed + 1 + own_noise)
        if rank() > 0:  # for dropout, which uses the global random state
            torch.manual_seed(config.seed + _SEED_STRIDE * rank())
        self.augmentation: Augmentation | None = None
        if config.augment is not None:
            views = torch.Generator(self.device).manual_seed(config.seed + 2 + _SEED_STRIDE * rank())
            self.augmentation = Augmentation(config.augment, data.shape, data.domain, views)
        self.method = method_class(
            Setting(
                config, self.inner, data, held_out, self.task, self.total_steps, self.noise, augment=self.augmentation
            )
        )
        self.optimizer = self.method.optimizer(self.inner.parameters(), self.lr, config)
        self.scheduler = one_cycle(self.optimizer, self.lr, self.total_steps, method_class.rise)
        bound = self.method.bound
        self.multipliers: MultiplierOptimizer | None = None
        if bound is not None and any(True for _ in bound.parameters()):  # a product of norms has no multipliers
            self.multipliers = MultiplierOptimizer(bound, self.total_steps)
        self.aim = named_aim(config, data)
        self.controller: DiscrepancyPrinciple | None = None
        self.steer_to(self.aim)
        self.epoch = 0
        self.step = 0
        self.history: list[dict[str, Any]] = []
        self._start_epoch()

    def steer_to(self, aim: Aim) -> None:
        """Steer λ to an aim from now on."""
        y = self.data.train.y
        self.aim = aim
        self.controller = make_controller(self.method, self.config, aim, self.task, y, self.total_steps)

    def _start_epoch(self) -> None:
        self.order_state = self.shuffle.get_state()
        self.order = torch.randperm(len(self.data.train.x), generator=self.shuffle).to(self.device)
        # Sums over the epoch: loss, score, largest quotient of the pairs in late steps, number of late steps.
        self.sums = torch.zeros(4, dtype=torch.float64, device=self.device)
        self.seconds = 0.0

    def _learning_rate(self) -> float:
        return float(self.scheduler.get_last_lr()[0])

    def _pace(self) -> float:
        """Return the factor of λ's speed: 1, and late in the run less, like the square root of the learning rate."""
        return min(1.0, math.sqrt(_FULL_PACE * self._learning_rate() / self.lr))

    def run_epoch(self, on_step: Callable[[], bool]) -> bool:
        """Train to the end of the epoch, or until ``on_step``, called after each step, returns True.

        Returns:
            Whether the epoch has ended.

        Raises:
            DivergedError: the loss became NaN or infinite; the message gives the step.
        """
        started = time.perf_counter()
        method = self.method
        late = self.steps_per_epoch - max(1, self.steps_per_epoch // 10)  # the last tenth of the epoch begins there
        first_bad = torch.full((), -1, device=self.device)
        while (position := self.step - self.epoch * self.steps_per_epoch) < self.steps_per_epoch:
            batch = position - position % method.replays
            chosen = self.order[batch * self.batch_size : (batch + 1) * self.batch_size]
            chosen = chosen.tensor_split(ranks())[rank()]
            share = len(chosen) * ranks() / self.batch_size  # 1 if all processes have equal parts of the batch
            x, y = self.data.train.x[chosen], self.labels[chosen]
            if self.augmentation is not None and not method.augments:
                x = self.augmentation(x)
            method.before_step(self.step, chosen)
            loss, fit, output = method.losses(self.network, x, y)
            if share != 1:  # gradients are averaged over processes with equal weights
                loss = loss + (share - 1) * fit
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            if method.longest_gradient is not None:
                nn.utils.clip_grad_norm_(self.model.parameters(), method.longest_gradient)
            self.optimizer.step()
            method.after_step()
            if self.multipliers is not None:
                self.multipliers.step()
            with torch.no_grad():
                score = share * self.task.score(output, y[: len(output)])
                if self.controller is not None and not self.aim.by_epoch:
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
        """Measure the epoch that has ended, move λ if it moves by epochs, and start the next epoch.

        Returns:
            The figures of the epoch, a line of ``history.jsonl``; in other processes than the first, nothing.
        """
        sums = average(self.sums).tolist()
        self.hold_all_pairs()
        line = self._figures(*sums) if leads() else {}
        self._hold_own_pairs()
        self.epoch += 1
        if self.aim.by_epoch and self.epoch < self.config.resolved_epochs:
            self._steer_by_epoch()
        self._start_epoch()
        if line:
            self.history.append(line)
        return line

    def _steer_by_epoch(self) -> None:
        """Move λ by the score on a whole part of the data, which is the same in every process."""
        if self.controller is not None:
            x, y = getattr(self.data, self.aim.part)
            with evaluation_mode(self.inner):
                score = self.aim.score(self.task, predict(self.inner, x), self.task.network_labels(y, self.model))
            self.controller.step(score, pace=self._pace())

    def _figures(self, loss: float, score: float, largest: float, late: float) -> dict[str, Any]:
        data, penalty, bound = self.data, self.method.penalty, self.method.bound
        line: dict[str, Any] = {
            "epoch": self.epoch + 1,
            "loss": loss / self.steps_per_epoch,
            **_prefixed("train", self.task.score_figures(score / self.steps_per_epoch, self.output_scale)),
            **_prefixed("validation", self.task.figures(self.model, *data.validation)),
            "learning_rate": self._learning_rate(),
            "seconds": self.seconds,
        }
        if penalty is not None:
            line["lam"] = float(penalty.get_buffer("lam"))
        if bound is not None:
            with torch.no_grad():
                line["bound"] = self.output_scale * float(bound())
        if self.config.probe:
            least, most = _PROBE_STEPS
            steps = min(most, max(least, len(data.train.x) // _PROBE_INPUTS))
            line["lower"] = self.search_largest_quotient(size=self.config.probe, steps=steps)[0]
        if self.method.pairs is not None:
            line["largest"] = self.output_scale * largest / late
            if self.config.probe:
                line["tracking"] = line["largest"] / line["lower"] if line["lower"] > 0 else None
        return line

    def search_largest_quotient(self, *, size: int, steps: int = _SEARCH_STEPS) -> tuple[float, tuple[Tensor, Tensor]]:
        """Search for the largest quotient of the model, from random pairs and from those of the method.

        Args:
            size: number of random starting pairs.
            steps: steps of the search.

        Returns:
            The quotient, and the pair of inputs that has it.
        """
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

    def hold_all_pairs(self) -> None:
        """Give the method of this process the pairs of all processes."""
        if self.method.pairs is not None:
            hold_all_(self.method.pairs)

    def _hold_own_pairs(self) -> None:
        if self.method.pairs is not None:
            hold_own_(self.method.pairs)

    def state(self) -> dict[str, Any]:
        """Return all that a resumed run needs to continue as if it had not stopped, in any number of processes."""
        controller = self.controller
        self.hold_all_pairs()
        method_state = self.method.state()
        self._hold_own_pairs()
        return {
            "epoch": self.epoch,
            "step": self.step,
            "seconds": self.seconds,
            "sums": gathered(self.sums),
            "order": self.order_state,
            "noise": gathered(self.noise.get_state()),
            "views": None if self.augmentation is None else gathered(self.augmentation.generator.get_state()),
            "global": gathered(torch.get_rng_state()),
            "cuda": gathered(torch.cuda.get_rng_state()) if self.device.type == "cuda" else None,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            **method_state,
            "controller": None if controller is None else controller.state_dict(),
            "multipliers": None if self.multipliers is None else self.multipliers.state(),
            "history": self.history,
        }

    def check_weights(self) -> None:
        """Raise a :class:`DivergedError` if a weight is NaN or infinite."""
        if not all(bool(torch.isfinite(p).all()) for p in self.model.parameters()):
            self._check(self.step - 1)

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from what :meth:`state` returned."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.hold_all_pairs()
        self.method.load_state(state)
        self._hold_own_pairs()
        if self.controller is not None:
            self.controller.load_state_dict(state["controller"])
        if self.multipliers is not None:
            self.multipliers.load_state(state["multipliers"])
        self.epoch, self.step, self.history = state["epoch"], state["step"], list(state["history"])
        self.shuffle.set_state(state["order"])
        self._start_epoch()
        self.sums, self.seconds = state["sums"].mean(dim=0).to(self.device), state["seconds"]
        if self.method.same_noise:
            self.noise.set_state(state["noise"][0].clone())  # a copy: torch crashes on a view into a larger tensor
        if len(state["sums"]) != ranks():  # with another number of processes, their own random states start anew
            return
        self.sums = state["sums"][rank()].to(self.device)
        self.noise.set_state(state["noise"][rank()].clone())
        if self.augmentation is not None:
            self.augmentation.generator.set_state(state["views"][rank()].clone())
        torch.set_rng_state(state["global"][rank()].clone())
        if state["cuda"] is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda"][rank()].clone())


def _prefixed(part: str, figures: dict[str, float]) -> dict[str, float]:
    return {f"{part}_{name}": value for name, value in figures.items()}


def _batch_size(usual: int, rows: int) -> int:
    """Return the usual batch size, or less if an epoch would otherwise have fewer than 40 steps, but at least 2.

    Steps on single inputs are so uneven that the training of a regression may diverge.
    """
    return max(2, min(usual, rows // 40))


def _peak(config: TrainConfig, batch_size: int) -> float:
    """Return the peak learning rate; SGD's default is less with small batches, whose gradients are noisy."""
    if config.lr is not None or config.method_class.lr is not None:
        return config.resolved_lr
    return config.resolved_lr * min(1.0, batch_size / _FULL_BATCH)
