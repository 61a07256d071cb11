"""The command line in a process that can be killed, and the Ray workers that it starts."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from mmray.bundle import Bundle
from support.scripts import ROOT


@dataclass
class Command:
    """`mmray run` over the large set, in a process of its own, joined to the session's cluster."""

    shards: Path
    bundle: Bundle
    address: str
    output: Path

    def start(self, *settings: str, address: str | None = None) -> subprocess.Popen[str]:
        arguments = ["run", "--input", str(self.shards), "--bundle", str(self.bundle.path)]
        arguments += ["--output", str(self.output), "--set", "part_rows=40", "--set", "report=false"]
        for setting in settings:
            arguments += ["--set", setting]
        return subprocess.Popen(
            [str(Path(sys.executable).with_name("mmray")), *arguments],
            env={**os.environ, "RAY_ADDRESS": address or self.address},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            start_new_session=True,
        )

    def finish(self, process: subprocess.Popen[str], within_s: float = 180) -> str:
        """Wait for a clean end; what it printed."""
        out, err = process.communicate(timeout=within_s)
        assert process.returncode == 0, out + err
        return out

    def parts(self) -> list[Path]:
        return sorted((self.output / "parts").glob("*.parquet"))

    def wait_for_parts(self, process: subprocess.Popen[str], count: int) -> None:
        """Until that many parts are there, or the process has ended."""
        deadline = time.monotonic() + 120
        while len(self.parts()) < count and process.poll() is None:
            assert time.monotonic() < deadline, "no parts appear"
            time.sleep(0.02)

    def predictions(self) -> pa.Table:
        rows = pa.concat_tables([pq.read_table(part) for part in self.parts()])
        return rows.sort_by([("shard", "ascending"), ("row", "ascending")])


def run_deadly(
    shards: Path, bundle: Bundle, output: Path, *settings: str
) -> subprocess.CompletedProcess[str]:
    """`mmray run` with a Ray of its own, whose workers have the faults of tests/support/deadly."""
    arguments = ["run", "--input", str(shards), "--bundle", str(bundle.path), "--output", str(output)]
    arguments += ["--set", "report=false"]
    arguments += [argument for setting in settings for argument in ("--set", setting)]
    inherited = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    path = f"{Path(__file__).parent / 'deadly'}:{os.environ.get('PYTHONPATH', '')}"
    return subprocess.run(
        [str(Path(sys.executable).with_name("mmray")), *arguments],
        env={**inherited, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=400,
    )


def worker_pids(*names: str) -> list[int]:
    """Processes of Ray workers whose title names one of these."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            title = (entry / "cmdline").read_bytes().decode(errors="replace")
        except OSError:  # ended meanwhile
            continue
        if title.startswith("ray::") and any(name in title for name in names):
            found.append(int(entry.name))
    return found
