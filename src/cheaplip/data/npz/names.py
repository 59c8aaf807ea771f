"""The names of arrays: which of them hold the inputs and the labels, of one part or of several."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from cheaplip.data.arrays import PARTS
from cheaplip.errors import DataError
from cheaplip.suggestion import did_you_mean

__all__ = ["find_named_pairs", "find_pairs", "refuse_names"]

_PARTS = {"train": "train", "training": "train", "test": "test", "testing": "test"} | dict.fromkeys(
    ("val", "valid", "validation", "dev"), "validation"
)
_INPUTS = ("x", "data", "image", "images", "imgs", "feature", "features", "input", "inputs")
_LABELS = ("y", "target", "targets", "label", "labels")
_PAIRS = (  # where several names of either kind are there, these belong together
    *(("x", "y"), ("data", "target"), ("data", "targets"), ("data", "labels"), ("data", "label"), ("images", "labels")),
    *(("image", "label"), ("imgs", "labels"), ("features", "labels"), ("features", "target"), ("features", "targets")),
    *(("inputs", "targets"), ("inputs", "labels"), ("arr_0", "arr_1")),
)


def find_pairs(names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Find the arrays of inputs and labels by their names.

    Args:
        names: of all arrays.

    Returns:
        The names of the inputs and the labels for each part, or for the part ``""`` where there is one pair for all;
        empty if no names are usual ones, or several are.
    """
    found = {}
    for part, known in _by_part(names).items():
        pairs = [pair for pair in _PAIRS if set(pair) <= set(known)]
        inputs, labels = ([name for name in usual if name in known] for usual in (_INPUTS, _LABELS))
        if not pairs and len(inputs) == len(labels) == 1:
            pairs = [(inputs[0], labels[0])]
        if pairs:
            found[part] = (known[pairs[0][0]], known[pairs[0][1]])
    return _one_or_parts(found)


def find_named_pairs(arrays: Mapping[str, NDArray[Any]], label: str, source: str) -> dict[str, tuple[str, str]]:
    """Find the arrays of the labels that have a given name, and their inputs.

    The inputs are those of a usual pair, or have one of the usual names, or are the only other array with as many rows.

    Args:
        arrays: all of them, by name; they are read only where names do not tell the inputs.
        label: the name of the labels' array, without the part where there are several: ``kind`` for ``kind_train``.
        source: where they come from, for messages.

    Returns:
        The pairs, as from :func:`find_pairs`.

    Raises:
        DataError: there is no such array, or no array or several that may be its inputs.
    """
    names = list(arrays)
    usual = find_pairs(names)
    if any(y == label for _, y in usual.values()):
        return usual
    if label not in names:
        parts = {
            part: (known[inputs[0]], known[label.lower()])
            for part, known in _by_part(names).items()
            if part and label.lower() in known and len(inputs := [name for name in _INPUTS if name in known]) == 1
        }
        if found := _one_or_parts(parts):
            return found
        hint = did_you_mean(label, names) or "; name one of them"
        raise DataError(f"{source}: expected an array {label!r}, as --label says, got {_listed(names)}{hint}")
    others = [name for name in names if name != label]
    inputs = [name for name in others if name.lower() in _INPUTS]
    if len(inputs) != 1:
        rows = _shape(arrays, label)[:1]
        inputs = [name for name in inputs or others if len(shape := _shape(arrays, name)) > 1 and shape[:1] == rows]
    if len(inputs) != 1:
        raise DataError(
            f"{source}: expected one array of inputs, named x or with as many rows as {label}, got "
            f"{_listed(inputs or others)}; name it x: np.savez(path, x=x, {label}={label})"
        )
    return {"": (inputs[0], label)}


def refuse_names(names: Sequence[str], source: str) -> DataError:
    """Return the error for arrays whose names do not tell the inputs and the labels."""
    return DataError(
        f"{source}: expected arrays named x and y, got {_listed(names)}; write them with np.savez(path, x=x, y=y), or "
        "name the labels with label=, --label on the command line (names that are known: "
        f"{', '.join(_INPUTS)} and {', '.join(_LABELS)}; for a given split x_train, y_train, x_test, y_test and such)"
    )


def _by_part(names: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return the names of each part, and of the part ``""``, by what they say of their role there."""
    read: dict[str, dict[str, str]] = {}
    for name in names:
        for part, role in _readings(name):
            read.setdefault(part, {}).setdefault(role, name)
    return read


def _one_or_parts(found: dict[str, tuple[str, str]]) -> dict[str, tuple[str, str]]:
    if "train" in found and ("test" in found or "validation" in found):
        return {part: found[part] for part in PARTS if part in found}
    return {"": found[""]} if "" in found else {}


def _readings(name: str) -> Iterator[tuple[str, str]]:
    """Return the part and the role that a name speaks of: x_train, trainX, test_labels, X."""
    yield "", name.lower()
    words = re.split(r"[_\-. ]", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower())
    if len(words) == 2:
        for part, role in (words, words[::-1]):
            if part in _PARTS:
                yield _PARTS[part], role
    joined = re.fullmatch(r"(x|y)(tr|te|train|test|val)|(train|test|val)(x|y)", name.lower())
    if joined:
        part = {"tr": "train", "te": "test"}.get(joined[2], joined[2]) or joined[3]
        yield _PARTS[part], joined[1] or joined[4]


def _shape(arrays: Mapping[str, NDArray[Any]], name: str) -> tuple[int, ...]:
    try:
        return arrays[name].shape
    except ValueError:  # an array of objects, which is not read
        return ()


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"
