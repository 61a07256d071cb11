"""Local directories become bundles that give what `transformers` gives, or are refused with the reason."""

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from scipy.io import wavfile
from support.bundles import records_table
from support.directories import (
    SIZE,
    clip_and_clap,
    save_ast,
    save_clap,
    save_clip,
    save_siglip,
    siglip_and_ast,
)
from torch.nn.functional import normalize
from transformers import (
    ASTConfig,
    ASTFeatureExtractor,
    ASTForAudioClassification,
    ASTModel,
    ClapFeatureExtractor,
    ClapModel,
    CLIPImageProcessorPil,
    CLIPModel,
    PreTrainedTokenizerFast,
    SiglipImageProcessorPil,
    SiglipModel,
)

from mmray.batching import pack
from mmray.engine import Engine
from mmray.errors import ModelError
from mmray.importing.directories import read_audio, read_image_text
from mmray.predictor import open_preprocessor
from mmray.preprocess.image import decode_image

TEXTS = ("a red cat", "the sound of a dog", "fish " * 30)


def png(size, seed=0):
    """A smooth picture, so that resizing in another way changes little."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3)).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(out, "PNG")
    return out.getvalue()


def tones(rate, seconds, seed=0):
    random = np.random.default_rng(seed)
    time = np.arange(int(rate * seconds)) / rate
    return (0.3 * np.sin(2 * np.pi * random.uniform(200, 2000) * time)).astype(np.float32)


def wav(wave, rate):
    out = io.BytesIO()
    wavfile.write(out, rate, wave)
    return out.getvalue()


def features(bundle, rows):
    """The bundle's features of raw records, through its own preprocessing."""
    feeds = pack(open_preprocessor(bundle)(records_table(rows)), bundle.spec)
    return Engine(bundle.graph("fp32"), provider="cpu")(feeds)


def prompts(bundle):
    return json.loads(bundle.manifest.origin["imported"])["prompts"]


def tokenized(directory, longest, **padding):
    """Token ids and mask as the package's own tokenizer gives them."""
    names = {"pad_token": "[pad]", "unk_token": "[unk]", "bos_token": "[start]", "eos_token": "[end]"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(directory / "tokenizer.json"), **names)
    return tokenizer(list(TEXTS), return_tensors="pt", truncation=True, max_length=longest, **padding)


@torch.no_grad()
def test_clip_and_clap_give_what_transformers_gives():
    """Bytes in, embeddings out: pictures of the model's size, so that only resizing is left out."""
    clip_folder, clap_folder, bundle = clip_and_clap()
    clip, clap = CLIPModel.from_pretrained(clip_folder), ClapModel.from_pretrained(clap_folder)
    pictures = [png((SIZE, SIZE), seed) for seed in range(3)]
    waves = [tones(8_000, seconds, i) for i, seconds in enumerate((0.3, 1.1, 2.0))]
    rows = [
        {"image": picture, "text": text.encode(), "audio": wav(wave, 8_000)}
        for picture, text, wave in zip(pictures, TEXTS, waves, strict=True)
    ]
    found = features(bundle, rows)["features"]
    pixels = CLIPImageProcessorPil.from_pretrained(clip_folder)(
        [Image.open(io.BytesIO(p)) for p in pictures], return_tensors="pt"
    )["pixel_values"]
    tokens = tokenized(clip_folder, 20, padding=True)
    heard = ClapFeatureExtractor.from_pretrained(clap_folder)(waves, sampling_rate=8_000, return_tensors="pt")
    expected = [
        clip.get_image_features(pixel_values=pixels).pooler_output,
        clip.get_text_features(tokens["input_ids"], tokens["attention_mask"]).pooler_output,
        clap.get_audio_features(heard["input_features"]).pooler_output,
    ]
    np.testing.assert_allclose(found, torch.cat([normalize(e) for e in expected], dim=1), atol=2e-3)
    assert np.std(found, axis=0).max() > 0.1  # the records are not all alike


