"""The card: what a bundle contains besides the graph. Never imports torch."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tokenizers import Tokenizer

from mmray.bundle import Source
from mmray.errors import ModelError
from mmray.importing.files import check_fetched
from mmray.preprocess.spec import PreprocessSpec


@dataclass(frozen=True)
class Card:
    """Everything that a model needs besides its weights.

    Args:
        spec: preprocessing that the model was trained with; its modalities are those that the model takes.
        labels: class names in the order of the scores; none if the model only gives features.
        tokenizer: tokenizer.json, where the spec has text.
        sources: weights used, with licences.
        origin: other facts on where the model came from.
        examples: shards whose first records become the golden inputs; none: synthetic records.
    """

    spec: PreprocessSpec
    labels: tuple[str, ...] = ()
    tokenizer: Path | None = None
    sources: tuple[Source, ...] = ()
    origin: Mapping[str, str] = field(default_factory=dict)
    examples: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.spec.modalities:
            raise ModelError("preprocessing: no modality is described; describe image, text or audio")
        if self.spec.text and (self.tokenizer is None or not self.tokenizer.is_file()):
            raise ModelError(f"tokenizer: {self.tokenizer}: a model that takes text needs its tokenizer.json")
        if self.spec.text and self.tokenizer:
            _check_tokenizer(self.tokenizer)
        doubles = sorted({label for label in self.labels if self.labels.count(label) > 1})
        if doubles:
            raise ModelError(f"labels: {doubles[0]!r} occurs twice; give each class its own name")


def _check_tokenizer(path: Path) -> None:
    """Refuse what is not a tokenizer.json."""
    head = check_fetched(path)
    if not head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{"):
        raise ModelError(
            f"{path}: not a tokenizer.json of the `tokenizers` package, but {_kind_of(path)}: write one by "
            "AutoTokenizer.from_pretrained(DIRECTORY).save_pretrained(DIRECTORY) of `transformers`"
        )
    try:
        Tokenizer.from_file(str(path))
    except Exception as e:  # the library raises bare Exception
        raise ModelError(
            f"{path}: not a tokenizer.json of the `tokenizers` package, or incomplete: {e}; download it again"
        ) from e


def _kind_of(path: Path) -> str:
    kinds = {".txt": "a list of words", ".model": "a model of SentencePiece", ".bpe": "a list of merges"}
    return kinds.get(path.suffix, "something else")


def source_of(file: Path, licence: str) -> Source:
    """Manifest entry of a file of weights."""
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return Source(name=file.parent.name, version="", file=file.name, sha256=digest, licence=licence)
