"""Verification of a run's model card: what it claims to be proved is proved again, from the weights alone.

Everything that ``card.json``, ``card.md``, ``certified.csv`` and ``metrics.json`` state is computed again and compared,
or it is named as not checked. Files of a run that make no such statements are named, too. The file is long because it
follows everything that a card says.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any, NamedTuple

from torch import nn

from cheaplip.data import Data
from cheaplip.errors import RunError
from cheaplip.lipschitz.bracket import Bracket
from cheaplip.runs.folder import RunFolder
from cheaplip.trained.bracket import SECONDS
from cheaplip.trained.card import content, data_digest, description, markdown, weights_digest
from cheaplip.trained.card_form import CardFormError, UntrueCardError, check_form, differ, number, plain, shown
from cheaplip.trained.claims import check_bracket, check_certified, check_figure, check_method, witnessed_quotient
from cheaplip.trained.export import EXPORTED
from cheaplip.trained.exported import check_exported
from cheaplip.trained.loading import load_data, load_trained
from cheaplip.training.certified_csv import difference
from cheaplip.training.config import TrainConfig, from_json, renamed
from cheaplip.training.consistency import ContradictionError
from cheaplip.training.options import INDIFFERENT
from cheaplip.training.results import errors_of_outputs
from cheaplip.training.tasks import Task, task_of

__all__ = ["UntrueCardError", "Verified", "verify", "verify_card"]

_CHECKED = {"card.json", "card.md", "certified.csv", "metrics.json", "config.json", "model.safetensors", ".lock"}
_CHECKED |= {"data.json", "witness.safetensors", "model-card.json", *EXPORTED}
_MOST_BYTES = 256 << 20  # of certified.csv and card.md
_MOST_RADII = 1000
_ROUNDING = 1e-9


class Verified(NamedTuple):
    """A card that is true.

    Attributes:
        card: the content of ``card.json``.
        unchecked: what it or its folder states besides, that cannot be computed again; in words.
    """

    card: dict[str, Any]
    unchecked: tuple[str, ...]


class _Run(NamedTuple):
    """A run whose statements are checked: its folder, options, data and model, and what its card and metrics say."""

    folder: RunFolder
    config: TrainConfig
    data: Data
    model: nn.Module
    card: dict[str, Any]
    metrics: dict[str, Any]


def verify(
    folder: RunFolder,
    *,
    seconds: float = SECONDS,
    data: Data | None = None,
    source: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Check a run's card; as :func:`verify_card`, but only the content of ``card.json`` is returned."""
    return verify_card(folder, seconds=seconds, data=data, source=source, progress=progress).card


