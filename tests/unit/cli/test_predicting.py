"""`mmray predict`: the answer of the batch path for one record, and errors that name what to correct."""

import json

import pytest
from support.abstaining import abstaining
from support.bundles import latin_bundle, records_table, small_bundle
from support.damaged import truncated_jpeg
from support.media import clip, image_bytes

from mmray.cli.predicting import Given, predict_record
from mmray.errors import ConfigError, InputError
from mmray.predictor import Predictor, open_preprocessor
from mmray.unread import FOREIGN_SCRIPT, masked

TEXT = "a red cat"


@pytest.fixture
def files(tmp_path):
    (tmp_path / "cat.png").write_bytes(image_bytes())
    (tmp_path / "meow.wav").write_bytes(clip())
    (tmp_path / "cut.jpg").write_bytes(truncated_jpeg())
    return tmp_path


def predict(given, capsys, *, explain=False):
    predict_record(str(small_bundle().path), given, explain=explain, as_json=True)
    return json.loads(capsys.readouterr().out)


def predicted_in_batch(**members):
    bundle = small_bundle()
    tensors = open_preprocessor(bundle)(records_table([members]))
    return Predictor(bundle)(tensors).to_pylist()[0]


def test_the_answer_is_that_of_the_batch_path(files, capsys):
    answer = predict(Given(files / "cat.png", TEXT, files / "meow.wav"), capsys)
    expected = predicted_in_batch(image=image_bytes(), text=TEXT.encode(), audio=clip())
    for name in ("label", "modalities", "variant", "bundle"):
        assert answer[name] == expected[name]
    assert list(answer["scores"].values()) == sorted(expected["scores"], reverse=True)
    assert answer["scores"][answer["label"]] == answer["score"] == expected["score"]
    assert set(answer["latency_ms"]) == {"preprocess", "model", "total"}


def test_explain_decides_with_each_modality_left_out(files, capsys):
    answer = predict(Given(files / "cat.png", TEXT, None), capsys, explain=True)
    assert answer["modalities"] == ["image", "text"]
    alone = {
        "image": predicted_in_batch(text=TEXT.encode()),
        "text": predicted_in_batch(image=image_bytes()),
    }
    assert answer["without"] == {
        m: {"label": row["label"], "score": pytest.approx(row["score"], abs=1e-6)} for m, row in alone.items()
    }


def test_a_lone_modality_cannot_be_left_out(capsys):
    assert predict(Given(None, TEXT, None), capsys, explain=True)["without"] == {}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("none.png", None, None), "--image {files}/none.png: cannot be read (No such file"),
        (("cut.jpg", None, None), "--image {files}/cut.jpg: cannot decode the image"),
        (("cat.png", None, "cat.png"), "--audio {files}/cat.png: not audio of type WAV"),
        ((None, " ", None), "--text: the text member is empty (text-empty); give another one"),
        ((None, "caf\udce9", None), "--text: not UTF-8"),
        ((None, None, None), "no record: give at least one of --image, --text, --audio"),
    ],
)
def test_an_error_names_option_file_and_reason(given, message, files):
    image, text, audio = given
    record = Given(image and files / image, text, audio and files / audio)
    with pytest.raises(InputError) as e:
        predict_record(str(small_bundle().path), record, explain=False, as_json=True)
    assert str(e.value).startswith(message.format(files=files))


def test_on_a_terminal_it_shows_label_bars_and_what_each_modality_did(files, capsys):
    record = Given(files / "cat.png", TEXT, files / "meow.wav")
    predict_record(str(small_bundle().path), record, explain=True, as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert "from image + text + audio, variant fp32" in lines[0]
    assert lines[0].split()[0] == lines[1].split()[0]
    assert "█" in lines[1]
    assert [line.partition(":")[0] for line in lines if line.startswith("without")] == [
        "without image",
        "without text",
        "without audio",
    ]


@pytest.mark.parametrize(("then", "used"), [("keep", ["image", "text"]), ("mask", ["image"])])
def test_a_text_in_another_script_is_told_and_whether_it_was_masked(files, capsys, then, used):
    given = Given(files / "cat.png", "Красный кот", None)
    path = str(latin_bundle().path)
    predict_record(path, given, explain=False, as_json=True, assignments=[f"foreign_text={then}"])
    answer = json.loads(capsys.readouterr().out)
    assert answer["modalities"] == used
    kind = FOREIGN_SCRIPT if then == "keep" else masked(FOREIGN_SCRIPT)
    assert answer["unread"] == [kind]
    predict_record(path, given, explain=False, as_json=False, assignments=[f"foreign_text={then}"])
    assert f"{kind}; set `foreign_text" in capsys.readouterr().out.replace("\n", " ")


def test_a_text_alone_that_is_masked_leaves_nothing_to_predict_from():
    given, path = Given(None, "Красный кот", None), str(latin_bundle().path)
    with pytest.raises(InputError, match=r"text in another script.*foreign_text=keep"):
        predict_record(path, given, explain=False, as_json=True, assignments=["foreign_text=mask"])


def test_an_answer_that_is_not_sure_enough_has_no_label(files, tmp_path, capsys):
    bundle, given = str(abstaining(tmp_path / "b", {0.05: 0.999}).path), Given(None, TEXT, None)

    def answered(*assignments, as_json=True):
        predict_record(bundle, given, explain=False, as_json=as_json, assignments=assignments)
        return capsys.readouterr().out

    sure, unsure = json.loads(answered()), json.loads(answered("abstain=0.05"))
    assert sure["label"]
    assert "abstained" not in sure
    assert (unsure["label"], unsure["abstained"]) == (None, True)
    assert (unsure["score"], unsure["scores"]) == (sure["score"], sure["scores"])
    assert answered("abstain=0.05", as_json=False).startswith("no label (score too low): 0.")
    with pytest.raises(ConfigError, match=r"risk of 0\.01"):
        answered("abstain=0.01")
    with pytest.raises(ConfigError, match=r"unknown key 'abstian' .did you mean 'abstain'"):
        answered("abstian=0.05")
