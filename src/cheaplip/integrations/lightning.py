"""Lightning: a callback that adds the penalty's gradient to that of any ``training_step``."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from cheaplip.clip import Aggregate
from cheaplip.discrepancy import MetricMode
from cheaplip.domain import Box
from cheaplip.integrations.lazy import LazyCLIP
from cheaplip.pairs import Climb

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
    from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
except ModuleNotFoundError as error:
    raise ImportError("cheaplip.integrations.lightning needs lightning: pip install 'cheaplip[lightning]'") from error

__all__ = ["CLIPCallback", "first_of_batch"]


def first_of_batch(batch: Any) -> Tensor:
    """Return the inputs of a batch that is a tensor, or a list or tuple that starts with one.

    Raises:
        TypeError: the batch is something else.
    """
    x = batch[0] if isinstance(batch, (list, tuple)) and batch else batch
    if not isinstance(x, Tensor):
        raise TypeError(
            f"expected a batch (x, y, …) with a tensor first, got {type(batch).__name__}: "
            "say CLIPCallback(inputs=lambda batch: …)"
        )
    return x


class CLIPCallback(Callback):
    """CLIP for Lightning's ``Trainer``, without a change to your module.

    Before each step of the optimiser, the callback adds the gradient of the penalty at the last batch. It does so once
    gradients are accumulated, synchronised and unscaled, and before they are clipped; so λ means the same with any
    ``accumulate_grad_batches``, in any precision, on any number of devices. After each batch, λ moves by the metric
    ``monitor``. A batch that ``training_step`` skips by returning None moves nothing. Pairs, λ and controller are saved
    in Lightning's own checkpoints (in several processes, only the pairs of the first). The callback logs ``clip/lam``
    and ``clip/largest``.

    Args:
        clip: a :class:`LazyCLIP`, instead of the options that make one.
        lam, target, mode, rate, smoothing, domain, size, step, aggregate, every: as in :class:`LazyCLIP`.
        monitor: the metric that the target is for: a key of the dictionary that ``training_step`` returns, or the name
            under which it logs the metric at each step. Compute it there from the output, which costs next to nothing.
        inputs: function from a batch to its inputs, (B, *input).
        model: function from your module to the model that is regularised, with one tensor in and one tensor out. None:
            the module itself, by its ``forward``.

    Raises:
        TypeError: ``clip`` is no :class:`LazyCLIP`.
        ValueError: an option is out of range, λ cannot move from where it starts, or an option is given beside
            ``clip``.

    Example:
        >>> callback = CLIPCallback(lam=0.1, target=0.97, domain=Box(0.0, 1.0))
        >>> # trainer = lightning.Trainer(callbacks=[callback]); trainer.fit(module, loader)
    """

    def __init__(
        self,
        clip: LazyCLIP | None = None,
        *,
        lam: float = 0.1,
        target: float | None = None,
        mode: MetricMode = "max",
        rate: float = 0.01,
        smoothing: float = 0.99,
        domain: Box | None = None,
        size: int = 32,
        step: Climb = "power",
        aggregate: Aggregate = "softmax",
        every: int = 1,
        monitor: str = "train_acc",
        inputs: Callable[[Any], Tensor] = first_of_batch,
        model: Callable[[LightningModule], nn.Module] | None = None,
    ) -> None:
        options = {
            "lam": lam,
            "target": target,
            "mode": mode,
            "rate": rate,
            "smoothing": smoothing,
            "domain": domain,
            "size": size,
            "step": step,
            "aggregate": aggregate,
            "every": every,
        }
        self.penalty = LazyCLIP(**options) if clip is None else _given(clip, options)  # type: ignore[arg-type]
        self.monitor = monitor
        self.inputs = inputs
        self.model = model
        self._x: Tensor | None = None  # of the batch at hand
        self._learnt: Tensor | None = None  # of the last batch that was not skipped
        self._skipped = True  # whether the batch at hand has had no backward pass
        self._due = False  # whether there was a backward pass since the optimiser's last step

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse a set-up in which the penalty would go wrong.

        Raises:
            TypeError: the module optimises manually, shards its parameters or has no ``forward``.
        """
        if not pl_module.automatic_optimization:
            raise TypeError(
                "CLIPCallback expects automatic optimisation: in your training_step, add cheaplip.CLIP's clip(self) "
                "to the loss instead"
            )
        if not isinstance(trainer.strategy, (SingleDeviceStrategy, DDPStrategy)):
            raise TypeError(
                "CLIPCallback expects the strategy of a single device or 'ddp', whose processes hold all gradients, "
                f"got {type(trainer.strategy).__name__}"
            )
        if self.model is None and type(pl_module).forward is LightningModule.forward:
            raise TypeError(
                f"{type(pl_module).__name__} has no forward: define it, or say CLIPCallback(model=lambda module: …)"
            )

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Keep the batch's inputs, where newcomers start: a copy if they are due, as the module may write into them."""
        x = self.inputs(batch)
        self._x, self._skipped = x.clone() if self.penalty.due else x, True

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Note that this batch is not skipped."""
        self._learnt, self._skipped, self._due = self._x, False, True

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Add the penalty's gradient, unless all batches since the last step were skipped."""
        if self._x is None:
            raise RuntimeError("an optimiser step before any batch: CLIPCallback belongs in Trainer(callbacks=[…])")
        if not self._due or self._learnt is None:
            return
        model = pl_module if self.model is None else self.model(pl_module)
        self.penalty.add_gradient_(
            model, self._learnt, reduce=lambda gradient: trainer.strategy.reduce(gradient, reduce_op="mean")
        )
        self._due = False

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move λ by the batch's metric, unless the batch was skipped."""
        if not self.penalty.built or self._skipped:  # no step of the optimiser yet: gradients still accumulate
            return
        if self.penalty.target is not None:
            metric = None
            if self.penalty.wants_metric:
                metric = trainer.strategy.reduce(self._metric(trainer, outputs), reduce_op="mean")
            self.penalty.observe(metric, pace=1 / trainer.accumulate_grad_batches)
        pl_module.log("clip/lam", self.penalty.clip.lam.clone())
        pl_module.log("clip/largest", self.penalty.clip.largest.clone())

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse an epoch in which the penalty did nothing.

        Raises:
            RuntimeError: no step of the optimiser passed Lightning's hooks.
        """
        if not self.penalty.built and self._learnt is not None:
            raise RuntimeError(
                f"an epoch without a call of on_before_optimizer_step, so the penalty did nothing: in "
                f"{type(pl_module).__name__}.optimizer_step, call step() of the optimizer that Lightning passes to it"
            )

    def _metric(self, trainer: Trainer, outputs: Any) -> Tensor:
        if isinstance(outputs, Mapping) and self.monitor in outputs:
            return torch.as_tensor(outputs[self.monitor]).detach().clone()
        if self.monitor in trainer.callback_metrics:
            logged: Tensor = trainer.callback_metrics[self.monitor].detach().clone()
            return logged
        known = ", ".join(sorted(trainer.callback_metrics)) or "nothing"
        raise ValueError(
            f"monitor {self.monitor!r}: expected self.log({self.monitor!r}, …, on_step=True) in training_step, or that "
            f"key in the dictionary it returns; logged so far: {known}"
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the state for Lightning's checkpoint."""
        return dict(self.penalty.get_extra_state())

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state from Lightning's checkpoint."""
        self.penalty.set_extra_state(state_dict)


def _given(clip: LazyCLIP, options: dict[str, Any]) -> LazyCLIP:
    """Return a penalty that was given whole, if no option was given beside it."""
    if not isinstance(clip, LazyCLIP):
        raise TypeError(
            f"clip: expected a LazyCLIP, got {type(clip).__name__}: cheaplip.integrations.lazy.LazyCLIP(lam=0.1, "
            "target=0.97) makes one; or give its options by name"
        )
    defaults = inspect.signature(LazyCLIP).parameters
    if changed := [name for name, value in options.items() if value != defaults[name].default]:
        raise ValueError(
            f"expected clip or the options of one, got clip and {', '.join(changed)}: give them to LazyCLIP"
        )
    return clip