@torch.no_grad()
@pytest.mark.long
def test_siglip_and_ast_give_what_transformers_gives():
    """SigLIP's texts have one length, padding included; AST's clips are cut or filled up to its frames."""
    siglip_folder, ast_folder, bundle = siglip_and_ast()
    siglip, ast = SiglipModel.from_pretrained(siglip_folder), ASTModel.from_pretrained(ast_folder)
    pictures = [png((SIZE, SIZE), seed) for seed in range(3)]
    waves = [tones(16_000, seconds, i) for i, seconds in enumerate((0.2, 0.6, 3.0))]
    rows = [
        {"image": picture, "text": text.encode(), "audio": wav(wave, 16_000)}
        for picture, text, wave in zip(pictures, TEXTS, waves, strict=True)
    ]
    found = features(bundle, rows)["features"]
    pixels = SiglipImageProcessorPil.from_pretrained(siglip_folder)(
        [Image.open(io.BytesIO(p)) for p in pictures], return_tensors="pt"
    )["pixel_values"]
    ids = tokenized(siglip_folder, 16, padding="max_length")["input_ids"]
    heard = ASTFeatureExtractor.from_pretrained(ast_folder)(waves, sampling_rate=16_000, return_tensors="pt")
    expected = [
        normalize(siglip.get_image_features(pixel_values=pixels).pooler_output),
        normalize(siglip.get_text_features(input_ids=ids).pooler_output),
        ast(heard["input_values"]).pooler_output,
    ]
    np.testing.assert_allclose(found, torch.cat(expected, dim=1), atol=3e-3)
    assert bundle.labels == []


def test_pictures_are_resized_as_the_processor_does():
    """CLIP covers the square and cuts its centre; SigLIP stretches. Only rounding differs."""
    for folder, bundle, kind, fit in (
        (*clip_and_clap()[::2], CLIPImageProcessorPil, "crop"),
        (*siglip_and_ast()[::2], SiglipImageProcessorPil, "stretch"),
    ):
        spec = bundle.spec.image
        assert spec.fit == fit
        data = png((90, 60))
        processor = kind.from_pretrained(folder, do_normalize=False, do_rescale=False)
        expected = np.asarray(processor(Image.open(io.BytesIO(data)))["pixel_values"][0]).transpose(1, 2, 0)
        off = np.abs(decode_image(data, spec, 10**6).astype(float) - expected)
        assert off.mean() < 2, f"{fit}: {off.mean():.1f} grey levels on average"


@torch.no_grad()
def test_labels_from_prompts_are_those_of_the_model_itself():
    """A picture alone gets CLIP's own probabilities; the texts of a class are averaged."""
    clip_folder, _, bundle = clip_and_clap()
    clip = CLIPModel.from_pretrained(clip_folder)
    found = features(bundle, [{"image": png((SIZE, SIZE))}])
    weights = []
    for texts in prompts(bundle).values():
        tokens = PreTrainedTokenizerFast(
            tokenizer_file=str(clip_folder / "tokenizer.json"), pad_token="[pad]", unk_token="[unk]"
        )(list(texts), return_tensors="pt", padding=True)
        embedded = clip.get_text_features(tokens["input_ids"], tokens["attention_mask"]).pooler_output
        weights.append(normalize(normalize(embedded).mean(dim=0), dim=0))
    logits = torch.tensor(found["features"][:, :12]) @ torch.stack(weights).T * clip.logit_scale.exp()
    np.testing.assert_allclose(found["logits"], logits, atol=1e-4)
    np.testing.assert_allclose(found["scores"], logits.softmax(dim=1), atol=1e-5)
    assert bundle.labels == list(prompts(bundle))


def test_the_evidence_of_modalities_is_averaged():
    _, _, bundle = clip_and_clap()
    picture, text, sound = (
        {"image": png((SIZE, SIZE))},
        {"text": b"a red cat"},
        {"audio": wav(tones(8_000, 1.0), 8_000)},
    )
    one = [features(bundle, [row])["logits"][0] for row in (picture, text, sound)]
    two = features(bundle, [picture | sound])["logits"][0]
    np.testing.assert_allclose(two, (one[0] + one[2]) / 2, atol=1e-4)
    three = features(bundle, [picture | text | sound])["logits"][0]
    np.testing.assert_allclose(three, np.mean(one, axis=0), atol=1e-4)


def test_the_manifest_names_the_weights_and_the_prompts():
    siglip, ast, bundle = siglip_and_ast()
    assert [(s.name, s.file, s.licence) for s in bundle.manifest.sources] == [
        (folder.name, "model.safetensors", "CC0-1.0") for folder in (siglip, ast)
    ]
    assert prompts(clip_and_clap()[2])["bird"] == ["a red bird"]


# What is refused, before anything is exported


