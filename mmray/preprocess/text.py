"""Bytes of captions → token ids, by the bundle's own tokenizer."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from mmray.errors import BundleError, RecordError, about_record, of_machine
from mmray.preprocess.spec import TextSpec

# The job already runs one process for each core; the tokenizer's threads would only compete.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
from tokenizers import Tokenizer


def decode_text(data: bytes, max_chars: int) -> str:
    """Decode UTF-8 and strip it.

    Raises:
        RecordError: not UTF-8, only white space, or longer than `max_chars` characters.
    """
    if len(data) > 4 * max_chars:  # no UTF-8 character is longer than 4 bytes
        raise RecordError(f"{len(data)} bytes, more than limits.text_chars={max_chars}", "text-too-long")
    try:
        text = data.decode("utf-8-sig").strip()
    except UnicodeDecodeError as e:
        raise RecordError(f"not UTF-8: {e.reason} at byte {e.start}", "text-not-utf8") from e
    if not text:
        raise RecordError("the text member is empty", "text-empty")
    if len(text) > max_chars:
        raise RecordError(f"{len(text)} characters, more than limits.text_chars={max_chars}", "text-too-long")
    return text


class TextTokenizer:
    """The tokenizer.json of a bundle, without padding, truncating at the spec's length."""

    def __init__(self, path: Path, spec: TextSpec) -> None:
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as e:  # the library raises bare Exception
            if of_machine(e):
                raise
            raise BundleError(f"{path}: not a tokenizer.json: {e}") from e
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(spec.max_tokens)

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, special tokens included, at most `max_tokens` of them.

        Raises:
            RecordError: the library refuses one of them.
        """
        with about_record("cannot tokenize the text", "text-untokenizable"):
            return [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]

    def each(self, texts: Sequence[str]) -> list[list[int] | RecordError]:
        """Token ids of each text, or its error."""
        try:
            return list(self(texts))
        except RecordError as fault:
            return [fault] if len(texts) == 1 else [found for text in texts for found in self.each([text])]
