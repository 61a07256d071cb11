"""Labels of a run beside those of its records, against the same counted by hand."""

import numpy as np
import pyarrow as pa
import pytest

from mmray.report.judged import Judged, chance, shard_group, step_of

LABELS = ("a", "b", "c")


def made(rows, seed=0, groups=False):
    """Rows of parts, with a label for most."""
    rng = np.random.default_rng(seed)
    given = rng.choice([*LABELS, None], rows, p=[0.3, 0.3, 0.3, 0.1]).tolist()
    truth = [
        g if rng.random() < 0.8 else t for g, t in zip(given, rng.choice([*LABELS, None], rows), strict=True)
    ]
    table = {
        "shard": [f"train-{i % 7:03d}.tar@9" if i % 3 else "test-000.tar@9" for i in range(rows)],
        "row": list(range(rows)),
        "key": [f"k{i}" for i in range(rows)],
        "label": pa.array(given, pa.string()),
        "score": pa.array(rng.uniform(0.3, 1.0, rows), pa.float32()),
        "meta_label": pa.array(truth, pa.string()),
    }
    if groups:
        table["meta_caption_group"] = [f"g{i // 4}" for i in range(rows)]
    return pa.table(table), pa.array(["image+text" if i % 2 else "text" for i in range(rows)])


def judge(table, sets, pieces=1, mistakes=5):
    judged = Judged("meta_label", mistakes)
    size = -(-table.num_rows // pieces)
    for start in range(0, table.num_rows, size):
        judged.add(table.slice(start, size), sets.slice(start, size))
    return judged


def test_shares_pairs_and_mistakes_are_those_counted_by_hand():
    table, sets = made(500)
    judged = judge(table, sets)
    rows = [dict(r, set=s) for r, s in zip(table.to_pylist(), sets.to_pylist(), strict=True)]
    known = [r for r in rows if r["label"] and r["meta_label"]]
    wrong = [r for r in known if r["label"] != r["meta_label"]]
    assert judged.all.records == len(known)
    assert judged.all.mean == pytest.approx(1 - len(wrong) / len(known))
    assert judged.abstained == sum(r["label"] is None and r["meta_label"] is not None for r in rows)
    for name in ("text", "image+text"):
        mine = [r for r in known if r["set"] == name]
        (found,) = (s for s in judged.by_set if s.name == name)
        assert found.mean == pytest.approx(sum(r["label"] == r["meta_label"] for r in mine) / len(mine))
    assert {s.name for s in judged.by_shard} == {"train-*.tar", "test-*.tar"}
    assert judged.pairs.counts["a", "b"] == sum(r["meta_label"] == "a" and r["label"] == "b" for r in known)
    surest = sorted(wrong, key=lambda r: -r["score"])[:5]
    assert [m.place.key for m in judged.worst] == [r["key"] for r in surest]


def test_it_does_not_matter_how_rows_are_cut():
    table, sets = made(300, groups=True)
    whole, pieces = judge(table, sets), judge(table, sets, 11)
    assert whole.all == pieces.all
    assert whole.bins == pieces.bins
    assert whole.by_set == pieces.by_set
    assert whole.worst == pieces.worst


def test_records_of_one_group_make_intervals_wider():
    """Copies of the same hundred records say no more than these."""
    table, sets = made(100)
    copies, all_sets = pa.concat_tables([table] * 4), pa.concat_arrays([sets] * 4)
    groups = copies.append_column("meta_caption_group", pa.array([f"g{i % 100}" for i in range(400)]))
    apart, together = judge(copies, all_sets).all, judge(groups, all_sets).all
    assert apart.mean == together.mean
    assert together.high - together.low > 1.6 * (apart.high - apart.low)


def test_bins_hold_about_as_many_records_each_also_where_all_are_nearly_sure():
    table, sets = made(2000)
    sure = pa.array(1 - 10 ** np.random.default_rng(0).uniform(-4, -1, 2000), pa.float32())
    bins = judge(table.set_column(4, "score", sure), sets).bins
    assert len(bins) == 10
    assert all(100 < b.share.records < 250 for b in bins)
    assert [b.confidence for b in bins] == sorted(b.confidence for b in bins)


def test_a_model_that_is_as_sure_as_it_is_right_has_no_calibration_error():
    rng = np.random.default_rng(1)
    scores = rng.uniform(0.2, 1.0, 50_000)
    right = rng.random(50_000) < scores
    table, _ = made(1)
    rows = 50_000
    columns = {name: [table[name][0].as_py()] * rows for name in ("shard", "row", "key")}
    columns |= {"label": ["a"] * rows, "score": pa.array(scores, pa.float32())}
    columns["meta_label"] = ["a" if r else "b" for r in right]
    judged = judge(pa.table(columns), pa.array(["text"] * rows))
    assert judged.calibration_error < 0.02
    columns["score"] = pa.array(np.minimum(1, scores + 0.3), pa.float32())
    assert judge(pa.table(columns), pa.array(["text"] * rows)).calibration_error > 0.1


def test_without_any_label_there_is_nothing_to_judge():
    table, sets = made(20)
    none = table.set_column(5, "meta_label", pa.nulls(20, pa.string()))
    judged = judge(none, sets)
    assert (judged.all.records, judged.bins, judged.worst, judged.by_set) == (0, [], [], [])


def test_steps_of_confidence_hold_what_falls_into_them():
    for score in (0.0, 1e-9, 0.3, 0.5, 0.999, 1.0):
        (step,) = step_of(np.array([score]))
        assert chance(step) <= score <= chance(step + 1)


def test_shards_are_grouped_by_their_names_without_numbers():
    assert shard_group("a/train-00017.tar@1234") == "a/train-*.tar"
    assert shard_group("plain@1") == "plain"
