"""Join pictures, sound and subtitles that were recorded apart into image-text-audio shards.

    python datasets/align_streams.py data/recording --output data/joined --step-s 1

The folder (`recordings.py` makes one) has three streams, each on a clock of its own:

    frames.csv      `file,time_s`, in order of arrival: images, and when they were taken
    audio.csv       `file,time_s`: clips of up to ten minutes, and when their first samples were recorded
    subtitles.srt   or .vtt; may be missing

How the clocks of pictures and subtitles run against the recorder's is found in the streams: cuts and flashes
are matched with onsets of sound, and so are the starts of subtitles (see `mmray.align`). Streams without such
events in common are refused. A record is one frame with the sound and the captions around it; its JSON member
has the `times` that `align` needs in a run. Result: `NAME-NNNNNN.tar` and `alignment.json`, which tells the
clocks, how far they can be trusted, and what was left out: the same bytes for the same streams, or nothing.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from _streams import Recording, encode_flac, image_extension, splice

from mmray.align.clock import Clock, Fit, Search, Train, fit_clock
from mmray.align.detect import PictureEvents, SoundEvents
from mmray.align.join import AsOfJoin, Bounds, Event, Moment, Stream
from mmray.errors import InputError, MmrayError, OutputError, RecordError
from mmray.preprocess.audio import Wave, decode_audio
from mmray.preprocess.image import decode_image
from mmray.preprocess.spec import AudioSpec, ImageSpec, Limits

SEEN = ImageSpec(height=24, width=32, fit="crop")  # enough to see a cut
HEARD = AudioSpec(sample_rate=16_000, max_s=600.0)  # of one chunk
LIMITS = Limits()
SPREAD_S = {"frames": 0.06, "subtitles": 0.12}  # subtitles begin some 40 ms before or after the first sound
SHARD_ROWS = 100


@dataclass(frozen=True)
class Options:
    """What a record holds, and where clocks are looked for."""

    step_s: float = 1.0  # from one record's frame to the next; 0 takes every frame
    window: Bounds = Bounds(before_s=2.0, after_s=2.0)  # noqa: RUF009  (frozen)
    max_offset_s: float = 30.0
    max_drift_ppm: float = 500.0


@dataclass(frozen=True)
class Evidence:
    """What was found in the streams."""

    pictures: Train
    sounds: Train
    seconds: dict[str, float]  # of each chunk that could be decoded
    damaged: frozenset[str]  # files of frames and chunks that could not


@dataclass(frozen=True)
class Clocks:
    """How the streams run against the recorder's clock; None where there are no subtitles."""

    frames: Fit
    subtitles: Fit | None


def examine(recording: Recording) -> Evidence:
    """Look at every frame and listen to every chunk, once."""
    pictures, sounds = PictureEvents(), SoundEvents(HEARD.sample_rate)
    seconds: dict[str, float] = {}
    damaged: set[str] = set()
    for frame in sorted(recording.frames, key=_start):
        try:
            pixels = decode_image(recording.read(frame.value), SEEN, LIMITS.image_pixels)
        except RecordError:
            damaged.add(frame.value)
        else:
            pictures.add(frame.start_s, pixels)
    for chunk in sorted(recording.audio, key=_start):
        try:
            wave = decode_audio(recording.read(chunk.value), HEARD, HEARD.max_s)
        except RecordError:
            damaged.add(chunk.value)
        else:
            sounds.add(chunk.start_s, wave)
            seconds[chunk.value] = len(wave) / HEARD.sample_rate
    return Evidence(pictures.train(), sounds.train(), seconds, frozenset(damaged))


