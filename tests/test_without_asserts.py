"""``python -O`` removes every assert: none of ours checks a result. In the code they only tell mypy a type."""

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "src" / "cheaplip").rglob("*.py"))

PROGRAM = """
import cheaplip, torch
from cheaplip.lipschitz import Lower, bracket as module
from cheaplip.lipschitz.bounds.best import Upper

def error_of(call):
    try:
        return f"none: {call()}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"

assert False, "asserts are off"
model, other = (torch.nn.Linear(2, 2).eval() for _ in range(2))
options = {"shape": (2,), "method": "norms", "steps": 0}
b = cheaplip.bracket(model, **options)
print(error_of(lambda: cheaplip.certified_radius(other, torch.zeros(1, 2), b)))
module.upper_bound = lambda *_, **__: Upper(1e-9, "norms")
print(error_of(lambda: cheaplip.bracket(model, **options)))
"""


def tells_a_type(test):
    """Whether an expression asks for the type of something, or whether it is None, and nothing else."""
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        test = test.operand
    if isinstance(test, ast.Call):
        return isinstance(test.func, ast.Name) and test.func.id in ("isinstance", "callable")
    return isinstance(test, ast.Compare) and isinstance(test.ops[0], ast.IsNot) and ast.unparse(test).endswith("None")


def test_an_assert_in_the_package_tells_a_type():
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)}"
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Assert) and not tells_a_type(node.test)
    ]
    assert wrong == []


def test_false_claims_are_refused_without_asserts():
    done = subprocess.run([sys.executable, "-O", "-c", PROGRAM], check=True, capture_output=True, text=True)
    first, second = done.stdout.splitlines()
    assert first.startswith("ValueError: bracket: expected one of this model, got one of other weights or layers")
    assert second.startswith("RuntimeError: internal error: the quotient")


def test_the_asserts_of_tests_work_without_asserts(tmp_path):
    failing = tmp_path / "test_failing.py"
    failing.write_text("def test_failing():\n    assert 1 == 2\n")
    options = ["-q", "-p", "no:cacheprovider", "-c", ROOT / "pyproject.toml", "--rootdir", tmp_path]
    done = subprocess.run([sys.executable, "-O", "-m", "pytest", *options, failing], capture_output=True, text=True)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "assert 1 == 2" in done.stdout
