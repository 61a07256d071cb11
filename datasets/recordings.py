"""Record one scene with three devices whose clocks disagree: pictures, sound and subtitles, and the truth.

    python datasets/recordings.py --output data/recording --seconds 300 --seed 1

The scene has bangs (the picture's ground changes, a noise is heard) and speech (heard, and subtitled). One
bang in seven is only seen, one only heard. Each device has a clock of its own, up to 8 s and 200 ppm off the
scene's; its stamps jitter, it loses one piece in twenty, and pieces arrive up to half a second out of order.
Result, the same bytes for the same options:

    frames.csv, audio.csv   `file,time_s`, in order of arrival; of audio, the time of the chunk's first sample
    subtitles.srt
    frames/*.jpg            48 x 36 pixels, 25 a second
    audio/*.flac            a second of 16 kHz mono
    truth.json              when each piece really happened, in seconds of the scene; the clocks

`align_streams.py` reads such a folder, without truth.json.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import soundfile
import typer
from PIL import Image

from mmray.align.clock import Clock
from mmray.errors import ConfigError, MmrayError, OutputError

Wave = npt.NDArray[np.float64]

RATE = 16_000  # Hz, of the sound
CHUNK_S = 1.0
SIZE = (48, 36)  # pixels, width and height
BANG_GAP_S = (0.5, 3.0)
SPEECH_S = (0.8, 2.5)
PAUSE_S = (0.7, 2.5)
ONE_SIDED = 1 / 7  # of the bangs are only seen, as many only heard
SUBTITLE_JITTER_S = 0.04  # people and recognizers are this far off the first sound
SUBTITLE_ZERO_S = 10.0  # SubRip knows no time before zero
LATE_S = 0.5


@dataclass(frozen=True)
class Scenario:
    """What is recorded, and how badly."""

    seconds: float = 300.0
    fps: float = 25.0
    max_offset_s: float = 8.0
    max_drift_ppm: float = 200.0
    jitter_ms: float = 4.0  # standard deviation of a stamp
    loss: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        if not 10 <= self.seconds <= 7_200:
            raise ConfigError(f"--seconds {self.seconds:g}: must be from 10 to 7200")
        if not 0 <= self.loss < 1:
            raise ConfigError(f"--loss {self.loss:g}: must be a probability below 1")


@dataclass(frozen=True)
class Bang:
    """Something that happens at once, seen or heard or both."""

    at_s: float
    seen: bool
    heard: bool


@dataclass(frozen=True)
class Speech:
    """Somebody says something."""

    start_s: float
    end_s: float
    text: str


class Devices:
    """Clocks of camera, recorder and subtitler: each takes the device's own seconds to those of the scene."""

    def __init__(self, scenario: Scenario) -> None:
        rng = random.Random(f"clocks:{scenario.seed}")

        def clock() -> Clock:
            offset_s = rng.uniform(-scenario.max_offset_s, scenario.max_offset_s)
            return Clock(offset_s, rng.uniform(-scenario.max_drift_ppm, scenario.max_drift_ppm))

        self.frames, self.audio, self.subtitles = clock(), clock(), clock()


def record(output: Path, scenario: Scenario) -> None:
    """Write the recording of a scene to a new folder.

    Raises:
        OutputError: the folder is there already.
    """
    if output.exists():
        raise OutputError(f"{output}: is already there; remove it or give another --output")
    for folder in ("frames", "audio"):
        (output / folder).mkdir(parents=True)
    devices, rng = Devices(scenario), random.Random(f"scene:{scenario.seed}")
    bangs, speeches = _bangs(scenario, rng), _speeches(scenario, rng)
    truth = {
        "clocks": {name: asdict(clock) for name, clock in vars(devices).items()},
        "frames": _film(output, scenario, devices.frames, bangs),
        "audio": _tape(output, scenario, devices.audio, bangs, speeches),
        "subtitles": _subtitle(output, scenario, devices.subtitles, speeches),
    }
    (output / "truth.json").write_text(json.dumps(truth, indent=1) + "\n", "utf-8")


def _bangs(scenario: Scenario, rng: random.Random) -> list[Bang]:
    bangs, at_s = [], 0.0
    while (at_s := at_s + rng.uniform(*BANG_GAP_S)) < scenario.seconds:
        draw = rng.random()
        bangs.append(Bang(at_s, seen=draw >= ONE_SIDED, heard=draw < 1 - ONE_SIDED))
    return bangs


def _speeches(scenario: Scenario, rng: random.Random) -> list[Speech]:
    speeches: list[Speech] = []
    end_s = 0.0
    while (start_s := end_s + rng.uniform(*PAUSE_S)) < scenario.seconds:
        end_s = start_s + rng.uniform(*SPEECH_S)
        speeches.append(Speech(start_s, end_s, f"line {len(speeches)}"))
    return speeches


