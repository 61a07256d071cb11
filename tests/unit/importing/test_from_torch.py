"""Torch modules become bundles that give what the modules give, or are refused with the reason."""

import numpy as np
import pytest
import torch
from support.bundles import GOLDEN_ROWS, LABELS, SPEC, records_table, small_tokenizer
from support.tars import write_shard
from torch import nn

from mmray.batching import pack
from mmray.errors import EngineError, InputError, ModelError
from mmray.importing.card import Card
from mmray.importing.from_torch import import_torch
from mmray.importing.samples import sample_records
from mmray.models.encoder import Encoder
from mmray.models.fused import FusedModel
from mmray.models.head import SubsetHead
from mmray.predictor import Predictor, open_preprocessor
from mmray.preprocess import Preprocessor
from mmray.preprocess.spec import ImageSpec, PreprocessSpec, TextSpec
from mmray.sources import ReadOptions, list_shards, read

TEXT = PreprocessSpec(text=TextSpec(max_tokens=12))


class Picture(Encoder):
    """The mean colour, through a linear layer."""

    def __init__(self):
        super().__init__()
        self.dim = 4
        self.linear = nn.Linear(3, 4)

    def forward(self, pixels):
        return self.linear(pixels.to(torch.float32).mean(dim=(1, 2)) / 255)


class Words(Encoder):
    """The mean of the words' vectors."""

    def __init__(self, masked=True):
        super().__init__()
        self.dim, self.masked = 5, masked
        self.table = nn.Embedding(20, 5)

    def forward(self, input_ids, attention_mask):
        mask = attention_mask if self.masked else torch.ones_like(attention_mask)
        weights = mask.to(torch.float32)[:, :, None]
        return (self.table(input_ids) * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)


class Sound(Encoder):
    """The mean frame of a patch, with dropout that counts only in training."""

    def __init__(self):
        super().__init__()
        self.dim = 6
        self.layers = nn.Sequential(nn.Dropout(0.5), nn.Linear(16, 6))

    def forward(self, log_mel):
        return self.layers(log_mel.to(torch.float32).mean(dim=1))


def encoders():
    torch.manual_seed(0)
    return {"image": Picture(), "text": Words(), "audio": Sound()}


def head(classes):
    made = SubsetHead([4, 5, 6], classes)
    for parameter in made.parameters():
        nn.init.normal_(parameter)
    return made


def card(spec=SPEC, labels=(), **more):
    return Card(spec, labels, tokenizer=small_tokenizer(), **more)


def tensors(bundle):
    return open_preprocessor(bundle)(records_table(GOLDEN_ROWS))


def test_encoders_and_a_head_become_a_bundle_with_labels(tmp_path):
    model = FusedModel(encoders(), head(len(LABELS)))
    bundle = import_torch(model, card(labels=LABELS), tmp_path / "bundle")
    rows = Predictor(bundle, provider="cpu")(tensors(bundle)).to_pylist()
    feeds = pack(tensors(bundle), SPEC)
    with torch.no_grad():
        _, scores, _ = model(**{name: torch.from_numpy(array) for name, array in feeds.items()})
    assert [row["label"] for row in rows] == [LABELS[best] for best in scores.argmax(dim=1)]
    np.testing.assert_allclose([row["scores"] for row in rows], scores, atol=1e-5)
    assert bundle.scorecard["variants"]["fp32"]["difference_from_source"] < 1e-5


def test_encoders_alone_become_a_bundle_of_features(tmp_path):
    """Predictions then have features and neither labels nor scores."""
    bundle = import_torch(FusedModel(encoders()), card(), tmp_path / "bundle")
    predicted = Predictor(bundle, provider="cpu")(tensors(bundle))
    assert not {"label", "score", "scores"} & set(predicted.column_names)
    features = np.array(predicted["features"].to_pylist())
    assert features.shape == (4, 15)
    assert not features[1, 4:].any()  # only a picture


