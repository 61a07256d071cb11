"""Input, bundle and output on a store give the same as on a disk, also when the store fails now and then."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from support.stores import CLIENT_ATTEMPTS, Bucket

from mmray.bundle import Bundle
from mmray.config import RunConfig
from mmray.errors import BundleError
from mmray.pipeline.audit import audit
from mmray.pipeline.ledger import Ledger
from mmray.pipeline.run import Watcher, run
from mmray.pipeline.rundir import RunDirectory
from mmray.pipeline.sink import read_parquet
from mmray.pipeline.summary import Result
from mmray.report.page import try_report
from mmray.sources import list_shards
from mmray.storage import Location

ROWS = 240
SILENT = Watcher(lambda *_: None, lambda *_: None, lambda *_: None)


def upload(folder: Path, url: str) -> None:
    place = Location.parse(url)
    for file in folder.rglob("*"):
        if file.is_file():
            (place / str(file.relative_to(folder))).write_atomically(file.read_bytes())


@pytest.fixture
def stored(store: Bucket, shards: Path, bundle: Bundle) -> Bucket:
    """A bucket with the shards below in/ and the bundle below bundle/."""
    upload(shards, store.url("in"))
    upload(bundle.path, store.url("bundle"))
    return store


on_s3 = pytest.mark.parametrize("store", ["s3"], indirect=True)
long_elsewhere = pytest.mark.parametrize(
    "store", ["s3", *(pytest.param(kind, marks=pytest.mark.long) for kind in ("gcs", "azure"))], indirect=True
)


def execute(input: str, bundle: str, output: str, **settings: object) -> Result:
    config = {"input": [input], "bundle": bundle, "output": output, "part_rows": 20, **settings}
    return run(RunConfig.model_validate(config), SILENT)


def execute_there(s3: Bucket, output: str = "out", **settings: object) -> Result:
    return execute(s3.url("in"), s3.url("bundle"), s3.url(output), **settings)


def predictions(output: str) -> pa.Table:
    out = RunDirectory.at(output)
    rows = pa.concat_tables([read_parquet(out.parts / part.name) for part in Ledger.load(out).parts])
    return rows.sort_by([("shard", "ascending"), ("row", "ascending")])


@pytest.fixture(scope="module")
def on_disk(
    shards: Path, bundle: Bundle, ray_cluster: None, tmp_path_factory: pytest.TempPathFactory
) -> pa.Table:
    """Predictions of a run from disk to disk."""
    output = str(tmp_path_factory.mktemp("local") / "out")
    assert execute(str(shards), str(bundle.path), output).audit.ok
    return predictions(output)


def test_a_run_on_a_store_gives_what_a_run_on_a_disk_gives(stored, on_disk):
    result = execute_there(stored)
    assert result.audit.ok
    assert result.summary["rows"] == ROWS
    assert predictions(stored.url("out")).equals(on_disk)
    assert try_report(stored.url("out")) == ""
    assert b"Clean: 240 rows" in Location.parse(stored.url("out/report.html")).read_bytes()
    again = execute_there(stored)
    assert again.audit.ok
    assert again.summary["this_run"] == {}
    plan = json.loads(Location.parse(stored.url("out/plan.json")).read_bytes())
    assert plan["config"]["bundle"] == stored.url("bundle"), "workers on other machines open it by URL"


@long_elsewhere
def test_a_store_that_fails_now_and_then_costs_no_row_and_doubles_none(stored, on_disk):
    """Answers that the client does not repeat, an outage that outlasts it, and bodies that break off."""
    second = list_shards([stored.url("in")])[1].name  # no shard that is looked at before the workers start
    outage = stored.fail("slow-down", CLIENT_ATTEMPTS + 5, "GET", second)
    stored.fail("reset", 6, "GET", r"in/.*\.tar", every=3)
    stored.fail("short", 6, "GET", r"in/.*\.tar", every=2)
    for method, every in (("HEAD", 12), ("GET", 12), ("POST", 8), ("PUT", 4)):
        stored.fail("conflict", 4, method, every=every)
    result = execute_there(stored)
    used = {request.method for request in stored.server.requests}
    assert all(f.made >= 3 for f in stored.server.faults if f.method in used), stored.server.faults
    assert outage.made == outage.times
    stored.server.faults.clear()
    assert result.audit.ok
    assert result.audit.total == result.audit.predicted == ROWS
    assert audit(RunDirectory.at(stored.url("out")), recount=True).ok
    assert predictions(stored.url("out")).equals(on_disk)


@pytest.mark.parametrize("pattern", ["in/*.tar", "in/train-00000?.tar", "in/train-{000000..000001}.tar"])
def test_shards_of_a_store_are_named_by_patterns(stored, shards, pattern):
    found = list_shards([stored.url(pattern)])
    there = list_shards([str(shards / pattern.removeprefix("in/"))])
    assert len(found) > 1
    assert [shard.id for shard in found] == [shard.id for shard in there]
    assert [shard.open().info().size for shard in found] == [shard.size for shard in there]


OPEN = "import sys; from mmray.bundle import Bundle; print(Bundle.open(sys.argv[1]).path)"


@on_s3
def test_a_bundle_is_fetched_once_a_machine_by_however_many_processes(stored, bundle, tmp_path, monkeypatch):
    monkeypatch.setenv("MMRAY_CACHE", str(tmp_path))
    url = stored.url("bundle")
    processes = [
        subprocess.Popen([sys.executable, "-c", OPEN, url], stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    paths = {process.communicate(timeout=60)[0].strip() for process in processes}
    assert paths == {str(tmp_path / "bundles" / bundle.digest)}
    fetched = [r.path for r in stored.server.requests if r.method == "GET" and "bundle/" in r.path]
    assert len(fetched) == len(bundle.manifest.files) + 1 + len(processes)  # the manifest for each of them
    Bundle.open(paths.pop()).verify()
    with stored.counting() as methods:
        assert Bundle.open(url).digest == bundle.digest
    assert methods == ["HEAD", "GET"]


@on_s3
def test_a_bundle_that_was_altered_on_the_store_is_refused(stored, tmp_path, monkeypatch):
    monkeypatch.setenv("MMRAY_CACHE", str(tmp_path))
    Location.parse(stored.url("bundle/tokenizer.json")).write_atomically(b"{}")
    with pytest.raises(BundleError, match=r"tokenizer\.json.*another sha256"):
        Bundle.open(stored.url("bundle"))
    assert not [path for path in (tmp_path / "bundles").iterdir() if path.is_dir()]


@on_s3
@pytest.mark.parametrize("name", ["../outside", "/etc/outside", "variants/../../outside"])
def test_a_bundle_on_a_store_writes_nothing_outside_of_its_copy(stored, tmp_path, monkeypatch, name):
    monkeypatch.setenv("MMRAY_CACHE", str(tmp_path))
    place = Location.parse(stored.url("bundle/manifest.json"))
    manifest = json.loads(place.read_bytes())
    manifest["files"][name] = "0" * 64
    place.write_atomically(json.dumps(manifest).encode())
    with pytest.raises(BundleError, match="names a file outside the bundle"):
        Bundle.open(stored.url("bundle"))
    assert not list(tmp_path.iterdir())


def test_a_url_without_a_bundle_is_refused(s3):
    with pytest.raises(BundleError, match="not a bundle"):
        Bundle.open(s3.url("nowhere"))
