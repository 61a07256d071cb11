"""Tables of raw records become tables of tensors, row by row; a bad record becomes a row with an error."""

import numpy as np
import pyarrow as pa
import pytest
from support.bundles import SPEC, records_table, small_tokenizer
from support.damaged import BAD_MEMBERS, ENDLESS_TEXT, bad_record, truncated_jpeg
from support.media import clip, image_bytes

from mmray.errors import InputError
from mmray.preprocess import Preprocessor
from mmray.preprocess.audio import decode_audio, log_mel
from mmray.preprocess.image import decode_image
from mmray.preprocess.spec import AudioSpec, ImageSpec, Limits, PreprocessSpec, TextSpec
from mmray.schema import TENSORS, VIEWS, error
from mmray.sources import EXTENSIONS
from mmray.unread import NAMELESS

GOOD = {"image": image_bytes(), "text": b"a red cat", "audio": clip(seconds=1.2)}
ROWS = [
    GOOD,
    {"text": b"blue"},
    {"image": truncated_jpeg(), "text": b"a dog"},
    {"error": error("read", "shard-damaged", "was so before")},
    {"meta": b"{}"},
    {"image": image_bytes("JPEG"), "audio": clip("OGG")},
]
COLUMN_OF = {extension: column for column, extensions in EXTENSIONS.items() for extension in extensions}


def preprocess(rows=ROWS, spec=SPEC, **options):
    table = Preprocessor(spec, small_tokenizer(), **options)(records_table(rows))
    assert table.schema.equals(TENSORS)
    return table.to_pylist()


def test_views_become_the_same_tensors():
    records = records_table(ROWS)
    run = Preprocessor(SPEC, small_tokenizer())
    assert run(records.cast(VIEWS)).equals(run(records))


def kinds(rows):
    return [row["error"] and row["error"]["type"] for row in rows]


@pytest.mark.parametrize("on_damaged", ["reject", "mask"])
def test_every_row_comes_out_in_its_place(on_damaged):
    before = records_table(ROWS).to_pylist()
    after = preprocess(on_damaged=on_damaged)
    for name in ("shard", "row", "end", "key", "offset", "length", "meta"):
        assert [row[name] for row in after] == [row[name] for row in before]


def test_tensors_are_what_the_decoders_give():
    row = preprocess([GOOD])[0]
    assert row["pixels"] == decode_image(GOOD["image"], SPEC.image, 10_000).tobytes()
    assert row["log_mel"] == log_mel(decode_audio(GOOD["audio"], SPEC.audio, 60), SPEC.audio).tobytes()
    assert len(row["pixels"]) == 16 * 16 * 3
    assert len(np.frombuffer(row["log_mel"], np.float16)) % SPEC.audio.mel_bins == 0
    assert row["input_ids"] == [2, 4, 7, 5, 3]
    assert (row["damaged"], row["error"]) == ([], None)


def test_a_missing_modality_is_null_and_no_fault():
    row = preprocess([{"text": b"blue"}])[0]
    assert (row["pixels"], row["log_mel"], row["error"], row["damaged"]) == (None, None, None, [])


def test_a_damaged_modality_rejects_its_record():
    rows = preprocess()
    assert kinds(rows) == [None, None, "image-undecodable", "shard-damaged", "no-modality", None]
    assert rows[2]["error"]["stage"] == "preprocess"
    assert rows[2]["damaged"] == ["image"]


def test_a_damaged_modality_can_be_masked_instead():
    rows = preprocess(on_damaged="mask")
    assert kinds(rows) == [None, None, None, "shard-damaged", "no-modality", None]
    assert (rows[2]["damaged"], rows[2]["pixels"]) == (["image"], None)
    assert rows[2]["input_ids"] == [2, 4, 6, 3]


def test_a_record_with_nothing_usable_left_is_rejected_even_where_damage_is_masked():
    (row,) = preprocess([{"image": b"", "text": b"\xff"}], on_damaged="mask")
    assert kinds([row]) == ["all-damaged"]
    assert row["damaged"] == ["image", "text"]
    assert "image, text" in row["error"]["reason"]


def test_errors_of_earlier_stages_pass_through_and_nothing_is_decoded_for_them():
    failure = error("read", "repeated-member", "two of them")
    rows = preprocess([{**GOOD, "error": failure}, {"image": b"", "error": failure}])
    assert [row["error"] for row in rows] == [failure] * 2
    assert [row["damaged"] for row in rows] == [[], []]
    assert rows[0]["pixels"] is None


def test_a_failed_row_carries_no_tensors():
    """Whatever was decoded before the fault was found is let go."""
    rows = preprocess([{"image": image_bytes(), "text": b"a cat", "audio": b""}])
    assert [rows[0][name] for name in ("pixels", "input_ids", "log_mel")] == [None] * 3


