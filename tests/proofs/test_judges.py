"""The judges find statements that are false, and only those; the table of a run survives an end at any time."""

import importlib
import json
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from torch import nn

from cheaplip import Box
from networks import Apply
from proofs import judges, rational
from proofs.models import FAMILY, random_model

ROOT = Path(__file__).parents[2]


def linear(*rows):
    layer = nn.Linear(len(rows[0]), len(rows), bias=False)
    layer.weight.data = torch.tensor(rows)
    return layer


def findings(model, shape, norm=2, domain=None):
    f = judges.Exact(model)
    x = judges.points(domain, shape, 32, torch.Generator().manual_seed(0))
    return judges.largest_slope(f, x, norm), judges.largest_quotient(f, x, domain, norm)


def test_a_claim_below_the_constant_is_found():
    slope, quotient = findings(linear([3.0, 4.0]), (2,))
    assert slope.value == pytest.approx(5)
    assert judges.exceeds(slope, 4.999)
    assert not judges.exceeds(slope, 5.0)
    assert 4 < quotient.value <= 5
    assert judges.exceeds(quotient, 0.99 * quotient.value)


def test_rounding_is_not_taken_for_a_slope():
    _, quotient = findings(Apply(lambda x: x + 1e13 - 1e13), (1,))
    assert quotient.value > 1.1  # the model's own rounding
    assert not judges.exceeds(quotient, 1.0)


def test_a_jump_is_found():
    f = judges.Exact(nn.Softplus(1.0, 1.0))  # jumps from 1.31 to 1 at 1
    jump = judges.largest_jump(f, judges.points(None, (1,), 32, torch.Generator().manual_seed(0)), 2)
    assert judges.exceeds(jump, 1000.0)
    f = judges.Exact(nn.Softplus(1.0, 40.0))
    jump = judges.largest_jump(f, judges.points(None, (1,), 32, torch.Generator().manual_seed(0)), 2)
    assert not judges.exceeds(jump, 1.0)


def test_a_change_of_class_within_a_radius_is_found():
    f, x = judges.Exact(linear([1.0, 0.0], [-1.0, 0.0])), torch.tensor([[0.3, 0.0]])
    generator = torch.Generator().manual_seed(0)
    assert judges.changed_class(f, x, torch.tensor([0.29]), None, generator) is None
    assert judges.changed_class(f, x, torch.tensor([0.31]), None, generator) == pytest.approx(0.31, rel=0.01)


def test_rays_stay_within_the_radius_where_slopes_underflow():
    """The lead of the second class vanishes at a distance of 1e110 alone; squares of the slope are 0."""
    generator = torch.Generator().manual_seed(0)
    first, last = nn.Linear(2, 1).double(), nn.Linear(1, 2).double()
    for layer, weight, bias in ((first, [[1e-86, 1e-86]], [0.0]), (last, [[1e-86], [-1e-86]], [0.0, 1e-62])):
        layer.weight.data, layer.bias.data = (torch.tensor(v, dtype=torch.float64) for v in (weight, bias))
    f = judges.Exact(nn.Sequential(first, nn.ReLU(), last))
    x = torch.ones(1, 2, dtype=torch.float64)
    assert judges.changed_class(f, x, torch.tensor([1e107]), None, generator) is None


def test_slopes_along_a_line_are_exact():
    model = nn.Sequential(linear([1.0], [-1.0]), nn.ReLU(), linear([2.0, 3.0]))
    model[0].weight.data *= 2**27 + 16
    line = ([Fraction(1)], [Fraction(1, 3)])
    assert rational.square_of_steepest(model, *line) == (3 * (2**27 + 16)) ** 2
    assert rational.square_of_steepest(model, *line, low=Fraction(0)) == (2 * (2**27 + 16)) ** 2
    assert rational.square_of_witness(model, torch.tensor([0.1]), torch.tensor([0.2])) == (2 * (2**27 + 16)) ** 2


