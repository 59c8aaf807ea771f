"""Copy the tables of a reproduction into docs/reproduction.md, between its markers, and the picture beside it.

cheaplip reproduce all --out results/reproduction
python benchmarks/reproduction.py
"""

import re
import shutil
from pathlib import Path

import tyro

ROOT = Path(__file__).parents[1]
MARKER = re.compile(r"(<!-- table: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(page: str, results: Path) -> str:
    """Return the page with each table from ``results/NAME/table.md``, or the command that makes it if there is none."""

    def table(match: re.Match[str]) -> str:
        file = results / match[2] / "table.md"
        content = file.read_text() if file.is_file() else f"Not run yet: `cheaplip reproduce {match[2]}`.\n"
        return f"{match[1]}\n{content}\n{match[3]}"

    return MARKER.sub(table, page)


def main(results: Path = ROOT / "results/reproduction", page: Path = ROOT / "docs/reproduction.md") -> None:
    """Rewrite the page and its picture."""
    page.write_text(filled(page.read_text(), results))
    picture = results / "regression" / "picture.svg"
    if picture.is_file():
        shutil.copyfile(picture, page.with_name("regression.svg"))


if __name__ == "__main__":
    tyro.cli(main)
