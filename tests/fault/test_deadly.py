"""A record that kills its worker, or never comes back, costs itself and nothing else, in either topology."""

from __future__ import annotations

import json
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.command import run_deadly
from support.tars import write_shard

from mmray.pipeline.audit import audit
from mmray.pipeline.rundir import RunDirectory

ROWS = 150


def texts(folder, **special):
    """Three shards of captions; those of some records, by key, are others."""
    folder.mkdir()
    for s in range(3):
        said = [special.get(f"r{s}_{i}", "a red cat") for i in range(ROWS)]
        records = [(f"{s}-{i:03}", {"txt": text.encode()}) for i, text in enumerate(said)]
        write_shard(folder / f"s{s}.tar", records)
    return folder


@pytest.mark.parametrize(
    ("topology", "text", "kind"),
    [
        ("fused", "DEADLY", "worker-died"),
        pytest.param("fused", "GREEDY", "worker-out-of-memory", marks=pytest.mark.long),
        pytest.param("split", "GREEDY", "worker-out-of-memory", marks=pytest.mark.long),
        pytest.param("split", "ENDLESS", "worker-hung", marks=pytest.mark.long),
        pytest.param("split", "DEADLY", "worker-died", marks=pytest.mark.long),
        pytest.param("fused", "ENDLESS", "worker-hung", marks=pytest.mark.long),
    ],
)
def test_the_record_is_rejected_and_all_others_are_predicted(bundle, tmp_path, topology, text, kind):
    """Also where it is the last of its shard, which a total must still be known of."""
    special = {"r1_90": text, f"r2_{ROWS - 1}": text} if kind == "worker-died" else {"r1_90": text}
    shards, output = texts(tmp_path / "in", **special), tmp_path / "out"
    done = run_deadly(shards, bundle, output, f"topology={topology}", "stall_s=6")
    assert done.returncode == 0, done.stdout + done.stderr
    rejects = pa.concat_tables([pq.read_table(file) for file in (output / "rejects").iterdir()]).to_pylist()
    assert {(r["key"], r["stage"], r["type"]) for r in rejects} == {
        (f"{name[1]}-{int(name[3:]):03}", "preprocess", kind) for name in special
    }
    assert all(reject["length"] and reject["offset"] for reject in rejects)
    predicted = sum(pq.read_metadata(part).num_rows for part in (output / "parts").iterdir())
    assert predicted == 3 * ROWS - len(special)
    assert audit(RunDirectory.at(str(output)), recount=True).ok
    assert f"{len(special)} rejected: preprocess/{kind}" in done.stdout


@pytest.mark.long
def test_where_every_record_is_deadly_none_is_blamed(bundle, tmp_path):
    """It is the machine's fault, or the program's: the run ends and names what workers were at."""
    special = {f"r{s}_{i}": "DEADLY" for s in range(3) for i in range(ROWS)}
    output = tmp_path / "out"
    done = run_deadly(texts(tmp_path / "in", **special), bundle, output)
    said = " ".join(done.stderr.split())
    assert done.returncode == 3, done.stdout + done.stderr
    assert re.search(r"no progress: each worker died in \w+ of s\d.tar from row 0 on", said)
    assert "3 shards incomplete" in said
    assert not list((output / "parts").glob("*"))
    assert [file.name for file in (output / "rejects").glob("*")] == ["none.parquet"]
    events = [json.loads(line) for line in (output / "events.jsonl").read_text().splitlines()]
    assert [event["event"] for event in events].count("lost") == 2