def rewrite(file, **changes):
    """Change keys of a JSON file; None removes one."""
    values = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "model"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"resample": 2}, "resample 2; mmray supports only 3"),
        ({"do_resize": False}, "do_resize False"),
        ({"crop_size": {"height": 24, "width": 24}}, "crop_size {'height': 24"),
        (
            {"size": {"shortest_edge": 40}},
            r"resizes to {'shortest_edge': 40}; mmray resizes its shortest edge",
        ),
        ({"do_center_crop": False}, "mmray resizes height and width to the encoder's 32 pixels"),
    ],
)
def test_pictures_that_are_prepared_otherwise_are_refused(folder, settings, message):
    save_clip(folder, **settings)
    with pytest.raises(ModelError, match=message) as raised:
        read_image_text(folder)
    assert str(folder) in str(raised.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"truncation": "fusion"}, "truncation 'fusion'; mmray supports only 'rand_trunc'"),
        ({"padding": "repeat"}, "padding 'repeat'; .* 'repeatpad'"),
    ],
)
def test_sound_that_is_prepared_otherwise_is_refused(folder, settings, message):
    with pytest.raises(ModelError, match=message):
        read_audio(save_clap(folder, **settings))


def test_a_clap_model_that_fuses_parts_of_long_clips_is_refused(folder):
    with pytest.raises(ModelError, match="enable_fusion"):
        read_audio(save_clap(folder, fusion=True))


def test_an_extractor_of_another_size_than_its_encoder_is_refused(folder):
    with pytest.raises(ModelError, match="takes 64 frames of 16 mel bins, its extractor gives 99 of 16"):
        read_audio(save_ast(folder, max_length=99))


def test_weights_that_are_missing_are_named_and_not_made_up(folder):
    save_clip(folder)
    weights = load_file(folder / "model.safetensors")
    del weights["visual_projection.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"no weights for visual_projection\.weight"):
        read_image_text(folder)


def test_pickled_weights_are_never_read(folder):
    save_clip(folder)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"needs config\.json and model\.safetensors"):
        read_image_text(folder)


def test_code_in_the_directory_is_never_run(folder):
    save_clip(folder)
    (folder / "evil.py").write_text(f"open({str(folder / 'ran')!r}, 'w')")
    rewrite(
        folder / "config.json",
        auto_map={"AutoConfig": "evil.Config", "AutoModel": "evil.Model"},
        model_type="evil",
    )
    with pytest.raises(ModelError, match="cannot read this model"):
        read_image_text(folder)
    assert not (folder / "ran").exists()


@torch.no_grad()
def test_an_ast_that_was_trained_to_classify_is_taken_without_its_classifier(folder):
    """Such are most of those that people have."""
    save_ast(folder)
    classifier = ASTForAudioClassification(ASTConfig.from_pretrained(folder))
    classifier.save_pretrained(folder)
    sound = torch.randn(2, 64, 16)
    encoder = read_audio(folder).encoder
    pooled = classifier.audio_spectrogram_transformer.eval()(encoder.normalize(sound)).pooler_output
    torch.testing.assert_close(encoder(sound), pooled)


@pytest.mark.parametrize("read", [read_image_text, read_audio])
def test_models_of_other_kinds_and_no_models_are_refused(folder, read):
    with pytest.raises(ModelError, match=r"has no config\.json"):
        read(folder)
    wrong = save_ast(folder) if read is read_image_text else save_siglip(folder)
    with pytest.raises(ModelError, match=r"is of type '(audio-spectrogram-transformer|siglip)', not"):
        read(wrong)


def test_a_directory_without_a_usable_tokenizer_is_refused(folder):
    tokenizer = save_clip(folder) / "tokenizer.json"
    rewrite(tokenizer, post_processor=None)
    with pytest.raises(ModelError, match=r"adds no end token \(id 3"):
        read_image_text(folder)
    tokenizer.write_text("{}")
    with pytest.raises(ModelError, match="not a tokenizer"):
        read_image_text(folder)
    tokenizer.unlink()
    with pytest.raises(ModelError, match=r"has no tokenizer\.json"):
        read_image_text(folder)


def test_a_directory_without_preprocessing_is_refused(folder):
    (save_clip(folder) / "preprocessor_config.json").unlink()
    with pytest.raises(ModelError, match="cannot read its preprocessing"):
        read_image_text(folder)
