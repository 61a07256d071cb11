"""How `jobs/bench/variants.py` reads its contenders, and what it does to records before it watches a run."""

import numpy as np
import pyarrow as pa
import pytest
from support.scripts import load_script
from support.tars import write_shard

from mmray.errors import InputError
from mmray.sources import ReadOptions, list_shards, read

bench = load_script("jobs/bench/variants.py")

RECORDS = [(f"{n:02d}", {"txt": f"caption {n}".encode() * n, "png": bytes([n])}) for n in range(1, 9)]
MUTE = ("99", {"png": b"no caption"})


def rows(path):
    (shard,) = list_shards([str(path)])
    return [row for block in read(shard, ReadOptions()) for row in block.to_pylist()]


def test_permuting_gives_every_record_the_caption_of_another_one_and_alters_nothing_else(tmp_path):
    source = write_shard(tmp_path / "in" / "a.tar", [*RECORDS, MUTE])
    for seed in range(5):
        target = tmp_path / f"{seed}.tar"
        bench.permute_captions(source, target, np.random.default_rng(seed))
        old, new = rows(source), rows(target)
        assert [row["image"] for row in new] == [row["image"] for row in old]
        assert [row["key"] for row in new] == [row["key"] for row in old]
        assert new[-1]["text"] is None
        assert sorted(row["text"] for row in new[:-1]) == sorted(row["text"] for row in old[:-1])
        assert all(n["text"] != o["text"] for n, o in zip(new[:-1], old[:-1], strict=True))


def test_a_contender_is_a_variant_of_a_bundle_and_perhaps_what_it_may_look_at():
    assert bench.parse_contender("b/stamps:cascade") == bench.Contender("b/stamps", "cascade", None)
    alone = bench.parse_contender("b/stamps:fp32:text+image")
    assert alone.modalities == ("image", "text")
    assert str(alone) == "stamps fp32 image+text alone"
    for wrong in ("b/stamps", "b/stamps:", "b/stamps:fp32:smell"):
        with pytest.raises(InputError, match="give bundle:variant"):
            bench.parse_contender(wrong)


def test_a_record_that_a_contender_rejects_counts_as_not_right():
    columns = {"meta_caption_group": ["g", None, "g"], "meta_label": ["cat", "dog", "cat"]}
    both = pa.table({"shard": ["s"] * 3, "row": [0, 1, 2], "label": ["cat", "cat", None], **columns})
    judged = bench.groups(both)
    assert list(judged.values()) == ["g", "s#1", "g"]
    assert bench.is_right(both, judged).tolist() == [True, False, False]
    assert bench.is_right(both.slice(1), judged).tolist() == [False, False, False]


def test_a_fast_contender_gets_more_records_and_a_slow_one_as_many_again():
    def ran(seconds):
        return bench.Ran("out", {"elapsed_s": seconds + 8.0, "startup_s": 8.0, "rows": 100}, None, 0.0)

    assert bench.more_copies(ran(20.0), 2, seconds=15.0) == 2
    assert bench.more_copies(ran(4.0), 2, seconds=15.0) == 8
    assert bench.more_copies(ran(0.0), 2, seconds=15.0) == 2 * 64, "too fast to be timed: bounded"


def test_copies_of_the_records_have_names_of_their_own(tmp_path):
    shard = write_shard(tmp_path / "in" / "a.tar", RECORDS)
    inputs = bench.Inputs([shard], tmp_path)
    assert sorted(f.name for f in inputs.of(3).iterdir()) == ["0000-a.tar", "0001-a.tar", "0002-a.tar"]
    assert inputs.of(3) == inputs.of(3) != inputs.of(1)
