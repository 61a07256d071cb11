"""The few shapes of batches for a device, and the choice of a shape for a table of records.

An engine on a GPU plans its kernels again for every shape that differs from the previous one: on an H200 that
took 1.5 s, while a batch takes 30 ms (docs/gpu.md). So batches are padded to a *ladder* of sizes, a table
keeps the sizes of the previous table unless they are far too large, and all batches of a table have one
shape.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from mmray.preprocess.spec import AudioSpec, PreprocessSpec
from mmray.schema import TENSOR_OF, Modality

#: Rows of a batch of a job on a device; fewer for large records.
JOB_ROWS = 256
_CPU_ROWS = (8, 64)  # of a batch on a CPU, by the size of its records
_CPU_BYTES = 2_250_000  # of its inputs: 34 records of 72 pixels, text and sound; 11 of 224
#: Rows of a batch of a server: it uses the first size that fits the waiting records.
SERVER_ROWS = (1, 4, 16, 64, 256)

_BATCH_BYTES = 256 << 20  # of the inputs of a batch; an engine's activations are a few times that
#: Batches of one shape in a table, if they are not too large.
BATCHES = 4
_TABLE_BYTES = 96 << 20
_TOKENS = (16, 64, 256, 1024, 4096)  # widths of texts
_SHARES = (16, 4, 1)  # a batch has places for its pictures, and for its texts, for one row in so many
_PATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)  # a row
_TOO_LARGE = 4  # a size that is so many times too large is replaced by a smaller one


class Shape(NamedTuple):
    """Sizes of a batch. It has one more record than `rows`: the dummy, to which all padding belongs."""

    rows: int
    images: int = 0  # 0: the graph takes none
    texts: int = 0
    tokens: int = 0  # width of each text
    patches: int = 0

    def __str__(self) -> str:
        """As in "256 rows, 256 images, 256 texts x 64, 1024 patches"."""
        parts = [f"{self.rows} rows"]
        parts += [f"{self.images} images"] * bool(self.images)
        parts += [f"{self.texts} texts x {self.tokens}"] * bool(self.texts)
        parts += [f"{self.patches} patches"] * bool(self.patches)
        return ", ".join(parts)


@dataclass(frozen=True)
class Ladder:
    """Sizes that batches may have.

    Args:
        spec: what the model takes.
        rows: of a batch, in ascending order.
        one_each: whether each number of rows has one size of everything except the texts' width, so that a
            server can run all shapes at its start. A job uses what its records need.
    """

    spec: PreprocessSpec
    rows: tuple[int, ...]
    one_each: bool = False

    @property
    def tokens(self) -> tuple[int, ...]:
        """Widths of texts; an encoder may have no more positions than `max_tokens`."""
        if self.spec.text is None:
            return (0,)
        most = self.spec.text.max_tokens
        return (*(step for step in _TOKENS if step < most), most)

    def places(self, rows: int) -> tuple[int, ...]:
        """Places for pictures, or texts, in a batch of so many rows."""
        return (rows,) if self.one_each else tuple(sorted({-(-rows // share) for share in _SHARES}))

    def patches(self, rows: int) -> tuple[int, ...]:
        """Patches of a batch of so many rows; the last size fits any such batch."""
        if self.spec.audio is None:
            return (0,)
        most = self.spec.audio.max_patches
        if self.one_each:
            return (max(most, rows * min(_TOO_LARGE, most)),)
        return tuple(rows * step for step in (*(step for step in _PATCHES if step < most), most))

    def shapes(self, takes: Collection[Modality]) -> Iterator[Shape]:
        """Every shape of a graph that takes these modalities."""
        for rows in self.rows:
            places = self.places(rows)
            steps = (
                places if "image" in takes else (0,),
                places if "text" in takes else (0,),
                self.tokens if "text" in takes else (0,),
                self.patches(rows) if "audio" in takes else (0,),
            )
            for images, texts, tokens, patches in product(*steps):
                yield Shape(rows, images, texts, tokens, patches)

    @property
    def typical(self) -> Shape:
        """A full batch of records with all modalities: short texts, some seconds of sound."""
        spec, rows = self.spec, self.rows[-1]
        patches = rows * min(_TOO_LARGE, spec.audio.max_patches) if spec.audio else 0
        return Shape(
            rows,
            rows if spec.image else 0,
            rows if spec.text else 0,
            self.tokens[0],
            next((step for step in self.patches(rows) if step >= patches), 0),
        )

    def to_json(self) -> dict[str, list[int]]:
        """For plan.json."""
        most = self.rows[-1]
        return {
            "rows": list(self.rows),
            "places": list(self.places(most)),
            "tokens": list(self.tokens),
            "patches": list(self.patches(most)),
        }


def cpu_rows(spec: PreprocessSpec) -> int:
    """Rows of a batch on a CPU: enough that starting it costs little, few enough for cache and memory.

    A batch costs a millisecond of its own, where a small model takes four for eight pictures of 72 pixels.
    With 32 pictures of 224 pixels instead of 8 each takes 2 % longer, and a worker 120 MB more (docs/log.md).
    """
    least, most = _CPU_ROWS
    return min(most, max(least, _CPU_BYTES // row_bytes(spec)))


def job_ladder(spec: PreprocessSpec, rows: int | None = None) -> Ladder:
    """Of a batch job: one number of rows; None: depends on the size of its records."""
    if rows is None:
        rows = JOB_ROWS
        while rows > 1 and rows * row_bytes(spec) > _BATCH_BYTES:
            rows //= 2
    return Ladder(spec, (rows,))


def server_ladder(spec: PreprocessSpec, most_rows: int) -> Ladder:
    """Of a server whose batches have at most so many rows."""
    return Ladder(spec, (*(step for step in SERVER_ROWS if step < most_rows), most_rows), one_each=True)


def row_bytes(spec: PreprocessSpec) -> int:
    """Bytes of one record's inputs, of a clip as many patches as `_TOO_LARGE`."""
    total = 0
    if image := spec.image:
        total += image.height * image.width * 3
    if text := spec.text:
        total += 8 * text.max_tokens
    if audio := spec.audio:
        total += 2 * min(_TOO_LARGE, audio.max_patches) * audio.patch_frames * audio.mel_bins
    return total


