"""Write the table of training methods into docs/methods.md, from the classes in cheaplip.training.methods.

python docs/methods.py
"""

import dataclasses
import re
from pathlib import Path

from cheaplip.training.config import TrainConfig
from cheaplip.training.methods import METHODS, Method
from cheaplip.training.options import SharedOptions

PAGE = Path(__file__).with_name("methods.md")
MARKED = re.compile(r"(<!-- table: methods -->\n).*?(<!-- end -->)", re.DOTALL)
HEAD = ("`--method`", "what is minimised", "steered", "cost of a step", "its own options", "source")
HOLDING_OUT = TrainConfig(data="digits", held_out=1000)  # to see whether a method takes --held-out


def filled(page: str) -> str:
    """Put the present table into the text of the page, between its markers."""
    return MARKED.sub(lambda found: f"{found[1]}\n{table()}\n{found[2]}", page)


def table() -> str:
    """Make the table, with a row for each registered method."""
    rows = [HEAD, ("---",) * len(HEAD), *(row(method) for method in METHODS.values())]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in rows)


def row(method: type[Method]) -> tuple[str, ...]:
    """Describe a method, in a cell for each column."""
    return (
        f"`{method.name}`",
        method.adds,
        "yes" if method.steered else "with `--target`" if method.steerable else "no",
        method.cost,
        options(method) or "–",
        method.source or "–",
    )


def options(method: type[Method]) -> str:
    """List the options that a method takes beyond the shared ones, or name the method that has the same."""
    first = next(known for known in METHODS.values() if known.options is method.options)
    if first is not method and method.options is not SharedOptions:
        refused = " except `--held-out`" if method.holds_out(HOLDING_OUT) != first.holds_out(HOLDING_OUT) else ""
        return f"those of `{first.name}`{refused}"
    shared = {field.name for field in dataclasses.fields(SharedOptions)}
    own = (field.name for field in dataclasses.fields(method.options) if field.name not in shared)
    return ", ".join(f"`--{name.replace('_', '-')}`" for name in own)


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