def test_a_seed_makes_the_same_model_whatever_came_before():
    seed = 7 * FAMILY + 3
    first = {name: value.clone() for name, value in random_model(seed).model.state_dict().items()}
    text = str(random_model(seed))
    random_model(seed + 1)
    random_model(seed + FAMILY)
    again = random_model(seed)
    assert str(again) == text
    assert all(torch.equal(value, again.model.state_dict()[name]) for name, value in first.items())


@pytest.fixture
def soundness(monkeypatch):
    pytest.importorskip("tyro", reason="needs the extra cli")
    if not (ROOT / "benchmarks").is_dir():
        pytest.skip("needs the repository's benchmarks/")
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("soundness")


def row(first, last):
    return {"first": first, "last": last, "outcomes": {"proved": last - first}, "layers": {}, "gaps": {}} | {
        "notes": [],
        "refusals": {},
        "slowest": 0.1,
    }


def test_a_run_goes_on_after_a_line_that_was_cut_off(soundness, tmp_path):
    file = tmp_path / "families.jsonl"
    soundness.append(file, row(0, FAMILY))
    with file.open("a") as stream:
        stream.write(json.dumps(row(FAMILY, 2 * FAMILY))[:30])
    rows = soundness.finished(file)
    assert rows == [row(0, FAMILY)]
    assert soundness.remaining(range(2 * FAMILY + 7), rows) == [
        range(FAMILY, 2 * FAMILY),
        range(2 * FAMILY, 2 * FAMILY + 7),
    ]
    soundness.append(file, row(FAMILY, 2 * FAMILY))
    assert len(soundness.finished(file)) == 2


def test_the_table_counts_by_layer_and_lists_what_is_wrong(soundness):
    wrong = row(0, 2) | {"layers": {"relu": {"proved": 1, "false": 1}}, "gaps": {"relu": [1.0, 3.0, 2.0]}}
    wrong |= {"outcomes": {"proved": 1, "false": 1}, "notes": ["1 false: upper 1 is below a slope of 2 | relu"]}
    text = soundness.table([wrong])
    assert "| relu | 2 | 1 | 0 | 2 | 1 | 0 |" in text
    assert "2 models, 1 proved, 0 refused, 1 false, 0 crashed" in text
    assert "- 1 false: upper 1 is below a slope of 2 | relu" in text


def test_what_batch_norm_rounds_is_no_slope():
    """Near outputs of 1, the difference of 2e-16 is rounded to 2.2e-16."""
    layer = nn.BatchNorm1d(1).double()
    with torch.no_grad():
        layer.weight.fill_(1e-12)
        layer.bias.fill_(1.0)
    pair = judges.witness(judges.Exact(layer), torch.zeros(1), torch.tensor([2e-4]), 2)
    assert pair.value > 1.1e-12
    assert not judges.exceeds(pair, 1e-12)


def test_lines_end_at_the_walls_of_a_box_with_a_side_for_each_channel():
    box = Box(torch.tensor([0.0, -1.0])[:, None, None], torch.tensor([1.0, 2.0])[:, None, None])
    start = [Fraction(0)] * 8
    direction = [Fraction(1)] * 4 + [Fraction(-2)] * 4
    assert rational.range_inside(box, (2, 2, 2), start, direction) == (0, Fraction(1, 2))


@pytest.mark.parametrize("export", [False, True])
def test_the_slope_of_a_detached_value_counts(export):
    """Of 3 x − 2 x, a gradient that stops at the detached x is 3."""
    model = Apply(lambda x: 3.0 * x - 2.0 * x.detach())
    if export:
        batch = ({0: torch.export.Dim("batch")},)
        model = torch.export.export(model, (torch.zeros(3, 2),), dynamic_shapes=batch).module()
    slope = judges.largest_slope(judges.Exact(model), torch.randn(3, 2, dtype=torch.float64), 2)
    assert slope.value == pytest.approx(1.0)
