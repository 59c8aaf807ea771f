"""The benchmarks that name files of the repository name files that are there."""

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(not (ROOT / "benchmarks").is_dir(), reason="needs the repository's benchmarks/")


@pytest.fixture
def installs(monkeypatch):
    pytest.importorskip("tyro", reason="needs the extra cli")
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("installs")


def test_the_tests_of_every_extra_are_found(installs):
    for extra in installs.TESTS:
        files = installs.files_of(extra, ROOT)
        assert len(files) == len(installs.TESTS[extra].split())
        assert [file for file in files if not (ROOT / file).is_file()] == []


def test_a_test_that_is_missing_is_named(installs, tmp_path):
    (tmp_path / "tests" / "core").mkdir(parents=True)
    (tmp_path / "tests" / "core" / "test_exact.py").touch()
    message = f"bounds: expected test_bracket.py in a folder of {tmp_path / 'tests'}: update TESTS"
    with pytest.raises(SystemExit, match=re.escape(message)):
        installs.files_of("bounds", tmp_path)
