"""The packages inside ``cheaplip.lipschitz``: which may import which, and that every operator has one handler."""

import ast
from pathlib import Path

import pytest

import cheaplip.lipschitz
from cheaplip.lipschitz.reading.layers import activations, affine, arithmetic, pooling, rearranging, registry

ROOT = Path(cheaplip.lipschitz.__file__).parent


@pytest.mark.parametrize(
    ("package", "foreign"), [("reading", {"bounds", "search"}), ("bounds", {"search"}), ("search", {"bounds"})]
)
def test_reading_stands_alone_and_bounds_and_search_do_not_know_each_other(package, foreign):
    imported = {
        node.module
        for path in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module
    }
    unwanted = tuple(f"cheaplip.lipschitz.{name}" for name in (*foreign, "bracket"))
    assert [module for module in imported if module.startswith(unwanted)] == []


def test_no_operator_has_two_handlers():
    families = affine.AFFINE, arithmetic.ARITHMETIC, activations.ACTIVATIONS, rearranging.REARRANGING, pooling.POOLING
    assert sum(map(len, families)) == len(registry.HANDLERS)