def compare_clocks(recording: Recording, found: Evidence, options: Options) -> Clocks:
    """How the clocks of frames and subtitles run against the recorder's.

    Raises:
        InputError: the streams have too few events in common.
    """
    zero_s = min(event.start_s for event in recording.audio)

    def fit(stream: str, train: Train, own_zero_s: float) -> Fit:
        # Counted from where each stream begins, as one clock may have begun in 1970 and another today.
        own = Train(train.at_s - own_zero_s, train.resolution_s)
        sounds = Train(found.sounds.at_s - zero_s, found.sounds.resolution_s)
        search = Search(options.max_offset_s, options.max_drift_ppm, SPREAD_S[stream])
        try:
            made = fit_clock(own, sounds, search)
        except InputError as e:
            raise InputError(f"{recording.folder}: {stream} and audio: {e}") from e
        offset_s = zero_s + made.clock.to_common(-own_zero_s)
        return replace(made, clock=Clock(offset_s, made.clock.drift_ppm))

    frames = fit("frames", found.pictures, min(event.start_s for event in recording.frames))
    starts = Train(np.array([event.start_s for event in recording.subtitles]), 1e-3)
    return Clocks(frames, fit("subtitles", starts, 0.0) if recording.subtitles else None)


def join(
    recording: Recording, found: Evidence, clocks: Clocks, options: Options, left_out: Counter[str]
) -> Iterator[dict[str, Any]]:
    """Samples for a shard writer, in the order of their frames; `left_out` counts what they lack."""

    @lru_cache(maxsize=8)  # neighbouring records share their chunks
    def wave(name: str) -> Wave:
        return decode_audio(recording.read(name), HEARD, HEARD.max_s)

    frames = (event for event in recording.frames if event.value not in found.damaged)
    chunks = (
        Event(event.start_s, event.start_s + found.seconds[event.value], event.value)
        for event in recording.audio
        if event.value in found.seconds
    )
    others = {"audio": Stream(chunks, Clock())}
    if clocks.subtitles:
        others["subtitles"] = Stream(recording.subtitles, clocks.subtitles.clock)
    joined, due_s = AsOfJoin(options.window), float("-inf")
    for moment in joined(Stream(frames, clocks.frames.clock), others):
        at_s = clocks.frames.clock.to_common(moment.frame.start_s)
        if at_s < due_s:
            continue
        due_s = at_s + options.step_s
        yield _sample(recording, moment, clocks, options, wave)
    left_out.update({f"{stream}: {reason}": n for (stream, reason), n in joined.dropped.items()})
    left_out["damaged files"] += len(found.damaged)


def _sample(
    recording: Recording,
    moment: Moment[str],
    clocks: Clocks,
    options: Options,
    wave: Callable[[str], Wave],
) -> dict[str, Any]:
    """One record: the frame as it is, its sound as FLAC, the nearest caption, and the times of all."""
    frame, fit, window = moment.frame, clocks.frames, options.window
    at_s = fit.clock.to_common(frame.start_s)
    sample: dict[str, Any] = {image_extension(frame.value): recording.read(frame.value)}
    times: dict[str, Any] = {"image": {"at_s": frame.start_s, **_stated(fit)}}
    if chunks := moment.near["audio"]:
        start_s, sound = splice(chunks, wave, HEARD.sample_rate)
        first, last = (
            min(len(sound), max(0, round((at_s + side - start_s) * HEARD.sample_rate)))
            for side in (-window.before_s, window.after_s)
        )
        if first < last:
            sample["flac"] = encode_flac(sound[first:last], HEARD.sample_rate)
            times["audio"] = {"start_s": start_s + first / HEARD.sample_rate}
    captions = moment.near.get("subtitles", ())
    if clocks.subtitles and captions:
        own_s = clocks.subtitles.clock.from_common(at_s)
        nearest = min(captions, key=lambda c: max(c.start_s - own_s, own_s - c.end_s, 0.0))
        sample["txt"] = nearest.value.encode()
        spans = [[caption.start_s, caption.end_s, caption.value] for caption in captions]
        times["text"] = {"captions": spans, **_stated(clocks.subtitles)}
    origin = {"recording": recording.name, "frame": frame.value, "chunks": [c.value for c in chunks]}
    sample["json"] = json.dumps({"times": times, **origin}, ensure_ascii=False).encode()
    return sample


