"""Verification of a run's model card: what it claims to be proved is proved again, from the weights alone."""

import math
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

from cheaplip.data import Data
from cheaplip.errors import RunError
from cheaplip.runs.folder import RunFolder
from cheaplip.trained.bracket import SECONDS
from cheaplip.trained.card import data_digest, description, markdown, weights_digest
from cheaplip.trained.certify import bracket_for_certificate
from cheaplip.trained.loading import load_data, load_trained
from cheaplip.training.config import TrainConfig, from_json, renamed
from cheaplip.training.consistency import ContradictionError
from cheaplip.training.tasks import task_of

__all__ = ["UntrueCardError", "verify"]

_CLEAN = 1e-3  # difference of the clean figure that float32 arithmetic on another machine may make


class UntrueCardError(RunError):
    """A model card claims something that is not true."""


def verify(
    folder: RunFolder,
    *,
    seconds: float = SECONDS,
    data: Data | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Check a run's card against its options, weights and data, and prove its bound and certified figures again.

    Figures under attack are not measured again (``cheaplip evaluate`` does that); they must only be consistent with the
    others.

    Args:
        folder: the folder of a certified run.
        seconds: time for both ends of the bracket, about.
        data: the data of the run. None: it is loaded.
        progress: called with (steps done, steps in all) of the search.

    Returns:
        The content of ``card.json``.

    Raises:
        UntrueCardError: the card is not true; the message says why.
        RunError: there is no run, or no card.
    """
    if folder.exists() and not (folder.path / "card.json").is_file():
        raise RunError(f"no card.json in {folder.path}: 'cheaplip certify {folder.path}' writes one")
    card = folder.read_json("card.json")
    config = from_json(folder.read_json("config.json"))
    config.check_device()
    try:
        _check_run(card, config, folder)
        if data is None:
            data = load_data(config)
        if card["data"]["sha256"] != data_digest(data):
            raise UntrueCardError(
                f"no: the test data are not those of the card (SHA-256 {data_digest(data)[:12]}…, the card says "
                f"{card['data']['sha256'][:12]}…)"
            )
        _check_description(card, config, data)
        _check_claims(card, config, folder, data, seconds, progress)
        _check_text(card, folder)
    except (ArithmeticError, AttributeError, KeyError, TypeError) as error:
        raise RunError(
            f"{folder.path / 'card.json'} is not a card of 'cheaplip certify' ({type(error).__name__}: {error})"
        ) from error
    return card


def _check_run(card: dict[str, Any], config: TrainConfig, folder: RunFolder) -> None:
    """Check that the card is about this run and these weights; this takes no computation."""
    mine, claimed = asdict(config), renamed(card["training"])
    changed = [name for name in claimed if name in mine and name != "epochs" and claimed[name] != mine[name]]
    if changed:
        differences = ", ".join(f"{name} {mine[name]!r}, the card says {claimed[name]!r}" for name in changed)
        raise UntrueCardError(f"no: this is the card of another model ({differences})")
    if card["model"]["sha256"] != weights_digest(folder):
        raise UntrueCardError(
            f"no: {card['model']['weights']} is not the file that the card is about (SHA-256 "
            f"{weights_digest(folder)[:12]}…, the card says {card['model']['sha256'][:12]}…): it was changed, or the "
            "card is another model's"
        )


def _check_description(card: dict[str, Any], config: TrainConfig, data: Data) -> None:
    """Check what the card says about the model and the data, apart from their hashes."""
    for section, values in description(config, data).items():
        for name, mine in values.items():
            if (claimed := card[section][name]) != mine:
                raise UntrueCardError(f"no: the card says {section} {name} {claimed!r}, here it is {mine!r}")


def _check_claims(
    card: dict[str, Any],
    config: TrainConfig,
    folder: RunFolder,
    data: Data,
    seconds: float,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Check the numbers: the bracket, the clean figure, the figures under attack, the certified ones."""
    model = load_trained(folder, config, data)
    b = bracket_for_certificate(model, data, seconds=seconds, progress=progress)
    below, claimed, found = _number(card["bracket"]["lower"]), _number(card["bracket"]["upper"]), b.upper
    if card["bracket"]["norm"] != 2 or card["bracket"]["domain"] != repr(b.domain):
        raise UntrueCardError(
            f"no: the card is about norm {card['bracket']['norm']} and the domain {card['bracket']['domain']}, "
            f"expected norm 2 and {b.domain!r}"
        )
    if b.lower > claimed:
        raise UntrueCardError(f"no: the card says Lip(f) ≤ {claimed:.6g}, two inputs have the quotient {b.lower:.6g}")
    if not found <= claimed:
        raise UntrueCardError(
            f"no: the card says Lip(f) ≤ {claimed:.6g}, in {seconds:g} seconds only {found:.6g} could be proved here: "
            "a large network may need a longer --seconds"
        )
    if not 0 <= below <= found:
        raise UntrueCardError(f"no: the card says Lip(f) ≥ {below:.6g}, here Lip(f) ≤ {found:.6g} could be proved")
    gap, claimed_gap = replace(b, lower=below, upper=claimed).gap, card["bracket"]["gap"]
    if not math.isclose(math.inf if claimed_gap is None else _number(claimed_gap), gap):
        raise UntrueCardError(f"no: the card says gap {claimed_gap}, the quotient of its own ends is {gap:.6g}")
    task = task_of(data)
    figures = card[task.figure]
    clean, claimed_clean = task.figures(model, *data.test)[task.figure], _number(figures["clean"])
    if not abs(clean - claimed_clean) <= _CLEAN * max(1.0, abs(clean)):
        raise UntrueCardError(f"no: the card says {task.figure} {claimed_clean:.4f}, here it is {clean:.4f}")
    radii = [float(key) for key in figures["certified"]]
    certificate = task.certify(model, *data.test, replace(b, upper=claimed), radii)
    for key in figures["attacked"]:
        count = figures["attacked_inputs"].get(key)
        if not (isinstance(count, int) and 0 < count <= len(data.test.x)):
            raise UntrueCardError(f"no: the card says {key} of {count} inputs, expected 1 to {len(data.test.x)}")
    attacked = {"robust": figures["attacked"], "robust_samples": figures["attacked_inputs"]}
    try:
        task.check_consistency(attacked, certificate.table)
    except ContradictionError as error:
        raise UntrueCardError(f"no: {error}") from error
    for key, value in figures["certified"].items():
        proved = certificate.figures[str(float(key))]
        if not (math.isfinite(value) and task.proves(proved, value)):
            raise UntrueCardError(
                f"no: the card says that {value:.4f} is certified at ε = {key}, here {proved:.4f} could be proved"
            )


def _check_text(card: dict[str, Any], folder: RunFolder) -> None:
    """Check that ``card.md``, if there is one, says the same as ``card.json``."""
    text = folder.read_text("card.md")
    if text and text != markdown(card):
        raise UntrueCardError(
            "no: card.md does not say what card.json says: one of them was changed, or another version wrote them; "
            "'cheaplip certify' writes both again"
        )


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"expected a number, got {value!r}")
    return float(value)
