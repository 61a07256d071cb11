"""Packing against a loop that anyone can check."""

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st
from support.bundles import same_feeds

from mmray.batching import batches, blank, fill, pack
from mmray.preprocess.spec import AudioSpec, ImageSpec, PreprocessSpec, TextSpec
from mmray.schema import TENSORS, error, table
from mmray.shapes import Shaper, job_ladder

SPEC = PreprocessSpec(
    image=ImageSpec(height=2, width=3),
    text=TextSpec(),
    audio=AudioSpec(mel_bins=2, patch_frames=3, patch_hop=2),
)

rows = st.lists(
    st.fixed_dictionaries(
        {
            "pixels": st.none() | st.binary(min_size=18, max_size=18),
            "input_ids": st.none() | st.lists(st.integers(0, 30_000), max_size=20),
            "log_mel": st.none() | st.integers(0, 3).flatmap(lambda k: st.just(k)),
            "failed": st.booleans(),
        }
    ),
    max_size=12,
)


def to_tensors(rows, chunk):
    """TENSORS of the drawn rows, in chunks; a clip is drawn as its number of hops and gets its own values."""
    made = []
    for number, row in enumerate(rows):
        hops = row["log_mel"]
        frames = None if hops is None else np.arange(2 * (3 + 2 * hops), dtype=np.float16) + number
        failure = error("infer", "x", "y") if row["failed"] else None
        made.append({**row, "log_mel": frames if frames is None else frames.tobytes(), "error": failure})
    names = ("pixels", "input_ids", "log_mel", "error")
    pieces = [made[start : start + chunk] for start in range(0, len(made), chunk)] or [[]]
    return pa.concat_tables(
        [table({n: [row[n] for row in piece] for n in names}, TENSORS) for piece in pieces]
    )


def naive_pack(rows):
    """The contract, one record at a time."""
    present, pixels, pixels_row, ids, text_row, patches, patch_row = [], [], [], [], [], [], []
    for number, row in enumerate(rows):
        present.append([row[name] is not None for name in ("pixels", "input_ids", "log_mel")])
        if row["pixels"] is not None:
            pixels.append(np.frombuffer(row["pixels"], np.uint8).reshape(2, 3, 3))
            pixels_row.append(number)
        if row["input_ids"] is not None:
            ids.append(row["input_ids"])
            text_row.append(number)
        if row["log_mel"] is not None:
            frames = np.frombuffer(row["log_mel"], np.float16).reshape(-1, 2)
            for start in range(0, len(frames) - 2, 2):
                patches.append(frames[start : start + 3])
                patch_row.append(number)
    width = max([1, *map(len, ids)])
    return {
        "present": np.array(present, np.bool_).reshape(-1, 3),
        "pixels": np.array(pixels, np.uint8).reshape(-1, 2, 3, 3),
        "pixels_row": np.array(pixels_row, np.int64),
        "input_ids": np.array([i + [0] * (width - len(i)) for i in ids], np.int32).reshape(-1, width),
        "attention_mask": np.array([[1] * len(i) + [0] * (width - len(i)) for i in ids], np.int32).reshape(
            -1, width
        ),
        "text_row": np.array(text_row, np.int64),
        "log_mel": np.array(patches, np.float16).reshape(-1, 3, 2),
        "log_mel_row": np.array(patch_row, np.int64),
    }


@settings(deadline=None, max_examples=60)
@given(rows, st.integers(1, 5), st.integers(1, 6))
def test_packing_any_batch_of_any_table_is_the_loop(rows, chunk, batch_rows):
    tensors = to_tensors(rows, chunk)
    taken = list(batches(tensors, batch_rows))
    assert sorted(row for batch in taken for row in batch) == [
        i for i, row in enumerate(rows) if not row["failed"]
    ]
    for batch in taken:
        assert len(batch) <= batch_rows
        part = tensors.take(batch)
        assert same_feeds(pack(part, SPEC), naive_pack(part.to_pylist()))


@settings(deadline=None, max_examples=60)
@given(rows, st.integers(1, 5), st.integers(1, 6))
def test_a_padded_batch_of_any_table_is_the_loop_and_padding(rows, chunk, batch_rows):
    tensors = to_tensors(rows, chunk)
    sound = np.array([i for i, row in enumerate(rows) if not row["failed"]], np.int64)
    made = Shaper(job_ladder(SPEC, batch_rows), SPEC.modalities)(tensors, sound)
    assert sorted(row for batch in made for row in batch.rows) == sound.tolist()
    assert len({batch.shape for batch in made}) <= 1
    for chosen, shape in made:
        feeds = blank(SPEC, shape)
        fill(feeds, tensors, chosen, SPEC)
        expected = naive_pack(tensors.take(chosen).to_pylist())
        for name, values in expected.items():
            part = feeds[name][: len(values)]
            assert np.array_equal(part[:, : values.shape[1]] if name in TEXT else part, values)
        for name in ("pixels_row", "text_row", "log_mel_row"):
            assert set(feeds[name][len(expected[name]) :].tolist()) <= {batch_rows}
        assert not feeds["attention_mask"][
            : len(expected["text_row"]), expected["input_ids"].shape[1] :
        ].any()


TEXT = ("input_ids", "attention_mask")
