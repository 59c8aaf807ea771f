"""The small versions of the tables' commands: they parse, name what is there, and their failures are told."""

import importlib
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(not (ROOT / "benchmarks").is_dir(), reason="needs the repository's benchmarks/")
INSTALLS = {"installs.py", "newcomer.py"}  # they install packages
PRINTS = {"evidence.py", "reproduction.py"}  # the list itself, and the copy of tables into a page


@pytest.fixture
def evidence(monkeypatch):
    pytest.importorskip("tyro", reason="needs the extra cli")
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("evidence")


def test_every_benchmark_is_among_them(evidence):
    named = {shlex.split(command.arguments)[0] for command in evidence.COMMANDS.values()} - {"cheaplip"}
    assert named == {path.name for path in (ROOT / "benchmarks").glob("*.py")} - INSTALLS - PRINTS


def test_every_page_is_there(evidence):
    assert [c.page for c in evidence.COMMANDS.values() if not (ROOT / "docs" / c.page).is_file()] == []


def test_commands_of_the_package_parse(evidence, monkeypatch, tmp_path):
    from cheaplip import cli

    for command in evidence.COMMANDS.values():
        if command.arguments.startswith("cheaplip "):
            arguments = shlex.split(command.arguments.format(out=tmp_path))[1:]
            assert callable(cli._parse(arguments)), command.arguments


def command(evidence, code, *, images=False):
    return evidence.Command("results.md", code, images=images)


def test_what_fails_is_told(evidence, monkeypatch, tmp_path, capsys):
    (tmp_path / "good.py").write_text("print('fine')")
    (tmp_path / "bad.py").write_text("raise SystemExit('expected more')")
    monkeypatch.setattr(evidence, "HERE", tmp_path)
    chosen = {
        "good": command(evidence, "good.py {out}"),
        "bad": command(evidence, "bad.py"),
        "images": command(evidence, "good.py", images=True),
    }
    found = evidence.run_all(chosen, tmp_path, 1.0, images=False)
    assert [outcome.status for outcome in found] == ["done", "failed (1)", "left out: no MNIST"]
    assert "expected more" in capsys.readouterr().err


def test_a_command_that_takes_too_long_is_ended(evidence, monkeypatch, tmp_path):
    (tmp_path / "long.py").write_text("import time; time.sleep(60)")
    monkeypatch.setattr(evidence, "HERE", tmp_path)
    monkeypatch.setattr(evidence, "LONGEST", 0.2)
    (outcome,) = evidence.run_all({"long": command(evidence, "long.py")}, tmp_path, 1.0, images=True)
    assert outcome.status == "over 0 s"


def test_nothing_is_begun_when_the_time_is_over(evidence, tmp_path):
    (outcome,) = evidence.run_all({"none": command(evidence, "none.py")}, tmp_path, -1.0, images=True)
    assert outcome.status == "no time left"
