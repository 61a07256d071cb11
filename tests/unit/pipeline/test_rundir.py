"""The run directory: its names, and that nothing foreign is ever taken for a run."""

import json

import pytest

from mmray.errors import OutputError
from mmray.pipeline.rundir import RunDirectory

PLAN = {"identity": {"bundle": "0" * 64}, "config": {}, "shards": [["a.tar@1", "/a.tar"]]}


@pytest.fixture
def out(tmp_path):
    return RunDirectory.at(str(tmp_path / "run"))


def test_a_new_place_has_no_plan_and_reading_it_makes_nothing(out, tmp_path):
    assert out.read_plan() is None
    assert not (tmp_path / "run").exists()


def test_a_plan_comes_back_as_it_was_written(out):
    out.begin(PLAN)
    assert out.read_plan() == PLAN


def test_with_the_plan_there_are_the_directories(out, tmp_path):
    out.begin(PLAN)
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"plan.json", "parts", "rejects", "faults"}


def test_a_crash_before_the_plan_leaves_a_place_that_can_be_begun_again(out, tmp_path):
    (tmp_path / "run/parts").mkdir(parents=True)
    (tmp_path / "run/rejects").mkdir()
    (tmp_path / "run/.tmp-7-plan.json").write_bytes(b"{")
    assert out.read_plan() is None
    out.begin(PLAN)
    assert out.read_plan() == PLAN


@pytest.mark.parametrize(
    "stray", ["photo.jpg", "events.jsonl", "parts/a-000000000-0123456789ab.parquet", "rejects/a.parquet"]
)
def test_a_directory_with_foreign_files_is_refused(out, tmp_path, stray):
    """Parts without a plan are of an unknown run: a new run would mix them with its own."""
    path = tmp_path / "run" / stray
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x")
    with pytest.raises(OutputError, match=r"no plan\.json; choose an empty or new --output"):
        out.read_plan()


@pytest.mark.parametrize(
    "plan",
    [
        "",
        "not json",
        "\x80",
        "[]",
        "3",
        "{}",
        '{"shards": []}',
        '{"format_version": "1.2", "resource_changes": []}',
    ],
)
def test_a_plan_that_is_none_of_ours_is_refused(out, tmp_path, plan):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/plan.json").write_text(plan, encoding="latin-1")
    with pytest.raises(OutputError, match=r"plan\.json"):
        out.read_plan()


def test_a_file_in_the_place_of_the_directory_is_refused(out, tmp_path):
    (tmp_path / "run").write_bytes(b"a file")
    with pytest.raises(OutputError):
        out.read_plan()


def test_events_are_lines_of_json_in_the_order_they_came(out, tmp_path):
    out.begin(PLAN)
    out.log("started", actors=2)
    out.log("finished", ok=True)
    lines = [json.loads(line) for line in (tmp_path / "run/events.jsonl").read_text().splitlines()]
    assert [(line["event"], line.get("actors"), line.get("ok")) for line in lines] == [
        ("started", 2, None),
        ("finished", None, True),
    ]
    assert lines[0]["time"] <= lines[1]["time"]


def test_the_summary_is_json(out, tmp_path):
    out.begin(PLAN)
    out.write_summary({"rows": 3})
    assert json.loads((tmp_path / "run/summary.json").read_text()) == {"rows": 3}
