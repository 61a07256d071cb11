"""Tiny random `transformers` directories, as save_pretrained writes them."""

import atexit
import contextlib
import tempfile
from functools import cache
from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import (
    ASTConfig,
    ASTFeatureExtractor,
    ASTModel,
    ClapConfig,
    ClapFeatureExtractor,
    ClapModel,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
)

from mmray.bundle import Bundle
from mmray.importing.description import Description, Directories
from mmray.importing.from_transformers import import_transformers
from support.pages import blocks, run_blocks

SIZE = 32  # pixels
START, PAD, END = 0, 1, 3  # END is not 2, by which old CLIP checkpoints mean the highest id
SPECIAL = ["[start]", "[pad]", "[unk]", "[end]"]
WORDS = ["a", "photo", "of", "the", "sound", "red", "blue", "green", "cat", "dog", "bird", "fish"]
VOCABULARY = {word: i for i, word in enumerate(SPECIAL + WORDS)}
LAYER = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


def save_tokenizer(folder):
    tokenizer = Tokenizer(WordLevel(VOCABULARY, unk_token="[unk]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = Lowercase(), Whitespace()
    ends = [(word, VOCABULARY[word]) for word in ("[start]", "[end]")]
    tokenizer.post_processor = TemplateProcessing(single="[start] $A [end]", special_tokens=ends)
    tokenizer.save(str(folder / "tokenizer.json"))


def _save(folder, kind, config, processor, seed=0):
    torch.manual_seed(seed)
    model = kind(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:  # transformers' own start is so small that all embeddings are alike
                parameter.copy_(torch.randn_like(parameter) * parameter[0].numel() ** -0.5)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def save_clip(folder, positions=20, **processor):
    text = LAYER | {"vocab_size": len(VOCABULARY), "max_position_embeddings": positions}
    text |= {"bos_token_id": START, "pad_token_id": PAD, "eos_token_id": END}
    vision = LAYER | {"image_size": SIZE, "patch_size": 16}
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)
    square = {"height": SIZE, "width": SIZE}
    settings = {"size": {"shortest_edge": SIZE}, "crop_size": square} | processor
    return _save(folder, CLIPModel, config, CLIPImageProcessorPil(**settings), seed=1)


def save_siglip(folder, positions=16, **processor):
    text = LAYER | {"vocab_size": len(VOCABULARY), "max_position_embeddings": positions}
    text |= {"projection_size": 16, "pad_token_id": PAD, "bos_token_id": START, "eos_token_id": END}
    vision = LAYER | {"image_size": SIZE, "patch_size": 16}
    config = SiglipConfig(text_config=text, vision_config=vision)
    settings = {"size": {"height": SIZE, "width": SIZE}} | processor
    return _save(folder, SiglipModel, config, SiglipImageProcessorPil(**settings), seed=2)


def save_clap(folder, fusion=False, **extractor):
    """Two seconds at 8 kHz: 101 frames of 16 mel bins."""
    text = LAYER | {"vocab_size": len(VOCABULARY), "max_position_embeddings": 40, "projection_dim": 12}
    text |= {"bos_token_id": START, "pad_token_id": PAD, "eos_token_id": END}
    audio = {"num_mel_bins": 16, "spec_size": 64, "window_size": 4, "patch_embeds_hidden_size": 8}
    audio |= {"depths": [1, 1], "num_attention_heads": [2, 2], "hidden_size": 16, "projection_dim": 12}
    config = ClapConfig(text_config=text, audio_config=audio | {"enable_fusion": fusion}, projection_dim=12)
    settings = {"feature_size": 16, "sampling_rate": 8_000, "hop_length": 160, "max_length_s": 2}
    settings |= {"fft_window_size": 512, "frequency_max": 4_000, "truncation": "rand_trunc"} | extractor
    return _save(folder, ClapModel, config, ClapFeatureExtractor(**settings), seed=3)


def save_ast(folder, **extractor):
    """64 frames of 16 mel bins: two thirds of a second at 16 kHz."""
    shape = {"patch_size": 8, "frequency_stride": 8, "time_stride": 8, "max_length": 64, "num_mel_bins": 16}
    settings = {"num_mel_bins": 16, "max_length": 64} | extractor
    return _save(folder, ASTModel, ASTConfig(**LAYER, **shape), ASTFeatureExtractor(**settings), seed=4)


@cache
def home():
    """A folder for directories and bundles that all tests may read; goes with the process."""
    folder = tempfile.TemporaryDirectory(prefix="mmray-transformers-")
    atexit.register(folder.cleanup)
    return Path(folder.name)


@cache
def clip_and_clap():
    """Directories of both, and the bundle that docs/your-model.md makes of them, with labels from prompts."""
    clip, clap = save_clip(home() / "models/clip"), save_clap(home() / "models/clap")
    with contextlib.chdir(home()):
        run_blocks(blocks("your-model.md", "CLIP, SigLIP, CLAP and AST"), {})
    return clip, clap, Bundle.open(home() / "bundles/clip")


@cache
def siglip_and_ast():
    """Directories of both, and the bundle of features that they became."""
    siglip, ast = save_siglip(home() / "models/siglip"), save_ast(home() / "models/ast")
    described = Description(transformers=Directories(image_text=siglip, audio=ast), licence="CC0-1.0")
    return siglip, ast, import_transformers(described, home() / "bundles/siglip")