def test_a_whole_module_of_ones_own_becomes_a_bundle(tmp_path):
    """All that counts is the signature; this one sums where FusedModel averages."""

    class Mine(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(20, 3)

        def forward(self, present, input_ids, attention_mask, text_row):
            words = (self.table(input_ids) * attention_mask[:, :, None]).sum(dim=1)
            features = words.new_zeros(present.shape[0], 3).index_add(0, text_row, words)
            features = torch.where(present, features, 0.0)
            logits = features @ torch.eye(3)[:, :2]
            return logits, logits.softmax(dim=1), features

    bundle = import_torch(Mine(), card(TEXT, ("yes", "no")), tmp_path / "bundle")
    assert (bundle.labels, bundle.manifest.features) == (["yes", "no"], 3)
    assert bundle.golden_records().num_rows == 8
    Predictor(bundle, provider="cpu")


def test_a_model_is_proved_on_the_first_records_of_the_examples(shards):
    """Without examples they are made up, the same in every import."""
    first = next(read(list_shards([str(shards)])[0], ReadOptions(block_rows=16)))
    expected = Preprocessor(SPEC, small_tokenizer())(first)
    assert sample_records(card(examples=(str(shards),)))[1].equals(expected)
    _, made_up = sample_records(card())
    assert made_up.equals(sample_records(card())[1])
    assert not made_up["error"].drop_null()


def test_examples_without_a_usable_record_are_refused(tmp_path):
    write_shard(tmp_path / "records/a.tar", [("a", {"txt": b""}), ("b", {"jpg": b"not a picture"})])
    with pytest.raises(InputError, match="none of the example records can be used"):
        sample_records(card(examples=(str(tmp_path / "records"),)))


def test_a_module_that_branches_on_values_is_refused_with_the_reason(tmp_path):
    class Branching(Picture):
        def forward(self, pixels):
            return super().forward(pixels) * (2 if pixels.max() > 9 else 1)

    spec = PreprocessSpec(image=ImageSpec(height=8, width=8))
    with pytest.raises(ModelError, match=r"FusedModel: torch cannot export it: .* not branch on values"):
        import_torch(FusedModel({"image": Branching()}), Card(spec), tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_a_module_whose_graph_differs_from_it_is_refused(tmp_path):
    """What it adds is another number in each call, and a constant in the graph."""

    class Moody(Picture):
        calls = 0

        def forward(self, pixels):
            Moody.calls += 1
            return super().forward(pixels) + Moody.calls

    spec = PreprocessSpec(image=ImageSpec(height=8, width=8))
    with pytest.raises(EngineError, match="the export changed the model"):
        import_torch(FusedModel({"image": Moody()}), Card(spec), tmp_path / "bundle")


def test_an_encoder_that_does_not_mask_padding_is_refused(tmp_path):
    with pytest.raises(ModelError, match="mask padding"):
        import_torch(FusedModel({"text": Words(masked=False)}), card(TEXT), tmp_path / "bundle")


def test_a_module_of_another_number_of_classes_is_refused(tmp_path):
    with pytest.raises(
        ModelError, match=r"FusedModel: output 'logits' is float \[\*, 3\]; mmray needs float \[\*, 4\]"
    ):
        import_torch(FusedModel(encoders(), head(3)), card(labels=LABELS), tmp_path / "bundle")


def test_features_that_half_precision_cannot_hold_are_refused(tmp_path):
    loud = encoders()["image"]
    nn.init.constant_(loud.linear.bias, 1e6)
    spec = PreprocessSpec(image=ImageSpec(height=8, width=8))
    with pytest.raises(ModelError, match="features reach 1e\\+06, more than float16 holds"):
        import_torch(FusedModel({"image": loud}), Card(spec), tmp_path / "bundle")


def test_a_card_must_be_sound():
    with pytest.raises(ModelError, match="no modality is described"):
        Card(PreprocessSpec())
    with pytest.raises(ModelError, match=r"needs its tokenizer\.json"):
        Card(TEXT)
    with pytest.raises(ModelError, match="'cat' occurs twice"):
        Card(TEXT, ("cat", "dog", "cat"), small_tokenizer())
