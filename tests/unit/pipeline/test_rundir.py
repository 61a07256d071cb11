"""The run directory: its names, and that nothing foreign is ever taken for a run."""

import json

import pyarrow.parquet as pq
import pytest
import yaml
from support.stores import Bucket

from mmray.errors import OutputError
from mmray.pipeline.ledger import Ledger
from mmray.pipeline.rundir import RunDirectory
from mmray.schema import REJECTS

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
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {"plan.json", "parts", "rejects", "faults", "README.md"}


def test_the_readme_names_the_tables_for_hugging_face(out, tmp_path):
    """Its `datasets` reads the YAML between the dashes; without it, it takes all files for one table."""
    out.begin(PLAN)
    _, head, text = (tmp_path / "run/README.md").read_text().split("---\n", 2)
    configs = yaml.safe_load(head)["configs"]
    assert [(c["config_name"], c["data_files"]) for c in configs] == [
        ("predictions", "parts/*.parquet"),
        ("rejects", "rejects/*.parquet"),
        ("faults", "faults/*.parquet"),
    ]
    assert [c["config_name"] for c in configs if c.get("default")] == ["predictions"]
    assert all(f"`{folder}/`" in text for folder in ("parts", "rejects", "faults"))


@pytest.mark.parametrize("folder", ["rejects", "faults"])
def test_there_is_a_table_where_nothing_is_rejected_and_no_run_takes_it_for_its_own(out, tmp_path, folder):
    out.begin(PLAN)
    file = tmp_path / "run" / folder / "none.parquet"
    assert pq.read_table(file).equals(REJECTS.empty_table())
    assert pq.read_metadata(file).num_row_groups == 0  # `datasets` fails on one without rows
    ledger = Ledger.load(out)
    assert (ledger.orphans, ledger.incomplete, ledger.foreign) == ([], [], [])
    ledger.clean_up(out)
    assert file.exists()


def test_what_a_person_wrote_into_the_readme_stays(out, tmp_path):
    out.begin(PLAN)
    (tmp_path / "run/README.md").write_text("mine")
    out.begin(PLAN)
    assert (tmp_path / "run/README.md").read_text() == "mine"


def test_a_run_of_before_gets_what_explains_it_when_it_goes_on(out, tmp_path):
    out.begin(PLAN)
    for name in ("README.md", "rejects/none.parquet"):
        (tmp_path / "run" / name).unlink()
    out.begin(PLAN)
    assert (tmp_path / "run/README.md").exists()
    assert (tmp_path / "run/rejects/none.parquet").exists()


def test_a_crash_before_the_plan_leaves_a_place_that_can_be_begun_again(out, tmp_path):
    (tmp_path / "run/parts").mkdir(parents=True)
    (tmp_path / "run/rejects").mkdir()
    (tmp_path / "run/.tmp-7-plan.json").write_bytes(b"{")
    assert out.read_plan() is None
    out.begin(PLAN)
    assert out.read_plan() == PLAN


@pytest.mark.parametrize(
    "stray",
    ["photo.jpg", "README.md", "events.jsonl", "parts/a-000000000-0123456789ab.parquet", "rejects/a.parquet"],
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


def test_a_bucket_that_is_not_there_is_a_wrong_output_not_a_run_that_broke_off(s3: Bucket):
    missing = RunDirectory.at(s3.url("run").replace(s3.name, "no-such-bucket"))
    with pytest.raises(OutputError, match="choose another --output"):
        missing.begin(PLAN)
