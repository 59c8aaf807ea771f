"""Training methods, a class each: what a method minimises, what it steers, its options, what it reports.

Start with ``method.py``, which says what a method is, and ``plain.py``, the shortest one. Three families have a folder:
``adversaries/`` trains on perturbed inputs, ``penalties/`` adds a term to the loss, ``constraints/`` has layers or
losses that bound the constant. To add a method, write a file like these and list its class in ``METHODS`` below.
Options of its own are a dataclass in the same file, and a base class of ``TrainConfig`` in ``config.py``. A method in a
package of your own needs no entry here and has no options of its own: ``--method package.module:Class``.

May import the core, ``lipschitz``, ``data``, and of training the modules ``models``, ``options``, ``pgd``,
``processes`` and ``tasks``.
"""

import inspect

from cheaplip.data.importing import import_object
from cheaplip.errors import ConfigError
from cheaplip.training.methods.adversarial import Adversarial
from cheaplip.training.methods.adversaries.fgsm import Fgsm
from cheaplip.training.methods.adversaries.free import Free
from cheaplip.training.methods.adversaries.one_step import OneStep
from cheaplip.training.methods.adversaries.trades import Trades
from cheaplip.training.methods.certified import Certified
from cheaplip.training.methods.clip import Clip
from cheaplip.training.methods.clip_certified import ClipCertified
from cheaplip.training.methods.constraints.deep_spline import DeepSpline
from cheaplip.training.methods.constraints.groupsort import GroupSort
from cheaplip.training.methods.constraints.lipschitz_margin import LipschitzMargin
from cheaplip.training.methods.constraints.spectral import Spectral
from cheaplip.training.methods.method import GROUPS, Losses, Method, Setting
from cheaplip.training.methods.penalties.alr import AdversarialLipschitz
from cheaplip.training.methods.penalties.gradient_penalty import GradientPenalty
from cheaplip.training.methods.penalties.jacobian import Jacobian
from cheaplip.training.methods.penalties.laplacian import Laplacian
from cheaplip.training.methods.penalties.norm_decay import NormDecay
from cheaplip.training.methods.penalties.operator_norm import OperatorNorm
from cheaplip.training.methods.plain import Plain
from cheaplip.training.methods.scale_free import ScaleFree
from cheaplip.training.methods.weight import Weight
from cheaplip.training.options import check_choice

__all__ = ["GROUPS", "METHODS", "Losses", "Method", "Setting", "method_named"]

METHODS: dict[str, type[Method]] = {
    method.name: method
    for method in (
        Plain,
        Weight,
        Clip,
        ScaleFree,
        Adversarial,
        Certified,
        ClipCertified,
        Jacobian,
        GradientPenalty,
        OperatorNorm,
        Spectral,
        NormDecay,
        AdversarialLipschitz,
        Laplacian,
        DeepSpline,
        Fgsm,
        Free,
        OneStep,
        Trades,
        GroupSort,
        LipschitzMargin,
    )
}
"""The training methods, by name."""


def method_named(name: str, option: str = "method") -> type[Method]:
    """Return the class of a method.

    Args:
        name: a key of ``METHODS``, or ``package.module:Class``.
        option: the option that gives the name, for messages.

    Raises:
        ConfigError: there is no such method, or its class lacks something.
    """
    if ":" not in name:
        check_choice(option, name, tuple(METHODS))
        return METHODS[name]
    expected = "package.module:Class, a subclass of cheaplip.training.methods.Method"
    found = import_object(name, ConfigError, expected)
    if not (isinstance(found, type) and issubclass(found, Method)):
        got = found.__name__ if isinstance(found, type) else type(found).__name__
        raise ConfigError(f"{option}: expected {expected}, got {got} for {name!r}")
    missing = [part for part in ("name", "adds", "cost") if not hasattr(found, part)]
    if missing or inspect.isabstract(found):
        missing += sorted(getattr(found, "__abstractmethods__", ()))
        raise ConfigError(f"{option}: {name!r} lacks {', '.join(missing)}: give the class a value for each")
    return found
