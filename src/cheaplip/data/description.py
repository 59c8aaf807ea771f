"""What was read, in three lines: the inputs and their classes, how they were read, and how they are split."""

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray
from torch import Tensor

from cheaplip.data.tables.encoding import TableEncoding

__all__ = ["describe", "describe_inputs", "describe_labels"]

_LISTED = 5  # classes whose shares are listed one by one
_SIDE = 4  # pixels of the smallest image
_CHANNELS = {1: "grey", 3: "colour"}


def describe(inputs: str, labels: str, notes: Sequence[str], parts: Sequence[Tensor], how: str) -> tuple[str, ...]:
    """Describe a data set in three lines.

    Args:
        inputs, labels: from the functions below.
        notes: how the source was read, where that is not the usual way.
        parts: the rows, or labels, of the training, the validation and the test part.
        how: how it was split.
    """
    train, validation, test = (f"{len(part):,}" for part in parts)
    return (
        f"{inputs}; {labels}",
        f"read with: {'; '.join(notes)}" if notes else "read with: the usual settings",
        f"{train} to train on, {validation} for validation, {test} for the test: {how}",
    )


def describe_inputs(
    x: NDArray[Any],
    *,
    standard: bool = False,
    bounds: tuple[float, float] | None = None,
    encoding: TableEncoding | None = None,
) -> str:
    r"""Describe inputs.

    Args:
        x: inputs as the source has them, (N, \*shape).
        standard: whether they are standardised.
        bounds: the range of values that is read as 0 to 1. None: they are not read in this way.
        encoding: what the columns of a table became.
    """
    low, high = (float(x.min()), float(x.max())) if bounds is None else bounds
    ranged = f"{low:,g} to {high:,g}"
    values = (
        "in standard deviations" if standard else f"{ranged}, {'as they are' if bounds is None else 'read as 0 to 1'}"
    )
    count = f"{len(x):,}"
    if encoding is not None:
        categories = encoding.categorical
        numbers = len(encoding.columns) - len(categories)
        kinds = [f"{numbers} column{'s'[: numbers != 1]} of numbers"] if numbers else []
        if categories:
            named = ", ".join(categories[:_LISTED]) + ", …"[: 3 * (len(categories) > _LISTED)]
            kinds.append(f"{len(categories)} of categories ({named}), together {x.shape[1]} features")
        values = f", {values}" if numbers else ""
        return f"{count} rows, {', '.join(kinds)}{values}"
    if x.ndim == 3 and min(x.shape[1:]) >= _SIDE:
        return f"{count} images, {x.shape[1]} × {x.shape[2]}, grey, {values}"
    if x.ndim == 4 and min(x.shape[2:]) >= _SIDE:
        channels = _CHANNELS.get(x.shape[1], f"{x.shape[1]} channels")
        return f"{count} images, {x.shape[2]} × {x.shape[3]}, {channels}, {values}"
    shape = f", {x.shape[1]} features" if x.ndim == 2 else f" of shape {' × '.join(map(str, x.shape[1:]))}"
    return f"{count} samples{shape}, {values}"


def describe_labels(y: Tensor, names: Sequence[str] = ()) -> str:
    """Describe labels: classes (N,) and their shares, or numbers (N, k)."""
    if y.is_floating_point():
        ranges = [f"{low:g} to {high:g}" for low, high in zip(y.amin(0).tolist(), y.amax(0).tolist(), strict=True)]
        if len(ranges) == 1:
            return f"a number to predict, {ranges[0]}"
        shown = " / ".join(ranges[:_LISTED]) + " / …"[: 4 * (len(ranges) > _LISTED)]
        return f"{len(ranges)} numbers to predict, {shown}, each in its standard deviations"
    counts = y.bincount(minlength=len(names)).tolist()
    shares = [_share(count, len(y)) for count in counts]
    if len(counts) > _LISTED:
        rarest, most = _share(min(counts), len(y)), _share(max(counts), len(y))
        return (
            f"{len(counts)} classes, {rarest} each"
            if rarest == most
            else f"{len(counts)} classes, {rarest} to {most} each"
        )
    listed = [f"{name} {share}" for name, share in zip(names, shares, strict=True)] if names else shares
    return f"{len(counts)} classes, {' / '.join(listed)}"


def _share(count: int, total: int) -> str:
    percent = 100 * count / total
    return f"{percent:.0f} %" if 1 <= percent <= 99 else f"{percent:.2g} %"
