"""The floor plan: what may import what, how many modules lie in a folder, how long a file is."""

import ast
import collections
import functools
import graphlib
from pathlib import Path

ROOT = Path(__file__).parents[1] / "src" / "cheaplip"
FILES = sorted(ROOT.rglob("*.py"))

CORE = ("core",)
PROOFS = (*CORE, "lipschitz", "certificate")
ABOVE_TRAINING = (*PROOFS, "robustness", "data", "runs", "tracking")
ALLOWED = {
    "core": (),
    "lipschitz": CORE,
    "certificate": (*CORE, "lipschitz"),
    "robustness": CORE,
    "data": CORE,
    "runs": CORE,
    "tracking": (*CORE, "runs"),
    "training": ABOVE_TRAINING,
    "trained": (*ABOVE_TRAINING, "training"),
    "paper": (*ABOVE_TRAINING, "training", "trained"),
    "integrations": CORE,
    "report": ("runs",),
    "cli": (*ABOVE_TRAINING, "training", "trained", "paper", "report"),
}
"""What each wing may import; the core is every module that is in no wing."""
FRONT = ("cheaplip", "cheaplip.__main__")  # the door: it imports whatever it shows

MOST_MODULES = 15
LONG, TOO_LONG = 300, 400


def module_of(path):
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in FILES}
PACKAGES = {name for name, path in MODULES.items() if path.name == "__init__.py"}


def wing(module):
    part = module.split(".")[1] if "." in module else ""
    return part if part in ALLOWED else "core"


@functools.cache
def tree(path):
    return ast.parse(path.read_text())


@functools.cache
def imports(path):
    """(module, name) of every import of our own; the name is "" where a module is imported whole."""
    return list(found_imports(path))


def found_imports(path):
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "cheaplip":
            assert node.level == 0
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield (whole, "") if whole in MODULES else (node.module, alias.name)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names if alias.name.split(".")[0] == "cheaplip")


def test_a_wing_imports_the_wings_above_it_alone():
    wrong = [
        (module, other)
        for module in sorted(set(MODULES) - set(FRONT))
        for other, _ in imports(MODULES[module])
        if other not in FRONT and wing(other) not in (wing(module), *ALLOWED[wing(module)])
    ]
    assert wrong == []


def test_no_module_imports_itself_by_way_of_others():
    graph = {module: {other for other, _ in imports(path)} for module, path in MODULES.items()}
    assert list(graphlib.TopologicalSorter(graph).static_order())


def package_of(module):
    return module if module in PACKAGES else module.rpartition(".")[0]


def test_no_private_name_crosses_the_border_of_a_package():
    private = [
        (module, other, name)
        for module, path in MODULES.items()
        for other, name in imports(path)
        if any(part.startswith("_") and not part.startswith("__") for part in (*other.split("."), name))
        and package_of(other) != package_of(module)
    ]
    assert private == []


def test_a_folder_holds_few_modules():
    counts = collections.Counter(str(path.parent.relative_to(ROOT)) for path in FILES if path.name != "__init__.py")
    assert {folder: count for folder, count in counts.items() if count > MOST_MODULES} == {}


def test_a_package_says_what_it_holds():
    silent = [
        package
        for package in sorted(PACKAGES - {"cheaplip"})
        if (ast.get_docstring(tree(MODULES[package])) or "").count("\n") < 2
    ]
    assert silent == [], "say what it holds, what it may import, where to start reading"


def test_a_file_is_short_or_says_why_not():
    lines = {module: path.read_text().count("\n") for module, path in MODULES.items()}
    assert {module: count for module, count in lines.items() if count > TOO_LONG} == {}
    long = [module for module, count in lines.items() if count > LONG]
    silent = [module for module in long if "long" not in (ast.get_docstring(tree(MODULES[module])) or "")]
    assert silent == [], "say why in its docstring"


def test_only_a_method_s_own_file_asks_for_it_by_name():
    named = {"plain", "weight", "clip", "adversarial", "certified", "clip+certified"}
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in FILES
        if not {"methods", "paper"} & set(path.relative_to(ROOT).parts)
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Compare)
        and any(isinstance(side, ast.Constant) and side.value in named for side in (node.left, *node.comparators))
    ]
    assert found == []
