"""Shared set-up: one thread for tiny problems, no colours, a browser."""

import os

import pytest
import torch

from browser import CHROMIUM, browser

os.environ.setdefault("NO_COLOR", "1")
os.environ.setdefault("COLUMNS", "200")
torch.set_num_threads(1)


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
