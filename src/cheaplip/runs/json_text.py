"""JSON from files that anybody may have edited: bounded in size and depth, and without ambiguous keys."""

import json
from typing import Any

__all__ = ["MOST_BYTES", "parse"]

MOST_BYTES = 64 << 20
"""Size of the largest file that is read."""

_MOST_DEPTH = 32


def parse(content: bytes) -> Any:
    """Parse the content of a JSON file.

    Raises:
        ValueError: it is no JSON in UTF-8, larger than 64 MiB, nested more than 32 levels deep, or names a key twice.
    """
    if len(content) > MOST_BYTES:
        raise ValueError(f"expected at most {MOST_BYTES} bytes, got more")
    try:
        value = json.loads(content.decode(), object_pairs_hook=_unique)
    except RecursionError:
        raise ValueError(f"expected at most {_MOST_DEPTH} levels of brackets, got many more") from None
    level = [value]
    for _ in range(_MOST_DEPTH):
        _check_text(level)
        level = [
            item
            for value in level
            if isinstance(value, (dict, list))
            for item in (value.values() if isinstance(value, dict) else value)
        ]
        if not level:
            return value
    raise ValueError(f"expected at most {_MOST_DEPTH} levels of brackets, got more")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice[:60]!r} is there twice")
    return found


def _check_text(values: list[Any]) -> None:
    """Refuse halves of characters, which cannot be printed."""
    for value in values:
        texts = [value] if isinstance(value, str) else value if isinstance(value, dict) else []
        for text in texts:
            try:
                text.encode()
            except UnicodeEncodeError:
                raise ValueError("expected text, got half of a character (a lone surrogate)") from None
