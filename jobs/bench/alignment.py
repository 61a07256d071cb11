"""The gain from alignment, and the accuracy of joining streams with different clocks.

    OMP_NUM_THREADS=1 python jobs/bench alignment --bundle bundles/stamps --input 'data/tuxpaint/test-*.tar'
    # two to four minutes on one core

First the stamps: accuracy on the held-out records as they are, and when each is a moment of a longer
recording (`datasets/shift_stamps.py`), with `align` and without. Then recordings of one scene by three
devices whose clocks disagree (`datasets/recordings.py`), joined by `datasets/align_streams.py`: the true
distance of a frame and the sound at its time in a record, and whether the stated error is true. Expected: two
tables, then one JSON line. Alignment recovers the accuracy lost by shifting, over 99 % of the pairs are
within 20 ms, and about 95 % or more within the stated error.
"""

import io
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from math import sqrt
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import soundfile
import typer
from rich.console import Console
from rich.table import Table

from mmray.align import Aligner, AlignSpec
from mmray.align.clock import Clock
from mmray.bundle import Bundle
from mmray.predictor import Predictor, open_preprocessor
from mmray.schema import Modality, OutputColumns
from mmray.sources import ReadOptions, list_shards, read

sys.path.insert(0, str(Path(__file__).parents[2] / "datasets"))  # run by path, not a package
import align_streams
import recordings
import shift_stamps

SUBSETS: tuple[tuple[Modality, ...], ...] = (("image", "text", "audio"), ("text",), ("audio",))
# A stamp's sound begins when its picture is shown, and half of them last a second. Silence after it is also
# input: the accuracy from audio alone is unchanged up to 1.45 s, two of YAMNet's patches, and far worse from
# 2 s on.
ALIGN = AlignSpec(before_s=0.0, after_s=1.45)
SAMPLES = 64  # samples of 16-bit sound; so many are unique


def accuracy(
    bundle: Bundle, pattern: str, used: tuple[Modality, ...], align: AlignSpec | None
) -> tuple[int, float]:
    """Number of records with a used modality and a known label, and the share that is right."""
    preprocess = open_preprocessor(bundle, modalities=used, align=align)
    predict = Predictor(bundle, columns=OutputColumns(classes=0, carry=("label",)))
    right = []
    for shard in list_shards([pattern]):
        for records in read(shard, ReadOptions()):
            for row in predict(preprocess(records)).to_pylist():
                nothing = row["error"] is not None and row["error"]["type"] == "no-modality"
                if row["meta_label"] in bundle.labels and not nothing:
                    right.append(row["label"] == row["meta_label"])
    return len(right), float(np.mean(right))


def stamps(bundle: Bundle, pattern: str, place: Path) -> dict[str, dict[str, float]]:
    """Accuracy by condition and modalities."""
    shifted = str(place / "shifted")
    shift_stamps.build([pattern], Path(shifted))
    conditions: dict[str, tuple[str, AlignSpec | None]] = {
        "as they are": (pattern, None),
        "shifted": (shifted, None),
        "shifted, aligned": (shifted, ALIGN),
    }
    table = _table("stamps", "records", *("+".join(used) for used in SUBSETS))
    found: dict[str, dict[str, float]] = {}
    for name, (source, align) in conditions.items():
        measured = {"+".join(used): accuracy(bundle, source, used, align) for used in SUBSETS}
        found[name] = {used: right for used, (_, right) in measured.items()}
        errors = (f"{right:.3f} ± {sqrt(right * (1 - right) / n):.3f}" for n, right in measured.values())
        table.add_row(name, str(max(n for n, _ in measured.values())), *errors)
    Console().print(table)
    return found


@dataclass(frozen=True)
class Pair:
    """A record's frame and its sound at the frame's time."""

    error_s: float | None  # delay of the sound; None if the recorder lost it
    stated_s: float
    caption_is_right: bool | None  # None without speech, or if the subtitle was lost


