"""The effect of caption and sound on accuracy and time, for images of decreasing quality.

    OMP_NUM_THREADS=1 python jobs/bench blur --bundle bundles/stamps-optimized   # four minutes on one core

Needs a bundle with a cascade, and `pip install 'mmray[plots]'`. The images of the held-out records are
degraded step by step, as the model would see them: by blur, noise and lack of light, after the corruptions of
Hendrycks & Dietterich 2019 ("Benchmarking Neural Network Robustness"). Each record is then answered from the
image alone, from the text alone, by the cascade, and from everything. Expected on the stamps: the image alone
loses 20 to 50 points; cascade and fusion almost none in noise and little light, and about ten in
extreme blur. The cascade costs a fraction of the image alone. A table, a plot and one JSON line.
Times are this process's own.
"""

import io
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from time import process_time
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import typer
from _clustered import clustered_error
from _plots import draw_study
from PIL import Image
from rich.console import Console
from rich.table import Table
from scipy.ndimage import gaussian_filter

from mmray.bundle import FP32, Bundle
from mmray.errors import BundleError, MmrayError
from mmray.predictor import Predictor, open_preprocessor
from mmray.preprocess.image import decode_image
from mmray.preprocess.spec import ImageSpec, Limits
from mmray.schema import Modality
from mmray.sources import ReadOptions, list_shards, read

Pixels = npt.NDArray[np.uint8]

_ELECTRONS = 10_000  # electrons from white light in a pixel of a camera at full light
_GAMMA = 2.2  # of stored values, about


def blur(pixels: Pixels, sigma: float, _: np.random.Generator) -> Pixels:
    """A Gaussian of so many pixels."""
    blurred: Pixels = gaussian_filter(pixels, (sigma, sigma, 0), mode="nearest")
    return blurred


def add_noise(pixels: Pixels, sigma: float, random: np.random.Generator) -> Pixels:
    """White noise of so many of the 256 levels."""
    return np.clip(pixels + random.normal(0, sigma, pixels.shape), 0, 255).round().astype(np.uint8)


def darken(pixels: Pixels, stops: float, random: np.random.Generator) -> Pixels:
    """Half the light for each stop, with the shot noise of the rest (Poisson)."""
    light = (pixels / 255.0) ** _GAMMA * _ELECTRONS / 2**stops
    return (255 * np.clip(random.poisson(light) / _ELECTRONS, 0, 1) ** (1 / _GAMMA)).round().astype(np.uint8)


@dataclass(frozen=True)
class Damage:
    """A way to degrade images, and its strength."""

    spoil: Callable[[Pixels, float, np.random.Generator], Pixels]
    strengths: tuple[float, ...]
    unit: str


DAMAGES = {
    "blur": Damage(blur, (1, 2, 4, 8, 16), "sigma, pixels of 224"),
    "noise": Damage(add_noise, (16, 32, 64, 96, 128), "sigma, levels of 256"),
    "low light": Damage(darken, (2, 4, 6, 8, 10), "stops below full light"),
}


@dataclass(frozen=True)
class Way:
    """A way to answer records."""

    modalities: tuple[Modality, ...] | None  # None: all
    staged: bool


WAYS = {
    "image only": Way(("image",), False),
    "text only": Way(("text",), False),
    "cascade": Way(None, True),
    "fusion": Way(None, False),
}


@dataclass(frozen=True)
class Found:
    """Results of one way on one kind of images."""

    accuracy: float
    standard_error: float
    record_ms: float
    without_image: float  # share of the records whose image was not looked at


#: By damage, strength and way.
Study = dict[str, dict[float, dict[str, Found]]]


@dataclass(frozen=True)
class HeldOut:
    """Records that the model was not trained on, with labels and groups."""

    blocks: list[pa.Table]  # RECORDS
    labels: list[str]
    groups: list[str]  # records of one group are not independent

    @classmethod
    def read(cls, pattern: str, bundle: Bundle) -> "HeldOut":
        """Records with an image and a label that the bundle knows."""
        found = cls([], [], [])
        for shard in list_shards([pattern]):
            for block in read(shard, ReadOptions()):
                metas = [json.loads(meta) for meta in block["meta"].to_pylist()]
                known = pa.array([meta["label"] in bundle.labels for meta in metas])
                rows = np.flatnonzero(pc.and_(known, block["image"].is_valid()))
                found.blocks.append(block.take(rows))
                found.labels.extend(metas[row]["label"] for row in rows)
                found.groups.extend(metas[row]["caption_group"] for row in rows)
        return found

    def spoilt(self, damage: Damage, strength: float, spec: ImageSpec) -> list[pa.Table]:
        """The same records with other images; a strength of 0 alters no pixel that the model sees."""
        numbers = iter(range(len(self.labels)))

        def spoil(data: bytes) -> bytes:
            pixels = decode_image(data, spec, Limits().image_pixels)
            random = np.random.default_rng(next(numbers))
            stored = io.BytesIO()
            Image.fromarray(damage.spoil(pixels, strength, random) if strength else pixels).save(
                stored, "PNG"
            )
            return stored.getvalue()

        place = self.blocks[0].column_names.index("image")
        kind = self.blocks[0].schema.field("image")
        return [
            block.set_column(place, kind, pa.array(map(spoil, block["image"].to_pylist()), kind.type))
            for block in self.blocks
        ]


