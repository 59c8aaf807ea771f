"""Draw the floor plan of the code: ``python docs/floor_plan.py`` writes docs/floor-plan.svg.

A wing is a folder of src/cheaplip, or the core. The picture
shows each wing's docstring, its modules and what it imports, all read from the source.
"""

import ast
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

SOURCE = Path(__file__).parents[1] / "src" / "cheaplip"
PICTURE = Path(__file__).with_name("floor-plan.svg")

CORE = ("clip", "pairs")  # folders of the core
FRONT = ("__init__", "__main__")  # they import whatever they show, and belong to no wing

# Lengths in pixels.
MARGIN, WIDTH, GAP, COLUMN = 16, 530, 14, 34
LINE, PADDING = 17, 12
CHARACTERS = 88  # in a line of a docstring
COLOURS = (
    *("#3b6ea8", "#c2573a", "#4d8b57", "#8a5fa8", "#b08a1e", "#2f8f8f"),
    *("#b3487f", "#6b7280", "#7a5a3a", "#5a63c7", "#9c3030"),
)


@dataclass(frozen=True)
class Wing:
    """A part of the package.

    Attributes:
        name: as in imports; ``core`` for the modules that lie in no other wing.
        purpose: the first paragraph of its docstring.
        folders: those inside it.
        modules: their number.
        imports: names of the wings that it imports.
    """

    name: str
    purpose: str
    folders: tuple[str, ...]
    modules: int
    imports: frozenset[str]


def wings() -> list[Wing]:
    """Read the wings from the source; each comes after all that it imports."""
    files: dict[str, list[Path]] = {}
    for path in sorted(SOURCE.rglob("*.py")):
        if path.parent != SOURCE or path.stem not in FRONT:
            files.setdefault(_wing_of(_part(path)), []).append(path)
    found = [_read(name, paths) for name, paths in files.items()]
    levels = _levels(found)
    users = {wing.name: sum(wing.name in other.imports for other in found) for wing in found}
    return sorted(found, key=lambda wing: (levels[wing.name], -users[wing.name], wing.name))


def _part(path: Path) -> str:
    """The folder or module of the package that a file belongs to."""
    return path.relative_to(SOURCE).with_suffix("").parts[0]


def _wing_of(part: str) -> str:
    return part if part not in CORE and (SOURCE / part).is_dir() else "core"


def _read(name: str, paths: Sequence[Path]) -> Wing:
    modules = [path for path in paths if path.name != "__init__.py"]
    if name == "core":
        purpose = f"What needs torch alone: {', '.join(sorted({_part(path) for path in modules}))}."
    else:
        docstring = ast.get_docstring(ast.parse(paths[0].read_text(encoding="utf-8"))) or ""
        purpose = " ".join(docstring.partition("\n\n")[0].split()).replace("`", "").replace("*", "")
    home = SOURCE if name == "core" else SOURCE / name
    folders = sorted({path.parent.relative_to(home).as_posix() for path in modules} - {"."})
    imports = {_wing_of(part) for path in paths for part in _imports(path)} - {name}
    return Wing(name, purpose, tuple(folders), len(modules), frozenset(imports))


