"""Parts of a long run: few, and never all at its end."""

import time

import pytest
from support.runs import make_config
from support.tars import members_of, tar_bytes

from mmray.pipeline.run import Watcher, run

SILENT = Watcher(lambda *_: None, lambda *_: None, lambda *_: None)
SHARDS, SHARD_ROWS = 20, 5_000


@pytest.fixture(scope="module")
def captions(tmp_path_factory):
    """100,000 captions."""
    directory = tmp_path_factory.mktemp("captions")
    for shard in range(SHARDS):
        rows = [(f"{row:06d}", {"txt": b"a red cat %d" % row}) for row in range(SHARD_ROWS)]
        (directory / f"{shard:02d}.tar").write_bytes(tar_bytes(members_of(rows)))
    return directory


@pytest.mark.long
@pytest.mark.parametrize("topology", ["fused", "split"])
def test_100_000_rows_leave_few_parts_that_appear_steadily(ray_cluster, captions, tmp_path, topology):
    output = tmp_path / "out"
    start = time.time()
    result = run(make_config(captions, output, topology=topology, part_rows=10_000), SILENT)
    assert result.summary["predicted"] == SHARDS * SHARD_ROWS
    written = sorted(part.stat().st_mtime - start for part in (output / "parts").iterdir())
    print(f"{topology}: parts after {', '.join(f'{s:.0f}' for s in written)} s")
    assert len(written) <= 40
    begun = result.summary["this_run"]["startup_s"]
    processing_s = written[-1] - begun
    waits = [after - before for before, after in zip([begun, *written], written, strict=False)]
    assert max(waits) < processing_s / 2