@pytest.mark.parametrize("on_damaged", ["reject", "mask"])
@pytest.mark.parametrize("kind", BAD_MEMBERS)
def test_each_kind_of_damage_is_told_by_its_type(kind, on_damaged):
    record = {COLUMN_OF[extension]: data for extension, data in bad_record(kind).items()}
    (bad, good) = preprocess([record, {"text": b"a cat"}], on_damaged=on_damaged)
    assert good["error"] is None
    assert bad["damaged"] == [COLUMN_OF[BAD_MEMBERS[kind][0]]]
    assert kinds([bad]) == [BAD_MEMBERS[kind][2] if on_damaged == "reject" else None]


def test_modalities_that_are_not_used_are_not_decoded():
    """A corrupt image does not matter to a run that looks at texts only, and counts for nothing."""
    rows = preprocess(
        [{"image": truncated_jpeg(), "text": b"cat"}, {"image": image_bytes()}], modalities=["text"]
    )
    assert kinds(rows) == [None, "no-modality"]
    assert rows[0]["damaged"] == []
    assert rows[1]["error"]["reason"] == "has none of text"


def test_modalities_that_the_model_does_not_take_are_not_decoded():
    rows = preprocess([{"image": truncated_jpeg(), "text": b"cat"}], PreprocessSpec(text=TextSpec()))
    assert kinds(rows) == [None]


def test_limits_are_those_of_the_run():
    rows = [
        {"image": image_bytes(size=(20, 20))},
        {"text": b"four words are here"},
        {"audio": clip(seconds=2)},
    ]
    assert kinds(preprocess(rows)) == [None] * 3
    tight = Limits(image_pixels=399, text_chars=18, audio_s=1.9)
    assert kinds(preprocess(rows, limits=tight)) == ["image-too-large", "text-too-long", "audio-too-long"]


def test_reasons_are_short_whatever_the_record_holds():
    rows = preprocess([{"text": ENDLESS_TEXT}, {"text": b"\xff" * 1000}, {"image": b"%" * 9999}])
    assert all(len(row["error"]["reason"]) <= 300 for row in rows)


def test_a_table_without_rows_gives_a_table_without_rows():
    assert preprocess([]) == []


def test_chunked_and_sliced_tables_are_read_like_whole_ones():
    whole = records_table(ROWS)
    pieces = pa.concat_tables([whole.slice(0, 2), whole.slice(2, 1), whole.slice(3)])
    run = Preprocessor(SPEC, small_tokenizer())
    assert run(pieces).to_pylist() == run(whole).to_pylist()
    assert run(whole.slice(2, 3)).to_pylist() == run(whole).to_pylist()[2:5]


def test_seconds_are_counted_for_each_modality_that_is_used():
    run = Preprocessor(SPEC, small_tokenizer(), modalities=["audio", "image"])
    run(records_table(ROWS))
    assert set(run.seconds) == {"audio", "image"}
    assert all(seconds > 0 for seconds in run.seconds.values())


def test_the_digest_of_a_spec_tells_any_two_specs_apart():
    specs = [
        SPEC,
        PreprocessSpec(image=SPEC.image),
        PreprocessSpec(image=ImageSpec(height=16, width=16, fit="crop")),
        PreprocessSpec(image=ImageSpec(height=16, width=16, background=(0, 0, 0))),
        PreprocessSpec(text=TextSpec(max_tokens=5)),
        PreprocessSpec(audio=AudioSpec(max_s=2)),
    ]
    assert len({spec.digest() for spec in specs}) == len(specs)
    assert PreprocessSpec.model_validate_json(SPEC.model_dump_json()).digest() == SPEC.digest()


def thing(modality, kind=".tga members"):
    return {"kind": kind, "name": f"0.{modality}", "modality": modality}


UNREAD = [
    {"text": b"a dog", "unread": [thing("image")]},  # it loses its picture
    {"text": b"a dog", "image": image_bytes(), "unread": [thing("image")]},  # it has one
    {"text": b"a dog", "unread": [thing(None)]},
    {"text": b"a dog", "unread": [thing(None, NAMELESS)]},  # lies beside it
    {"text": b"a dog"},
]


@pytest.mark.parametrize(
    ("options", "errors", "damaged"),
    [
        ({}, ["image-unread", None, None, None, None], 0),
        ({"on_damaged": "mask"}, [None] * 5, 1),
        ({"modalities": ["text"]}, [None] * 5, 0),
        ({"on_unread": "reject"}, ["unread", "unread", "unread", None, None], 0),
    ],
)
def test_a_modality_that_is_there_but_not_read_is_not_absent(options, errors, damaged):
    rows = preprocess(UNREAD, **options)
    assert kinds(rows) == errors
    assert sum(row["damaged"] == ["image"] and row["error"] is None for row in rows) == damaged
    assert [row["unread"] for row in rows][2:] == [[".tga members"], [NAMELESS], None]


def test_unread_things_may_end_the_run_by_name():
    with pytest.raises(InputError, match=r"0\.image.*is there, but not read.*on_unread=warn"):
        preprocess(UNREAD, on_unread="fail")
