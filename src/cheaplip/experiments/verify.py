"""Whether a run's model card is true: everything proved is proved again, from the weights alone."""

import math
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

from cheaplip.experiments.card import data_digest, weights_digest
from cheaplip.experiments.certify import bracket_for_certificate, certify_inputs
from cheaplip.experiments.config import TrainConfig, from_json
from cheaplip.experiments.data import Data, load
from cheaplip.experiments.order import ContradictionError, check_order
from cheaplip.experiments.runs import RunError, RunFolder
from cheaplip.experiments.subjects import load_trained
from cheaplip.robustness import accuracy

__all__ = ["UntrueCardError", "verify"]

_CLEAN = 1e-3  # of the inputs: what another machine's float32 may classify differently
_ROUNDING = 1e-9


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
        seconds: for the search from below, about.
        data: the run's data, if loaded already.
        progress: called with (steps done, steps in all) of that search.

    Returns:
        The card.

    Raises:
        UntrueCardError: says why.
        RunError: there is no run, or no card.
    """
    card = folder.read_json("card.json")
    config = from_json(folder.read_json("config.json"))
    config.check_device()
    try:
        _check_run(card, config, folder)
        if data is None:
            data = load(config.data, label=config.label, split_seed=config.split_seed).to(config.resolved_device)
        if card["data"]["sha256"] != data_digest(data):
            raise UntrueCardError(
                f"no: the test data are not those of the card (SHA-256 {data_digest(data)[:12]}…, the card says "
                f"{card['data']['sha256'][:12]}…)"
            )
        _check_claims(card, config, folder, data, seconds, progress)
    except (KeyError, TypeError, AttributeError) as error:
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
    claimed, found = float(card["bracket"]["upper"]), b.upper
    if card["bracket"]["norm"] != 2 or card["bracket"]["domain"] != repr(b.domain):
        raise UntrueCardError(
            f"no: the card is about norm {card['bracket']['norm']} and the domain {card['bracket']['domain']}, "
            f"expected norm 2 and {b.domain!r}"
        )
    if b.lower > claimed:
        raise UntrueCardError(f"no: the card says Lip(f) ≤ {claimed:.6g}, two inputs have the quotient {b.lower:.6g}")
    if not found <= claimed:
        raise UntrueCardError(f"no: the card says Lip(f) ≤ {claimed:.6g}, here only {found:.6g} could be proved")
    clean = accuracy(model, data.test.x, data.test.y)
    if not abs(clean - float(card["accuracy"]["clean"])) <= _CLEAN:
        raise UntrueCardError(f"no: the card says accuracy {card['accuracy']['clean']:.4f}, here it is {clean:.4f}")
    prediction, radius = certify_inputs(model, data.test.x, replace(b, upper=claimed))
    correct = prediction == data.test.y
    figures = {"robust": card["accuracy"]["attacked"], "robust_samples": card["accuracy"]["attacked_inputs"]}
    try:
        check_order(figures, list(zip(correct.tolist(), radius.tolist(), strict=True)))
    except ContradictionError as error:
        raise UntrueCardError(f"no: {error}") from error
    for key, value in card["accuracy"]["certified"].items():
        proved = float((correct & (radius > float(key))).double().mean())
        if not (math.isfinite(value) and value <= proved + _ROUNDING):
            raise UntrueCardError(
                f"no: the card says that {value:.4f} is certified at ε = {key}, here {proved:.4f} could be proved"
            )
