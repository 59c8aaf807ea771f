"""Folders that version 0.1.0 wrote, before the packages were rearranged, still work.

They were made by that version, each in two epochs of a small perceptron on digits; the interrupted ones were stopped
after 50 steps.
"""

import shutil
from pathlib import Path

import pytest

from cheaplip.data import load
from cheaplip.runs.folder import RunFolder
from cheaplip.trained.card import markdown
from cheaplip.trained.certify import certify
from cheaplip.trained.loading import load_run
from cheaplip.trained.verify import verify
from cheaplip.training import train
from cheaplip.training.config import from_json
from cheaplip.training.tasks import task_of

FOLDERS = Path(__file__).with_name("last_version")
FINISHED = sorted(path.name for path in FOLDERS.iterdir() if not path.name.startswith("interrupted"))
INTERRUPTED = sorted(path.name for path in FOLDERS.iterdir() if path.name.startswith("interrupted"))


@pytest.fixture
def copied(tmp_path):
    """A folder's copy, so that nothing is written beside the tests."""

    def copy(name):
        return RunFolder(shutil.copytree(FOLDERS / name, tmp_path / name))

    return copy


@pytest.mark.parametrize("name", FINISHED)
def test_a_finished_run_loads_and_is_as_good_as_it_was(copied, name):
    trained = load_run(copied(name))
    found = task_of(trained.data).figures(trained.model, *trained.data.test)["accuracy"]
    assert found == pytest.approx(trained.metrics()["accuracy"]["test"], abs=1e-3)


@pytest.mark.parametrize("name", ["clip", "certified"])
def test_a_card_is_still_proved(copied, name):
    card = verify(copied(name), seconds=10.0)
    assert card["training"]["method"] == name


@pytest.mark.parametrize("name", INTERRUPTED)
def test_an_interrupted_run_continues_to_what_it_would_have_been(copied, name):
    folder = copied(name)
    config = from_json(folder.read_json("config.json"))
    metrics = train(config, load(config.data), folder, resume=True)
    wanted = RunFolder(FOLDERS / name.removeprefix("interrupted-")).read_json("metrics.json")
    # That version did not shorten long gradients, as this one does from there on.
    assert metrics["accuracy"] == pytest.approx(wanted["accuracy"], abs=2e-2)
    assert metrics["lam"] == pytest.approx(wanted["lam"], rel=2e-2)
    assert metrics["lipschitz"]["lower"] == pytest.approx(wanted["lipschitz"]["lower"], rel=0.1)


def test_a_run_on_data_whose_module_moved_is_resumed_and_its_card_proved(copied):
    folder = copied("quick")
    saved = folder.read_json("config.json")
    config = from_json(saved)
    assert config.data != saved["data"]
    assert train(config, load(config.data), folder, resume=True) == folder.read_json("metrics.json")
    certify(load_run(folder), epsilons=[0.1], seconds=1.0)
    card = folder.read_json("card.json")
    card["training"]["data"] = saved["data"]
    folder.write_json("card.json", card)
    folder.write_text("card.md", markdown(card))
    assert verify(folder, seconds=1.0)["training"]["data"] == saved["data"]
