"""Whether a run's model card is true: everything proved is proved again, from the weights alone."""

import math
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

from cheaplip.data import Data
from cheaplip.errors import RunError
from cheaplip.runs.folder import RunFolder
from cheaplip.trained.card import data_digest, described, markdown, weights_digest
from cheaplip.trained.certify import bracket_for_certificate
from cheaplip.trained.subject import data_of, load_trained
from cheaplip.training.config import TrainConfig, from_json
from cheaplip.training.order import ContradictionError
from cheaplip.training.tasks import task_of

__all__ = ["UntrueCardError", "verify"]

_CLEAN = 1e-3  # of the inputs: what another machine's float32 may classify differently


class UntrueCardError(RunError):
    """A model card claims what is not so."""


def verify(
    folder: RunFolder,
    *,
    seconds: float = 30.0,
    data: Data | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Check a run's card against its configuration, weights and data; prove its bound and certified accuracies again.

    Attacked accuracies are not recomputed (``cheaplip evaluate`` does that), only held against the rest.

    Args:
        folder: of a certified run.
        seconds: for both ends, about.
        data: the run's data, if loaded already.
        progress: called with (steps done, steps in all) of that search.

    Returns:
        The card.

    Raises:
        UntrueCardError: says why.
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
            data = data_of(config)
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
    """Without any computing: the same run, the same weights."""
    mine, claimed = asdict(config), card["training"]
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
    """What the card says of the model and of the data, beside their hashes."""
    for section, values in described(config, data).items():
        for name, mine in values.items():
            if card[section].get(name, mine) != mine:
                said = card[section][name]
                raise UntrueCardError(f"no: the card says {section} {name} {said!r}, here it is {mine!r}")


def _check_claims(
    card: dict[str, Any],
    config: TrainConfig,
    folder: RunFolder,
    data: Data,
    seconds: float,
    progress: Callable[[int, int], None] | None,
) -> None:
    """The numbers."""
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
            "a large network may need more of them"
        )
    if not 0 <= below <= found:
        raise UntrueCardError(f"no: the card says Lip(f) ≥ {below:.6g}, here Lip(f) ≤ {found:.6g} could be proved")
    gap, told = replace(b, lower=below, upper=claimed).gap, card["bracket"]["gap"]
    if not math.isclose(math.inf if told is None else _number(told), gap):
        raise UntrueCardError(f"no: the card says gap {told}, its own ends are {gap:.6g} apart")
    task = task_of(data)
    figures = card[task.figure]
    clean, said = task.figures(model, *data.test)[task.figure], _number(figures["clean"])
    if not abs(clean - said) <= _CLEAN * max(1.0, abs(clean)):
        raise UntrueCardError(f"no: the card says {task.figure} {said:.4f}, here it is {clean:.4f}")
    radii = [float(key) for key in figures["certified"]]
    certificate = task.certificate(model, *data.test, replace(b, upper=claimed), radii)
    for key in figures["attacked"]:
        count = figures["attacked_inputs"].get(key)
        if not (isinstance(count, int) and 0 < count <= len(data.test.x)):
            raise UntrueCardError(f"no: the card says {key} of {count} inputs, expected 1 to {len(data.test.x)}")
    attacked = {"robust": figures["attacked"], "robust_samples": figures["attacked_inputs"]}
    try:
        task.check_order(attacked, certificate.table)
    except ContradictionError as error:
        raise UntrueCardError(f"no: {error}") from error
    for key, value in figures["certified"].items():
        proved = certificate.figures[str(float(key))]
        if not (math.isfinite(value) and task.proves(proved, value)):
            raise UntrueCardError(
                f"no: the card says that {value:.4f} is certified at ε = {key}, here {proved:.4f} could be proved"
            )


def _check_text(card: dict[str, Any], folder: RunFolder) -> None:
    """The card to be read, where there is one, is the one that was checked."""
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
