"""Packing: no record's values reach another, with padding or without."""

import numpy as np
import pyarrow as pa
import pytest
from support.bundles import SPEC, records_table, small_tokenizer
from support.media import clip, image_bytes

from mmray.batching import batches, blank, fill, full_batch, pack, padded
from mmray.preprocess import Preprocessor
from mmray.preprocess.audio import log_mel
from mmray.preprocess.spec import AudioSpec, PreprocessSpec, TextSpec
from mmray.schema import TENSORS, error, table
from mmray.shapes import Shape

ROWS = [
    {"image": image_bytes(), "text": b"a red cat", "audio": clip(seconds=1)},
    {"text": b"a " * 9},
    {"image": image_bytes(colour=(1, 2, 3))},
    {"audio": clip(seconds=0.1)},
    {"text": b"dog", "audio": clip(seconds=0.5)},
]


@pytest.fixture(scope="module")
def tensors():
    return Preprocessor(SPEC, small_tokenizer())(records_table(ROWS))


def texts(*lengths, failed=()):
    """TENSORS of texts of so many tokens; None for no text."""
    ids = [None if n is None else list(range(1, n + 1)) for n in lengths]
    errors = [error("read", "x", "y") if i in failed else None for i in range(len(lengths))]
    return table({"row": list(range(len(lengths))), "input_ids": ids, "error": errors}, TENSORS)


def test_present_says_which_modalities_each_record_has(tensors):
    expected = [[1, 1, 1], [0, 1, 0], [1, 0, 0], [0, 0, 1], [0, 1, 1]]
    present = pack(tensors, SPEC)["present"]
    assert present.dtype == np.bool_
    assert present.astype(int).tolist() == expected


def test_each_modality_has_only_the_rows_that_are_there(tensors):
    feeds = pack(tensors, SPEC)
    assert feeds["pixels_row"].tolist() == [0, 2]
    assert feeds["text_row"].tolist() == [0, 1, 4]
    assert np.unique(feeds["log_mel_row"]).tolist() == [0, 3, 4]
    assert feeds["pixels"].tobytes() == b"".join(tensors["pixels"][i].as_py() for i in (0, 2))


def test_arrays_have_the_types_and_shapes_of_the_contract(tensors):
    feeds = pack(tensors, SPEC)
    assert {name: array.dtype.name for name, array in feeds.items()} == {
        **{"present": "bool", "pixels": "uint8", "pixels_row": "int64", "input_ids": "int32"},
        **{"attention_mask": "int32", "text_row": "int64", "log_mel": "float16", "log_mel_row": "int64"},
    }
    assert feeds["pixels"].shape == (2, 16, 16, 3)
    assert feeds["input_ids"].shape == feeds["attention_mask"].shape == (3, 11)
    assert feeds["log_mel"].shape[1:] == (24, 16)


@pytest.mark.parametrize("longest", [1, 8, 129, 8193])
def test_texts_are_padded_to_the_longest(longest):
    feeds = pack(texts(1, longest), PreprocessSpec(text=TextSpec(max_tokens=8192)))
    assert feeds["input_ids"].shape == (2, longest)
    assert feeds["attention_mask"].sum(axis=1).tolist() == [1, longest]
    assert (feeds["input_ids"][feeds["attention_mask"] == 0] == 0).all()
    assert feeds["input_ids"][1].tolist() == list(range(1, longest + 1))


def test_a_text_without_tokens_is_there_and_empty():
    feeds = pack(texts(0, 2), PreprocessSpec(text=TextSpec()))
    assert feeds["text_row"].tolist() == [0, 1]
    assert feeds["attention_mask"].sum(axis=1).tolist() == [0, 2]


