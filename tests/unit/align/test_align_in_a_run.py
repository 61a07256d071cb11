"""What a run does with `align`: workers get it, parts tell the error, and a resume must have the same."""

import json

import pytest
from support.bundles import records_table, small_bundle
from support.media import clip, image_bytes
from support.runs import make_config
from support.tars import write_shard

from mmray.errors import OutputError
from mmray.pipeline.job import Job
from mmray.pipeline.rundir import RunDirectory
from mmray.pipeline.sink import write_part
from mmray.pipeline.survey import survey

TIMES = {
    "image": {"at_s": 0.5, "error_ms": 12.5},
    "audio": {"start_s": 0},
    "text": {"captions": [[0, 1, "a cat"]]},
}
RECORD = {
    "png": image_bytes(),
    "wav": clip(seconds=1),
    "txt": b"a dog",
    "json": json.dumps({"times": TIMES}).encode(),
}


@pytest.fixture
def config(tmp_path):
    write_shard(tmp_path / "in/a.tar", [("a", RECORD), ("b", RECORD)])
    return lambda **settings: make_config(tmp_path / "in", tmp_path / "out", **settings)


def outcomes(config):
    job = Job(config, small_bundle().digest, part_rows=10, threads=1)
    row = {"image": RECORD["png"], "audio": RECORD["wav"], "text": RECORD["txt"], "meta": RECORD["json"]}
    records = records_table([row, {**row, "meta": b"{}"}])
    return job, job.open_predictor()(job.open_preprocessor()(records))


def test_predictions_tell_how_far_they_may_be_out_of_step(config, tmp_path):
    job, made = outcomes(config(align={"before_s": 0.3, "after_s": 0.3}))
    assert made["alignment_error_ms"].to_pylist() == [12.5, None]
    assert made["error"].to_pylist()[1]["stage"] == "align"
    out = RunDirectory.at(str(tmp_path / "run"))
    out.begin({})
    part = write_part(out, made, job.open_predictor().columns)
    assert dict(part.rejects) == {"align/times-missing": 1}


def test_without_align_there_is_no_such_column(config):
    _, made = outcomes(config())
    assert "alignment_error_ms" not in made.schema.names
    assert made["error"].null_count == 2


def test_a_resume_must_align_as_the_run_before_it_did(config):
    def plan(found):
        return {"identity": found.identity(), "shards": [shard.to_list() for shard in found.shards]}

    plain, aligned = survey(config()), survey(config(align={"before_s": 2}))
    survey(config(align={"before_s": 2})).check_resumable(plan(aligned))
    for earlier, now in ((plain, aligned), (aligned, plain), (aligned, survey(config(align={"after_s": 2})))):
        with pytest.raises(OutputError, match="was made with align="):
            now.check_resumable(plan(earlier))


def test_a_run_from_before_there_was_align_can_be_resumed(config):
    found = survey(config())
    identity = {key: value for key, value in found.identity().items() if key != "align"}
    found.check_resumable({"identity": identity, "shards": [shard.to_list() for shard in found.shards]})
