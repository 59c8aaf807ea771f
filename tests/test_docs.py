"""The README's code runs as it stands, and its commands parse."""

import re
import shlex
from pathlib import Path

import pytest
import torch

README = Path(__file__).parents[1] / "README.md"
TEXT = README.read_text() if README.is_file() else ""


def test_the_loop_and_the_bracket_run():
    torch.manual_seed(0)
    x_train = torch.rand(64, 4)
    y = (x_train.sum(1) > 2).long()
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))
    names = {
        "x_train": x_train,
        "x_test": x_train,
        "loader": [(x_train, y)] * 5,
        "model": model,
        "criterion": torch.nn.functional.cross_entropy,
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
    }
    blocks = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        exec(block, names)
    assert names["clip"].largest > 0
    assert 0 < names["bracket"].lower <= names["bracket"].upper < float("inf")
    assert (names["radius"] > 0).any()


@pytest.mark.parametrize("line", re.findall(r"^cheaplip .*?(?=  #|$)", TEXT, flags=re.MULTILINE))
def test_commands_parse(line):
    from cheaplip.cli import _parse

    assert not isinstance(_parse(shlex.split(line)[1:]), int)