def build(folder: Path, output: Path, options: Options) -> dict[str, Any]:
    """Join the streams of a folder into shards at `output`.

    Returns:
        The content of alignment.json.

    Raises:
        UsageError: the streams cannot be read or joined, or `output` is there already.
    """
    if output.exists():
        raise OutputError(f"{output}: is already there; remove it or give another --output")
    recording = Recording.open(folder)
    found = examine(recording)
    clocks = compare_clocks(recording, found, options)
    output.parent.mkdir(parents=True, exist_ok=True)
    work = output.with_name(f".{output.name}.making-{os.getpid()}")
    work.mkdir()
    try:
        left_out = Counter[str]()
        samples = join(recording, found, clocks, options, left_out)
        counts = _write_shards(work, recording.name, samples)
        told = {name: _told(fit) for name, fit in vars(clocks).items() if fit}
        report = {"records": counts, "clocks": told, "left_out": +left_out}
        (work / "alignment.json").write_text(json.dumps(report, indent=1) + "\n", "utf-8")
        work.rename(output)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return report


def _write_shards(work: Path, name: str, samples: Iterator[dict[str, Any]]) -> dict[str, int]:
    """Write tars of `SHARD_ROWS` records; returns how many records there are, and have each member."""
    import webdataset  # here: it imports torch where there is one, 1.5 s that a refusal need not wait

    counts = Counter({"all": 0})
    tar: Any = None
    for number, sample in enumerate(samples):
        if number % SHARD_ROWS == 0:
            if tar:
                tar.close()
            path = work / f"{name}-{number // SHARD_ROWS:06d}.tar"
            tar = webdataset.TarWriter(str(path), "root", "root", encoder=False, mtime=0.0)
        tar.write({"__key__": f"{name}-{number:06d}", **sample})
        counts.update(["all", *sample])
    if tar:
        tar.close()
    return dict(counts)


def _stated(fit: Fit) -> dict[str, float]:
    """What a record's times state of a stream's clock."""
    return {
        "offset_s": fit.clock.offset_s,  # not rounded: against Unix times, 0.001 ppm are two seconds
        "drift_ppm": fit.clock.drift_ppm,
        "error_ms": round(1e3 * fit.error_s, 2),
    }


def _told(fit: Fit) -> dict[str, float]:
    return {**_stated(fit), "matched": fit.matched, "events": fit.events}


def _start(event: Event[str]) -> float:
    return event.start_s


def main(
    folder: Annotated[Path, typer.Argument(help="Folder of the streams.")],
    output: Annotated[Path, typer.Option(help="Folder of the shards.")] = Path("data/joined"),
    step_s: Annotated[float, typer.Option(help="Seconds between records; 0 takes every frame.")] = 1.0,
    before_s: Annotated[float, typer.Option(help="Seconds of sound and captions before a frame.")] = 2.0,
    after_s: Annotated[float, typer.Option(help="Seconds of sound and captions after it.")] = 2.0,
    max_offset_s: Annotated[float, typer.Option(help="Clocks may be so far apart.")] = 30.0,
) -> None:
    """Bring streams with different clocks into step and write them as shards."""
    try:
        options = Options(step_s, Bounds(before_s, after_s), max_offset_s)
        report = build(folder, output, options)
    except MmrayError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(error.exit_code) from None
    for stream, fit in report["clocks"].items():
        typer.echo(
            f"{stream}: offset {fit['offset_s']:+.3f} s, drift {fit['drift_ppm']:+.0f} ppm, within "
            f"{fit['error_ms']:.0f} ms ({fit['matched']} of {fit['events']} events matched)"
        )
    for reason, count in report["left_out"].items():
        typer.echo(f"left out: {count} ({reason})")
    typer.echo(f"wrote {report['records']['all']} records to {output}")


if __name__ == "__main__":
    typer.run(main)
