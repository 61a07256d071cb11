"""Whoever verifies a bundle is told whether its preprocessing was proved, too."""

import shutil

import pytest
from support.bundles import reseal, small_bundle
from typer.testing import CliRunner

from mmray.bundle import Bundle
from mmray.cli.bundles import bundle_app


@pytest.mark.parametrize(("has_records", "said"), [(True, "from 4 raw records"), (False, "tensors only")])
def test_a_bundle_without_raw_records_is_said_to_have_none(tmp_path, has_records, said):
    shutil.copytree(small_bundle().path, tmp_path / "b")
    if not has_records:
        (tmp_path / "b/golden.parquet").unlink()
        reseal(Bundle(tmp_path / "b", small_bundle().manifest, ""))
    done = CliRunner().invoke(bundle_app, ["verify", str(tmp_path / "b")])
    assert done.exit_code == 0, done.output
    assert said in done.output
    shown = CliRunner().invoke(bundle_app, ["inspect", str(tmp_path / "b")])
    assert ("4 raw records" if has_records else "tensors only") in shown.output
