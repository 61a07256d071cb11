"""What scorecards say, each figure where it belongs, on a terminal and on a page."""

import re
import sys
from html.parser import HTMLParser

import pytest
from support.bundles import make_bundle, small_bundle
from support.scorecards import card, few, judged_bundle, old_card, point, scorecard, tradeoff

from mmray.cli.optimizing import compare_bundles
from mmray.errors import BundleError, UsageError
from mmray.scorecards.cards import know
from mmray.scorecards.compare import (
    modalities_table,
    reasons,
    splits_table,
    tradeoff_table,
    uses_table,
    variants_table,
)
from mmray.scorecards.page import to_html


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    return judged_bundle(tmp_path_factory.mktemp("judged") / "b")


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    """As an older mmray wrote it: no splits, no trade-off, no bounds."""
    cards = {"fp32": old_card(), "int8-static": old_card(), "fp16": old_card(False, reason="not finite")}
    folder = tmp_path_factory.mktemp("old") / "b"
    return judged_bundle(folder, {"variants": cards}, variants=("int8-static",))


@pytest.fixture(scope="module")
def page(judged):
    return to_html(know(judged))


def row(table, name, side=None):
    """A row as {column: cell}."""
    rows = [dict(zip(table.header, cells, strict=True)) for cells in table.rows]
    return next(r for r in rows if name in r.values() and side in (None, r.get("")))


def test_every_variant_of_both_is_an_entry_and_those_of_one_name_are_neighbours(old, judged):
    found = know(old, judged).entries
    assert [(e.variant, e.side) for e in found] == [
        *[(name, side) for name in ("fp32", "int8-static", "fp16") for side in "AB"],
        ("int8-dynamic", "B"),
        ("cascade", "B"),
    ]
    assert found[0].size_bytes == old.graph("fp32").stat().st_size
    assert found[4].size_bytes == 12_345_678, "of a graph that is not in the bundle, the scorecard knows it"


def test_a_point_of_the_trade_off_shows_its_interval_its_numbers_and_its_test(judged):
    table = tradeoff_table(know(judged))
    assert row(table, "cascade") == {
        "name": "cascade",
        "kind": "cascade",
        "threshold": ".87",
        "ms": "8.2",
        "accuracy on tune": ".918 [.878, .958]",
        "n / groups": "400/310",
        "accuracy on test": ".909 [.869, .949]",
        "test n / groups": "250/190",
        "offered": "no",
    }
    assert row(table, "int8-static")["offered"] == "yes"
    assert row(table, "fp16")["offered"] == "no"
    text = row(table, "int8-static text")
    assert (text["accuracy on test"], text["test n / groups"], text["offered"]) == ("", "", "")
    times = [float(cells[table.header.index("ms")]) for cells in table.rows]
    assert times == sorted(times)


def test_the_settings_that_were_not_chosen_are_a_table_of_their_own_and_say_what_is_only_expected(judged):
    known = know(judged)
    chosen, others = tradeoff_table(known), tradeoff_table(known, settings=True)
    assert len(chosen.rows) + len(others.rows) == len(tradeoff())
    assert row(others, "cascade at 0.6")["time"] == "expected"
    assert "offered" not in others.header


def test_a_variant_shows_its_bounds_its_split_and_its_verdict(judged):
    table = variants_table(know(judged))
    assert row(table, "int8-static") == {
        "variant": "int8-static",
        "verdict": "passed",
        "accuracy": ".907",
        "difference": "-.004 (≥ -.018)",
        "agrees": ".980 (≥ .962)",
        "n / groups": "250/190",
        "split": "test",
        "MB": f"{judged.graph('int8-static').stat().st_size / 1e6:.1f}",
        "ms, 1 record": "20.0",
        "ms, batch": "10.0",
        "peak MB": "300.0",
    }
    assert row(table, "fp32")["verdict"] == "parent"
    assert row(table, "cascade")["verdict"] == "not enough records"
    assert reasons(know(judged)) == [
        "cascade, not enough records: 12 groups; 30 are needed",
        "fp16, failed: text: 9 of 250 decisions are <others> & too many",
    ]


def test_slices_by_modalities_have_verdicts_of_their_own_and_labels_are_left_out(judged):
    table = modalities_table(know(judged))
    assert row(table, "text + audio")["verdict"] == "not enough records"
    assert row(table, "text + audio")["n / groups"] == "21/9"
    assert not any("label" in cell for cells in table.rows for cell in cells)
    assert "fp32" not in {cells[0] for cells in table.rows}, "it would be compared with itself"


def test_groups_that_lie_in_train_and_in_test_are_told(tmp_path):
    splits = scorecard()["splits"] | {"groups_in_train_and_test": 7}
    known = know(make_bundle(tmp_path / "b", scorecard={"splits": splits}))
    assert row(splits_table(known), "in train and test")["groups"] == "7"


def test_points_of_few_modalities_are_named_by_these_where_one_variant_was_tried(judged, tmp_path):
    def labels(known):
        return [known.label(side, p) for side, p in known.points() if p.kind == "modality"]

    assert labels(know(judged)) == ["text", "image", "audio", "image + text"]
    points = [few(5.0, 0.8, "text"), few(9.0, 0.8, "text", variant="fp32")]
    two = make_bundle(tmp_path / "b", scorecard={"tradeoff": points})
    assert labels(know(two)) == ["int8-static text", "fp32 text"]


