"""The page of a run that the job made: it tells all, trusts nothing, and never costs the run."""

import json
import re
import sys
from html.parser import HTMLParser

import pyarrow.parquet as pq
import pytest
from support.abstaining import abstaining
from support.reports import EVIL, finish, labelled_run
from support.runs import make_config, part_files
from support.tars import write_shard

from mmray.errors import OutputError, UsageError
from mmray.pipeline.rundir import RunDirectory
from mmray.report.facts import load
from mmray.report.page import to_html, try_report, write_report
from mmray.report.verdict import verdict

HOSTILE = re.compile(r"<script|<b>|https?://(?!www\.w3\.org)|@import|url\((?!#)")


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return labelled_run(tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def page(out):
    return to_html(load(out, "label"), gallery=9)


class Text(HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.said = []
        self.feed(page)

    def handle_data(self, data):
        self.said.append(data)


def told(page):
    return "\n".join(Text(page).said)


def test_it_tells_what_the_run_came_to(out, page):
    run, said = load(out), told(page)
    assert verdict(run)[1] == "Clean: 27 rows = 24 predicted + 3 rejected, 6.8 rows/s"
    for words in (
        verdict(run)[1],
        "Rows over time",
        "Bound by the model (50% of the work)",
        "image+text",
        "preprocess/image-empty",
        "broken-<b>",
        "Is the confidence right?",
        "Most confident mistakes",
        "started: fused topology",
    ):
        assert words in said, words
    assert page.count("<svg") == 6, "three drawings, wide and narrow"


def test_nothing_that_comes_from_data_is_markup_and_nothing_is_loaded(page):
    assert not HOSTILE.search(page)
    assert EVIL in told(page)


def test_accuracy_is_that_of_the_parts(out):
    judged = load(out).rows.judged
    right = sum(n for (label, given), n in judged.pairs.counts.items() if label == given)
    assert (judged.all.records, judged.all.mean) == (24, pytest.approx(right / 24))
    assert {s.name for s in judged.by_shard} == {"train-*.tar", "test-*.tar"}


def test_pictures_are_small_jpegs_of_the_records_that_went_wrong(out, page):
    pictures = re.findall(r'alt="([^"]*)" src="data:image/jpeg;base64,([^"]*)"', page)
    worst = [m.place.key for m in load(out).rows.judged.worst]
    assert [key for key, _ in pictures] == worst[:9]
    assert all(len(data) < 8000 for _, data in pictures)
    assert "data:image" not in to_html(load(out))


def test_shards_that_went_away_are_named_where_pictures_were_asked_for(out, tmp_path):
    plan = json.loads(out.plan.read_bytes())
    plan["shards"] = [[s[0], s[1].replace(".tar", ".gone"), *s[2:]] for s in plan["shards"]]
    run = load(out)
    page = to_html(type(run)(run.out, plan, run.summary, run.ledger, run.history, run.rows), gallery=3)
    assert "train-000.tar: no pictures: " in told(page)


def test_a_run_that_carried_nothing_has_confidence_but_no_accuracy(tmp_path):
    page = told(to_html(load(labelled_run(tmp_path, carry=[])), gallery=2))
    assert "Confidence" in page
    assert "most confident mistakes" not in page
    assert "Pictures" in page, "the least sure ones"


def test_records_without_a_label_are_counted_and_take_no_part_in_the_accuracy(out, tmp_path):
    scores = [score for part in part_files(out) for score in pq.read_table(part)["score"].to_pylist()]
    bundle = abstaining(tmp_path / "bundle", {0.05: sorted(scores)[12]})
    run = load(labelled_run(tmp_path, bundle=str(bundle.path), variant="fp32", abstain=0.05))
    assert 0 < run.ledger.abstained < 24
    assert run.rows.judged.abstained == run.ledger.abstained == run.rows.abstained.total()
    assert run.rows.judged.all.records == 24 - run.ledger.abstained
    said = told(to_html(run))
    assert "Records without a label" in said
    assert f"{run.ledger.abstained} records that carry a label got none" in said


def test_a_field_that_was_not_carried_is_refused_with_those_that_were(out):
    with pytest.raises(UsageError, match=r"did not carry 'artist', but label; .*`carry`"):
        load(out, "artist")


def test_an_unfinished_run_says_so(tmp_path):
    out = labelled_run(tmp_path)
    part_files(out)[0].unlink()
    assert verdict(load(out))[1].startswith("Unfinished: ")
    out.summary.delete()
    assert "continues" in told(to_html(load(out)))


def test_too_many_rejects_decide_the_verdict(tmp_path):
    assert verdict(load(labelled_run(tmp_path, max_reject_rate=0.01)))[1].startswith("Too many rejects: ")


def test_a_damaged_shard_decides_the_verdict(tmp_path):
    shard = write_shard(tmp_path / "in/a.tar", [(f"k{i}", {"txt": b"a red cat"}) for i in range(30)])
    shard.write_bytes(shard.read_bytes()[: 3 * 1024 + 100])
    run = load(finish(make_config(tmp_path / "in", tmp_path / "out")))
    assert verdict(run)[1].startswith("Records are lost: ")
    assert "shard/shard-truncated" in told(to_html(run))


def test_it_is_written_into_the_run_directory_and_the_run_is_still_one(out):
    write_report(str(out))
    page = out.report.read_bytes()
    assert page.startswith(b"<!doctype html>")
    assert out.read_plan()
    assert try_report(str(out)) == ""
    assert out.report.read_bytes() == page, "the same run gives the same bytes"


def test_a_page_that_cannot_be_made_is_a_sentence(out, tmp_path, monkeypatch):
    assert "not a run directory" in try_report(str(tmp_path / "none"))
    broken = labelled_run(tmp_path)
    part_files(broken)[0].write_bytes(part_files(broken)[0].read_bytes()[:-4000])
    broken.events.write_atomically(b"\0")
    broken.summary.write_atomically(b"{")
    assert "no report.html: JSONDecodeError" in try_report(str(broken))
    for module in [m for m in sys.modules if m.startswith(("mmray.report", "mmray.page.drawing"))]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert "pip install 'mmray[plots]'" in try_report(str(out))


def test_no_run_is_refused(tmp_path):
    with pytest.raises(OutputError, match="not a run directory"):
        load(RunDirectory.at(str(tmp_path)))