def pairs(recording: Path, joined: Path) -> Iterator[Pair]:
    """Compare records with the truth, by their content: the samples are searched in the chunks."""
    truth = json.loads((recording / "truth.json").read_text())
    align = Aligner(AlignSpec(captions="nearest", tolerance_s=1.0), ("image", "text"), 1.0)
    recorder = Clock(**truth["clocks"]["audio"])

    @lru_cache(maxsize=16)
    def samples(file: str) -> bytes:
        return _pcm((recording / file).read_bytes())

    for shard in list_shards([str(joined)]):
        for block in read(shard, ReadOptions()):
            for row in block.to_pylist():
                meta = json.loads(row["meta"])
                image, at_s = meta["times"]["image"], truth["frames"][meta["frame"]]
                heard_s = None
                if "audio" in meta["times"]:
                    moment = Clock(image["offset_s"], image["drift_ppm"]).to_common(image["at_s"])
                    first = round((moment - meta["times"]["audio"]["start_s"]) * recordings.RATE)
                    probe = _pcm(row["audio"])[2 * first : 2 * (first + SAMPLES)]
                    for file in meta["chunks"] if any(probe) else ():
                        if (place := samples(file).find(probe)) >= 0:
                            drift = 1 + recorder.drift_ppm / 1e6
                            heard_s = truth["audio"][file] + drift * place / 2 / recordings.RATE
                said = [text for text, (start, end) in truth["subtitles"].items() if start <= at_s <= end]
                yield Pair(
                    None if heard_s is None else heard_s - at_s,
                    image["error_ms"] / 1e3,
                    align(row["meta"], ("image", "text")).caption == said[0] if said else None,
                )


def _pcm(flac: bytes) -> bytes:
    wave: np.ndarray[Any, Any] = soundfile.read(io.BytesIO(flac), dtype="int16")[0]
    return wave.tobytes()


def streams(count: int, seconds: float, jitter_ms: float, place: Path) -> list[dict[str, float]]:
    """Figures of some recordings."""
    columns = ("pairs", "≤ 20 ms", "95 %, ms", "stated, ms", "≤ stated", "captions")
    table = _table(f"{seconds:.0f} s", *columns)
    found = []
    for seed in range(count):
        recording, joined = place / f"recording-{seed}", place / f"joined-{seed}"
        recordings.record(recording, recordings.Scenario(seconds=seconds, jitter_ms=jitter_ms, seed=seed))
        align_streams.build(recording, joined, align_streams.Options(step_s=0.2))
        made = list(pairs(recording, joined))
        off = np.abs([pair.error_s for pair in made if pair.error_s is not None])
        captions = [pair.caption_is_right for pair in made if pair.caption_is_right is not None]
        figures = {
            "pairs": len(off),
            "within_20_ms": float(np.mean(off <= 0.02)),
            "true_p95_ms": 1e3 * float(np.quantile(off, 0.95)),
            "stated_ms": 1e3 * made[0].stated_s,
            "within_stated": float(np.mean(off <= made[0].stated_s)),
            "captions": len(captions),
            "captions_right": float(np.mean(captions)),
        }
        table.add_row(
            f"seed {seed}",
            f"{figures['pairs']}",
            f"{figures['within_20_ms']:.2%}",
            f"{figures['true_p95_ms']:.1f}",
            f"{figures['stated_ms']:.1f}",
            f"{figures['within_stated']:.1%}",
            f"{figures['captions_right']:.1%}",
        )
        found.append(figures)
    Console().print(table)
    return found


def _table(*columns: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for number, name in enumerate(columns):
        table.add_column(name, justify="right" if number else "left")
    return table


def main(
    bundle: Annotated[str, typer.Option(help="Bundle directory.")] = "bundles/stamps",
    input: Annotated[str, typer.Option(help="Held-out shards.")] = "data/tuxpaint/test-*.tar",
    count: Annotated[int, typer.Option("--recordings", help="Recordings to make and join.")] = 4,
    seconds: Annotated[float, typer.Option(help="Length of each.")] = 300.0,
    jitter_ms: Annotated[float, typer.Option(help="Standard deviation of their stamps.")] = 4.0,
) -> None:
    """Measure the gain from alignment, and the accuracy of clocks."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        found = {
            "stamps": stamps(Bundle.open(bundle), input, place),
            "streams": streams(count, seconds, jitter_ms, place),
        }
    print(json.dumps(found))


if __name__ == "__main__":
    typer.run(main)