def test_the_splits_and_every_use_of_the_test_split_are_told(judged):
    known = know(judged)
    assert row(splits_table(known), "test") == {
        "split": "test",
        "records": "250",
        "groups": "190",
        "split by": "hash of caption_group",
    }
    assert row(uses_table(known), "int8-static")["why"] == "first judgement"


def test_what_an_older_scorecard_does_not_know_is_blank(old):
    known = know(old)
    assert row(variants_table(known), "fp16") == {
        "variant": "fp16",
        "verdict": "failed",
        "accuracy": ".800",
        "difference": "-.010",
        "agrees": ".980",
        "n / groups": "156",
        "MB": "12.3",
        "ms, 1 record": "20.0",
        "ms, batch": "10.0",
        "peak MB": "300.0",
    }
    assert not tradeoff_table(known).rows
    assert not splits_table(known).rows
    assert not uses_table(known).rows


def test_beside_another_each_row_says_which_bundle_it_is_of(old, judged):
    table = variants_table(know(old, judged))
    assert row(table, "fp16", "A")["n / groups"] == "156"
    assert row(table, "fp16", "B")["n / groups"] == "250/190"


@pytest.mark.parametrize(
    ("fault", "place"),
    [
        ({"ms": 0}, "tradeoff.0.ms"),
        ({"accuracy": float("nan")}, "tradeoff.0.accuracy"),
        ({"kind": "guess"}, "tradeoff.0.kind"),
        ({"test": {"accuracy": 1}}, "tradeoff.0.test.low"),
    ],
)
def test_a_point_that_cannot_be_drawn_is_refused_by_its_place(tmp_path, fault, place):
    points = [point("fp32", "variant", 9.0, 0.9) | fault]
    bundle = make_bundle(tmp_path / "b", scorecard={"tradeoff": points})
    with pytest.raises(BundleError, match=rf"scorecard\.json: {place}: .*make the bundle again"):
        know(bundle)


def test_the_command_takes_one_bundle_or_two_and_says_why_a_variant_is_not_offered(
    old, judged, page, tmp_path, capsys
):
    compare_bundles([str(judged.path)], tmp_path / "page.html")
    alone = capsys.readouterr().out
    assert f"tiny {judged.digest[:12]}, image + text + audio, 4 labels\n" in alone
    assert (tmp_path / "page.html").read_text() == page
    compare_bundles([str(old.path), str(judged.path)], None)
    both = capsys.readouterr().out
    assert f"B: tiny {judged.digest[:12]}" in both
    assert "A fp16, failed: not finite" in both
    assert ".918 [.878, .958]" in both, "no figure is cut, however narrow the terminal"


def test_a_bundle_says_which_of_the_two_it_was_made_from(judged, capsys):
    compare_bundles([str(small_bundle().path), str(judged.path)], None)
    assert "4 labels, made from A" in capsys.readouterr().out


class Page(HTMLParser):
    """Text and attributes of a page; complains of tags that do not close."""

    def __init__(self, page):
        super().__init__()
        self.text, self.open, self.attributes = [], [], []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.attributes += attrs
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_the_page_needs_nothing_but_itself_and_is_small(page):
    assert len(page) < 100_000
    attributes = Page(page).attributes
    assert not {name for name, _ in attributes} & {"src", "href", "srcset", "onclick"}
    assert all(value.startswith("#") for name, value in attributes if name == "xlink:href")
    assert "<script" not in page
    assert not re.search(r"url\((?!#)", page)
    assert "prefers-color-scheme: dark" in page


def test_no_two_things_of_the_page_have_one_id(page):
    ids = [value for name, value in Page(page).attributes if name == "id"]
    assert len(ids) == len(set(ids))


def test_the_page_has_the_numbers_under_the_plot_and_all_other_tables(page):
    shown = "".join(Page(page).text)
    assert page.index("<svg") < page.index("The numbers") < page.index("Variants by modalities")
    for text in ("Settings of a cascade that were not chosen: 7", "first judgement", "hash of caption_group"):
        assert text in shown


def test_the_page_shows_foreign_text_as_text(tmp_path):
    """Names and reasons come from a bundle, which may be anybody's."""
    name = r"<script>1</script> $\frac{1$"
    points = [point(name, "variant", 9.0, 0.9, split="<script>3</script>")]
    cards = {"<script>1</script>": card("failed", reason="<script>2</script>"), "fp32": card()}
    evil = make_bundle(
        tmp_path / "evil",
        name="<script>2</script>",
        scorecard=scorecard(tradeoff=points, variants=cards),
    )
    page = to_html(know(evil))
    assert "<script" not in page
    assert page.count(r"$\frac{1$") >= 3, "in the table and in both drawings"
    Page(page)


def test_without_a_trade_off_there_is_a_sentence_in_the_place_of_the_plot(old, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    page = to_html(know(old))
    assert "<svg" not in page
    assert "no trade-off of accuracy and time" in page
    assert "not finite" in page


def test_of_two_bundles_each_has_a_plot_of_its_own(old, judged):
    page = to_html(know(old, judged))
    assert page.index("Accuracy against time, A") < page.index("no trade-off") < page.index("<svg")


def test_where_matplotlib_is_missing_the_remedy_is_named(judged, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for module in ("mmray.scorecards.plot", "mmray.page.drawing"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    with pytest.raises(UsageError, match=r"matplotlib: pip install 'mmray\[plots\]'"):
        to_html(know(judged))
