"""Attacks as people state them, ``--norm inf --epsilon 8/255``, and λ steered to a constant."""

import json

import pytest

from cheaplip.cli import run
from cheaplip.cli.options import parse_radii

TINY = ["--epochs", "3", "--model", "mlp:16", "--probe", "0", "--search", "16"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    path = tmp_path_factory.mktemp("attacked") / "run"
    assert run(["train", "digits", "--method", "plain", "--no-measure", "--out", str(path), *TINY]) == 0
    return path


def robust(path):
    return json.loads((path / "metrics.json").read_text())["robust"]


@pytest.mark.parametrize(
    ("text", "radii"),
    [
        ("8/255", [8 / 255]),
        ("1/2,0.5,1", [0.5, 1.0]),
        (" 2 / 4 ", [0.5]),
        ("0/3", [0.0]),
        ("1e-3,4/255", [1e-3, 4 / 255]),
    ],
)
def test_radii_may_be_fractions(text, radii):
    assert parse_radii("epsilon", text) == radii


def test_attacks_in_the_largest_norm_have_keys_of_their_own(finished):
    options = ["--norm", "inf", "--samples", "40"]
    assert run(["evaluate", str(finished), "--attacks", "pgd,fgsm", "--epsilon", "1/255,8/255", *options]) == 0
    small, large = (f"pgd-linf@{size / 255}" for size in (1, 8))
    found = robust(finished)
    assert found[small] >= found[large]
    assert found[f"fgsm-linf@{8 / 255}"] >= found[large]
    assert run(["evaluate", str(finished), "--attacks", "pgd", "--epsilon", "8/255", "--samples", "40"]) == 0
    assert robust(finished)[f"pgd@{8 / 255}"] > robust(finished)[large]  # the L2 ball is smaller


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--norm", "inf"], "epsilon: expected radii with norm inf, for the defaults are L2: use --epsilon 8/255, say"),
        (["--norm", "1", "--epsilon", "1"], "norm: expected 2 or inf for attacks on classification, got 1"),
        (["--norm", "linf", "--epsilon", "1"], "norm: expected 1, 2 or inf, got 'linf'"),
        (
            ["--norm", "inf", "--attacks", "pgd-sign", "--epsilon", "1"],
            "pgd-sign does not apply to classification in norm inf: expected noise, fgsm, pgd, fmn, autoattack",
        ),
        (["--epsilon", "1/0"], "epsilon: expected numbers separated by commas, got '1/0'"),
        (["--epsilon", "8/"], "epsilon: expected numbers separated by commas, got '8/'"),
        (["--epsilon", "1/2/3"], "epsilon: expected numbers separated by commas, got '1/2/3'"),
        (["--epsilon", "8\\255"], "epsilon: expected numbers separated by commas, got '8\\\\255'"),
        (["--epsilon=-8/255"], "epsilon: expected finite numbers of at least 0, got '-8/255'"),
        (["--epsilon", "1/inf,inf"], "epsilon: expected finite numbers of at least 0, got '1/inf,inf'"),
    ],
)
def test_bad_options_are_one_line(options, message, finished, capsys):
    before = robust(finished)
    assert run(["evaluate", str(finished), *options]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert robust(finished) == before


@pytest.mark.parametrize("command", ["compare", "rivals"])
def test_a_comparison_attacks_in_the_largest_norm(command, tmp_path, capsys):
    options = ["--methods", "plain,clip", "--norm", "inf", "--attacks", "noise,pgd", "--epsilon", "4/255,8/255"]
    out = tmp_path / "all"
    assert run([command, "digits", *TINY, *options, "--samples", "30", "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    keys = [f"pgd-linf@{size / 255}" for size in (4, 8)]
    for row in json.loads((out / "results.json").read_text()):
        assert list(row["robust"]) == ["noise@0.3", *keys]
        assert row["robust"][keys[0]] >= row["robust"][keys[1]]
        assert row["certified"] == {}  # certificates are Euclidean
    assert "pgd-linf@0.0156" in shown
    page = (out / "report.html").read_text()
    assert "L∞-PGD" in page
    assert "L2-PGD" not in page
    assert "--norm inf" in page


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--norm", "inf"], "epsilon: expected radii with norm inf, for the defaults are L2: use --epsilon 8/255, say"),
        (["--norm", "1", "--epsilon", "1"], "norm: expected 2 or inf for attacks on classification, got 1"),
        (["--norm", "l2"], "norm: expected 1, 2 or inf, got 'l2'"),
        (
            ["--norm", "inf", "--attacks", "pgd-sign", "--epsilon", "1"],
            "attacks: expected one of noise, fgsm, pgd, fmn",
        ),
        (["--epsilon", "8/0"], "epsilon: expected numbers separated by commas, got '8/0'"),
    ],
)
def test_a_comparison_refuses_bad_norms_in_one_line(options, message, tmp_path, capsys):
    assert run(["compare", "digits", *TINY, *options, "--out", str(tmp_path / "all")]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "all").exists()


@pytest.mark.parametrize("target", [pytest.param("0.5", marks=pytest.mark.slow), "3"])
def test_lam_is_moved_until_the_constant_is_the_target(target, tmp_path):
    options = ["--epochs", "15", "--model", "mlp:16", "--probe", "0", "--search", "32", "--lam", "0.1", "--no-measure"]
    assert run(["train", "digits", "--target-lipschitz", target, "--out", str(tmp_path / "r"), *options]) == 0
    metrics = json.loads((tmp_path / "r" / "metrics.json").read_text())
    assert metrics["lipschitz"]["lower"] == pytest.approx(float(target), rel=0.3)
    config = json.loads((tmp_path / "r" / "config.json").read_text())
    assert config["target"] is None
    assert config["target_lipschitz"] == float(target)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--target", "0.9"],
            "target_lipschitz: λ follows one target, got --target 0.9 as well: leave one of them out",
        ),
        (["--method", "plain"], "target_lipschitz: expected --method clip, which steers λ to it, got plain"),
        (["--lam", "0"], "lam: 0 can never move towards --target-lipschitz: start above 0"),
        (["--target-lipschitz", "0"], "target_lipschitz: expected a positive number, got 0.0"),
        (["--target-lipschitz", "-1"], "target_lipschitz: expected a positive number, got -1.0"),
    ],
)
def test_bad_targets_are_one_line(options, message, tmp_path, capsys):
    assert run(["train", "digits", "--target-lipschitz", "1", "--out", str(tmp_path / "r"), *TINY, *options]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "r").exists()