@pytest.mark.parametrize(("patch_frames", "patch_hop"), [(4, 2), (4, 4), (3, 5)])
def test_patches_are_cut_each_hop_and_belong_to_their_clip(patch_frames, patch_hop):
    spec = AudioSpec(mel_bins=2, patch_frames=patch_frames, patch_hop=patch_hop)
    clips = [np.arange(2 * (patch_frames + k * patch_hop), dtype=np.float16).reshape(-1, 2) for k in (0, 3)]
    rows = table({"row": [0, 1, 2], "log_mel": [clips[0].tobytes(), None, clips[1].tobytes()]}, TENSORS)
    feeds = pack(rows, PreprocessSpec(audio=spec))
    assert feeds["log_mel_row"].tolist() == [0, 2, 2, 2, 2]
    for i in range(4):
        assert np.array_equal(feeds["log_mel"][1 + i], clips[1][i * patch_hop : i * patch_hop + patch_frames])


def test_a_modality_that_no_record_has_is_an_empty_batch(tensors):
    feeds = pack(tensors.slice(2, 1), SPEC)
    assert [len(feeds[name]) for name in ("text_row", "input_ids", "log_mel", "log_mel_row")] == [0] * 4
    assert feeds["input_ids"].shape == (0, 1)
    assert feeds["log_mel"].shape == (0, 24, 16)


def test_a_padded_batch_has_the_sizes_of_its_shape_and_its_padding_belongs_to_the_dummy(tensors):
    shape = Shape(rows=8, images=4, texts=8, tokens=32, patches=16)
    feeds = padded(tensors, SPEC, shape)
    plain = pack(tensors, SPEC)
    assert {name: array.dtype for name, array in feeds.items()} == {n: a.dtype for n, a in plain.items()}
    assert feeds["present"].shape == (9, 3)
    assert not feeds["present"][len(tensors) :].any()
    assert feeds["pixels"].shape == (4, 16, 16, 3)
    assert feeds["input_ids"].shape == feeds["attention_mask"].shape == (8, 32)
    assert feeds["log_mel"].shape == (16, 24, 16)
    for name in ("pixels_row", "text_row", "log_mel_row"):
        real = len(plain[name])
        assert feeds[name][:real].tolist() == plain[name].tolist()
        assert set(feeds[name][real:]) == {8}
    assert feeds["attention_mask"].any(axis=1).all()  # a mask of nothing but zeros divides by zero
    assert np.array_equal(feeds["pixels"][:2], plain["pixels"])
    assert np.array_equal(feeds["log_mel"][: len(plain["log_mel"])], plain["log_mel"])


def test_nothing_of_an_earlier_batch_reaches_a_record_of_the_next(tensors):
    shape = Shape(rows=8, images=4, texts=8, tokens=32, patches=16)
    used = blank(SPEC, shape)
    fill(used, tensors, np.arange(5), SPEC)
    counted = fill(used, tensors, np.array([3, 1]), SPEC)
    fresh = padded(tensors.take([3, 1]), SPEC, shape)
    for name in ("present", "pixels_row", "input_ids", "attention_mask", "text_row", "log_mel_row"):
        assert np.array_equal(used[name], fresh[name])
    patches = int((fresh["log_mel_row"] < 8).sum())
    assert np.array_equal(used["log_mel"][:patches], fresh["log_mel"][:patches])
    assert counted == Shape(2, 0, 1, int(fresh["attention_mask"][:1].sum()), patches)


def test_only_what_a_stage_takes_has_arrays_and_only_what_was_seen_is_present(tensors):
    shape = Shape(rows=5, texts=3, tokens=32)
    feeds = blank(SPEC, shape, ("text",), {"carried/x": 7})
    fill(feeds, tensors, np.arange(5), SPEC, ("image", "text"))
    assert set(feeds) == {"present", "input_ids", "attention_mask", "text_row", "carried/x"}
    assert feeds["carried/x"].shape == (6, 7)
    assert feeds["present"].astype(int).tolist() == [
        [1, 1, 0],
        [0, 1, 0],
        [1, 0, 0],
        [0] * 3,
        [0, 1, 0],
        [0] * 3,
    ]


