"""A run that may leave records without a label: its plan, parts, audit and summary say so."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.abstaining import abstaining
from support.bundles import small_bundle
from support.runs import make_config, part_files, run_here
from support.tars import good_records, write_shard

from mmray.cli.run_display import RunDisplay
from mmray.errors import ConfigError, OutputError
from mmray.pipeline.audit import audit
from mmray.pipeline.ledger import Ledger
from mmray.pipeline.summary import conclude
from mmray.pipeline.survey import survey


@pytest.fixture
def shards(tmp_path):
    write_shard(tmp_path / "shards" / "a.tar", [*good_records(12), ("zz", {"png": b"no picture"})])
    return tmp_path / "shards"


@pytest.fixture
def bundle(tmp_path):
    """One whose least score leaves some records of the shard without a label."""
    return abstaining(tmp_path / "bundle", {0.05: 0.4, 0.2: 0.3})


def config_of(shards, bundle, tmp_path, **settings):
    values = {"bundle": str(bundle.path), "variant": "fp32", "abstain": 0.05}
    return make_config(shards, tmp_path / "out", **values | settings)


def test_plan_parts_and_summary_say_who_abstained(shards, bundle, tmp_path, capsys):
    config = config_of(shards, bundle, tmp_path)
    out, plan = run_here(config)
    assert plan.least_score == out.read_plan()["least_score"] == 0.4
    rows = pa.concat_tables([pq.read_table(file) for file in part_files(out)])
    unsure = [score < 0.4 for score in rows["score"].to_pylist()]
    assert rows["abstained"].to_pylist() == unsure
    assert 0 < sum(unsure) < rows.num_rows == 12
    assert [label is None for label in rows["label"].to_pylist()] == unsure
    ledger, verdict = Ledger.load(out), audit(out)
    assert verdict.problems == []
    assert (verdict.predicted, verdict.rejected) == (12, 1)  # a reject has not abstained
    assert ledger.abstained == sum(unsure)
    result = conclude(out, survey(config), ledger, verdict, {})
    assert result.summary["abstained"] == sum(unsure)
    RunDisplay(config.output).conclude(result)
    assert f"{sum(unsure)} of 12 " in capsys.readouterr().out
    assert json.loads(Path(out.summary.path).read_text())["abstained"] == sum(unsure)


def test_a_run_that_may_not_abstain_has_no_such_column(shards, bundle, tmp_path):
    config = config_of(shards, bundle, tmp_path, abstain="auto")
    out, _ = run_here(config)
    (file,) = part_files(out)
    assert "abstained" not in pq.read_schema(file).names
    assert out.read_plan()["least_score"] is None
    assert conclude(out, survey(config), Ledger.load(out), audit(out), {}).summary["abstained"] is None


def test_the_audit_tells_a_label_that_went_away_from_one_that_was_never_given(shards, bundle, tmp_path):
    out, _ = run_here(config_of(shards, bundle, tmp_path))
    (file,) = part_files(out)
    rows, footer = pq.read_table(file), pq.read_metadata(file).metadata
    place = rows.column_names.index("label")
    with pq.ParquetWriter(file, rows.schema) as writer:
        writer.write_table(rows.set_column(place, rows.schema.field("label"), pa.nulls(12, pa.string())))
        writer.add_key_value_metadata({k: v for k, v in footer.items() if k != b"ARROW:schema"})
    assert any("abstained does not say which rows have no label" in p for p in audit(out).problems)


def test_a_resume_with_another_risk_is_refused(shards, bundle, tmp_path):
    out, _ = run_here(config_of(shards, bundle, tmp_path))
    earlier = out.read_plan()
    survey(config_of(shards, bundle, tmp_path)).check_resumable(earlier)
    with pytest.raises(OutputError, match=r"was made with abstain=0\.05, but now it is 0\.2"):
        survey(config_of(shards, bundle, tmp_path, abstain=0.2)).check_resumable(earlier)


@pytest.mark.parametrize("variant", ["fp32", "auto"])
def test_a_risk_that_cannot_be_supported_is_refused_before_anything_runs(shards, bundle, variant, tmp_path):
    with pytest.raises(ConfigError, match=r"risk of 0\.01 .* ask for 0\.05, 0\.2 or more"):
        survey(config_of(shards, bundle, tmp_path, abstain=0.01, variant=variant))
    with pytest.raises(ConfigError, match="`mmray optimize` finds them"):
        survey(config_of(shards, small_bundle(), tmp_path, variant=variant))
    assert not (tmp_path / "out").exists()
