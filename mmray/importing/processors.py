"""Preprocessing of a `transformers` directory → mmray's spec, or an error that names the difference.

Normalization belongs to the graph and is returned with the spec.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import AutoFeatureExtractor, AutoImageProcessor

from mmray.errors import ModelError
from mmray.importing.load import one_line
from mmray.preprocess.spec import AudioSpec, ImageSpec, TextSpec

_BICUBIC = 3  # PIL's number
_AST_WINDOW, _AST_HOP, _AST_FFT, _AST_MIN_HZ = 400, 160, 512, 20.0  # fixed in ASTFeatureExtractor


@dataclass(frozen=True)
class Normalization:
    """(x * scale - mean) / std, of pixels or log-mel."""

    scale: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)


def image_spec(directory: Path, image_size: int) -> tuple[ImageSpec, Normalization]:
    """From the image processor of CLIP or SigLIP.

    Args:
        directory: has preprocessor_config.json or processor_config.json.
        image_size: height and width that the encoder takes.

    Raises:
        ModelError: it resizes in a way that mmray's preprocessing does not.
    """
    processor = _load(AutoImageProcessor, directory, backend="pil")
    size, crop = dict(processor.size), dict(getattr(processor, "crop_size", None) or {})
    square = {"height": image_size, "width": image_size}
    crops = bool(processor.do_center_crop)
    _same(directory, "do_resize", processor.do_resize, True)
    _same(directory, "resample", int(processor.resample), _BICUBIC)
    if crops:
        _same(directory, "crop_size", _given(crop), square)
    covers = {"shortest_edge": image_size}
    if _given(size) not in ((covers, square) if crops else (square,)):
        expected = "its shortest edge" if crops else "height and width"
        raise ModelError(
            f"{directory}: the image processor resizes to {_given(size)}; mmray resizes {expected} to the "
            f"encoder's {image_size} pixels at once"
        )
    fit = "crop" if crops and _given(size) == covers else "stretch"
    scale = float(processor.rescale_factor) if processor.do_rescale else 1.0
    spec = ImageSpec(height=image_size, width=image_size, fit=fit)
    if not processor.do_normalize:
        return spec, Normalization(scale)
    return spec, Normalization(scale, tuple(processor.image_mean), tuple(processor.image_std))


def text_spec(directory: Path, positions: int, end_token: int | None) -> tuple[TextSpec, Path]:
    """Length and tokenizer.json.

    Args:
        directory: has tokenizer.json.
        positions: how many tokens the encoder takes.
        end_token: id that every text must have, because the encoder reads its embedding there; None: none.

    Raises:
        ModelError: it is missing, or it adds no end token.
    """
    path = directory / "tokenizer.json"
    if not path.is_file():
        raise ModelError(
            f"{directory}: has no tokenizer.json; write one by AutoTokenizer.from_pretrained(...)"
            ".save_pretrained(...)"
        )
    try:
        ids = Tokenizer.from_file(str(path)).encode("a").ids
    except Exception as e:  # the library raises bare Exception
        raise ModelError(f"{path}: not a tokenizer: {one_line(e)}") from e
    if end_token is not None and end_token not in ids:
        raise ModelError(
            f"{path}: adds no end token (id {end_token}), at which the encoder reads its embedding; use "
            "the model's own tokenizer"
        )
    return TextSpec(max_tokens=positions), path


def ast_spec(directory: Path) -> tuple[AudioSpec, Normalization]:
    """From the feature extractor of an Audio Spectrogram Transformer.

    Raises:
        ModelError: it is another extractor.
    """
    found = _load(AutoFeatureExtractor, directory)
    _same(directory, "feature_extractor_type", type(found).__name__, "ASTFeatureExtractor")
    heard = _AST_WINDOW + (found.max_length - 1) * _AST_HOP  # samples
    spec = AudioSpec(
        frontend="ast",
        sample_rate=found.sampling_rate,
        window=_AST_WINDOW,
        hop=_AST_HOP,
        fft=_AST_FFT,
        mel_bins=found.num_mel_bins,
        min_hz=_AST_MIN_HZ,
        max_hz=found.sampling_rate // 2,
        patch_frames=found.max_length,
        max_s=heard / found.sampling_rate,
    )
    if not found.do_normalize:
        return spec, Normalization()
    return spec, Normalization(1.0, (found.mean,), (2 * found.std,))  # so the extractor does it


def clap_spec(directory: Path) -> tuple[AudioSpec, Normalization]:
    """From the feature extractor of CLAP.

    Of a longer clip the beginning is taken; the extractor takes a random part.

    Raises:
        ModelError: it is another extractor, or fuses parts of long clips.
    """
    found = _load(AutoFeatureExtractor, directory)
    _same(directory, "feature_extractor_type", type(found).__name__, "ClapFeatureExtractor")
    _same(directory, "truncation", found.truncation, "rand_trunc")
    _same(directory, "padding", found.padding, "repeatpad")
    spec = AudioSpec(
        frontend="clap",
        sample_rate=found.sampling_rate,
        window=found.fft_window_size,
        hop=found.hop_length,
        fft=found.fft_window_size,
        mel_bins=found.feature_size,
        min_hz=found.frequency_min,
        max_hz=found.frequency_max,
        patch_frames=found.max_length_s * found.sampling_rate // found.hop_length + 1,
        max_s=found.max_length_s,
    )
    return spec, Normalization()


def _load(kind: Any, directory: Path, **options: object) -> Any:  # noqa: ANN401  (transformers has no types)
    try:
        return kind.from_pretrained(directory, local_files_only=True, trust_remote_code=False, **options)
    except (OSError, ValueError, KeyError, ImportError) as e:
        raise ModelError(f"{directory}: cannot read its preprocessing: {one_line(e)}") from e


def _given(size: Mapping[str, int | None]) -> dict[str, int]:
    """Without the sides that are not given."""
    return {side: pixels for side, pixels in size.items() if pixels is not None}


def _same(directory: Path, key: str, found: object, expected: object) -> None:
    if found != expected:
        raise ModelError(
            f"{directory}: its preprocessing has {key} {found!r}; mmray supports only {expected!r}"
        )
