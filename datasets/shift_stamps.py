"""Take records out of step: each becomes a moment of a longer recording, and says where it lies in it.

    python datasets/shift_stamps.py 'data/tuxpaint/test-*.tar' --output data/shifted

A record's sound becomes a track of half a minute: sounds of its neighbours, its own, and others again. Its
text member becomes the caption of the first of them; all captions, with their spans, go to the JSON member.
Picture, track and captions get clocks of their own, up to 5 s and 200 ppm off, which `times` in the JSON
member states, as `align` in a run needs it. Everything else stays: key, picture, label, split. Records that
cannot be read are left out. Made to show what alignment is worth: `jobs/bench/alignment.py` measures that.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from _streams import encode_flac

from mmray.align.clock import Clock
from mmray.errors import MmrayError, OutputError, RecordError
from mmray.preprocess.audio import Wave, decode_audio
from mmray.preprocess.spec import AudioSpec
from mmray.schema import meta_fields
from mmray.sources import ReadOptions, Shard, list_shards, read

HEARD = AudioSpec(sample_rate=16_000, max_s=10.0)  # of one sound
LEAD_S, TAIL_S = (
    30.0,
    5.0,
)  # of neighbours before and after a record's own sound; the stamps' model hears 30 s
PAUSE_S = 2.0  # between two sounds
LEAST_S = 1.0  # that a record without a sound takes
MAX_OFFSET_S, MAX_DRIFT_PPM = 5.0, 200.0

#: How images begin, and the extension they get.
BEGINNINGS = {b"\x89PNG": "png", b"RIFF": "webp", b"GIF8": "gif", b"BM": "bmp", b"\xff\xd8": "jpg"}


@dataclass(frozen=True)
class Slot:
    """A record's place in a track: its sound, if any, and silence."""

    record: dict[str, Any]
    wave: Wave

    @property
    def caption(self) -> str:
        return bytes(self.record["text"] or b"").decode("utf-8", "replace").strip()


def shift(records: Sequence[dict[str, Any]], seed: int) -> Iterator[dict[str, Any]]:
    """Samples for a shard writer: each record as a moment of a track that its neighbours fill."""
    slots = [Slot(record, _with_pause(record["audio"])) for record in records]
    for own, record in enumerate(records):
        before = _fill(slots, range(own - 1, own - len(slots), -1), LEAD_S)[::-1]
        after = _fill(slots, range(own + 1, own + len(slots)), TAIL_S)
        rng = random.Random(f"{seed}:{record['shard']}:{record['row']}")
        yield _sample([*before, slots[own], *after], len(before), rng)


def _with_pause(data: bytes | None) -> Wave:
    """A record's sound and the silence after it; only silence where it has none that can be decoded."""
    try:
        wave = decode_audio(data or b"", HEARD, 3_600)
    except RecordError:
        wave = np.zeros(0, np.float32)
    samples = int((max(LEAST_S, len(wave) / HEARD.sample_rate) + PAUSE_S) * HEARD.sample_rate)
    return np.pad(wave, (0, samples - len(wave)))


def _fill(slots: Sequence[Slot], order: Iterable[int], seconds: float) -> list[Slot]:
    """Slots in an order, round the end of the list, until they fill some seconds or there are no more."""
    found: list[Slot] = []
    for number in order:
        if sum(len(slot.wave) for slot in found) >= seconds * HEARD.sample_rate:
            break
        found.append(slots[number % len(slots)])
    return found


def _sample(track: Sequence[Slot], own: int, rng: random.Random) -> dict[str, Any]:
    record = track[own].record
    clocks = {name: _clock(rng) for name in ("image", "audio", "text")}
    zero_s = clocks["audio"].from_common(0.0)
    lengths = [0, *(len(slot.wave) for slot in track)]
    starts = [clocks["audio"].to_common(zero_s + n / HEARD.sample_rate) for n in accumulate(lengths)]
    stated = {name: {"offset_s": c.offset_s, "drift_ppm": c.drift_ppm} for name, c in clocks.items()}
    on_text = [clocks["text"].from_common(start) for start in starts]
    captions = [[*span, slot.caption] for span, slot in zip(pairwise(on_text), track, strict=True)]
    times: dict[str, Any] = {"image": {"at_s": clocks["image"].from_common(starts[own]), **stated["image"]}}
    sample: dict[str, Any] = {"__key__": record["key"]}
    if image := record["image"]:
        extensions = (name for begin, name in BEGINNINGS.items() if image.startswith(begin))
        sample[next(extensions, "jpg")] = image
    if record["audio"]:
        sample["flac"] = encode_flac(np.concatenate([slot.wave for slot in track]), HEARD.sample_rate)
        times["audio"] = {"start_s": zero_s, **stated["audio"]}
    if record["text"]:
        sample["txt"] = track[0].caption.encode()
        times["text"] = {"captions": [c for c in captions if c[2]], **stated["text"]}
    sample["json"] = json.dumps({**meta_fields(record["meta"]), "times": times}).encode()
    return sample


def _clock(rng: random.Random) -> Clock:
    return Clock(
        rng.uniform(-MAX_OFFSET_S, MAX_OFFSET_S), drift_ppm=rng.uniform(-MAX_DRIFT_PPM, MAX_DRIFT_PPM)
    )


def build(patterns: Sequence[str], output: Path, seed: int = 0) -> int:
    """Shift the records of some shards; returns how many there are.

    Raises:
        UsageError: there are no shards, or `output` is there already.
    """
    if output.exists():
        raise OutputError(f"{output}: is already there; remove it or give another --output")
    shards = list_shards(patterns)
    output.parent.mkdir(parents=True, exist_ok=True)
    work = output.with_name(f".{output.name}.making-{os.getpid()}")
    work.mkdir()
    try:
        rows = sum(_shift_shard(shard, work, seed) for shard in shards)
        work.rename(output)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return rows


def _shift_shard(shard: Shard, work: Path, seed: int) -> int:
    """Write one tar, named as its source; neighbours are the records of the same block."""
    import webdataset  # here: it imports torch where there is one, 1.5 s that a refusal need not wait

    rows, path = 0, work / f"{shard.name.replace('/', '-').partition('.')[0]}.tar"
    with path.open("wb") as file, webdataset.TarWriter(file, "root", "root", encoder=False, mtime=0.0) as tar:
        for block in read(shard, ReadOptions()):
            records = [row for row in block.to_pylist() if row["error"] is None]
            for sample in shift(records, seed):
                tar.write(sample)
            rows += len(records)
    return rows


def main(
    input: Annotated[list[str], typer.Argument(help="Shards: paths, patterns or folders.")],
    output: Annotated[Path, typer.Option(help="Folder of the shards.")] = Path("data/shifted"),
    seed: Annotated[int, typer.Option(help="Decides the clocks.")] = 0,
) -> None:
    """Make each record a moment of a longer recording whose streams have clocks of their own."""
    try:
        rows = build(input, output, seed)
    except MmrayError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(error.exit_code) from None
    typer.echo(f"wrote {rows} records to {output}")


if __name__ == "__main__":
    typer.run(main)