def _film(output: Path, scenario: Scenario, clock: Clock, bangs: Sequence[Bang]) -> dict[str, float]:
    """Frames and frames.csv; returns the true time of each frame that was kept."""
    rng, noise = random.Random(f"film:{scenario.seed}"), np.random.default_rng(scenario.seed)
    cuts = np.array([bang.at_s for bang in bangs if bang.seen])
    grounds = [[rng.randint(40, 215) for _ in range(3)] for _ in range(len(cuts) + 1)]
    first = int(np.ceil(clock.from_common(0.0) * scenario.fps))
    truth, rows = {}, []
    for number in range(int(scenario.seconds * scenario.fps)):
        own_s = (first + number) / scenario.fps
        at_s = clock.to_common(own_s)
        pixels = noise.integers(-6, 7, (SIZE[1], SIZE[0], 3)) + grounds[np.searchsorted(cuts, at_s, "right")]
        left = int((SIZE[0] - 8) * (0.5 + 0.5 * np.sin(at_s)))  # a thing that moves, so that no frame repeats
        pixels[14:22, left : left + 8] = 20
        if rng.random() < scenario.loss:
            continue
        name = f"frames/{number:06d}.jpg"
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(output / name, quality=85)
        rows.append((name, own_s + rng.gauss(0, scenario.jitter_ms / 1e3)))
        truth[name] = at_s
    _write_csv(output / "frames.csv", rows, rng)
    return truth


def _tape(
    output: Path, scenario: Scenario, clock: Clock, bangs: Sequence[Bang], speeches: Sequence[Speech]
) -> dict[str, float]:
    """Chunks of sound and audio.csv; returns the true time of each chunk's first sample."""
    rng, noise = random.Random(f"tape:{scenario.seed}"), np.random.default_rng(scenario.seed + 1)
    start_s = float(np.floor(clock.from_common(0.0)))
    wave = 0.002 * noise.standard_normal(int(scenario.seconds * RATE))

    def place(sound: Wave, at_s: float) -> None:
        first = round((clock.from_common(at_s) - start_s) * RATE)
        if 0 <= first < len(wave):
            wave[first : first + len(sound)] += sound[: len(wave) - first]

    for bang in bangs:
        if bang.heard:
            decay = np.exp(-np.arange(int(0.3 * RATE)) / (0.06 * RATE))
            place(0.5 * decay * noise.standard_normal(len(decay)), bang.at_s)
    for speech in speeches:
        place(_voice(speech.end_s - speech.start_s, noise), speech.start_s)
    wave = wave.clip(-1, 1)
    truth, rows = {}, []
    size = int(CHUNK_S * RATE)
    for number in range(len(wave) // size):
        if rng.random() < scenario.loss:
            continue
        name, own_s = f"audio/{number:05d}.flac", start_s + number * CHUNK_S
        soundfile.write(output / name, wave[number * size : (number + 1) * size], RATE, subtype="PCM_16")
        rows.append((name, own_s + rng.gauss(0, scenario.jitter_ms / 1e3)))
        truth[name] = clock.to_common(own_s)
    _write_csv(output / "audio.csv", rows, rng)
    return truth


def _voice(seconds: float, noise: np.random.Generator) -> Wave:
    """A hum with overtones in syllables of uneven length: loud at once, then softer, then loud again."""
    at_s = np.arange(int(seconds * RATE)) / RATE
    hum = sum(np.sin(2 * np.pi * 140 * k * at_s + noise.uniform(0, 6)) / k for k in range(1, 20))
    ends = np.cumsum(noise.uniform(0.12, 0.4, int(seconds / 0.12) + 1))
    syllable = np.searchsorted(ends, at_s)
    level = noise.uniform(0.3, 1.0, len(ends) + 1)
    level[0] = 1.0
    voice: Wave = 0.12 * np.asarray(hum) * level[syllable]
    return voice


def _subtitle(
    output: Path, scenario: Scenario, clock: Clock, speeches: Sequence[Speech]
) -> dict[str, tuple[float, float]]:
    """subtitles.srt; returns the true span of each line that was kept."""
    rng = random.Random(f"subtitles:{scenario.seed}")
    truth: dict[str, tuple[float, float]] = {}
    lines: list[str] = []
    for speech in speeches:
        if rng.random() < scenario.loss:
            continue
        start, end = (
            SUBTITLE_ZERO_S + clock.from_common(at) + rng.gauss(0, SUBTITLE_JITTER_S)
            for at in (speech.start_s, speech.end_s)
        )
        lines.append(f"{len(lines) + 1}\n{_srt_time(start)} --> {_srt_time(end)}\n{speech.text}\n")
        truth[speech.text] = (speech.start_s, speech.end_s)
    (output / "subtitles.srt").write_text("\n".join(lines), "utf-8")
    return truth


def _srt_time(at_s: float) -> str:
    ms = max(0, round(1e3 * at_s))
    return f"{ms // 3_600_000:02d}:{ms // 60_000 % 60:02d}:{ms // 1_000 % 60:02d},{ms % 1_000:03d}"


def _write_csv(path: Path, rows: Sequence[tuple[str, float]], rng: random.Random) -> None:
    arrivals = sorted((time_s + rng.uniform(0, LATE_S), name, time_s) for name, time_s in rows)
    lines = [f"{name},{time_s:.6f}" for _, name, time_s in arrivals]
    path.write_text("\n".join(["file,time_s", *lines]) + "\n", "utf-8")


def main(
    output: Annotated[Path, typer.Option(help="Folder of the recording.")] = Path("data/recording"),
    seconds: Annotated[float, typer.Option(help="Length of the scene.")] = 300.0,
    jitter_ms: Annotated[float, typer.Option(help="Standard deviation of stamps.")] = 4.0,
    loss: Annotated[float, typer.Option(help="Probability that a piece is lost.")] = 0.05,
    seed: Annotated[int, typer.Option(help="Decides everything that is drawn.")] = 0,
) -> None:
    """Record a scene with three devices that disagree about the time."""
    try:
        record(output, Scenario(seconds=seconds, jitter_ms=jitter_ms, loss=loss, seed=seed))
    except MmrayError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(error.exit_code) from None


if __name__ == "__main__":
    typer.run(main)
