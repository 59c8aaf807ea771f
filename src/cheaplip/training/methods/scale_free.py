"""CLIP without a scale, with a stored perturbation for every training input."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cheaplip.clip import ScaleFreeCLIP
from cheaplip.margin import MarginLoss
from cheaplip.modes import evaluation_mode
from cheaplip.pairs import PairSet
from cheaplip.partners import Partners
from cheaplip.training.methods.certified import CertifiedOptions
from cheaplip.training.methods.method import Losses, Method, Setting
from cheaplip.training.methods.pair_options import PairOptions, check_joint, make_pairs
from cheaplip.training.options import check_not_negative
from cheaplip.training.processes import hold_own_

__all__ = ["ScaleFree", "ScaleFreeOptions"]

_MARGIN = 0.75  # of the data's ε
_RADIUS = 0.625  # of perturbations, of the data's ε
_STEP = 1.12  # of perturbations, of their radius
_STRENGTH = 1.5  # of the loss in units of the margin, so that it does not depend on the units of the inputs
_LONG_RUN = 2000  # training steps from which pairs and perturbations move in every second one only, in the same ones
_JUDGED = 1 / 4  # of each batch is scored without perturbations, where the score steers the margin
_NOISY = 1 / 128  # of each batch gets noise instead of a perturbation, to keep robustness to noise


@dataclass(frozen=True, kw_only=True)
class ScaleFreeOptions(CertifiedOptions, PairOptions):
    """The options of scale-free CLIP: those of its pairs, the margin, and the radius of the perturbations."""

    partners: float | None = None
    """scale-free: radius of the stored perturbation of each training input; unset: 0.625 times the data's epsilon; 0:
    no perturbations"""

    def check(self) -> None:
        """Raise a :class:`ConfigError` if an option of scale-free CLIP is out of its range."""
        check_not_negative("partners", self.partners)


class ScaleFree(Method):
    """A smooth hinge on the leads of f(x) / L at perturbed inputs, with L the constant that the pairs track.

    Each training input has a perturbation of its own, which takes steps along the gradient that the training step
    computes anyway, see :class:`cheaplip.Partners`. What is steered to a target is the margin, and the perturbations'
    radius with it; without a target both stay as they are.
    """

    name = "scale-free"
    adds = "a smooth hinge loss, at perturbed inputs, on the logits divided by the mean difference quotient of pairs"
    cost = "1 + 2·pairs / (batch size · every) + the gradient at the inputs"
    group = "penalties on difference quotients"
    source = "after Bungert et al. 2021, Zheng et al. 2020 and Shafahi et al. 2019"
    tasks = ("classification",)
    options = ScaleFreeOptions
    steerable = True
    responds_over_epochs = True
    distributed = False
    augments = True

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        options = setting.options_of(ScaleFreeOptions)
        self.joint = options.form == "joint"
        if self.joint:
            check_joint(setting.network)
        rarely = 2 if setting.steps >= _LONG_RUN else 1
        pairs = make_pairs(setting.data.train.x, options.pairs, setting)
        hold_own_(pairs)
        clip = ScaleFreeCLIP(pairs, every=options.every or rarely, aggregate=options.aggregate)
        self.clip = clip.to(setting.device)
        epsilon = setting.data.epsilon
        margin = options.margin or _MARGIN * epsilon
        self.hinge = MarginLoss(margin).to(setting.device)
        radius = _RADIUS * epsilon if options.partners is None else options.partners
        self.partners: Partners | None = None
        if radius > 0:
            x, domain = setting.data.train.x, setting.data.domain
            self.partners = Partners(x, radius=radius, domain=domain, step=_STEP, every=rarely)
        self.widening = radius / margin
        if setting.options.named_target is not None:
            self.penalty, self.first_lam = self.hinge, margin
        self.noise, self.deviation = setting.noise, setting.data.noise
        self.augment = setting.augment
        self.rows: Tensor | None = None

    def before_step(self, step: int, rows: Tensor) -> None:
        del step
        self.rows = rows

    def losses(self, network: nn.Module, x: Tensor, y: Tensor) -> Losses:
        judged = x[: max(1, int(_JUDGED * len(x)))]
        if self.partners is not None:
            assert self.rows is not None
            if self.penalty is not None:
                self.partners.radius = self.widening * self.hinge.lam
            noisy = max(1, int(_NOISY * len(x)))
            noise = torch.randn(x[:noisy].shape, generator=self.noise, device=x.device, dtype=x.dtype)
            x = torch.cat([x[:noisy] + self.deviation * noise, self.partners(x[noisy:], self.rows[noisy:])])
        if self.augment is not None:  # after the perturbation, which belongs to the image as it is
            x = self.augment(x)
        z, penalty = self.clip.joint(network, x) if self.joint else self.clip(network, x)
        fit = _STRENGTH / self.hinge.lam * self.hinge(z, y)
        if self.penalty is None:
            return Losses(fit + penalty, fit, z)
        with evaluation_mode(network), torch.no_grad():
            output = network(judged)
        return Losses(fit + penalty, fit, output)

    @property
    def pairs(self) -> PairSet:
        return self.clip.pairs

    @property
    def largest(self) -> Tensor:
        return self.clip.largest

    def state(self) -> dict[str, Any]:
        partners = None if self.partners is None else self.partners.state_dict()
        return {**super().state(), "scale_free": self.clip.state_dict(), "partners": partners}

    def load_state(self, state: dict[str, Any]) -> None:
        super().load_state(state)
        self.clip.load_state_dict(state["scale_free"])
        if self.partners is not None:
            self.partners.load_state_dict(state["partners"])
