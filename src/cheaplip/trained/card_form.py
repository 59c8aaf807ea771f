"""The form of a model card: its keys and the types of its values, before anything in it is believed."""

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from cheaplip.errors import RunError

__all__ = ["CardFormError", "UntrueCardError", "check_form", "differ", "number", "plain", "shown"]

_ATTACK = re.compile(r"[a-z0-9-]+@([0-9.e+-]+)", re.ASCII)
_VERSION = re.compile(r"[0-9A-Za-z.+_-]{1,60}", re.ASCII)


class CardFormError(ValueError):
    """A card has another form than ``cheaplip certify`` gives it."""


class UntrueCardError(RunError):
    """A model card claims something that is not true."""


def check_form(card: Mapping[str, Any], expected: Mapping[str, Any], figure: str) -> None:
    """Refuse a card with other keys or types than the one expected.

    Options of the training may be missing, as in the cards of earlier versions, which had fewer.

    Args:
        card: the content of ``card.json``.
        expected: what ``cheaplip certify`` would write now; of its values only the types count.
        figure: the section of the figures; the keys of its parts are radii, or attacks with their radii.

    Raises:
        CardFormError: the message names the place.
    """
    _check_keys("", card, expected)
    for section, values in expected.items():
        given = card[section]
        if isinstance(values, str):
            if not isinstance(given, str):
                raise CardFormError(f"{section}: expected text, got {shown(given)}")
            continue
        if not isinstance(given, dict):
            raise CardFormError(f"{section}: expected an object, got {shown(given)}")
        if section == "versions":
            _check_versions(given)
            continue
        missing = set(values) - set(given) if section == "training" else set()
        _check_keys(f"{section} ", given, {name: value for name, value in values.items() if name not in missing})
    for part, named in (("attacked", True), ("attacked_inputs", True), ("certified", False)):
        _check_radii(f"{figure} {part}", card[figure][part], named=named)
    extra = set(card[figure]["attacked_inputs"]) - set(card[figure]["attacked"])
    if extra:
        raise CardFormError(f"{figure} attacked_inputs: expected attacks of the card, got also {shown(min(extra))}")


def number(value: object) -> float:
    """Return a number as a float.

    Raises:
        TypeError: it is none; truth values are none.
        OverflowError: it is too large.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"expected a number, got {shown(value)}")
    return float(value)


def differ(one: object, other: object) -> bool:
    """Return whether two values are written differently in JSON: 1, 1.0 and true are three values."""
    return json.dumps(one, sort_keys=True) != json.dumps(other, sort_keys=True)


def shown(value: object) -> str:
    """Write a value for a message, on one short line."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}…"


def plain(value: object) -> str:
    """Write a value as :func:`shown` does, but text without its quotes."""
    return shown(value)[1:-1] if isinstance(value, str) else shown(value)


def _check_keys(place: str, given: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    for problem, names in (("unknown", set(given) - set(expected)), ("missing", set(expected) - set(given))):
        if names:
            listed = ", ".join(shown(name) for name in sorted(names)[:5])
            raise CardFormError(f"{place}{problem} key {listed}: expected those that 'cheaplip certify' writes")


def _check_versions(given: Mapping[str, Any]) -> None:
    for name, version in given.items():
        if name not in ("cheaplip", "torch", "python"):
            raise CardFormError(f"versions unknown key {shown(name)}: expected cheaplip, torch and python")
        if not (isinstance(version, str) and _VERSION.fullmatch(version)):
            raise CardFormError(f"versions {name}: expected a version, got {shown(version)}")


def _check_radii(place: str, given: Any, *, named: bool) -> None:
    if not isinstance(given, dict):
        raise CardFormError(f"{place}: expected an object, got {shown(given)}")
    for key, value in given.items():
        match = _ATTACK.fullmatch(key)
        text = (match[1] if match else "") if named else key
        try:
            radius = float(text)
        except ValueError:
            radius = math.nan
        if not (math.isfinite(radius) and radius >= 0 and str(radius) == text):
            form = "an attack and its radius, such as 'pgd@0.5'" if named else "radii, such as '0.5'"
            raise CardFormError(f"{place}: expected {form}, got the key {shown(key)}")
        if value is not None:
            number(value)
