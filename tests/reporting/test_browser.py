"""The page in a real browser: headless chromium, on a screen and on a phone, in light and in dark.

Needs Debian's chromium and chromium-driver, the package selenium, and axe-core from the npm registry, whose folder
HAR_PRUNE_AXE names; .ci/run installs all of it. Skipped where they are missing, except in CI.
"""

import json
import re

import pytest
from browsing import AXE
from test_page import kept, kept_folds, rich_history

from har_prune.reporting.html.page import report_page

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    runs = [*(kept(folder / name, rich_history()) for name in ("first", "second")), kept_folds(folder / "folds")]
    path = folder / "report.html"
    path.write_text(report_page(runs), encoding="utf-8")
    return path


def opened(browser, page, width, scheme="light"):
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500},
    )
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    browser.get_log("browser")
    browser.get(page.as_uri())


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_scrolls_sideways_and_nothing_goes_wrong(browser, page, width, scheme):
    opened(browser, page, width, scheme)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert browser.get_log("browser") == []
    asked = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [each["params"]["request"]["url"] for each in asked if each["method"] == "Network.requestWillBeSent"]
    assert [url for url in urls if not url.startswith(("file:", "data:"))] == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_an_audit_finds_no_barrier(browser, page, scheme):
    opened(browser, page, 1280, scheme)
    browser.execute_script("document.querySelectorAll('details').forEach((each) => (each.open = true))")
    browser.execute_script(AXE.read_text(encoding="utf-8"))
    found = browser.execute_async_script("const done = arguments[0]; axe.run().then(done)")
    assert [(each["id"], each["nodes"][0]["html"][:200]) for each in found["violations"]] == []
    assert len(found["passes"]) > 20


def test_the_numbers_on_the_screen_are_those_of_the_record(browser, page):
    opened(browser, page, 1280)
    record = rich_history()
    shown = browser.execute_script(
        "return [...document.querySelectorAll('#run0 [data-card]')].map((card) => [card.dataset.card, "
        "...[...card.querySelectorAll('[data-value]')].map((each) => [Number(each.dataset.value), each.innerText])])"
    )
    cards = {key: values for key, *values in shown}
    for key, before, after in (
        ("macs", record.before.cost.macs, record.after.cost.macs),
        ("blocks", len(record.before.remaining), len(record.after.remaining)),
        ("accuracy %", 100 * record.before.metrics["test"].accuracy, 100 * record.after.metrics["test"].accuracy),
    ):
        assert [value for value, _ in cards[key]] == pytest.approx([before, after])
        assert [float(text.replace(",", "")) for _, text in cards[key]] == pytest.approx([before, after], abs=0.006)
    gone = browser.execute_script("return document.querySelectorAll('#run0 .blocks .gone').length")
    assert gone == len(record.before.remaining) - len(record.after.remaining)


def test_a_heading_sorts_its_table_by_keyboard(browser, page):
    from selenium.webdriver.common.keys import Keys

    opened(browser, page, 1280)
    button = browser.find_element("css selector", "#run0-classes thead th:nth-child(1) button")
    rows = "return [...document.querySelector('#run0-classes tbody').rows].map((row) => row.cells[0].innerText)"
    button.send_keys(Keys.ENTER)
    names = browser.execute_script(rows)
    button.send_keys(Keys.ENTER)
    assert browser.execute_script(rows) == names[::-1]
    assert len(set(names)) == 3


def test_paper_shows_what_is_folded(browser, page):
    opened(browser, page, 1280)
    paper = browser.execute_cdp_cmd("Page.printToPDF", {"paperWidth": 8.27, "paperHeight": 11.69})
    assert len(paper["data"]) > 50_000
    folded = browser.execute_script("return document.querySelectorAll('details:not([open])').length")
    assert folded == 0
    assert not re.search("error", browser.title)