def _imports(path: Path) -> Iterator[str]:
    """The folders and modules of the package that a file imports, or imports from."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for package, part in (name.split(".")[:2] for name in names if "." in name):
            if package == SOURCE.name and ((SOURCE / part).is_dir() or (SOURCE / f"{part}.py").is_file()):
                yield part


def _levels(found: Sequence[Wing]) -> dict[str, int]:
    """The length of the longest chain of imports that starts at each wing."""
    levels: dict[str, int] = {}
    while len(levels) < len(found):
        ready = [wing for wing in found if wing.name not in levels and wing.imports <= levels.keys()]
        if not ready:
            raise ValueError("expected wings without circular imports, got a circle: run tests/test_architecture.py")
        levels |= {wing.name: 1 + max((levels[name] for name in wing.imports), default=-1) for wing in ready}
    return levels


def draw(found: Sequence[Wing]) -> str:
    """The picture, an SVG: a box for each wing, and a line with an arrowhead from importers to what they import."""
    used = [wing.name for wing in found if any(wing.name in other.imports for other in found)]
    rails = {name: MARGIN + WIDTH + (column + 1) * COLUMN for column, name in enumerate(used)}
    colours = dict(zip(used, COLOURS * (1 + len(used) // len(COLOURS)), strict=False))
    boxes, rows, y = [], {}, MARGIN
    for wing in found:
        box, height = _box(wing, y, colours.get(wing.name, "#444"))
        boxes.append(box)
        rows[wing.name] = (y + height / 3, y + 2 * height / 3)  # where arrows arrive, and where imports leave
        y += height + GAP
    lines = [_rail(name, rails[name], rows, found, colours[name]) for name in used]
    imports = [_row(wing, rails, rows, colours) for wing in found if wing.imports]
    legend = "A dot is an import: the line through it leads up to what is imported."
    size = f"{max(rails.values()) + 80} {y + LINE + MARGIN}"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size}" font-family="sans-serif" font-size="13">',
            "<title>The wings of cheaplip and their imports</title>",
            '<rect width="100%" height="100%" fill="#fff"/>',
            *imports,
            *lines,
            *boxes,
            f'<text x="{MARGIN}" y="{y + LINE}" fill="#5a6068">{legend}</text>',
            "</svg>\n",
        ]
    )


def _box(wing: Wing, y: float, colour: str) -> tuple[str, float]:
    """A wing's box at that height, and how high it is."""
    text = textwrap.wrap(wing.purpose, CHARACTERS)
    if wing.folders:
        text.append("folders: " + ", ".join(wing.folders))
    height = 2 * PADDING + (1 + len(text)) * LINE
    baselines = [y + PADDING + (line + 1) * LINE - 4 for line in range(1 + len(text))]
    x = MARGIN + PADDING + 4
    count = f"{wing.modules} module{'' if wing.modules == 1 else 's'}"
    parts = [
        f'<rect x="{MARGIN}" y="{y}" width="{WIDTH}" height="{height}" rx="4" fill="#f6f7f9" stroke="#c8ccd2"/>',
        f'<rect x="{MARGIN}" y="{y}" width="6" height="{height}" rx="3" fill="{colour}"/>',
        f'<text x="{x}" y="{baselines[0]}" font-size="15" font-weight="bold" fill="#1a1d21">{wing.name}</text>',
        f'<text x="{MARGIN + WIDTH - PADDING}" y="{baselines[0]}" text-anchor="end" fill="#5a6068">{count}</text>',
        *(
            f'<text x="{x}" y="{baseline}" font-size="12" fill="#33383e">{escape(line)}</text>'
            for line, baseline in zip(text, baselines[1:], strict=True)
        ),
    ]
    return "\n".join(parts), height


def _rail(name: str, x: float, rows: dict[str, tuple[float, float]], found: Sequence[Wing], colour: str) -> str:
    """The line from a wing to the right and down past all that import it, with an arrowhead at the wing."""
    top = rows[name][0]
    bottom = max(rows[wing.name][1] for wing in found if name in wing.imports)
    edge = MARGIN + WIDTH
    return "\n".join(
        [
            f'<path d="M{edge + 6} {top:g}H{x}V{bottom:g}" fill="none" stroke="{colour}" stroke-width="2"/>',
            f'<path d="M{edge + 1} {top:g}l9 -5v10z" fill="{colour}"/>',
            f'<text x="{x + 6}" y="{top + 4:g}" font-size="12" fill="{colour}">{name}</text>',
        ]
    )


def _row(wing: Wing, rails: dict[str, float], rows: dict[str, tuple[float, float]], colours: dict[str, str]) -> str:
    """The line of a wing's imports, with a dot where it meets the line of each wing that it imports."""
    y = rows[wing.name][1]
    reached = sorted(wing.imports, key=lambda name: rails[name])
    dots = [
        f'<circle cx="{rails[name]}" cy="{y:g}" r="5" fill="{colours[name]}">'
        f"<title>{wing.name} imports {name}</title></circle>"
        for name in reached
    ]
    line = f'<path d="M{MARGIN + WIDTH} {y:g}H{rails[reached[-1]]}" stroke="#9aa0a8"/>'
    return "\n".join([line, *dots])


if __name__ == "__main__":
    PICTURE.write_text(draw(wings()), encoding="utf-8")
