"""Two bundles side by side: each figure where it belongs, and a page that needs nothing but itself."""

import re
from html.parser import HTMLParser
from itertools import pairwise
from xml.etree import ElementTree

import numpy as np
import pytest
from support.bundles import LABELS, make_bundle, small_bundle
from support.graphs import write_graph

from mmray.bundle import NewVariant, Variant, extend_bundle
from mmray.cli.optimizing import compare_bundles
from mmray.optimize.compare import cells, entries, subset_rows, to_html
from mmray.optimize.pareto import Point, draw, front


def card(passed=True, accuracy=0.9, ms=10.0, reason="", **changes):
    slices = {"image": {"agreement": 0.9, "accuracy": 0.8}, "label cat": {"agreement": 1.0, "accuracy": 1.0}}
    return {
        "passed": passed,
        "reason": reason,
        "accuracy": accuracy,
        "agreement": 0.98,
        "slices": slices,
        "latency_ms": {"batch_1": 2 * ms, "batch_32": ms},
        "peak_memory_bytes": 300_000_000,
        "size_bytes": 12_345_678,
    } | changes


@pytest.fixture
def pair(tmp_path):
    """A bundle that nobody optimized, and one made of it: one of its variants passed, one failed."""
    graph = write_graph(tmp_path / "int8.onnx", len(LABELS))
    added = {
        "int8": NewVariant(
            Variant(file="variants/int8.onnx", parent="fp32"), graph, {"scores": np.ones((1, 4))}
        )
    }
    verdicts = {
        "fp32": card(),
        "int8": card(accuracy=0.88, ms=5.0),
        "fp16": card(False, 0.25, 8.0, "the scores of 3 <of> 9 rows are not finite & lost"),
    }
    b = extend_bundle(
        tmp_path / "b", small_bundle(), added, scorecard={"variants": verdicts}, origin={"optimize": "{}"}
    )
    return small_bundle(), b


def test_every_variant_of_both_is_an_entry_and_those_of_one_name_are_neighbours(pair):
    found = entries(dict(zip("AB", pair, strict=True)))
    assert [(e.variant, e.side) for e in found] == [
        ("fp32", "A"),
        ("fp32", "B"),
        ("int8", "B"),
        ("fp16", "B"),
    ]
    assert [e.passed for e in found] == [True, True, True, False]
    assert [e.batch_ms for e in found] == [None, 10, 5, 8]
    assert found[0].size_bytes == found[1].size_bytes == pair[0].graph("fp32").stat().st_size
    assert found[3].size_bytes == 12_345_678, "of a graph that is not in the bundle, the scorecard knows it"


def test_figures_stand_in_their_columns_and_what_is_not_known_is_blank(pair):
    a_fp32, _, int8, _ = entries(dict(zip("AB", pair, strict=True)))
    size = f"{int8.size_bytes / 1e6:.1f}"
    assert cells(int8) == ["int8", "B", size, "0.880", "0.980", "10.0", "5.0", "300.0", "passed"]
    assert cells(a_fp32) == ["fp32", "A", cells(a_fp32)[2], "", "", "", "", "", "passed"]
    assert subset_rows([a_fp32, int8]) == (["variant", "", "image"], [["int8", "B", "0.800"]])


def test_the_command_prints_both_and_why_a_variant_failed(pair, tmp_path, capsys):
    a, b = pair
    compare_bundles(str(a.path), str(b.path), tmp_path / "page.html")
    shown = capsys.readouterr().out
    assert f"B: tiny {b.digest[:12]}, image + text + audio, 4 labels, made from A" in shown
    assert "B fp16 failed: the scores of 3 <of> 9 rows are not finite & lost" in shown
    assert (tmp_path / "page.html").read_text() == to_html(a, b)


VOID = {"meta", "line", "circle", "path"}  # they have no end, or `/>`


class Page(HTMLParser):
    """Text and attributes of a page; complains of tags that do not close."""

    def __init__(self, page):
        super().__init__()
        self.text, self.open, self.attributes = [], [], []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert tag in VOID or self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_the_page_needs_nothing_but_itself_and_is_small(pair):
    page = to_html(*pair)
    assert len(page) < 20_000
    names = {name for name, _ in Page(page).attributes}
    assert not names & {"src", "href", "srcset", "onclick"}
    assert "<script" not in page
    assert "url(" not in page
    assert "prefers-color-scheme: dark" in page


def test_the_page_shows_foreign_text_as_text(pair, tmp_path):
    """Names and reasons come from a bundle, which may be anybody's."""
    verdicts = {"<script>1</script>": card(False), "fp32": card()}
    evil = make_bundle(tmp_path / "evil", name="<script>2</script>", scorecard={"variants": verdicts})
    page = to_html(evil, pair[1])
    assert "<script" not in page
    assert "rows are not finite & lost" in "".join(Page(page).text)


def test_the_plot_is_valid_and_has_a_mark_for_every_variant_that_was_timed(pair):
    svg = re.search("<svg.*</svg>", to_html(*pair)).group()
    root = ElementTree.fromstring(svg)
    assert {group.find("title").text for group in root.iter("g")} == {
        "B fp32: 0.900, 10.0 ms",
        "B int8: 0.880, 5.0 ms",
        "B fp16: 0.250, 8.0 ms",
    }
    width, height = map(float, root.get("viewBox").split()[2:])
    for circle in root.iter("circle"):
        assert 0 < float(circle.get("cx")) < width
        assert 0 < float(circle.get("cy")) < height
    ys = sorted(float(group.find("text").get("y")) for group in root.iter("g"))
    assert all(b - a >= 14 for a, b in pairwise(ys)), "names lie over each other"


@pytest.mark.parametrize("count", [1, 2, 22])
def test_any_number_of_points_can_be_drawn(count):
    points = [Point(f"v{i}", "a", 5.0, 0.5, i % 2 == 0) for i in range(count)]
    root = ElementTree.fromstring(draw(points, "Accuracy"))
    assert len(list(root.iter("g"))) == count
    ys = [float(group.find("text").get("y")) for group in root.iter("g")]
    assert max(ys) < 380
    assert min(ys) > 0


def test_without_times_there_is_a_sentence_in_the_place_of_the_plot():
    page = to_html(small_bundle(), small_bundle())
    assert "<svg" not in page
    assert "Nothing was timed" in page


def test_the_front_is_what_no_other_passing_variant_beats():
    fast, slow = Point("fast", "a", 1, 0.8, True), Point("slow", "a", 3, 0.9, True)
    worse = Point("worse", "a", 2, 0.7, True)
    failed = Point("failed", "a", 0.5, 0.99, False)
    as_good = Point("as good, slower", "a", 4, 0.9, True)
    assert front([as_good, worse, slow, failed, fast]) == [fast, slow]


def test_models_without_known_labels_are_plotted_by_their_agreement(pair, tmp_path):
    verdicts = {"fp32": card(accuracy=None, agreement=1.0)}
    b = extend_bundle(tmp_path / "c", pair[0], {}, scorecard={"variants": verdicts}, origin={})
    assert "Agreement against time" in to_html(pair[0], b)
    assert "B fp32: 1.000, 10.0 ms" in to_html(pair[0], b)
