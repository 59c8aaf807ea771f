"""Tables in Markdown, with the paper's numbers in brackets beside ours."""

from collections.abc import Sequence

__all__ = ["beside", "markdown_table", "per_cent"]


def markdown_table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """Write a table: a heading, and a line for each row.

    Example:
        >>> print(markdown_table(["", "test"], [["plain", "98.0"]]))
        |  | test |
        | --- | --- |
        | plain | 98.0 |
        <BLANKLINE>
    """
    return "".join("| " + " | ".join(line) + " |\n" for line in [head, ["---"] * len(head), *body])


def per_cent(value: float | None) -> str:
    """Write a fraction in per cent, or a dash where there is none."""
    return "–" if value is None else f"{100 * value:.1f}"


def beside(ours: str, published: str | None) -> str:
    """Write our figure, and the paper's in brackets where it has one.

    Example:
        >>> beside("93.1", "95.6")
        '93.1 (95.6)'
    """
    return ours if published is None else f"{ours} ({published})"
