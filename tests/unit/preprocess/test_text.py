"""Captions are UTF-8 of bounded length; their token ids are those of the bundle's tokenizer."""

import pytest
from support.bundles import VOCABULARY, small_tokenizer
from tokenizers import Tokenizer

from mmray.errors import BundleError, RecordError
from mmray.preprocess.spec import TextSpec
from mmray.preprocess.text import TextTokenizer, decode_text

CLS, SEP, UNK = VOCABULARY["[CLS]"], VOCABULARY["[SEP]"], VOCABULARY["[UNK]"]


@pytest.fixture(scope="module")
def tokenize():
    return TextTokenizer(small_tokenizer(), TextSpec(max_tokens=6))


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"a cat", "a cat"),
        (b"  a cat\r\n", "a cat"),
        ("ein Kätzchen 猫".encode(), "ein Kätzchen 猫"),
        (b"\xef\xbb\xbfa cat", "a cat"),  # a byte-order mark is no part of the caption
        (b"a\x00cat", "a\x00cat"),
    ],
)
def test_utf8_is_decoded_and_stripped(data, text):
    assert decode_text(data, 100) == text


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", "text-empty"),
        (b" \n\t\r ", "text-empty"),
        (b"\xef\xbb\xbf", "text-empty"),
        ("\u3000\u2003".encode(), "text-empty"),
        ("café".encode("latin-1"), "text-not-utf8"),
        ("a cat".encode("utf-16"), "text-not-utf8"),
        (b"a cat \xed\xa0\x80", "text-not-utf8"),  # half a surrogate pair
        (b"caf\xc3", "text-not-utf8"),
        (b"x" * 101, "text-too-long"),
        (b"x" * 2_000_000, "text-too-long"),
    ],
)
def test_what_is_no_caption_is_refused_by_kind(data, kind):
    with pytest.raises(RecordError) as e:
        decode_text(data, 100)
    assert e.value.kind == kind


def test_the_limit_counts_characters_not_bytes():
    assert decode_text(("猫" * 100).encode(), 100) == "猫" * 100
    with pytest.raises(RecordError, match=r"101 characters, more than limits\.text_chars=100"):
        decode_text(("猫" * 101).encode(), 100)


def test_where_the_text_stops_being_utf8_is_said():
    with pytest.raises(RecordError, match="at byte 3"):
        decode_text(b"caf\xe9", 100)


def test_token_ids_come_with_special_tokens_and_without_padding(tokenize):
    a, cat, dog = (VOCABULARY[word] for word in ("a", "cat", "dog"))
    assert tokenize(["a cat", "Dog", "unheard of"]) == [
        [CLS, a, cat, SEP],
        [CLS, dog, SEP],
        [CLS, UNK, UNK, SEP],
    ]


def test_long_texts_are_cut_with_their_special_tokens_kept(tokenize):
    cat = VOCABULARY["cat"]
    assert tokenize(["cat " * 50]) == [[CLS, cat, cat, cat, cat, SEP]]


def test_a_batch_gives_what_single_texts_give(tokenize):
    texts = ["a red cat", "x", "dog dog dog dog dog dog dog", "blue"]
    assert tokenize(texts) == [ids for text in texts for ids in tokenize([text])]


def test_padding_and_truncation_stored_in_the_file_do_not_count(tmp_path):
    """Published tokenizer.json files often pad to a fixed length."""
    stored = Tokenizer.from_file(str(small_tokenizer()))
    stored.enable_padding(length=64)
    stored.enable_truncation(3)
    stored.save(str(tmp_path / "tokenizer.json"))
    tokenize = TextTokenizer(tmp_path / "tokenizer.json", TextSpec(max_tokens=6))
    assert [len(ids) for ids in tokenize(["cat", "cat " * 50])] == [3, 6]


@pytest.mark.parametrize("content", [b"", b"{}", b"not json"])
def test_a_file_that_is_no_tokenizer_is_named(tmp_path, content):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(BundleError, match=r"tokenizer\.json: not a tokenizer\.json"):
        TextTokenizer(path, TextSpec())
