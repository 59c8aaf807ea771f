"""The architecture page: its picture is that of the code, and every file and function that it names is there."""

import ast
import importlib.util
import re
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from test_architecture import ALLOWED, FRONT, MODULES, imports, wing

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "cheaplip"
PAGE = ROOT / "docs" / "architecture.md"
PICTURE = ROOT / "docs" / "floor-plan.svg"

pytestmark = pytest.mark.skipif(
    not (PAGE.is_file() and SOURCE.is_dir()), reason="needs the repository's docs/ and src/cheaplip"
)
TEXT = PAGE.read_text(encoding="utf-8") if PAGE.is_file() else ""
FILE = r"[\w./-]+(\.py(:[\w.]+)?|/)|[\w./-]+/[\w.-]+\.html|tests/\w+"
NAMED = sorted({code for code in re.findall(r"`([^`\s]+)`", TEXT) if re.fullmatch(FILE, code)})
ROW = re.compile(r"^\| (\w+) \| [^|]+ \| ([\w, ]+) \| `[^|]+` \|$", re.MULTILINE)


@pytest.fixture(scope="module")
def plan():
    spec = importlib.util.spec_from_file_location("floor_plan", ROOT / "docs" / "floor_plan.py")
    sys.modules["floor_plan"] = module = importlib.util.module_from_spec(spec)  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["floor_plan"]


def test_the_picture_is_that_of_the_code(plan):
    assert PICTURE.read_text(encoding="utf-8") == plan.draw(plan.wings()), "run python docs/floor_plan.py"


def test_the_picture_has_a_box_for_each_wing_and_a_dot_for_each_import():
    texts = [element.text for element in ET.parse(PICTURE).iter() if element.text]
    assert set(ALLOWED) <= set(texts)
    drawn = {tuple(text.split(" imports ")) for text in texts if " imports " in text}
    found = {(wing(name), wing(other)) for name in set(MODULES) - set(FRONT) for other, _ in imports(MODULES[name])}
    assert drawn == {(own, other) for own, other in found if own != other}


def test_the_picture_shows_allowed_imports_alone(plan):
    wings = plan.wings()
    assert {found.name for found in wings} == set(ALLOWED)
    assert [(found.name, name) for found in wings for name in found.imports - set(ALLOWED[found.name])] == []


def test_imports_go_upwards(plan):
    above = set()
    for found in plan.wings():
        assert found.imports <= above
        above.add(found.name)


def test_the_page_says_what_each_wing_may_import():
    told = {name: {*others.split(", ")} - {"nothing"} for name, others in ROW.findall(TEXT)}
    assert told == {name: set(others) for name, others in ALLOWED.items()}


def test_the_page_names_files():
    assert len(NAMED) > 50


def test_what_the_page_names_is_there():
    assert [code for code in NAMED if not is_there(code)] == []


def is_there(code):
    """Whether a file, or what is defined in it by the name after its colon, is in src/cheaplip or the repository."""
    path, _, name = code.partition(":")
    places = [place / path for place in (SOURCE, ROOT) if (place / path).exists()]
    if not places or not name:
        return bool(places)
    return defines(ast.parse(places[0].read_text(encoding="utf-8")), name.split("."))


def defines(tree, names):
    """Whether a module, or a class in it, defines a function, class, option or constant by that dotted name."""
    first, *rest = names
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == first:
            return not rest or defines(node, rest)
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == first for target in targets):
            return not rest
    return False
