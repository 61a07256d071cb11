"""Packed modalities: who has what decides, and nothing else does."""

import pytest
import torch

from mmray.models.efficientnet_lite import EfficientNetLite
from mmray.models.fused import FusedModel, pool_rows
from mmray.models.head import SubsetHead
from mmray.models.minilm import MiniLM
from mmray.models.yamnet import YAMNet


@pytest.fixture(scope="module")
def model():
    """Small random encoders and a head whose numbers are all different."""
    torch.manual_seed(0)
    encoders = {
        "audio": YAMNet(width=0.25, layers=2),
        "image": EfficientNetLite(width=0.25, depth=0.3, features=8),
        "text": MiniLM(vocabulary=50, layers=1, hidden=8, heads=2, intermediate=16, positions=16),
    }
    head = SubsetHead([8, 8, encoders["audio"].dim], classes=4)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter)
    return FusedModel(encoders, head).eval().requires_grad_(False)


def feeds(images=(0, 1), texts=(0, 1), patches=(0, 0, 1), records=2, seed=1):
    """Inputs with a row for each of the given records; all that have a row are present."""
    random = torch.Generator().manual_seed(seed)
    present = torch.zeros(records, 3, dtype=torch.bool)
    for column, rows in enumerate((images, texts, patches)):
        present[list(rows), column] = True
    return {
        "present": present,
        "pixels": torch.randint(0, 256, (len(images), 32, 32, 3), dtype=torch.uint8, generator=random),
        "pixels_row": torch.tensor(images, dtype=torch.int64),
        "input_ids": torch.randint(0, 50, (len(texts), 6), dtype=torch.int32, generator=random),
        "attention_mask": torch.ones(len(texts), 6, dtype=torch.int32),
        "text_row": torch.tensor(texts, dtype=torch.int64),
        "log_mel": torch.randn(len(patches), 96, 64, generator=random),
        "log_mel_row": torch.tensor(patches, dtype=torch.int64),
    }


def test_modalities_are_in_the_order_of_the_schema(model):
    assert model.modalities == ("image", "text", "audio")
    assert model.input_names == tuple(feeds())


def test_scores_are_the_softmax_of_logits_and_features_stand_side_by_side(model):
    logits, scores, features = model(**feeds())
    assert (logits.shape, features.shape) == ((2, 4), (2, 8 + 8 + model.encoders["audio"].dim))
    torch.testing.assert_close(scores.sum(dim=1), torch.ones(2))
    assert torch.equal(scores, logits.softmax(dim=1))


def test_a_model_without_a_head_gives_its_features_alone(model):
    bare = FusedModel(dict(model.encoders.items())).eval()
    (features,) = bare(**feeds())
    assert torch.equal(features, model(**feeds())[2])


@pytest.mark.parametrize(("modality", "key"), [("image", "pixels"), ("text", "text"), ("audio", "log_mel")])
def test_no_rows_and_rows_that_are_not_present_are_the_same(model, modality, key):
    """The row of an absent modality counts for nothing, even one that gives NaN."""
    column = model.modalities.index(modality)
    given = feeds()
    given["present"][:, column] = False
    without = dict(given)
    for name in given:
        if name.startswith(key) or (modality == "text" and name in ("input_ids", "attention_mask")):
            without[name] = given[name][:0]
    if modality == "audio":
        given["log_mel"] = torch.full_like(given["log_mel"], torch.nan)
    for found, expected in zip(model(**given), model(**without), strict=True):
        torch.testing.assert_close(found, expected)


def test_a_bad_record_does_not_spoil_its_neighbours(model):
    given = feeds(patches=(0, 1))
    clean = model(**given)[1][1]
    given["log_mel"][0] = torch.nan
    scores = model(**given)[1]
    assert scores[0].isnan().all()
    torch.testing.assert_close(scores[1], clean)


def test_a_record_scores_the_same_in_any_batch(model):
    """Order of the rows within a modality, and the neighbours, do not matter."""
    together = feeds(images=(1, 0), texts=(1,), patches=(1, 0, 1), records=3)
    alone = feeds(images=(0,), texts=(0,), patches=(0, 0), records=1)
    alone["pixels"] = together["pixels"][:1]
    alone["input_ids"] = together["input_ids"]
    alone["log_mel"] = together["log_mel"][[0, 2]]
    torch.testing.assert_close(model(**together)[0][1], model(**alone)[0][0], rtol=1e-4, atol=1e-5)


def test_a_record_with_nothing_gets_the_bias_of_nothing(model):
    logits, _, features = model(**feeds(images=(), texts=(), patches=(), records=2))
    assert torch.equal(logits, model.head.bias[0].expand(2, 4))
    assert not features.any()


def test_patches_are_averaged_exactly():
    embeddings = torch.tensor([[1.0, 2.0], [10.0, 20.0], [3.0, 4.0], [5.0, 0.0]])
    pooled = pool_rows(embeddings, torch.tensor([2, 0, 2, 2]), records=3)
    assert pooled.tolist() == [[10.0, 20.0], [0.0, 0.0], [3.0, 2.0]]


def test_inputs_of_a_modality_that_the_model_takes_are_required(model):
    given = feeds()
    del given["text_row"]
    with pytest.raises(ValueError, match=r"takes text: give input_ids, attention_mask, text_row"):
        model(**given)


def test_the_head_adds_gained_evidence_and_the_subset_s_bias():
    head = SubsetHead([2, 1], classes=2)
    with torch.no_grad():
        head.weights[0].copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
        head.weights[1].copy_(torch.tensor([[1.0], [-1.0]]))
        head.gain.copy_(torch.tensor([[9.0, 9.0], [2.0, 9.0], [9.0, 3.0], [5.0, 7.0]]))
        head.bias.copy_(torch.tensor([[0.1, 0.0], [0.2, 0.0], [0.3, 0.0], [0.4, 0.0]]))
        features = torch.tensor([[1.0, 2.0, 10.0], [1.0, 2.0, 0.0], [0.0, 0.0, 10.0], [0.0, 0.0, 0.0]])
        present = torch.tensor([[True, True], [True, False], [False, True], [False, False]])
        logits = head(features, present)
    torch.testing.assert_close(logits, torch.tensor([[75.4, -60.0], [2.2, 4.0], [30.3, -30.0], [0.1, 0.0]]))