class Batch(NamedTuple):
    """Rows of a table that run together, and their padded shape."""

    rows: npt.NDArray[np.int64]
    shape: Shape | None  # None: on a CPU, which takes any


class Shaper:
    """Cuts tables into batches of few shapes. One for each graph on a device; its users share it.

    Args:
        ladder: sizes that batches may have.
        takes: modalities of the graph.
    """

    def __init__(self, ladder: Ladder, takes: Collection[Modality]) -> None:
        self._ladder = ladder
        self._spec = ladder.spec
        self._takes = takes
        self._latest: Shape | None = None

    def __call__(self, tensors: pa.Table, rows: npt.NDArray[np.int64]) -> list[Batch]:
        """Batches of rows of a table of TENSORS that have no error, each row once, all of one shape.

        The rows are distributed by their patches, most first, in alternating order, so that all batches have
        about equally many; the number of batches is the minimum for the rows.
        """
        if not len(rows):
            return []
        images, tokens, patches = self._sizes(tensors)
        images, tokens, patches = images[rows], tokens[rows], patches[rows]
        most = next((step for step in self._ladder.rows if step >= len(rows)), self._ladder.rows[-1])
        number = -(-len(rows) // most)
        hands = _deal(patches, number)
        if self._ladder.one_each:
            capacity = self._ladder.patches(most)[-1]
            while patches.size and max(patches[hand].sum() for hand in hands) > capacity:
                number += 1
                hands = _deal(patches, number)
        shape = self._shape(
            most,
            max(int(images[hand].sum()) for hand in hands),
            max(int((tokens[hand] >= 0).sum()) for hand in hands),
            int(tokens.max(initial=0)),
            max(int(patches[hand].sum()) for hand in hands),
            fills=len(rows) >= most,
        )
        return [Batch(rows[np.sort(hand)], shape) for hand in hands]

    def _sizes(
        self, tensors: pa.Table
    ) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """For each row: whether it has a picture, its tokens or -1, its patches."""
        rows = tensors.num_rows
        images, tokens = np.zeros(rows, np.bool_), np.full(rows, -1, np.int64)
        patches = np.zeros(rows, np.int64)
        if "image" in self._takes:
            images = pc.is_valid(tensors[TENSOR_OF["image"]]).to_numpy(zero_copy_only=False)
        if "text" in self._takes:
            lengths = pc.fill_null(pc.list_value_length(tensors[TENSOR_OF["text"]]), -1)
            tokens = lengths.to_numpy().astype(np.int64)
        if "audio" in self._takes and self._spec.audio:
            size = pc.fill_null(pc.binary_length(tensors[TENSOR_OF["audio"]]), 0).to_numpy()
            patches = patches_of(size.astype(np.int64), self._spec.audio)
        return images, tokens, patches

    def _shape(self, rows: int, images: int, texts: int, tokens: int, patches: int, *, fills: bool) -> Shape:
        """The smallest shape that fits, or the latest one if that is not far too large.

        A table that fills no batch (`fills`) says little about later ones, so nothing shrinks for it.
        """
        ladder, takes = self._ladder, self._takes
        latest = self._latest if self._latest and self._latest.rows == rows else Shape(rows)
        places = ladder.places(rows)

        def size(steps: tuple[int, ...], needed: int, latest: int) -> int:
            step = next(step for step in steps if step >= needed)
            # If nothing is needed the latest is kept, too: a change costs more than padding some batches.
            keeps = not needed or not fills or latest <= _TOO_LARGE * step
            return latest if latest and latest >= needed and keeps else step

        shape = Shape(
            rows,
            size(places, images, latest.images) if "image" in takes else 0,
            size(places, texts, latest.texts) if "text" in takes else 0,
            size(ladder.tokens, tokens, latest.tokens) if "text" in takes else 0,
            size(ladder.patches(rows), patches, latest.patches) if "audio" in takes else 0,
        )
        self._latest = shape
        return shape


def patches_of(size: npt.NDArray[np.int64], spec: AudioSpec) -> npt.NDArray[np.int64]:
    """Patches of clips whose log-mels have so many bytes; 0 of one that has none."""
    frames = size // (2 * spec.mel_bins)
    return np.maximum(0, (frames - spec.patch_frames) // spec.patch_hop + 1)


def _deal(patches: npt.NDArray[np.int64], hands: int) -> list[npt.NDArray[np.int64]]:
    """Positions of the rows, distributed to so many batches."""
    order = np.argsort(-patches, kind="stable")
    turn = np.arange(len(order)) % (2 * hands)
    hand = np.minimum(turn, 2 * hands - 1 - turn)
    return [order[hand == i] for i in range(hands)]


def whole_batches(tables: Iterator[pa.Table], rows: int | None, batches: int = BATCHES) -> Iterator[pa.Table]:
    """The same rows in the same order, in tables of whole batches; the last one has the rest.

    Args:
        tables: of any size.
        rows: of a batch; None: the tables are left as they are.
        batches: maximum batches of a table.
    """
    if rows is None:
        yield from tables
        return
    waiting: list[pa.Table] = []
    count = size = 0
    for table in tables:
        waiting.append(table)
        count, size = count + table.num_rows, size + table.nbytes
        while count >= rows * batches or (size >= _TABLE_BYTES and count):
            together = pa.concat_tables(waiting)
            fitting = min(count, rows * batches, max(1, _TABLE_BYTES * count // max(size, 1)))
            # If not even one batch fits, a table has the rows that do.
            whole = fitting - fitting % rows or fitting
            yield together.slice(0, whole)
            waiting, count = [together.slice(whole)], count - whole
            size = waiting[0].nbytes if count else 0
    if count:
        yield pa.concat_tables(waiting)
