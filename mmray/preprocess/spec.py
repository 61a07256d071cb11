"""Specification of preprocessing, stored with the model.

A bundle's predictions are only valid for tensors made as in training, so the spec is in its manifest, and its
digest in the run's plan. `Limits` bound memory for untrusted bytes: they belong to the run, not to the model.
"""

from __future__ import annotations

import hashlib
import math
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from mmray.preprocess.foreign_text import check_script
from mmray.schema import MODALITIES, Modality


class _Spec(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ImageSpec(_Spec):
    """uint8 RGB of exactly height x width pixels; normalization happens in the graph."""

    height: int = Field(224, ge=1, le=4096)
    width: int = Field(224, ge=1, le=4096)
    # pad: whole image on a background; crop: cover, cut the centre; stretch: whole image, proportions lost
    fit: Literal["pad", "crop", "stretch"] = "pad"
    background: tuple[int, int, int] = (255, 255, 255)  # behind transparency and around padding


class TextSpec(_Spec):
    """Token ids of the bundle's tokenizer.json, cut at `max_tokens` (special tokens included).

    A text in none of `languages` or `scripts`, which the encoder was trained on, is detected; None: any text
    is read, as by multilingual encoders. The run's `foreign_text` decides how it is handled.
    """

    max_tokens: int = Field(128, ge=4, le=8192)
    languages: tuple[Annotated[str, Field(pattern="^[a-z]{2,3}$")], ...] | None = Field(None, min_length=1)
    scripts: tuple[Annotated[str, AfterValidator(check_script)], ...] | None = Field(None, min_length=1)

    @model_serializer(mode="wrap")
    def _default_unsaid(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Unset fields are left out, so that digests of older bundles do not change."""
        values: dict[str, Any] = handler(self)
        return {name: value for name, value in values.items() if value is not None}


class AudioSpec(_Spec):
    """Log-mel frames of mono audio: log(mel(|rfft(hann * frame)|) + log_offset), HTK mel scale.

    The defaults are YAMNet's. The graph sees patches of `patch_frames` frames, one each `patch_hop`. The
    other front ends have their own formulas (`mmray.preprocess.fbank`), and a clip is one patch.
    """

    frontend: Literal["yamnet", "ast", "clap"] = "yamnet"
    sample_rate: int = Field(16_000, ge=1_000, le=192_000)
    window: int = Field(400, ge=16)  # samples, periodic Hann
    hop: int = Field(160, ge=1)  # samples
    fft: int = Field(512, ge=16)  # samples, zero-padded from the window
    mel_bins: int = Field(64, ge=1)
    min_hz: float = 125.0
    max_hz: float = 7_500.0
    log_offset: float = 0.001
    patch_frames: int = Field(96, ge=1)
    patch_hop: int = Field(48, ge=1)
    max_s: float = Field(30.0, gt=0)  # the model looks at the first max_s seconds; the rest is not decoded

    @property
    def max_patches(self) -> int:
        """Maximum patches of one clip."""
        if self.frontend != "yamnet":
            return 1
        first = self.window + (self.patch_frames - 1) * self.hop
        more = self.max_s * self.sample_rate - first
        return 1 + max(0, math.ceil(more / (self.patch_hop * self.hop)))

    @model_validator(mode="after")
    def _consistent(self) -> AudioSpec:
        if self.window > self.fft:
            raise ValueError(f"window of {self.window} samples does not fit into fft of {self.fft}")
        if not 0 <= self.min_hz < self.max_hz <= self.sample_rate / 2:
            raise ValueError(
                f"min_hz < max_hz <= {self.sample_rate / 2:g}, half the sample rate, is required"
            )
        if self.frontend == "clap" and self.window != self.fft:
            raise ValueError(f"frontend clap: window of {self.window} samples must equal fft, {self.fft}")
        return self

    @model_serializer(mode="wrap")
    def _default_unsaid(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """YAMNet's front end is left out, so that manifests and digests of its bundles do not change."""
        values: dict[str, Any] = handler(self)
        if self.frontend == "yamnet":
            del values["frontend"]
        return values


class PreprocessSpec(_Spec):
    """Preprocessing of each modality that the model takes; None for one that it does not."""

    image: ImageSpec | None = None
    text: TextSpec | None = None
    audio: AudioSpec | None = None

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """Modalities that the model takes, in the order of the graph's `present` columns."""
        return tuple(m for m in MODALITIES if getattr(self, m) is not None)

    def digest(self) -> str:
        """Sha256 of the canonical JSON, in hex."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()


class Limits(_Spec):
    """Memory limits of one record; beyond them it is a reject, not a crash."""

    member_bytes: int = Field(64 << 20, ge=1)
    image_pixels: int = Field(50_000_000, ge=1)
    audio_s: float = Field(3_600.0, gt=0)
    text_chars: int = Field(100_000, ge=1)
