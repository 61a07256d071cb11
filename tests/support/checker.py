"""One damaged shard through reader, preprocessing and model, and whether it ended as it must."""

import re
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from mmray.coverage import Missing
from mmray.predictor import Predictor, open_preprocessor
from mmray.preprocess.spec import ImageSpec, Limits
from mmray.schema import OutputColumns
from mmray.sources import ReadOptions, Shard, read
from support.bundles import SPEC, make_bundle

CASE_S = 5.0  # of CPU time
GROWTH_MB = 256.0
LIMITS = Limits(member_bytes=200_000, image_pixels=1_000_000, audio_s=20, text_chars=5_000)
OPTIONS = ReadOptions(member_bytes=LIMITS.member_bytes, block_rows=2)
ADDRESS = ("row", "key", "offset", "length")


class Case(NamedTuple):
    """What became of one shard."""

    fault: str | None  # why it is a finding
    kinds: Counter  # rows: "predicted", or "stage/type" of the reject
    ms: float = 0.0  # of CPU time: other processes do not count
    growth_mb: float = 0.0
    peak_mb: float = 0.0


class Checker:
    """The whole path over one shard at a time, in this process: once it rejects damage, once it masks it.

    Its files are in a new folder below `place`, which is the caller's to delete: a checker may die at work.
    """

    def __init__(self, place):
        home = Path(tempfile.mkdtemp(dir=place))
        self._path = home / "s.tar"
        self._ways = []
        crop = SPEC.model_copy(update={"image": ImageSpec(height=48, width=64, fit="crop")})
        for mode, spec in (("reject", SPEC), ("mask", crop)):
            bundle = make_bundle(home / mode, spec=spec)
            columns = OutputColumns(classes=len(bundle.labels), features=3, carry=("number", "label"))
            predict = Predictor(bundle, provider="cpu", columns=columns)
            self._ways.append((open_preprocessor(bundle, limits=LIMITS, on_damaged=mode), predict))

    def __call__(self, tar):
        """Run one shard, given as bytes; whatever goes wrong is in the case."""
        self._path.write_bytes(tar)
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
        before, start = memory_mb("VmRSS"), time.process_time()
        kinds, fault = Counter(), None
        try:
            self._run(Shard(f"s.tar@{len(tar)}", str(self._path), len(tar)), kinds)
        except BaseException:  # whatever it is, a panic of a Rust library included, it is what we look for
            fault = traceback.format_exc()
        ms, peak_mb = 1e3 * (time.process_time() - start), memory_mb("VmHWM")
        if ms > 1e3 * CASE_S:
            fault = fault or f"{ms:.0f} ms"
        if peak_mb - before > GROWTH_MB:
            fault = fault or f"resident memory grew by {peak_mb - before:.0f} MB"
        return Case(fault, kinds, ms, peak_mb - before, peak_mb)

    def _run(self, shard, kinds):
        for preprocess, predict in self._ways:
            blocks = [predict(preprocess(block)).to_pylist() for block in read(shard, OPTIONS)]
            rows = [row for block in blocks for row in block]
            assert rows, "no rows at all"
            for i, row in enumerate(rows):
                error = row["error"]
                kinds[f"{error['stage']}/{error['type']}" if error else "predicted"] += 1
                assert (row["row"], row["end"]) == (i, i == len(rows) - 1), f"row {i} is misnumbered: {row}"
                if error:
                    assert not re.search("memory|alloc", error["reason"], re.IGNORECASE), error["reason"]
                else:
                    assert row["modalities"], f"row {i} is predicted from nothing"
                    assert abs(sum(row["scores"]) - 1) < 1e-3, f"row {i} has scores {row['scores']}"
        stop = 0  # of the row before
        for i, row in enumerate(rows):
            for start in (row["offset"], stop):  # where a retry looks for it, and a resume
                blocks = read(shard, OPTIONS, [Missing(i, i, start)])
                found = [[again[name] for name in ADDRESS] for block in blocks for again in block.to_pylist()]
                assert found == [[row[name] for name in ADDRESS]], f"row {i} from byte {start} is {found}"
            stop = row["offset"] + row["length"]


def memory_mb(field):
    """A field of this process's memory: VmRSS, VmHWM (its peak) or VmSize (address space)."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(rf"{field}:\s+(\d+) kB", status)[1]) * 1024 / 1e6
