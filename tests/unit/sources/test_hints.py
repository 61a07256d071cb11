"""A table whose pictures have another name is told what to set; and then they are read."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.media import clip, image_bytes
from support.reading import columns, fault, read_rows, shard_at
from support.runs import make_config
from support.tfrecords import example, tfrecord

from mmray.config import RunConfig
from mmray.errors import InputError
from mmray.magic import modality_of
from mmray.pipeline.survey import read_options, survey
from mmray.sources import ReadOptions
from mmray.sources.hints import hints

PNG = image_bytes()
EMBEDDED = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


@pytest.fixture
def parquet(tmp_path):
    """A Parquet file of columns."""

    def act(**values):
        pq.write_table(pa.table(values), tmp_path / "a.parquet")
        return tmp_path / "a.parquet"

    return act


def hint_of(path, *missed):
    return hints([shard_at(path)], ReadOptions(), missed)


@pytest.mark.parametrize(
    ("column", "values", "missed", "hint"),
    [
        (
            "img",
            pa.array([{"bytes": PNG, "path": None}], EMBEDDED),
            "image",
            "contains pictures: set `columns: {image: img}`",
        ),
        ("Photo", [PNG], "image", "contains pictures: set `columns: {image: Photo}`"),
        ("sound", [clip()], "audio", "contains sound: set `columns: {audio: sound}`"),
        (
            "url",
            ["https://example.org/1.jpg?x=1"],
            "image",
            "contains URLs of pictures: not followed in this format",
        ),
        ("title", ["BMW by the road"], "text", "contains text: set `columns: {text: title}`"),
    ],
)
def test_a_column_under_another_name_is_named_with_its_remedy(parquet, column, values, missed, hint):
    (found,) = hint_of(parquet(**{column: values, "n": [1]}), "image", "text", "audio")
    assert found.startswith(f"column `{column}` of a.parquet {hint}")
    assert hint_of(parquet(**{column: values}), *({"image", "text", "audio"} - {missed})) == []


def test_what_a_hint_says_is_then_read(parquet):
    path = parquet(img=[PNG], title=["a cat"], uid=["k"])
    config = RunConfig.model_validate(
        {
            "input": str(path),
            "bundle": "b",
            "output": "o",
            "columns": {"image": "img", "text": ["t", "Title"], "key": "uid"},
        }
    )
    rows = read_rows(path, columns=read_options(config).columns)
    assert columns(rows, "image", "text", "key") == [(PNG, b"a cat", "k")]


def test_a_configured_column_that_does_not_fit_is_a_reject_that_says_so(parquet):
    (row,) = read_rows(parquet(image=[PNG]), columns={"image": ("imgg",)})
    assert fault(row) == "columns-missing"
    assert "columns.image: none of imgg" in row["error"]["reason"]


def test_features_of_a_tfrecord(tmp_path):
    path = tmp_path / "a.tfrecord"
    path.write_bytes(tfrecord([example({"data": PNG, "words": b"a cat"})]))
    assert hint_of(path, "image", "text") == [
        "column `data` of a.tfrecord contains pictures: set `columns: {image: data}`"
    ]
    rows = read_rows(path, columns={"image": ("data",), "text": ("words",)})
    assert columns(rows, "image", "text") == [(PNG, b"a cat")]


def test_fields_of_a_manifest(tmp_path):
    (tmp_path / "a.csv").write_text("thing,label\nx/1.png,7\n")
    assert hint_of(tmp_path / "a.csv", "image") == [
        "column `thing` of a.csv contains paths of pictures: set `columns: {image: thing}`"
    ]


def test_the_survey_says_so(parquet, tmp_path):
    with pytest.raises(
        InputError, match=r"none of 1 sampled .* column `img` of a.parquet contains pictures: set"
    ):
        survey(make_config(parquet(img=[PNG]), tmp_path / "out", modalities=["image"]))
    found = survey(make_config(parquet(img=[PNG], text=["a cat"]), tmp_path / "out"))
    assert any("set `columns: {image: img}`" in note for note in found.notes)


@pytest.mark.parametrize(
    "text", [b"BM is short", b"RIFF raff", b"FORM it", b"GIF8 of it", b"ID3 tags", b"", b"\xff"]
)
def test_words_are_no_medium(text):
    assert modality_of(text) is None
