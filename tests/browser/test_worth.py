"""The page of `mmray bundle compare --html` in a real Chromium: light and dark, wide and narrow."""

import pytest
from axe_playwright_python.sync_playwright import Axe
from support.browser import chromium
from support.scorecards import judged_bundle

from mmray.scorecards.cards import know
from mmray.scorecards.page import to_html

# Boxes of all names in the drawing that is to be seen, and the box of the drawing.
MEASURE = """() => {
  const box = e => { const r = e.getBoundingClientRect(); return [r.left, r.top, r.right, r.bottom] };
  const svg = [...document.querySelectorAll("svg")].filter(s => s.getBoundingClientRect().width);
  return { drawings: svg.map(box), names: svg.flatMap(s => [...s.querySelectorAll("text")].map(box)) };
}"""


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    folder = tmp_path_factory.mktemp("worth")
    file = folder / "page.html"
    file.write_text(to_html(know(judged_bundle(folder / "b"))))
    with chromium() as browser:
        page = browser.new_page()
        page.goto(file.as_uri())
        yield page


@pytest.mark.parametrize(("scheme", "width"), [("light", 1200), ("dark", 390)])
def test_it_breaks_no_rule_of_accessibility(opened, scheme, width):
    opened.emulate_media(color_scheme=scheme)
    opened.set_viewport_size({"width": width, "height": 800})
    found = Axe().run(opened)
    assert found.violations_count == 0, found.generate_report()


@pytest.mark.parametrize("width", [1200, 390])
def test_one_drawing_is_to_be_seen_and_its_names_are_whole_and_apart(opened, width):
    opened.set_viewport_size({"width": width, "height": 800})
    assert opened.evaluate("document.documentElement.scrollWidth") == width, (
        "tables scroll, the page does not"
    )
    found = opened.evaluate(MEASURE)
    ((left, top, right, bottom),) = found["drawings"]
    names = found["names"]
    assert len(names) > 12
    for i, (x0, y0, x1, y1) in enumerate(names):
        assert left <= x0 < x1 <= right, "cut"
        assert top <= y0 < y1 <= bottom, "cut"
        for a0, b0, a1, b1 in names[:i]:
            # A name's box has the height of a line, its letters have less.
            assert min(x1, a1) <= max(x0, a0) or min(y1, b1) - max(y0, b0) < 4, "one name over another"