def verify_card(
    folder: RunFolder,
    *,
    seconds: float = SECONDS,
    data: Data | None = None,
    source: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Verified:
    """Check a run's card against its options, weights and data, and prove its bound and certified figures again.

    ``certified.csv``, the figures of ``metrics.json`` and an exported model in the folder are checked as well. Figures
    under attack are not measured again (``cheaplip evaluate`` does that); they must only be consistent with the others.

    Args:
        folder: the folder of a certified run.
        seconds: time for both ends of the bracket, about. If the upper end is not proved by then, the computation goes
            on for as long as it becomes smaller, up to 16 times as long.
        data: the data of the run. None: it is loaded.
        source: where its data are now, if they have moved.
        progress: called with (steps done, steps in all) of the search.

    Returns:
        The content of ``card.json``, and what could not be checked.

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
            data = load_data(config, folder, source)
        if card["data"]["sha256"] != data_digest(data):
            raise UntrueCardError(
                f"no: the test data are not those of the card (SHA-256 {data_digest(data)[:12]}…, the card says "
                f"{shown(card['data']['sha256'])})"
            )
        _check_description(card, config, data)
        model = load_trained(folder, config, data)
        run = _Run(folder, config, data, model, card, folder.read_json("metrics.json"))
        unchecked = _check_claims(run, seconds, progress)
        _check_text(card, folder)
    except RunError:
        raise
    except (ArithmeticError, AttributeError, CardFormError, KeyError, TypeError) as error:
        problem = " ".join(f"{type(error).__name__}: {error}".split())
        raise RunError(f"{folder.path / 'card.json'} is not a card of 'cheaplip certify' ({problem[:200]})") from error
    return Verified(card, (*unchecked, *_other_files(folder)))


def _check_run(card: dict[str, Any], config: TrainConfig, folder: RunFolder) -> None:
    """Check that the card is about this run and these weights; this takes no computation."""
    mine, claimed = asdict(config), renamed(card["training"])
    options = [name for name in claimed if name in mine and name != "epochs"]  # the card has the epochs that were run
    changed = [name for name in options if differ(claimed[name], mine[name])]
    if changed:
        differences = ", ".join(f"{name} {mine[name]!r}, the card says {shown(claimed[name])}" for name in changed)
        raise UntrueCardError(f"no: this is the card of another model ({differences})")
    if card["model"]["sha256"] != weights_digest(folder):
        raise UntrueCardError(
            f"no: model.safetensors is not the file that the card is about (SHA-256 {weights_digest(folder)[:12]}…, "
            f"the card says {shown(card['model']['sha256'])}): it was changed, or the card is another model's"
        )
    foreign = sorted(set(claimed) - set(mine) | set(claimed) & set(INDIFFERENT))
    if foreign:
        raise CardFormError(f"training: unknown option {', '.join(map(shown, foreign[:5]))}")


def _check_description(card: dict[str, Any], config: TrainConfig, data: Data) -> None:
    """Check what the card says about the model and the data, apart from their hashes."""
    for section, values in description(config, data).items():
        for name, mine in values.items():
            if differ(claimed := card[section][name], mine):
                raise UntrueCardError(f"no: the card says {section} {name} {shown(claimed)}, here it is {mine!r}")


def _check_claims(run: _Run, seconds: float, progress: Callable[[int, int], None] | None) -> list[str]:
    """Check the numbers: both ends of the bracket, and all of the card, ``certified.csv`` and ``metrics.json``."""
    folder, config, data, model, card, metrics = run
    task = task_of(data)
    figures = card[task.figure]
    radii = _radii(figures["certified"])
    above = number(card["bracket"]["upper"])
    upper = (metrics.get("lipschitz") or {}).get("upper")
    least = above if upper is None else min(above, number(upper))
    shown_below = witnessed_quotient(folder, model, data)
    b, lower = check_bracket(card["bracket"], least, model, data, shown_below, seconds, progress)
    found = task.figures(model, *data.test)[task.figure]
    error = task.mode == "min"
    check_figure(f"the card says {task.figure}", figures["clean"], found, len(data.test.x), error=error)
    certificate = task.certify(model, *data.test, replace(b, upper=above), radii, local=_is_local(run))
    for key in figures["attacked"]:
        count = figures["attacked_inputs"].get(key)
        if isinstance(count, bool) or not (isinstance(count, int) and 0 < count <= len(data.test.x)):
            raise UntrueCardError(
                f"no: the card says {plain(key)} of {shown(count)} inputs, expected 1 to {len(data.test.x)}"
            )
    for attacked in (
        {"robust": figures["attacked"], "robust_samples": figures["attacked_inputs"]},
        {"robust": metrics.get("robust"), "robust_samples": metrics.get("robust_samples")},
    ):
        try:
            task.check_consistency(attacked, certificate.table)
        except ContradictionError as contradiction:
            raise UntrueCardError(f"no: {contradiction}") from contradiction
        except ValueError as error:  # a name without a radius
            raise CardFormError(f"attacks: {error}") from error
    check_certified(figures["certified"], certificate, data)
    _check_form(run, b)
    _check_table(folder, certificate.table)
    _check_metrics(run, b, lower, seconds)
    exported = check_exported(folder, config, data, model, metrics)
    return [*_unchecked(card, metrics, task, several=data.label_scaling is not None), *exported]


def _is_local(run: _Run) -> bool:
    """Return whether the certificate rests on bounds around each input, as card and metrics have to agree."""
    claims = [run.card["bracket"].get("local", False), run.metrics.get("local", False)]
    if claims[0] is not claims[1] or claims[0] not in (False, True):
        raise UntrueCardError(f"no: the card says local {shown(claims[0])}, metrics.json {shown(claims[1])}")
    return bool(claims[0])


def _radii(figures: Mapping[str, Any]) -> list[float]:
    if len(figures) > _MOST_RADII:
        raise CardFormError(f"expected at most {_MOST_RADII} certified figures, got {len(figures)}")
    try:
        return [float(key) for key in figures]
    except ValueError as error:
        raise CardFormError(f"certified: {error}") from error


def _check_form(run: _Run, b: Bracket) -> None:
    """Check that the card has the sections and keys that ``cheaplip certify`` writes, and no others."""
    figure = task_of(run.data).figure
    check_form(run.card, content(run.folder, run.config, run.data, run.metrics, b), figure)
    for key, value in run.card[figure]["attacked"].items():
        if not (number(value) >= 0 and number(value) < float("inf") and (figure != "accuracy" or value <= 1)):
            raise UntrueCardError(f"no: the card says {key} = {shown(value)}, which is no {figure}")


def _check_table(folder: RunFolder, expected: str) -> None:
    """Check ``certified.csv`` row by row."""
    problem = difference(_text(folder, "certified.csv"), expected)
    if problem:
        raise UntrueCardError(f"no: certified.csv: {problem}; 'cheaplip certify' writes it again")


def _check_metrics(run: _Run, b: Bracket, seen: float, seconds: float) -> None:
    """Check what ``metrics.json`` says of the model, and that it says the same as the card."""
    folder, config, data, model, card, metrics = run
    task = task_of(data)
    if strange := [name for name in metrics if not name.isprintable()]:
        raise UntrueCardError(f"no: metrics.json: unknown key {shown(strange[0])}")
    parts = {"train": data.train, "validation": data.validation, "test": data.test}
    try:
        for figure, values in task.metrics(model, parts).items():
            for part, found in values.items():
                name, size = f"metrics.json says {part} {figure}", len(parts[part].x)
                relative = task.mode == "min" or figure != task.figure  # an area under a curve counts no inputs
                check_figure(name, metrics[figure][part], found, size, error=relative)
            if set(metrics[figure]) != set(values):
                raise UntrueCardError(f"no: metrics.json {figure}: expected {', '.join(values)}")
        for figure, of_parts in errors_of_outputs(model, data).items():
            if {part: len(values) for part, values in metrics[figure].items()} != dict.fromkeys(parts, data.outputs):
                raise UntrueCardError(
                    f"no: metrics.json {figure}: expected {data.outputs} errors for each of {', '.join(parts)}"
                )
            for part, values in of_parts.items():
                for output, found in enumerate(values):
                    name = f"metrics.json says {part} RMSE of output {output + 1}"
                    check_figure(name, metrics[figure][part][output], found, 1, error=True)
        known = metrics["lipschitz"]
        if unknown := set(known) - {"lower", "upper", "upper_method"}:
            raise UntrueCardError(f"no: metrics.json lipschitz: unknown key {shown(min(unknown))}")
        lower, upper = number(known["lower"]), number(known["upper"])
        if not number(card["bracket"]["lower"]) <= lower <= seen * (1 + _ROUNDING):
            raise UntrueCardError(
                f"no: metrics.json says Lip(f) ≥ {lower:.6g}, expected at least that of the card and at most "
                f"{seen:.6g}, which two inputs have"
            )
        if not upper <= number(card["bracket"]["upper"]):
            raise UntrueCardError(f"no: metrics.json says Lip(f) ≤ {upper:.6g}, expected at most that of the card")
        check_method(known["upper_method"], upper, b, model, data, seconds)
        epochs = metrics["epochs"]
    except (ArithmeticError, AttributeError, KeyError, TypeError) as error:
        raise RunError(f"{folder.path / 'metrics.json'} is damaged ({type(error).__name__}: {error})") from error
    _check_constant(run)
    same = (
        ("certified", metrics.get("certified"), card[task.figure]["certified"]),
        ("epochs", epochs, card["training"]["epochs"]),
        ("seed", metrics.get("seed"), config.seed),
    )
    for name, mine, other in same:
        if differ(mine, other):
            raise UntrueCardError(f"no: metrics.json says {name} {shown(mine)}, expected {shown(other)}")
    if differ(epochs, config.resolved_epochs):
        raise UntrueCardError(f"no: the card says {shown(epochs)} epochs, config.json {config.resolved_epochs}")
    history = folder.history()
    if history and len(history) != epochs:
        raise UntrueCardError(f"no: the card says {shown(epochs)} epochs, history.jsonl has {len(history)}")


def _check_constant(run: _Run) -> None:
    """Check that a network which is said to give one answer for all inputs does so, and gives that one."""
    claims = [claimed.get("constant_answer") for claimed in (run.card, run.metrics)]
    if differ(*claims):
        raise UntrueCardError(f"no: the card says constant_answer {shown(claims[0])}, metrics.json {shown(claims[1])}")
    if claims[0] is not None:
        data = run.data
        found = task_of(data).constant_answer(run.model, [data.test, data.validation], data.class_names)
        if not (found and (found == claims[0] or not data.classes)):
            raise UntrueCardError(f"no: the card says constant_answer {shown(claims[0])}, here it is {shown(found)}")


def _check_text(card: dict[str, Any], folder: RunFolder) -> None:
    """Check that ``card.md`` says the same as ``card.json``."""
    if _text(folder, "card.md") != markdown(card):
        raise UntrueCardError(
            "no: card.md does not say what card.json says: one of them was changed, or another version wrote them; "
            "'cheaplip certify' writes both again"
        )


def _text(folder: RunFolder, name: str) -> str:
    path = folder.path / name
    if path.is_file() and path.stat().st_size > _MOST_BYTES:
        raise RunError(f"{path}: expected at most {_MOST_BYTES} bytes, got {path.stat().st_size}")
    try:
        return folder.read_bytes(name).decode()
    except UnicodeDecodeError as error:
        raise RunError(f"cannot read {path}: {error}") from error
    except RunError as error:
        raise RunError(f"{error}: 'cheaplip certify {folder.path}' writes it again") from error


def _unchecked(card: Mapping[str, Any], metrics: Mapping[str, Any], task: Task, *, several: bool) -> list[str]:
    """Name what is stated but cannot be computed again."""
    found = ["how it was trained, and with which versions: the card only agrees with config.json"]
    if card[task.figure]["attacked"]:
        found.append(f"figures under attack: {', '.join(card[task.figure]['attacked'])} ('cheaplip evaluate')")
    checked = {"certified", "constant_answer", "lipschitz", "local", "epochs", "seed", "rmse", "mae", "accuracy"}
    checked |= {"auc", "sensitivity_at_95_specificity"} | ({"rmse_of_outputs"} if several else set())
    if others := [plain(name) for name in metrics if name not in checked]:
        found.append(f"in metrics.json: {', '.join(others)}")
    return found


def _other_files(folder: RunFolder) -> list[str]:
    names = sorted(path.name for path in folder.path.iterdir() if path.name not in _CHECKED)
    return [f"other files: {', '.join(plain(name) for name in names)}"] if names else []
