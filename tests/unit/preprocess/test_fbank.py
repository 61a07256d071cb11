"""Front ends of audio transformers: equal to the extractors that the models come with, sample for sample."""

import numpy as np
import pytest
from transformers import ASTFeatureExtractor, ClapFeatureExtractor

from mmray.preprocess.audio import log_mel
from mmray.preprocess.fbank import ast_frames, clap_frames
from mmray.preprocess.spec import AudioSpec, PreprocessSpec

AST = AudioSpec(frontend="ast", mel_bins=32, min_hz=20, max_hz=8_000, patch_frames=100)
CLAP = AudioSpec(
    frontend="clap",
    sample_rate=16_000,
    window=1_024,
    fft=1_024,
    hop=160,
    mel_bins=32,
    min_hz=50,
    max_hz=7_000,
    patch_frames=201,
)


def sound(samples, seed=0):
    random = np.random.default_rng(seed)
    tone = 0.3 * np.sin(np.arange(samples) * random.uniform(0.01, 1))
    return (tone + 0.05 * random.standard_normal(samples) + 0.1).astype(np.float32)


@pytest.mark.parametrize("samples", [400, 401, 5_000, 16_240, 50_000])
def test_ast_frames_are_those_of_its_extractor(samples):
    """Shorter clips are filled up, longer ones cut; a steady offset of the wave counts for nothing."""
    extractor = ASTFeatureExtractor(num_mel_bins=32, max_length=100, do_normalize=False)
    wave = sound(samples)
    expected = extractor(wave, sampling_rate=16_000, return_tensors="np")["input_values"][0]
    np.testing.assert_allclose(ast_frames(wave, AST), expected, atol=2e-3)


@pytest.mark.parametrize("samples", [1, 399])
def test_a_clip_without_one_whole_frame_is_all_filling(samples):
    assert not ast_frames(sound(samples), AST).any()


@pytest.mark.parametrize("samples", [1, 100, 10_000, 16_001, 31_999, 32_000])
def test_clap_frames_are_those_of_its_extractor(samples):
    """A short clip is repeated while it fits whole, then padded."""
    extractor = ClapFeatureExtractor(
        feature_size=32,
        sampling_rate=16_000,
        hop_length=160,
        max_length_s=2,
        fft_window_size=1_024,
        frequency_min=50,
        frequency_max=7_000,
        truncation="rand_trunc",
    )
    wave = sound(samples)
    expected = extractor(wave, sampling_rate=16_000, return_tensors="np")["input_features"][0, 0]
    assert expected.shape == (201, 32)
    np.testing.assert_allclose(clap_frames(wave, CLAP), expected, atol=2e-3)


def test_clap_hears_the_beginning_of_a_longer_clip():
    """Its own extractor takes a random part of so many samples."""
    wave = sound(90_000)
    np.testing.assert_array_equal(clap_frames(wave, CLAP), clap_frames(wave[:32_000], CLAP))


@pytest.mark.parametrize("spec", [AST, CLAP], ids=["ast", "clap"])
@pytest.mark.parametrize("samples", [1, 8_000, 200_000])
def test_every_clip_is_one_patch_in_half_precision(spec, samples):
    frames = log_mel(sound(samples), spec)
    assert frames.shape == (spec.patch_frames, spec.mel_bins)
    assert frames.dtype == np.float16
    assert np.isfinite(frames).all()


@pytest.mark.parametrize("spec", [AST, CLAP], ids=["ast", "clap"])
def test_silence_is_finite(spec):
    assert np.isfinite(log_mel(np.zeros(20_000, np.float32), spec)).all()


def test_the_first_front_end_goes_unnamed_so_that_digests_of_old_bundles_hold():
    """The digest is what a run of before must find again to be resumed."""
    assert "frontend" not in PreprocessSpec(audio=AudioSpec()).model_dump()["audio"]
    digest = PreprocessSpec(audio=AudioSpec()).digest()
    assert digest == "9c554ea132983f20030a230314e4e5a5be654975f2331c5e336bac97bb5469e9"
    saved = PreprocessSpec(audio=AST)
    assert PreprocessSpec.model_validate_json(saved.model_dump_json()) == saved
    assert saved.digest() != PreprocessSpec(audio=AST.model_copy(update={"frontend": "yamnet"})).digest()


def test_a_clap_window_must_fill_its_fft():
    with pytest.raises(ValueError, match="window of 400 samples must equal fft, 512"):
        AudioSpec(frontend="clap")
