"""Two runs side by side, against the same counted by hand."""

import pyarrow as pa
import pytest
from support.reports import labelled_run

from mmray.pipeline.sink import read_parquet
from mmray.report.between import agreement, compare_html
from mmray.report.facts import load


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    first = labelled_run(folder)
    return first, labelled_run(folder, output="texts", modalities=["text"])


def labels(out):
    rows = pa.concat_tables(read_parquet(out.parts / f.base_name) for f in out.parts.files())
    return {(r["shard"], r["row"]): r["label"] for r in rows.to_pylist()}


def test_agreement_is_over_the_rows_that_both_have(two):
    first, second = two
    a, b = labels(first), labels(second)
    common = a.keys() & b.keys()
    found = agreement(load(first), load(second))
    assert found.all.records == len(common) > 0
    assert found.all.mean == pytest.approx(sum(a[k] == b[k] for k in common) / len(common))
    assert sum(found.changed.counts.values()) == sum(a[k] != b[k] for k in common)
    assert sum(found.labels.values()) == len(common)


def test_the_gain_in_accuracy_is_paired(two):
    first, second = two
    a, b = labels(first), labels(second)
    rows = pa.concat_tables(
        read_parquet(second.parts / f.base_name) for f in second.parts.files()
    ).to_pylist()
    truth = {(r["shard"], r["row"]): r["meta_label"] for r in rows if r["meta_label"]}
    common = a.keys() & truth.keys()
    found = agreement(load(first), load(second)).gain
    assert found.records == len(common) > 0
    expected = sum((b[k] == truth[k]) - (a[k] == truth[k]) for k in common) / len(common)
    assert found.mean == pytest.approx(expected)
    assert -1 <= found.low <= expected <= found.high <= 1
    assert "points; 95 % interval" in compare_html(load(first), load(second))


def test_a_run_agrees_with_itself(two):
    run = load(two[0])
    found = agreement(run, run)
    assert (found.all.mean, found.changed.counts) == (1.0, {})


def test_runs_over_other_records_have_nothing_in_common(two, tmp_path):
    other = labelled_run(tmp_path, records=8)
    assert agreement(load(two[0]), load(other)).all is None
    assert "no labelled rows in common" in compare_html(load(two[0]), load(other))


def test_the_page_shows_both_and_escapes_what_they_hold(two):
    page = compare_html(*map(load, two))
    assert "A: out." in page
    assert "B: texts." in page
    assert "preprocess/image-empty" in page
    assert "model, ms a row" in page
    assert "<script" not in page
