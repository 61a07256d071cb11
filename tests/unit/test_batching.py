"""Packing: no record's values reach another, only texts are padded, absent modalities cost nothing."""

import numpy as np
import pyarrow as pa
import pytest
from support.bundles import GOLDEN_ROWS, SPEC, records_table, small_tokenizer
from support.media import clip, image_bytes

from mmray.batching import TOKEN_LADDER, batches, pack, shape_profiles
from mmray.preprocess import Preprocessor
from mmray.preprocess.audio import log_mel
from mmray.preprocess.spec import AudioSpec, PreprocessSpec, TextSpec
from mmray.schema import TENSORS, error, table

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
    feeds = pack(tensors, SPEC, for_device=True)
    assert {name: array.dtype.name for name, array in feeds.items()} == {
        **{"present": "bool", "pixels": "uint8", "pixels_row": "int64", "input_ids": "int32"},
        **{"attention_mask": "int32", "text_row": "int64", "log_mel": "float16", "log_mel_row": "int64"},
    }
    assert feeds["pixels"].shape == (2, 16, 16, 3)
    assert feeds["input_ids"].shape == feeds["attention_mask"].shape == (3, SPEC.text.max_tokens)
    assert feeds["log_mel"].shape[1:] == (24, 16)


@pytest.mark.parametrize(
    ("longest", "width"), [(1, 8), (8, 8), (9, 16), (129, 192), (8192, 8192), (8193, 8193)]
)
@pytest.mark.parametrize("device", [False, True])
def test_texts_are_padded_to_the_longest_and_for_a_device_to_a_step_of_the_ladder(longest, width, device):
    assert width in TOKEN_LADDER or longest > TOKEN_LADDER[-1]
    width = width if device else longest
    feeds = pack(texts(1, longest), PreprocessSpec(text=TextSpec(max_tokens=8192)), for_device=device)
    assert feeds["input_ids"].shape == (2, width)
    assert feeds["attention_mask"].sum(axis=1).tolist() == [1, longest]
    assert (feeds["input_ids"][feeds["attention_mask"] == 0] == 0).all()
    assert feeds["input_ids"][1, :longest].tolist() == list(range(1, longest + 1))


@pytest.mark.parametrize(("longest", "width"), [(8, 8), (64, 64), (65, 77), (77, 77)])
def test_texts_are_never_padded_beyond_the_positions_that_an_encoder_has(longest, width):
    feeds = pack(texts(longest), PreprocessSpec(text=TextSpec(max_tokens=77)), for_device=True)
    assert feeds["input_ids"].shape == (1, width)


@pytest.mark.parametrize(("most", "width"), [(4, 4), (8, 8), (77, 8)])
def test_the_blank_text_is_no_longer_than_the_spec_allows_either(most, width):
    feeds = pack(texts(None), PreprocessSpec(text=TextSpec(max_tokens=most)), for_device=True)
    assert feeds["input_ids"].shape == (1, width)


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


def test_a_blank_row_stands_in_for_it_where_the_engine_wants_one(tensors):
    feeds = pack(tensors.slice(2, 1), SPEC, for_device=True)
    assert feeds["present"].tolist() == [[True, False, False]]
    assert all(len(array) == 1 for array in feeds.values())
    assert feeds["attention_mask"].any()  # a mask of nothing but zeros divides by zero
    full = texts(SPEC.text.max_tokens)  # no step of the ladder pads it
    same = pack(full, PreprocessSpec(text=SPEC.text), for_device=True)
    plain = pack(full, PreprocessSpec(text=SPEC.text))
    assert all(np.array_equal(array, same[name]) for name, array in plain.items())


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


def test_profiles_hold_every_batch_that_pack_makes():
    """An engine that is compiled for them meets no shape that it does not know."""
    tensors = Preprocessor(SPEC, small_tokenizer())(records_table(GOLDEN_ROWS))
    profiles = shape_profiles(SPEC, batch_rows=len(GOLDEN_ROWS))
    assert len(profiles) == len({profile["input_ids"][1][1] for profile in profiles})
    for first in range(len(GOLDEN_ROWS)):
        feeds = pack(tensors.slice(first), SPEC, for_device=True)
        assert any(
            set(feeds) == set(profile) and all(fits(feeds[name].shape, *profile[name]) for name in feeds)
            for profile in profiles
        )


def fits(shape, least, largest):
    return all(low <= size <= high for low, size, high in zip(least, shape, largest, strict=True))


def test_a_clip_never_has_more_patches_than_its_spec_says():
    spec = AudioSpec(max_s=3.0)
    for seconds in (0.1, 1.0, 2.9, 3.0):
        frames = log_mel(np.zeros(int(seconds * spec.sample_rate), np.float32), spec)
        patches = 1 + (len(frames) - spec.patch_frames) // spec.patch_hop
        assert patches <= spec.max_patches
    assert patches == spec.max_patches
