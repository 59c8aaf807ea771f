"""The public surface: what is exported, what an import costs, and that versions agree."""

import ast
import importlib
import importlib.metadata
import importlib.util
import inspect
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import cheaplip

CORE = [
    "certificate",
    "clip",
    "discrepancy",
    "distributed",
    "domain",
    "errors",
    "modes",
    "operators",
    "pairs",
    "quotient",
]

MODULES = [cheaplip, *(importlib.import_module(f"cheaplip.{name}") for name in CORE)]

NAME = re.compile(r"\bcheaplip(?:\.[A-Za-z_]\w*)+")

NEW_MODULES = """
import sys
import torch
before = set(sys.modules)
import cheaplip
print(*sorted(set(sys.modules) - before))
"""


def names_in_strings() -> dict[str, str]:
    """Each dotted name of ours that a docstring or message under src/cheaplip mentions, with one place that does."""
    root = Path(cheaplip.__file__).parent
    found: dict[str, str] = {}
    for path in sorted(root.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                place = f"{path.relative_to(root)}:{node.lineno}"
                found.update((name, place) for name in NAME.findall(node.value))
    return {name: place for name, place in found.items() if name not in OLD}


OLD = ("cheaplip.experiments.paper.quick",)  # in the folders of old runs, which are still read


def resolves(name: str) -> bool:
    """Whether a user can import the name, or reach it from a module that can be imported."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        module = ".".join(parts[:count])
        try:
            value = importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name == module or module.startswith(f"{error.name}."):
                continue  # no such module: an attribute, perhaps
            return True  # there, but needs an extra that is not installed
        except ImportError:
            return True
        for part in parts[count:]:
            if not hasattr(value, part):
                return False
            value = getattr(value, part)
        return True
    return False


def sorted_like_an_import(names: list[str]) -> list[str]:
    """Constants and acronyms, then classes, then functions; each by alphabet."""
    return sorted(names, key=lambda name: (not name.isupper(), not name[0].isupper(), name))


def test_all_is_sorted():
    for module in MODULES:
        assert list(module.__all__) == sorted_like_an_import(module.__all__), module.__name__


def test_all_names_what_exists():
    assert [
        f"{module.__name__}.{name}" for module in MODULES for name in module.__all__ if not hasattr(module, name)
    ] == []


def test_all_is_complete():
    public = {
        name for name, value in vars(cheaplip).items() if not name.startswith("_") and not inspect.ismodule(value)
    }
    assert public == set(cheaplip.__all__)


def test_all_of_a_module_is_complete():
    missing = [
        f"{module.__name__}.{name}"
        for module in MODULES[1:]
        for name, value in vars(module).items()
        if not name.startswith("_")
        and getattr(value, "__module__", None) == module.__name__
        and name not in module.__all__
    ]
    assert missing == []


def test_the_core_is_exported():
    core = {"CLIP", "BatchDependentLayerError", "Box", "CheaplipWarning", "DiscrepancyPrinciple", "PairSet"}
    assert core <= set(cheaplip.__all__)


def test_every_export_has_a_docstring():
    assert [name for name in cheaplip.__all__ if not inspect.getdoc(getattr(cheaplip, name))] == []


def test_a_name_in_a_docstring_or_message_can_be_typed():
    assert {name: place for name, place in names_in_strings().items() if not resolves(name)} == {}


@pytest.mark.parametrize("name", ["cheaplip.bracket.register_layer", "cheaplip.lipschitz.bounds.none", "cheaplip.none"])
def test_a_name_that_cannot_be_typed_is_found(name):
    assert not resolves(name)


def test_every_core_class_shows_an_example():
    classes = ["CLIP", "Box", "DiscrepancyPrinciple", "PairSet"]
    assert [name for name in classes if ">>>" not in inspect.getdoc(getattr(cheaplip, name))] == []


def test_the_import_needs_torch_alone_prints_nothing_and_warns_of_nothing():
    command = [sys.executable, "-W", "always", "-c", NEW_MODULES]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.count("\n") == 1  # the names alone
    roots = {name.partition(".")[0] for name in done.stdout.split()}
    assert "cheaplip" in roots
    assert roots - {"cheaplip", "torch"} - sys.stdlib_module_names == set()
    assert "cheaplip" not in done.stderr


@pytest.mark.parametrize("adapter", ["lightning", "skorch", "huggingface"])
def test_an_adapter_without_its_package_names_the_extra(adapter, monkeypatch):
    package = "transformers" if adapter == "huggingface" else adapter
    for name in {package, *(name for name in sys.modules if name.startswith(f"{package}."))}:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, f"cheaplip.integrations.{adapter}", raising=False)
    with pytest.raises(ImportError, match=re.escape(f"pip install 'cheaplip[{adapter}]'")):
        importlib.import_module(f"cheaplip.integrations.{adapter}")


def test_the_wheel_holds_the_package_and_nothing_else(tmp_path):
    root = Path(__file__).parents[1]
    if importlib.util.find_spec("hatchling") is None:
        pytest.skip("needs hatchling, which builds the wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)], cwd=root, check=True
    )
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    kinds = ("*.py", "py.typed", "report/templates/*")
    package = root / "src" / "cheaplip"
    sources = {str(path.relative_to(package.parent)) for kind in kinds for path in package.rglob(kind)}
    assert {name for name in names if ".dist-info/" not in name} == sources
    assert any(name.endswith("dist-info/licenses/LICENSE") for name in names)
    assert any(name.endswith("dist-info/entry_points.txt") for name in names)


def test_types_are_shipped():
    assert (Path(cheaplip.__file__).parent / "py.typed").is_file()


def test_the_version_is_a_version():
    assert re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc|\.dev)\d+)?", cheaplip.__version__)


def test_the_version_matches_the_distribution():
    try:
        installed = importlib.metadata.version("cheaplip")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("cheaplip is on the path, not installed")
    assert installed == cheaplip.__version__


def test_the_version_matches_the_citation():
    citation = Path(__file__).parents[1] / "CITATION.cff"
    assert f"version: {cheaplip.__version__}\n" in citation.read_text(encoding="utf-8")


def test_the_warning_is_a_user_warning():
    assert issubclass(cheaplip.CheaplipWarning, UserWarning)
