"""Jobs over LMDB, tar, Parquet and S3, while drivers, workers and nodes are killed, the device is lost, the
disk fills, shards change, second runs start and signals come; at the end each good record must be there once,
each bad one have its reason, and each changed shard be named.

    make chaos ARGS="--minutes 20 --seed 1"

Prints a line for each round, and one of JSON last. Exit 1 where a record was lost, doubled or wronged.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Annotated

import pyarrow.parquet as pq
import typer
from support.scripts import load_script
from support.stores import S3

from chaos.inputs import KINDS, Input
from chaos.world import World, world
from mmray.storage import Location

EVENTS = (
    *("kill driver", "terminate driver", "interrupt driver", "kill worker", "stop worker", "kill node"),
    *("lose device", "device gives nan", "fill disk", "change shard", "second run", "store fails"),
)
SHARDS, ROWS = 8, 300
_TRIES = 12  # of one command until it ends well
_CODES = (0, 1, 2, 3, 130, -signal.SIGKILL)
_LAST_EVENT = 5  # of a round's tries; later ones are left in peace
_AFTER_S = 3.0  # of a new part, within which an event comes


class Round:
    """One job, from its first start until it is done."""

    def __init__(self, world: World, source: Input, output: str, topology: str) -> None:
        self.world, self.source, self.chance = world, source, source.chance
        self.output = Location.parse(output)
        self.events: Counter[str] = Counter()
        self.faults: list[str] = []
        self.named: set[str] = set()
        self._said = ""
        self._command = [
            *(
                "run",
                "--input",
                source.url,
                "--bundle",
                str(world.home.parent / "bundle"),
                "--output",
                output,
            ),
            *("--set", "part_rows=20", "--set", f"topology={topology}", "--set", "max_reject_rate=1"),
            *("--set", "stall_s=20", "--set", "part_seconds=1"),
        ]

    def run(self) -> None:
        """Start the job again and again, with an event in each of the first runs."""
        accept: list[str] = []
        for number in range(_TRIES):
            process = self.world.start(*self._command, *accept)
            if number < _LAST_EVENT:
                self._strike(process)
            code = self._ended(process)
            if code == 0:
                return
            accept = ["--accept-changes"] if code in (1, 2) and self.source.changed else []
        self.faults.append(f"not done after {_TRIES} runs; the last said: {self._said[-600:]}")

    def _ended(self, process: subprocess.Popen[str]) -> int:
        said, _ = process.communicate(timeout=300)
        self._said = said
        self.named |= {name for name in self.source.changed if name in said}
        if process.returncode not in _CODES or "Traceback" in said:
            self.faults.append(f"exit {process.returncode}: {said[-2000:]}")
        return process.returncode

    def _strike(self, process: subprocess.Popen[str]) -> None:
        """One event, some time after the run has begun to write."""
        parts, before = self.output / "parts", len((self.output / "parts").files())
        while process.poll() is None and len(parts.files()) <= before:
            time.sleep(0.05)
        time.sleep(self.chance.uniform(0, _AFTER_S) ** 2 / _AFTER_S)  # rather early than late
        event = self.chance.choice(EVENTS)
        if process.poll() is None and self._act(event, process):
            self.events[event] += 1

    def _act(self, event: str, process: subprocess.Popen[str]) -> bool:
        """Make an event happen; whether it did."""
        chance, here = self.chance, self.world
        match event:
            case "kill driver" | "terminate driver" | "interrupt driver":
                numbers = {"k": signal.SIGKILL, "t": signal.SIGTERM, "i": signal.SIGINT}
                process.send_signal(numbers[event[0]])
            case "kill worker":
                return here.signal_worker(signal.SIGKILL, chance.randrange(99))
            case "stop worker":
                return here.signal_worker(signal.SIGSTOP, chance.randrange(99))
            case "kill node":
                here.tell("kill")
                time.sleep(chance.uniform(0, 2))
                here.tell("add")
            case "lose device" | "device gives nan":
                with here.broken_device("lost" if event == "lose device" else "nan"):
                    time.sleep(chance.uniform(1, 4))
            case "fill disk":
                if not here.small or not self.output.is_local:
                    return False
                with here.full_disk():
                    process.wait(120)
            case "change shard":
                self.source.change()
            case "second run":
                second = here.start(*self._command)
                said, _ = second.communicate(timeout=120)
                if process.poll() is None and (second.returncode != 2 or "uses it" not in said):
                    self.faults.append(f"a second run ended with {second.returncode}: {said[-600:]}")
            case "store fails":
                if not self.source.bucket:
                    return False
                self.source.bucket.fail("slow-down", 40)
        return True

    def judge(self) -> dict[str, list[str]]:
        """What became of the records: those that are lost, doubled, or were rejected though they are good."""
        truth = self.source.truth
        predicted, rejected = self._rows("parts"), self._rows("rejects")
        seen = Counter([*predicted, *rejected])
        bad = [at for at, why in truth.items() if why]
        return {
            "lost": [f"{at}" for at in truth if at not in seen],
            "doubled": [f"{at}" for at, times in seen.items() if times > 1 or at not in truth],
            "good_rejected": [f"{at}: {rejected[at]}" for at in rejected if not truth.get(at, " ")],
            "bad_passed": [f"{at}" for at in bad if not rejected.get(at, "").startswith(truth[at])],
            "changed_unnamed": sorted(self.source.changed - self.named),
        }

    def _rows(self, folder: str) -> dict[tuple[str, str], str]:
        """Shard and key of each row, and the type of a reject; a row that comes twice is a fault."""
        rows: dict[tuple[str, str], str] = {}
        for info in (self.output / folder).files():
            with (self.output / folder / info.base_name).open_input() as file:
                for row in pq.read_table(file).to_pylist():
                    at = row["shard"].rpartition("@")[0], row["key"]
                    if at in rows:
                        self.faults.append(f"{folder}: {at} comes twice")
                    rows[at] = row.get("type", "")
        return rows


def main(
    minutes: Annotated[float, typer.Option(help="Begin no round later than this.")] = 20.0,
    seed: Annotated[int, typer.Option()] = 1,
) -> None:
    """Break what can be broken, and count what became of each record."""
    chance = random.Random(seed)
    home = Path(tempfile.mkdtemp(prefix="mmray-chaos-"))
    os.environ |= {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "MMRAY_CACHE": f"{home}/cache",
    }
    os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
    store = S3()
    make_bundle(home)
    events: Counter[str] = Counter()
    totals: Counter[str] = Counter()
    until, number = time.monotonic() + 60 * minutes, 0
    while time.monotonic() < until:
        kind, topology = KINDS[number % len(KINDS)], ("fused", "split")[number // len(KINDS) % 2]
        folder = home / f"round{number}"
        folder.mkdir()
        began = time.monotonic()
        with world(folder) as here:
            source = Input(kind, folder / "in", store.bucket() if kind == "s3" else None, chance)
            source.make(SHARDS, ROWS)
            one = Round(here, source, str(here.disk / "out"), topology)
            one.run()
            verdict = one.judge()
        events += one.events
        totals.update(records=len(source.truth), faults=len(one.faults))
        totals.update({name: len(found) for name, found in verdict.items()})
        wrong = {name: found[:5] for name, found in verdict.items() if found}
        what = ", ".join(f"{name} {times}" for name, times in one.events.items())
        state = "ok" if not wrong and not one.faults else f"WRONG {wrong} {one.faults}"
        took = time.monotonic() - began
        print(f"round {number}: {kind}, {topology}, {took:.0f} s: {what or 'nothing'}: {state}", flush=True)
        if state == "ok":
            shutil.rmtree(folder)
        number += 1
    store.stop()
    print(json.dumps({"seed": seed, "rounds": number, "events": dict(events), **totals}))
    sys.exit(any(totals[name] for name in totals if name != "records"))


def make_bundle(home: Path) -> None:
    """A bundle of small random encoders and a trained head."""
    from mmray.importing.build import build_bundle
    from mmray.models.encoders import tiny_encoders

    load_script("datasets/synthetic.py").build(home / "train", rows=120, shard_rows=40, missing=0.2, seed=1)
    build_bundle([str(home / "train")], home / "bundle", tiny_encoders([str(home / "train")]))


if __name__ == "__main__":
    typer.run(main)
