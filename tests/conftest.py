"""Shared set-up: one thread for tiny problems, no colours, quick exports, short searches, a browser."""

import os

import pytest
import torch

from browser import CHROMIUM, browser
from quick_export import make_exports_quick

os.environ.setdefault("NO_COLOR", "1")
os.environ.setdefault("COLUMNS", "200")
torch.set_num_threads(1)
make_exports_quick()


@pytest.fixture(scope="session", autouse=True)
def short_searches(request):
    """In the default suite, the search that ends a training run takes a tenth of its steps, and AutoAttack's random
    search 60 queries of 5,000; with ``-m slow`` both are whole."""
    try:
        from pyautoattack.square import SquareAttack

        from cheaplip.training.loop import Training
    except ImportError:  # without the extra cli nothing trains, and nothing is attacked
        yield
        return
    run = SquareAttack.attack_single_run

    def run_briefly(self, x, y):
        self.n_queries = min(self.n_queries, 60)
        return run(self, x, y)

    with pytest.MonkeyPatch.context() as patch:
        if request.config.getoption("-m") == "not slow":
            patch.setitem(Training.search_largest_quotient.__kwdefaults__, "steps", 10)
            patch.setattr(SquareAttack, "attack_single_run", run_briefly)
        yield


@pytest.fixture
def whole_searches(monkeypatch):
    """The search that ends a training run takes all its steps, as it does in processes that a test starts."""
    from cheaplip.training import loop

    monkeypatch.setitem(loop.Training.search_largest_quotient.__kwdefaults__, "steps", loop._SEARCH_STEPS)


@pytest.fixture(scope="session")
def page(tmp_path_factory):
    if CHROMIUM is None:
        reason = "no chromium: apt-get install chromium"
        pytest.fail(reason) if os.environ.get("CHEAPLIP_BROWSER") == "required" else pytest.skip(reason)
    with browser(tmp_path_factory.mktemp("profile")) as tab:
        yield tab


@pytest.fixture
def tab(page):
    """The browser's tab, asked afterwards whether it complained or went anywhere."""
    page.complaints.clear()
    page.requests.clear()
    yield page
    assert page.complaints == []
    assert [url for url in page.requests if not url.startswith("file:")] == []