class Answerer:
    """A bundle's model, used in one way."""

    def __init__(self, bundle: Bundle, way: Way, cascade: str) -> None:
        self._preprocess = open_preprocessor(bundle, modalities=way.modalities)
        self._predict = Predictor(bundle, variant=cascade if way.staged else FP32)

    def __call__(self, blocks: list[pa.Table], held_out: HeldOut) -> Found:
        """Answer the held-out records, whose images may be degraded, and measure time."""
        answered = []
        start = process_time()
        for block in blocks:
            tensors = self._preprocess(block, self._predict.later)
            answered.append(self._predict(tensors, self._preprocess.complete))
        seconds = process_time() - start
        outcomes = pa.concat_tables(answered)
        right = np.array(outcomes["label"].to_pylist()) == np.array(held_out.labels)
        without = ["image" not in used for used in outcomes["modalities"].to_pylist()]
        return Found(
            accuracy=float(right.mean()),
            standard_error=clustered_error(right, held_out.groups),
            record_ms=1e3 * seconds / len(right),
            without_image=float(np.mean(without)),
        )


def study(bundle: Bundle, cascade: str, held_out: HeldOut) -> Study:
    """Results of each way, by damage and strength."""
    spec = bundle.spec.image
    if spec is None:
        raise BundleError(f"{bundle.path}: the model takes no images")
    answerers = {name: Answerer(bundle, way, cascade) for name, way in WAYS.items()}

    def ask(damage: Damage, strength: float) -> dict[str, Found]:
        blocks = held_out.spoilt(damage, strength, spec)
        return {name: answer(blocks, held_out) for name, answer in answerers.items()}

    ask(DAMAGES["blur"], 0)  # warm
    whole = ask(DAMAGES["blur"], 0)
    return {
        name: {0: whole, **{strength: ask(damage, strength) for strength in damage.strengths}}
        for name, damage in DAMAGES.items()
    }


def report(found: Study, records: int) -> None:
    """The table."""
    table = Table(box=None, padding=(0, 2, 0, 0), title=f"{records} held-out records", title_justify="left")
    for number, name in enumerate(("images", *WAYS, *(f"{name}, ms" for name in WAYS))):
        table.add_column(name, justify="right" if number else "left")
    for damage, strengths in found.items():
        for strength, ways in strengths.items():
            if strength or damage == "blur":
                right = [f"{way.accuracy:.3f} ± {way.standard_error:.3f}" for way in ways.values()]
                times = [f"{way.record_ms:.1f}" for way in ways.values()]
                table.add_row(f"{damage} {strength:g}" if strength else "as they are", *right, *times)
    Console(width=150).print(table)


def as_json(found: Study, held_out: HeldOut) -> dict[str, Any]:
    """What is printed and drawn; `record_ms` is the median over all kinds of images."""
    ways = {
        name: [each[name] for strengths in found.values() for each in strengths.values()] for name in WAYS
    }
    return {
        "records": len(held_out.labels),
        "groups": len(set(held_out.groups)),
        "record_ms": {name: round(median(way.record_ms for way in found), 2) for name, found in ways.items()},
        "without_image": round(ways["cascade"][0].without_image, 4),
        "found": {
            damage: {
                f"{strength:g}": {name: _rounded(way) for name, way in each.items()}
                for strength, each in strengths.items()
            }
            for damage, strengths in found.items()
        },
    }


def _rounded(found: Found) -> dict[str, float]:
    return {key: round(value, 4) for key, value in asdict(found).items() if key != "without_image"}


def main(
    bundle: Annotated[str, typer.Option(help="Bundle directory.")] = "bundles/stamps-optimized",
    input: Annotated[str, typer.Option(help="Held-out shards.")] = "data/tuxpaint/test-*.tar",
    cascade: Annotated[str, typer.Option(help="Name of the variant.")] = "cascade",
    plots: Annotated[Path, typer.Option(help="Directory for the plots.")] = Path("docs/images"),
) -> None:
    """Degrade images, answer records, and print the results."""
    plots.mkdir(parents=True, exist_ok=True)
    try:
        opened = Bundle.open(bundle)
        opened.check_variant(cascade)
        held_out = HeldOut.read(input, opened)
        found = study(opened, cascade, held_out)
    except MmrayError as e:
        print(f"error: {e}")
        raise typer.Exit(e.exit_code) from e
    report(found, len(held_out.labels))
    result = as_json(found, held_out)
    units = {name: damage.unit for name, damage in DAMAGES.items()}
    draw_study(result, units, plots / "cascade-study.png")
    print(json.dumps(result))


if __name__ == "__main__":
    typer.run(main)
