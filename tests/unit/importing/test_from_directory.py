"""A directory or a name on a hub is enough: what the model is, its config.json says."""

import json

import pytest

from mmray.bundle import Bundle
from mmray.cli.importing import import_model
from mmray.errors import ConfigError, ModelError, UsageError
from mmray.importing.from_directory import (
    describe_directory,
    fetch_from_hub,
    is_hub_name,
    parse_labels,
)


def directory_of(folder, kind):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": kind}))
    return folder


@pytest.mark.parametrize(
    ("kind", "key", "prompt"),
    [
        ("clip", "image_text", "a photo of a cat"),
        ("siglip", "image_text", "a photo of a cat"),
        ("clap", "audio", "this is a sound of cat"),
    ],
)
def test_the_config_says_what_a_directory_is(tmp_path, kind, key, prompt):
    folder = directory_of(tmp_path / "model", kind)
    found = describe_directory(folder, ("cat", "dog"))
    assert getattr(found.transformers, key) == folder
    assert (found.prompts["cat"], list(found.prompts)) == ((prompt,), ["cat", "dog"])
    assert describe_directory(folder).prompts == {}
    assert describe_directory(folder, ("cat",), "one {}!").prompts == {"cat": ("one cat!",)}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model_type": "bert"}, "is of type 'bert'; supported are clip, siglip, clap, audio-spectrogram"),
        ({}, "has no model_type"),
        ([], "has no model_type"),
        (None, "has no config.json"),
    ],
)
def test_a_directory_of_something_else_is_refused_with_what_to_do(tmp_path, content, message):
    if content is not None:
        (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(ModelError, match=message):
        describe_directory(tmp_path)


@pytest.mark.parametrize(
    ("kind", "labels", "prompt", "message"),
    [
        ("audio-spectrogram-transformer", ("cat",), None, "no text encoder"),
        ("clip", (), "a {}", "give --labels"),
        ("clip", ("cat",), "a cat", "has no {} where the label goes"),
    ],
)
def test_labels_and_prompts_that_cannot_be_used_are_refused(tmp_path, kind, labels, prompt, message):
    with pytest.raises(ConfigError, match=message):
        describe_directory(directory_of(tmp_path / "model", kind), labels, prompt)


def test_labels_come_from_a_file_or_from_the_command_line(tmp_path):
    file = tmp_path / "labels.txt"
    file.write_text("red cat\n\n dog \n")
    assert parse_labels(str(file)) == ("red cat", "dog")
    assert parse_labels("red cat, dog,") == ("red cat", "dog")


@pytest.mark.parametrize(
    ("text", "message"),
    [("labels.text", "no such file"), (",", "has no labels"), ("a,b,a", "'a' occurs twice")],
)
def test_labels_that_are_none_are_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        parse_labels(text)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("openai/clip-vit-base-patch32", True),
        ("models/clip", True),
        ("model.yaml", False),
        ("./models/clip", False),
        ("/models/clip", False),
        ("a/b/c", False),
    ],
)
def test_what_may_be_a_name_on_a_hub(source, expected):
    assert is_hub_name(source) is expected


def test_where_no_hub_is_reachable_it_is_said_how_to_bring_the_model(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match=r"hf download nobody/clip --local-dir models/clip"):
        fetch_from_hub("nobody/clip", "http://127.0.0.1:9")


def test_a_source_that_is_not_there_is_refused_with_what_there_may_be(tmp_path):
    with pytest.raises(UsageError, match=r"not found; give a directory, a YAML file, or OWNER/MODEL"):
        import_model(str(tmp_path / "model.yaml"), tmp_path / "bundle")


def test_a_yaml_file_has_its_own_labels(tmp_path):
    file = tmp_path / "model.yaml"
    file.write_text("graph: a.onnx")
    with pytest.raises(UsageError, match="--labels and --prompt are for a directory"):
        import_model(str(file), tmp_path / "bundle", labels="cat,dog")


def test_the_place_is_checked_before_anything_is_fetched(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match=str(tmp_path)):
        import_model("nobody/clip", tmp_path)


@pytest.mark.long
def test_a_directory_and_labels_are_enough_for_a_bundle(tmp_path):
    from support.directories import save_clip

    folder = save_clip(tmp_path / "clip")
    import_model(str(folder), tmp_path / "bundle", labels="cat,dog", prompt="a photo of the {}")
    bundle = Bundle.open(tmp_path / "bundle")
    assert bundle.labels == ["cat", "dog"]
    assert bundle.spec.modalities == ("image", "text")
