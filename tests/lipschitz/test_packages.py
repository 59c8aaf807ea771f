"""The packages inside ``cheaplip.lipschitz``: which may import which, and that every operator has one handler."""

import ast
from pathlib import Path

import pytest

import cheaplip.lipschitz
from cheaplip.lipschitz.reading.layers import (
    activations,
    affine,
    arithmetic,
    choices,
    normalising,
    paired,
    pooling,
    products,
    rearranging,
    registry,
    writing,
)

ROOT = Path(cheaplip.lipschitz.__file__).parent


FOREIGN = {"reading": ("bounds", "search", "bracket"), "bounds": ("search", "bracket"), "search": ("bounds", "bracket")}


@pytest.mark.parametrize("package", FOREIGN)
def test_a_package_does_not_import_what_builds_on_it_or_stands_beside_it(package):
    imported = {
        node.module
        for path in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.module
    }
    foreign = tuple(f"cheaplip.lipschitz.{name}" for name in FOREIGN[package])
    assert [module for module in imported if module.startswith(foreign)] == []


def test_no_operator_has_two_handlers():
    families = affine.AFFINE, arithmetic.ARITHMETIC, activations.ACTIVATIONS, rearranging.REARRANGING
    families += writing.WRITING, pooling.POOLING, choices.CHOICES, normalising.NORMALISING
    families += paired.PAIRED, products.PRODUCTS
    assert sum(map(len, families)) == len(registry.HANDLERS)
