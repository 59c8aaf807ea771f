"""The penalty and its controller as one module that is built from the first batch; every adapter holds one."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from cheaplip.clip import CLIP, Aggregate
from cheaplip.discrepancy import DiscrepancyPrinciple, MetricMode
from cheaplip.domain import Box
from cheaplip.pairs import Climb, PairSet

__all__ = ["LazyCLIP"]

_OF_PAIRS = {"domain", "size", "step", "aggregate", "every"}
_OF_CONTROLLER = {"target", "mode", "rate", "smoothing"}
_OPTIONS = sorted({"lam"} | _OF_PAIRS | _OF_CONTROLLER)


class LazyCLIP(nn.Module):
    r"""A :class:`CLIP` and its :class:`DiscrepancyPrinciple`, built when the first batch comes.

    Frameworks create their parts before they see data, and load checkpoints before the first batch. So options are
    checked at construction; the pairs are made from the first batch, and a state loaded earlier is kept until then.
    Pairs that replace others start at inputs of the current batch.

    Args:
        lam: λ ≥ 0; with a target, the value it starts from.
        target: the accuracy in (0, 1), with ``mode="min"`` the loss, or with ``mode="lipschitz"`` the largest quotient
            that λ is steered to. None: λ stays as it is.
        mode: ``"max"`` if the target is met from above, ``"min"`` if it is met from below, ``"lipschitz"`` if it is a
            Lipschitz constant; see :class:`DiscrepancyPrinciple`.
        rate, smoothing: how fast λ moves, as in :class:`DiscrepancyPrinciple`.
        domain: the :class:`Box` inputs live in. None: all of space.
        size, step: number of pairs and how they climb, as in :class:`PairSet`.
        aggregate, every: as in :class:`CLIP`.

    Raises:
        ValueError: an option is out of range, or λ cannot move from where it starts.

    Example:
        >>> penalty = LazyCLIP(lam=0.1, target=0.9)
        >>> x = torch.rand(8, 2)
        >>> penalty(torch.nn.Linear(2, 2), x).item() > 0
        True
        >>> penalty.observe(0.95)
    """

    def __init__(
        self,
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
    ) -> None:
        super().__init__()
        self.lam = lam
        self.target = target
        self.mode: MetricMode = mode
        self.rate = rate
        self.smoothing = smoothing
        self.domain = domain
        self.size = size
        self.pair_step: Climb = step
        self.aggregate: Aggregate = aggregate
        self.every = every
        # A module in a tuple does not become a submodule: the state goes through get_extra_state(), built or not.
        self._built: tuple[CLIP, DiscrepancyPrinciple | None] | None = None
        self._waiting: dict[str, Tensor] | None = None
        self._build(torch.zeros(1, 1), None)  # refuses a bad option now, not at the first batch

    @property
    def built(self) -> bool:
        """Whether there are pairs, which the first batch makes."""
        return self._built is not None

    @property
    def clip(self) -> CLIP:
        """The penalty.

        Raises:
            RuntimeError: no training step has been taken yet.
        """
        if self._built is None:
            raise RuntimeError("no pairs yet: they are made from the first training batch; train for a step first")
        return self._built[0]

    @property
    def controller(self) -> DiscrepancyPrinciple | None:
        """The controller of λ, None without a target.

        Raises:
            RuntimeError: no training step has been taken yet.
        """
        self.clip  # noqa: B018 - raises where nothing is built
        assert self._built is not None
        return self._built[1]

    def forward(self, model: nn.Module, x: Tensor) -> Tensor:
        r"""Compute the penalty in a pass of its own; the first call makes the pairs.

        Args:
            model: one tensor in, one tensor out.
            x: the current batch, (B, \*input).

        Returns:
            The penalty, a scalar.

        Raises:
            TypeError, ValueError: ``x`` cannot be inputs of pairs, or differs in shape from the first batch.
            RuntimeError: in training, gradients are disabled, or no parameter requires one: the penalty would do
                nothing.
        """
        if self.training:
            if not torch.is_grad_enabled():
                raise RuntimeError(
                    "the penalty is taken under torch.no_grad() and does nothing there: enable gradients"
                )
            if not any(parameter.requires_grad for parameter in model.parameters()):
                raise RuntimeError(
                    "no parameter of the model requires a gradient, so the penalty does nothing: unfreeze some, "
                    "or train without CLIP"
                )
        if self._built is None:
            self._built = self._build(x, self.domain)
            if self._waiting is not None:
                self.set_extra_state(self._waiting)
        clip = self.clip
        if x.shape[1:] != clip.pairs.u.shape[1:]:
            raise ValueError(
                f"expected inputs of shape {tuple(clip.pairs.u.shape[1:])}, as in the first batch, "
                f"got {tuple(x.shape[1:])}: pad or crop all batches to one shape"
            )
        clip.pairs.pool = x.detach()
        penalty: Tensor = clip.train(self.training)(model)
        return penalty

    def add_gradient_(
        self,
        model: nn.Module,
        x: Tensor,
        *,
        reduce: Callable[[Tensor], Tensor] = lambda gradient: gradient,
        scale: float = 1.0,
    ) -> None:
        """Add the penalty's gradient to the parameters' ``.grad``, for frameworks that call ``backward()`` themselves.

        Args:
            model, x: as for a call.
            reduce: takes the mean over processes. The framework's own hooks do not, as they never see this gradient.
            scale: factor that a gradient scaler has put on the gradients that are there already.
        """
        with torch.enable_grad():
            penalty = self(model, x)
        if not penalty.requires_grad:  # one of the calls between, with ``every`` above 1
            return
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        gradients = torch.autograd.grad(scale * penalty, parameters, allow_unused=True)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                shared = reduce(gradient)
                parameter.grad = shared if parameter.grad is None else parameter.grad.add_(shared)

    @property
    def due(self) -> bool:
        """Whether the next call in training uses the batch's inputs: the first one, and then each ``every``-th."""
        return self._built is None or self.clip.due

    @property
    def wants_metric(self) -> bool:
        """Whether λ is steered by a metric of the batch; not without a target, and not to a constant."""
        return self.target is not None and self.mode != "lipschitz"

    def observe(self, metric: float | Tensor | None = None, *, pace: float = 1.0) -> None:
        """Pass a batch's accuracy or loss to the controller, if there is one; none if λ is steered to a constant."""
        if self.controller is not None:
            self.controller.step(metric, pace=pace)

    def change_(self, **options: Any) -> None:
        """Change options in mid-training; λ stays where it is unless ``lam`` is among them.

        With a new domain, size, step, aggregate or ``every`` the pairs start anew, at the last batch; with a new
        target, mode, rate or smoothing the controller does.

        Raises:
            TypeError: there is no such option.
            ValueError: an option is out of range; nothing is changed then.
        """
        if unknown := sorted(set(options) - set(_OPTIONS)):
            raise TypeError(f"expected options among {', '.join(_OPTIONS)}, got {', '.join(unknown)}")
        before = {name: getattr(self, name) for name in map(_attribute, options)}
        for name, value in options.items():
            setattr(self, _attribute(name), value)
        try:
            self._build(torch.zeros(1, 1), None)
        except (TypeError, ValueError):
            for name, value in before.items():
                setattr(self, name, value)
            raise
        if self._built is None:
            return
        clip, controller = self._built
        lam = self.lam if "lam" in options else float(clip.lam)
        renewed = _OF_PAIRS & options.keys()
        if renewed:
            clip, _ = self._build(clip.pairs.pool, self.domain)
        clip.lam.fill_(lam)
        if renewed or _OF_CONTROLLER & options.keys():
            controller = self._controller(clip)
        self._built = clip, controller

    def get_extra_state(self) -> dict[str, Tensor]:
        """Return the state of penalty and controller in one flat dictionary, empty before the first batch."""
        if self._built is None:
            return self._waiting or {}
        clip, controller = self._built
        parts = {"clip": clip.state_dict(), "controller": {} if controller is None else controller.state_dict()}
        return {f"{part}.{name}": value.clone() for part, state in parts.items() for name, value in state.items()}

    def set_extra_state(self, state: dict[str, Tensor]) -> None:
        """Restore what :meth:`get_extra_state` returned; before the first batch, keep it until there are pairs.

        Raises:
            ValueError: the state was saved with other options.
        """
        if self._built is None or not state:
            self._waiting = state or None
            return
        clip, controller = self._built
        clip_state, controller_state = (
            {name.removeprefix(part): value for name, value in state.items() if name.startswith(part)}
            for part in ("clip.", "controller.")
        )
        if bool(controller_state) != (controller is not None):
            had, has = ("a", "none") if controller_state else ("no", "one")
            raise ValueError(f"the saved state has {had} target for λ, now there is {has}: resume with equal options")
        try:
            clip.load_state_dict(clip_state)
        except RuntimeError as error:
            raise ValueError(f"the saved pairs do not fit, resume with equal options and inputs: {error}") from error
        if controller is not None:
            controller.load_state_dict(controller_state)
        self._waiting = None

    def _build(self, x: Tensor, domain: Box | None) -> tuple[CLIP, DiscrepancyPrinciple | None]:
        pairs = PairSet(x, size=self.size, domain=domain, step=self.pair_step)
        clip = CLIP(pairs, self.lam, aggregate=self.aggregate, every=self.every).to(x.device)
        return clip, self._controller(clip)

    def _controller(self, clip: CLIP) -> DiscrepancyPrinciple | None:
        if self.target is None:
            return None
        return DiscrepancyPrinciple(clip, self.target, mode=self.mode, rate=self.rate, smoothing=self.smoothing)


def _attribute(option: str) -> str:
    return "pair_step" if option == "step" else option
