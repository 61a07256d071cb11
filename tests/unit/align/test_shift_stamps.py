"""Records that were taken out of step come back into it: what the model gets is what it got before."""

import json

import numpy as np
import pytest
from support.bundles import small_tokenizer
from support.scripts import load_script

from mmray.align import AlignSpec
from mmray.align.times import parse_times
from mmray.errors import OutputError
from mmray.preprocess import Preprocessor
from mmray.preprocess.spec import AudioSpec, PreprocessSpec, TextSpec
from mmray.sources import ReadOptions, list_shards, read

shift_stamps = load_script("datasets/shift_stamps.py")

# One patch is 0.26 s, so that every sound of the set fills the window.
HEARD = PreprocessSpec(
    text=TextSpec(max_tokens=24), audio=AudioSpec(mel_bins=16, patch_frames=24, patch_hop=12, max_s=0.255)
)
ALIGN = AlignSpec(before_s=0, after_s=0.255)


@pytest.fixture(scope="module")
def shifted(shards, tmp_path_factory):
    """The test shards of the synthetic set, out of step."""
    output = tmp_path_factory.mktemp("shifted") / "out"
    shift_stamps.build([str(shards / "test-*.tar")], output)
    return output


def tensors(pattern, align=None, spec=HEARD):
    preprocess = Preprocessor(spec, small_tokenizer(), align=align)
    found = [
        row
        for shard in list_shards([str(pattern)])
        for block in read(shard, ReadOptions())
        for row in preprocess(block).to_pylist()
    ]
    return {row["key"]: row for row in found}


def test_alignment_gives_back_every_caption_and_every_sound(shards, shifted):
    before, after = tensors(shards / "test-*.tar"), tensors(shifted, ALIGN)
    assert before.keys() == after.keys()
    for key, row in before.items():
        assert after[key]["input_ids"] == row["input_ids"]
        assert (after[key]["log_mel"] is None) == (row["log_mel"] is None)
        if row["log_mel"]:
            was, is_now = (
                np.frombuffer(r["log_mel"], np.float16).astype(np.float32) for r in (row, after[key])
            )
            assert np.mean(np.abs(was - is_now)) < 0.3  # resampled at once, or first the whole and then cut
            assert np.corrcoef(was, is_now)[0, 1] > 0.95


def test_without_alignment_the_model_gets_another_records(shards, shifted):
    before, after = tensors(shards / "test-*.tar"), tensors(shifted)
    for modality in ("input_ids", "log_mel"):
        changed = [after[key][modality] != row[modality] for key, row in before.items() if row[modality]]
        assert np.mean(changed) > 0.9


def test_everything_else_stays(shards, shifted):
    """Pictures byte by byte, and all fields of the JSON member; the times are new."""
    sources = (shards / "test-*.tar", shifted)
    before, after = (
        {
            row["key"]: row
            for s in list_shards([str(source)])
            for block in read(s, ReadOptions())
            for row in block.to_pylist()
        }
        for source in sources
    )
    for key, row in before.items():
        assert after[key]["image"] == row["image"]
        fields = json.loads(after[key]["meta"])
        times = fields.pop("times")
        assert fields == json.loads(row["meta"])
        assert {"image"} <= set(times)
        assert abs(times["image"]["offset_s"]) <= shift_stamps.MAX_OFFSET_S


def test_the_same_records_give_the_same_bytes(shards, shifted, tmp_path):
    shift_stamps.build([str(shards / "test-*.tar")], tmp_path / "again")
    made = [{p.name: p.read_bytes() for p in folder.iterdir()} for folder in (shifted, tmp_path / "again")]
    assert made[0] == made[1]


def test_what_is_there_is_not_replaced(shards, shifted):
    with pytest.raises(OutputError, match="already there"):
        shift_stamps.build([str(shards)], shifted)


@pytest.mark.parametrize("meta", [None, b"junk", b"[1]", b'{"label": "cat"}'])
def test_records_of_any_kind_can_be_shifted(meta):
    """Without sounds, alone, with other JSON than ours."""
    bare = {
        "shard": "a.tar@1",
        "row": 0,
        "key": "a",
        "image": None,
        "text": b"a cat",
        "audio": None,
        "meta": meta,
    }
    (sample,) = shift_stamps.shift([bare], seed=0)
    assert set(sample) == {"__key__", "txt", "json"}
    (sample, other) = shift_stamps.shift([bare, {**bare, "row": 1, "key": "b", "audio": b"junk"}], seed=0)
    times = parse_times(sample["json"])
    assert [caption for *_, caption in times.text.captions] == ["a cat"] * 3
    assert set(other) == {"__key__", "txt", "flac", "json"}
