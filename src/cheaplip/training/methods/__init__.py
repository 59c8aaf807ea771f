"""Training methods, a class each: what it adds to the loss, what it steers, its options, what it reports.

``method.py`` says what a method is. To add one, write a file like ``plain.py`` and name its class here; options of its
own join ``TrainConfig`` in ``config.py``. One that lives elsewhere is named as ``package.module:Class``.
"""

import inspect

from cheaplip.data.importing import resolve
from cheaplip.errors import ConfigError
from cheaplip.training.methods.adversarial import Adversarial
from cheaplip.training.methods.certified import Certified
from cheaplip.training.methods.clip import Clip
from cheaplip.training.methods.clip_certified import ClipCertified
from cheaplip.training.methods.method import Losses, Method, Setting
from cheaplip.training.methods.plain import Plain
from cheaplip.training.methods.weight import Weight
from cheaplip.training.options import check_choice

__all__ = ["METHODS", "Losses", "Method", "Setting", "method_named"]

METHODS: dict[str, type[Method]] = {
    method.name: method for method in (Plain, Weight, Clip, Adversarial, Certified, ClipCertified)
}
"""By name."""


def method_named(name: str, option: str = "method") -> type[Method]:
    """The class of a method, by its name or as ``package.module:Class``.

    Raises:
        ConfigError: there is no such method, or it is not a complete one.
    """
    if ":" not in name:
        check_choice(option, name, tuple(METHODS))
        return METHODS[name]
    expected = "package.module:Class, a subclass of cheaplip.training.methods.Method"
    found = resolve(name, ConfigError, expected)
    if not (isinstance(found, type) and issubclass(found, Method)):
        got = found.__name__ if isinstance(found, type) else type(found).__name__
        raise ConfigError(f"{option}: expected {expected}, got {got} for {name!r}")
    missing = [part for part in ("name", "adds", "cost") if not hasattr(found, part)]
    if missing or inspect.isabstract(found):
        missing += sorted(getattr(found, "__abstractmethods__", ()))
        raise ConfigError(f"{option}: {name!r} lacks {', '.join(missing)}: give the class a value for each")
    return found
