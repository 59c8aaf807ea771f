"""CLIP without a scale, with a climbing perturbation for every training input."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cheaplip.clip import ScaleFreeCLIP
from cheaplip.margin import MarginLoss
from cheaplip.pairs import PairSet
from cheaplip.partners import Partners
from cheaplip.training.methods.certified import CertifiedOptions
from cheaplip.training.methods.clip import ClipOptions, check_joint, make_pairs
from cheaplip.training.methods.method import Losses, Method, Setting
from cheaplip.training.options import check_not_negative
from cheaplip.training.processes import hold_own_

__all__ = ["ScaleFree", "ScaleFreeOptions"]

_MARGIN = 0.75  # of the data's ε
_RADIUS = 0.75  # of the data's ε
_STEP = 0.7  # length of a perturbation's step, of the data's ε
_EVERY = 4  # steps between visits of the pairs, and
_PARTNERS_EVERY = 2  # between steps of the perturbations, in runs of
_LONG_RUN = 2000  # training steps or more
_CLEAN = 1 / 16  # of each batch is not perturbed: the accuracy on it is what the margin is steered by


@dataclass(frozen=True, kw_only=True)
class ScaleFreeOptions(CertifiedOptions, ClipOptions):
    """The options of scale-free CLIP: those of its pairs, the margin, and the radius of the perturbations."""

    partners: float | None = None
    """scale-free: radius of the stored perturbations of training inputs; unset: 0.75 times the data's epsilon; 0: none"""

    def check(self) -> None:
        """Raise a :class:`ConfigError` if an option of scale-free CLIP is out of its range."""
        check_not_negative("partners", self.partners)


class ScaleFree(Method):
    """A smooth hinge on the leads of f(x) / L, with L the constant that the pairs track, at perturbed inputs.

    Each training input has a perturbation of its own, which takes one step along the gradient that the training step
    computes anyway, see :class:`cheaplip.Partners`. The margin is steered to the target.
    """

    name = "scale-free"
    adds = "a smooth hinge on leads divided by the largest quotient over the pairs, at perturbed inputs, in place of the loss"
    cost = "1 + 2·pairs / (batch size · every) + the gradient at the inputs"
    source = "after Bungert et al. 2021, Zheng et al. 2020, Shafahi et al. 2019"
    tasks = ("classification",)
    options = ScaleFreeOptions
    steered = True
    responds_slowly = True
    distributed = False
    longest_gradient = 1.0

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        options = setting.options_of(ScaleFreeOptions)
        self.joint = options.form == "joint"
        if self.joint:
            check_joint(setting.network)
        long_run = setting.steps >= _LONG_RUN
        pairs = make_pairs(setting.data.train.x, options.pairs, setting)
        hold_own_(pairs)
        self.clip = ScaleFreeCLIP(
            pairs, every=options.every or (_EVERY if long_run else 1), aggregate=options.aggregate
        ).to(setting.device)
        self.first_lam = options.margin or _MARGIN * setting.data.epsilon
        self.penalty: MarginLoss = MarginLoss(self.first_lam).to(setting.device)
        radius = _RADIUS * setting.data.epsilon if options.partners is None else options.partners
        self.partners: Partners | None = None
        if radius > 0:
            self.partners = Partners(
                setting.data.train.x,
                radius=radius,
                domain=setting.data.domain,
                step=_STEP * setting.data.epsilon / radius,
                every=_PARTNERS_EVERY if long_run else 1,
            )
        self.rows: Tensor | None = None

    def before_step(self, step: int, rows: Tensor) -> None:
        del step
        self.rows = rows

    def losses(self, network: nn.Module, x: Tensor, y: Tensor) -> Losses:
        if self.partners is not None:
            assert self.rows is not None
            clean = max(1, int(_CLEAN * len(x)))
            self.scored = slice(clean)
            x = torch.cat([x[:clean], self.partners(x[clean:], self.rows[clean:])])
        z, penalty = self.clip.joint(network, x) if self.joint else self.clip(network, x)
        fit = self.penalty(z, y)
        return Losses(fit + penalty, fit, z)

    @property
    def pairs(self) -> PairSet:
        return self.clip.pairs

    @property
    def largest(self) -> Tensor:
        return self.clip.largest

    def state(self) -> dict[str, Any]:
        partners = None if self.partners is None else self.partners.state_dict()
        return {**super().state(), "clip": self.clip.state_dict(), "partners": partners}

    def load_state(self, state: dict[str, Any]) -> None:
        super().load_state(state)
        self.clip.load_state_dict(state["clip"])
        if self.partners is not None:
            self.partners.load_state_dict(state["partners"])