def test_only_modalities_of_the_spec_are_packed(tensors):
    feeds = pack(tensors, PreprocessSpec(text=SPEC.text, audio=SPEC.audio))
    assert set(feeds) == {"present", "input_ids", "attention_mask", "text_row", "log_mel", "log_mel_row"}
    assert feeds["present"].shape == (5, 2)


def test_batches_hold_every_sound_row_once_and_similar_lengths_together():
    tensors = texts(9, 1, None, 5, 2, 8, 3, failed=(3,))
    rows = [batch.tolist() for batch in batches(tensors, 2)]
    assert rows == [[2, 1], [4, 6], [5, 0]]


@pytest.mark.parametrize(
    ("lengths", "rows"),
    [
        ((3, 120, 3, 3), [[0, 2, 3], [1]]),  # 360 blank tokens less
        ((8, 9), [[0, 1]]),  # 8 blank tokens cost less than a batch
        ((1, 1, 9), [[0, 1, 2]]),
        ((1, 1, 1, 9), [[0, 1, 2], [3]]),
        ((1, 5, 9, 13, 17), [[0, 1, 2], [3, 4]]),
        ((None, None, None, 500), [[0, 1, 2, 3]]),  # what has no text is not padded
        ((5, 5, 5, 5, 5), [[0, 1], [2, 3], [4]]),
    ],
)
def test_a_batch_ends_where_going_on_would_pad_more_than_a_batch_costs(lengths, rows):
    size = 2 if lengths == (5, 5, 5, 5, 5) else 32
    assert [batch.tolist() for batch in batches(texts(*lengths), size)] == rows


@pytest.mark.parametrize("chunks", [[7], [3, 4], [1] * 7])
def test_batches_do_not_depend_on_how_the_table_is_chunked(chunks):
    whole = texts(9, 1, None, 5, 2, 8, 3)
    starts = np.cumsum([0, *chunks[:-1]])
    pieces = pa.concat_tables([whole.slice(int(s), n) for s, n in zip(starts, chunks, strict=True)])
    assert [b.tolist() for b in batches(pieces, 3)] == [b.tolist() for b in batches(whole, 3)]


def test_nothing_but_failures_makes_no_batch():
    assert list(batches(texts(1, 2, failed=(0, 1)), 4)) == []
    assert list(batches(texts(), 4)) == []


def test_a_clip_never_has_more_patches_than_its_spec_says():
    spec = AudioSpec(max_s=3.0)
    for seconds in (0.1, 1.0, 2.9, 3.0):
        frames = log_mel(np.zeros(int(seconds * spec.sample_rate), np.float32), spec)
        patches = 1 + (len(frames) - spec.patch_frames) // spec.patch_hop
        assert patches <= spec.max_patches
    assert patches == spec.max_patches


def test_a_full_batch_repeats_the_records_that_have_most(tensors):
    feeds = pack(tensors, SPEC)
    full = full_batch(feeds, 3)
    assert full["present"].all()
    assert full["pixels_row"].tolist() == full["text_row"].tolist() == [0, 1, 2]
    patches = int((feeds["log_mel_row"] == 0).sum())
    assert full["log_mel_row"].tolist() == [row for row in range(3) for _ in range(patches)]
    assert (full["pixels"] == feeds["pixels"][0]).all()
    longest = int(feeds["attention_mask"][0].sum())
    assert full["input_ids"].tolist() == [feeds["input_ids"][0, :longest].tolist()] * 3


def test_a_full_batch_of_one_modality_has_nothing_else(tensors):
    full = full_batch(pack(tensors, SPEC), 4, "text")
    assert full["present"].tolist() == [[False, True, False]] * 4
    assert len(full["pixels"]) == len(full["log_mel"]) == 0
    ids = full["input_ids"][:, 1].tolist()
    assert ids[0] == ids[3] != ids[2], "three records have a text, and the first comes again"
