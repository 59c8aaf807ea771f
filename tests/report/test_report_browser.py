"""The page in a browser: plots, sorting, phones, dark screens, print, hostile names."""

import base64

import pytest

from cheaplip.report import write_report
from report_folders import SCRIPT, row, write

ORDER = "[...document.querySelectorAll('.figures tbody th')].map((cell) => cell.dataset.value)"


@pytest.mark.parametrize("dark", [False, True], ids=["day", "night"])
def test_a_browser_draws_every_plot(dark, study, tab):
    tab.open(write_report(study), dark=dark)
    assert tab.evaluate("document.querySelectorAll('.plot').length") == 9
    assert tab.evaluate("document.querySelectorAll('.plot.failed').length") == 0
    lines = "[...document.querySelectorAll('.plot')].map((plot) => plot.querySelectorAll('.trace').length)"
    assert min(tab.evaluate(lines)) >= 1
    assert tab.evaluate("[...document.images].every((image) => image.complete && image.naturalWidth === 8)")


def test_every_figure_is_one_that_the_library_knows(study, tab):
    tab.open(write_report(study))
    faults = "[...document.querySelectorAll('.plot')].flatMap((plot) => Plotly.validate(plot.data, plot.layout) ?? [])"
    wrong = f"{faults}.filter((fault) => fault.code !== 'unused').map((fault) => fault.msg)"
    assert tab.evaluate(wrong) == []


def test_a_heading_sorts_the_table(study, tab):
    tab.open(write_report(study))
    heading = "document.querySelectorAll('.figures thead button')[{}]"
    assert tab.evaluate(ORDER) == ["plain", "clip", "adversarial"]
    tab.evaluate(heading.format(0) + ".click()")
    assert tab.evaluate(ORDER) == ["adversarial", "clip", "plain"]
    tab.evaluate(heading.format(1) + ".click()")  # test accuracy: the best first
    assert tab.evaluate(ORDER) == ["plain", "adversarial", "clip"]
    tab.evaluate(heading.format(1) + ".click()")
    assert tab.evaluate(ORDER) == ["clip", "adversarial", "plain"]
    sorts = "[...document.querySelectorAll('.figures thead th')].map((cell) => cell.ariaSort)"
    assert tab.evaluate(sorts)[:3] == ["none", "ascending", "none"]


def test_gaps_stay_last_in_either_order(tmp_path, tab):
    rows = [row("a", lam=None), row("b", lam=2.0), row("c", lam=10.0)]
    write(tmp_path / "results.json", rows)
    tab.open(write_report(tmp_path))
    button = "[...document.querySelectorAll('.figures thead button')].find((one) => one.innerText.startsWith('λ'))"
    tab.evaluate(f"{button}.click()")
    assert tab.evaluate(ORDER) == ["c", "b", "a"]
    tab.evaluate(f"{button}.click()")
    assert tab.evaluate(ORDER) == ["b", "c", "a"]


def test_a_phone_never_scrolls_sideways(study, tab):
    tab.open(write_report(study), width=390, height=844)
    assert tab.evaluate("innerWidth") == 390
    assert tab.evaluate("document.documentElement.scrollWidth") == 390
    assert tab.evaluate("document.querySelector('.figures').offsetWidth") > 390  # scrolls in a box of its own
    assert tab.evaluate("[...document.querySelectorAll('.plot')].every((plot) => plot.offsetWidth <= 390)")


def test_plots_follow_day_and_night(study, tab):
    tab.open(write_report(study))
    ink = "document.querySelector('.plot').layout.font.color"
    day = tab.evaluate(ink)
    tab.scheme(dark=True)
    tab.wait(f"{ink} !== '{day}'")
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(21, 21, 20)"


def test_it_prints_by_day(study, tab):
    tab.open(write_report(study), dark=True)
    tab.call("Emulation.setEmulatedMedia", features=[])
    assert base64.b64decode(tab.call("Page.printToPDF", printBackground=True)["data"]).startswith(b"%PDF")


def test_hostile_names_stay_text(tmp_path, tab):
    link = "<a href='javascript:window.hacked=true'>x</a>"
    write(tmp_path / "results.json", [row(SCRIPT), row("<img src=x onerror='window.hacked = true'>"), row(link)])
    tab.open(write_report(tmp_path))
    assert tab.evaluate("window.hacked === undefined")
    assert tab.evaluate(ORDER)[0] == SCRIPT
    assert tab.evaluate("document.querySelectorAll('svg a, img[src=x]').length") == 0


def test_bare_rows_open_without_a_complaint(tmp_path, tab):
    write(tmp_path / "results.json", [{"name": "old"}, row("clip", accuracy={"test": None})])
    tab.open(write_report(tmp_path), width=390)
    assert "not measured" in tab.evaluate("document.body.innerText")
    assert tab.evaluate("document.documentElement.scrollWidth") == 390


def test_the_index_leads_to_the_pages(tmp_path, tab):
    write(tmp_path / "a & b" / "results.json", [row("plain"), row("clip")])
    tab.open(write_report(tmp_path), width=390)
    assert tab.evaluate("document.documentElement.scrollWidth") == 390
    with tab.navigation():
        tab.evaluate("document.querySelector('.entries a').click()")
    tab.wait("document.querySelectorAll('.plot[data-drawn]').length > 0")
