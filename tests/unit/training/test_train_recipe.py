"""What a training's recipe may say."""

import pytest

from mmray.errors import ConfigError
from mmray.training.recipe import load_recipe


def written(tmp_path, text):
    file = tmp_path / "recipe.yaml"
    file.write_text(text)
    return file


def test_the_defaults_are_a_whole_recipe(tmp_path):
    recipe = load_recipe(written(tmp_path, "input: data/emoji"))
    assert recipe.input == ("data/emoji",)
    assert recipe.modalities == ("image", "text", "audio")


def test_a_modality_is_left_out_by_null(tmp_path):
    assert load_recipe(written(tmp_path, "input: a\ntext: null\naudio: null")).modalities == ("image",)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("input: a\nepoch: 3", "epochs"),
        ("input: a\nimage: null\ntext: null\naudio: null", "needs a modality"),
        ("input: a\nprune: {image: 0.5}", "start"),
        ("input: a\nstart: b\nprune: {}", "give a share"),
        ("input: a\nstart: b\nprune: {text: 0.5}\ntext: {frozen: true}", "frozen"),
        ("input: a\nfusion: early\nquantize: true", "early"),
        ("input: a\nstart: b\nprune: {image: 0.5}\nquantize: true", "take one of them"),
    ],
)
def test_what_cannot_be_is_refused_by_name(tmp_path, text, told):
    with pytest.raises(ConfigError, match=r"recipe\.yaml") as e:
        load_recipe(written(tmp_path, text))
    assert told in str(e.value)


def test_assignments_count_more_than_the_file(tmp_path):
    file = written(tmp_path, "input: a\nseed: 1\ndistil: {teacher: b, features: 1}")
    recipe = load_recipe(file, ["seed=2", "distil.features=0"])
    assert (recipe.seed, recipe.distil.features, recipe.distil.teacher) == (2, 0, "b")
