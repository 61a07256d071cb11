"""A config is checked once, and whatever is wrong is told by file, key and remedy in one line."""

import pytest

from mmray.config import RunConfig, load_config
from mmray.errors import ConfigError
from mmray.pipeline.survey import read_options

NEEDED = {"input": ("data",), "bundle": "b", "output": "o"}


@pytest.fixture
def write(tmp_path):
    def write(text):
        path = tmp_path / "run.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def test_the_three_that_have_no_default_are_enough():
    config = load_config(None, NEEDED)
    assert (config.input, config.bundle, config.output) == (("data",), "b", "o")
    assert config.limits.image_pixels == 50_000_000
    assert config.extensions.text == ("txt", "caption")


@pytest.mark.parametrize("key", NEEDED)
def test_a_missing_key_is_named_with_its_option(key):
    with pytest.raises(ConfigError, match=f"'{key}' is missing; give it there or as --{key}"):
        load_config(None, NEEDED | {key: None})


def test_the_command_line_wins_over_the_file_and_set_over_both(write):
    path = write(
        "input: [a, b]\nbundle: file\noutput: o\nbatch_rows: 4\nlimits: {audio_s: 5, text_chars: 6}\n"
    )
    config = load_config(
        path, {"bundle": "option", "input": None}, ["batch_rows=8", "limits.audio_s=60", "bundle=set"]
    )
    assert (config.input, config.bundle, config.batch_rows) == (("a", "b"), "set", 8)
    assert (config.limits.audio_s, config.limits.text_chars) == (60, 6)


def test_set_takes_yaml():
    config = load_config(
        None, NEEDED, ["modalities=[audio, image]", "carry=label", "scores=false", "actors=null"]
    )
    assert config.modalities == ("image", "audio")  # in the model's order, however they were given
    assert (config.carry, config.scores, config.actors) == (("label",), False, None)


def test_one_string_is_a_list_of_one(write):
    config = load_config(write("input: a.tar\nbundle: b\noutput: o\nmodalities: text\ncarry: label\n"), {})
    assert (config.input, config.modalities, config.carry) == (("a.tar",), ("text",), ("label",))


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("bach_rows=8", "unknown key 'bach_rows' (did you mean 'batch_rows'?)"),
        ("limits.audio=3", "unknown key 'limits.audio' (did you mean 'limits.audio_s'?)"),
        ("extensions.images=[jpg]", "unknown key 'extensions.images' (did you mean 'extensions.image'?)"),
        ("zzz=1", "unknown key 'zzz' (known: input, bundle"),
        ("limits.zzz=1", "unknown key 'limits.zzz' (known: member_bytes"),
        ("batch_rows=many", "'batch_rows'"),
        ("batch_rows=0", "not 0"),
        ("batch_rows=2.5", "not 2.5"),
        ("max_reject_rate=2", "'max_reject_rate'"),
        ("topology=ring", "'topology'"),
        (
            "abstain=2",
            "'abstain': value error, expected a share of wrong labels between 0 and 1",
        ),
        ("abstain=sometimes", "not 'sometimes'"),
        ("provider=tpu", "'provider'"),
        ("on_damaged=ignore", "'on_damaged'"),
        ("modalities=[]", "'modalities'"),
        ("modalities=[video]", "'modalities.0'"),
        ("limits=3", "'limits'"),
        ("limits.audio_s=-1", "'limits.audio_s'"),
        ("input=[]", "'input'"),
        ("batch_rows", "expected key=value"),
        ("limits.audio_s={", "not YAML"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(assignment, message):
    with pytest.raises(ConfigError) as e:
        load_config(None, NEEDED, [assignment])
    assert message in str(e.value)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("input: [", "not YAML"),
        ("- input\n- output\n", "a config is a mapping"),
        ("just words", "a config is a mapping"),
        ("", "a config is a mapping"),
        ("1: 2", "a config is a mapping"),
        (b"input: \xff", "cannot read this config"),
        ("!!python/object/apply:os.getcwd []", "not YAML"),  # a YAML file must not run code
        ("batch_rowz: 3", "did you mean 'batch_rows'?"),
    ],
)
def test_a_file_that_is_no_config_is_named(write, text, message):
    path = write(text)
    with pytest.raises(ConfigError) as e:
        load_config(path, NEEDED)
    assert str(path) in str(e.value)
    assert message in str(e.value)
    assert "\n" not in str(e.value)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: cannot read this config: No such file"):
        load_config(tmp_path / "nowhere.yaml", NEEDED)


@pytest.mark.parametrize(
    ("assignments", "expected"), [([], "auto"), (["abstain=0.05"], 0.05), (["abstain=null"], "never")]
)
def test_what_is_never_to_be_abstained_from_survives_a_retry(assignments, expected):
    """A retry takes the run's config from plan.json, where null would mean that nothing was said."""
    config = load_config(None, NEEDED, assignments)
    assert config.abstain == expected
    assert load_config(None, config.model_dump(mode="json")) == config


def test_a_config_survives_being_written_and_read():
    """plan.json holds it, and a retry reads it from there."""
    config = load_config(
        None, NEEDED, ["modalities=text", "limits.audio_s=3", "extensions.image=[jpg]", "actors=2"]
    )
    assert RunConfig.model_validate(config.model_dump(mode="json")) == config
    assert RunConfig.model_validate_json(config.model_dump_json()) == config


def test_a_named_database_of_lmdbs_is_read_with_the_rest():
    config = load_config(None, NEEDED, ["lmdb.database=train"])
    assert read_options(config).database == "train"
    assert read_options(load_config(None, NEEDED)).database is None
    with pytest.raises(ConfigError, match=r"unknown key 'lmdb.databse' .did you mean 'lmdb.database'"):
        load_config(None, NEEDED, ["lmdb.databse=train"])
