"""The report of a run in a real Chromium: light and dark, wide and narrow."""

import pytest
from axe_playwright_python.sync_playwright import Axe
from support.browser import chromium
from support.reports import labelled_run

from mmray.report.facts import load
from mmray.report.page import to_html


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    file = folder / "report.html"
    file.write_text(to_html(load(labelled_run(folder)), gallery=6))
    with chromium() as browser:
        page = browser.new_page()
        page.goto(file.as_uri())
        yield page


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_it_breaks_no_rule_of_accessibility_and_scrolls_only_its_tables(opened, scheme, width):
    opened.emulate_media(color_scheme=scheme)
    opened.set_viewport_size({"width": width, "height": 900})
    found = Axe().run(opened)
    assert found.violations_count == 0, found.generate_report()
    assert opened.evaluate("document.documentElement.scrollWidth") == width


def test_no_script_of_the_data_runs(opened):
    assert opened.evaluate("document.scripts.length") <= 1, "axe's own"
    assert opened.locator("img").count() == 6
