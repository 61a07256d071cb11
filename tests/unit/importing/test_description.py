"""The YAML file: what is wrong with it is said by the name of the key, before anything is loaded."""

import pytest
import yaml

from mmray.errors import ConfigError
from mmray.importing.description import read_description, read_labels

PREPROCESSING = {"image": {"height": 32, "width": 32}}
IMAGE = {"image": {"graph": "image.onnx"}}


def read(folder, values):
    file = folder / "model.yaml"
    file.write_text(values if isinstance(values, str) else yaml.safe_dump(values))
    return read_description(file)


def test_paths_are_relative_to_the_file(tmp_path):
    found = read(
        tmp_path, {"encoders": IMAGE, "preprocessing": PREPROCESSING, "head": "h.npz", "labels": "l.txt"}
    )
    assert found.encoders.image.graph == tmp_path / "image.onnx"
    assert found.head == tmp_path / "h.npz"
    (tmp_path / "l.txt").write_text("cat\n\n dog \n")
    assert read_labels(found) == ("cat", "dog")
    directories = read(
        tmp_path, {"transformers": {"image_text": "clip", "audio": "/models/clap"}}
    ).transformers
    assert (directories.image_text, str(directories.audio)) == (tmp_path / "clip", "/models/clap")


def test_one_value_stands_for_a_list_of_one(tmp_path):
    values = {"encoders": {"image": {"graph": "i.onnx", "mean": 0.5, "std": [0.1, 0.2, 0.3]}}}
    found = read(tmp_path, values | {"preprocessing": PREPROCESSING, "examples": "data"})
    assert (found.encoders.image.mean, found.encoders.image.std) == ((0.5,), (0.1, 0.2, 0.3))
    assert found.examples == ("data",)
    prompts = read(
        tmp_path, {"transformers": {"audio": "a"}, "prompts": {"cat": "a cat", "dog": ["d", "e"]}}
    ).prompts
    assert prompts == {"cat": ("a cat",), "dog": ("d", "e")}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "exactly one of graph, encoders and transformers, not none"),
        ({"graph": "a.onnx", "encoders": IMAGE}, "not \\['graph', 'encoders'\\]"),
        ({"graph": "a.onnx"}, "graph needs `preprocessing`"),
        ({"graph": "a.onnx", "preprocessing": PREPROCESSING, "head": "h.npz"}, "head does not go with graph"),
        (
            {"transformers": {"audio": "a"}, "labels": ["cat"]},
            "labels does not go with transformers; that takes prompts",
        ),
        ({"transformers": {}}, "give image_text or audio"),
        ({"transformers": {"audio": "a"}, "prompts": {"cat": []}}, "'prompts.cat'"),
        (
            {"encoders": IMAGE, "preprocessing": {"text": {}}},
            "encoders are of .'image',., but preprocessing describes",
        ),
        (
            {"encoders": IMAGE, "preprocessing": PREPROCESSING, "labels": ["cat"]},
            "a head needs labels, and labels need a head",
        ),
        (
            {"encoders": {"image": {"graph": "a", "outptu": "b"}}},
            "unknown key 'encoders.image.outptu' \\(did you mean 'encoders.image.output'",
        ),
        ({"encoders": {"image": {}}}, "'encoders.image.graph' is missing"),
        ({"encoders": {"smell": {"graph": "a"}}}, "unknown key 'encoders.smell'"),
        ({"graph": "a.onnx", "preprocessing": {"image": {"heigth": 3}}}, "'preprocessing.image.heigth'"),
        ("- a\n- b\n", "a config is a mapping"),
        ("a: [", "not YAML"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, values, message):
    with pytest.raises(ConfigError, match=message) as raised:
        read(tmp_path, values)
    assert str(tmp_path / "model.yaml") in str(raised.value)


def test_labels_that_cannot_be_read_are_named(tmp_path):
    found = read(tmp_path, {"graph": "g.onnx", "preprocessing": PREPROCESSING, "labels": "none.txt"})
    with pytest.raises(ConfigError, match=r"none\.txt: cannot read the labels"):
        read_labels(found)
