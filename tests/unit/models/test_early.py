"""Early fusion: one sequence of all modalities, where what is absent or padding counts for nothing."""

import pytest
import torch
from support.packed import SPEC, VOCABULARY, feeds, tensors
from torch.nn import functional as F

from mmray.models.early import EarlyFusion, EarlySizes
from mmray.preprocess.spec import AudioSpec, ImageSpec, PreprocessSpec

TINY = EarlySizes(hidden=16, layers=2, heads=2, intermediate=32)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return EarlyFusion(SPEC, 4, VOCABULARY, TINY).eval().requires_grad_(False)


def full(records=3):
    """Every record has everything, two patches each."""
    given = tensors(feeds(records, records, records, 6, 2 * records))
    given["log_mel_row"] = torch.arange(records).repeat(2)
    given["present"][:] = True
    return given


def test_gives_what_a_fused_model_gives(model):
    logits, scores, features = model(**full())
    assert model.modalities == ("image", "text", "audio")
    assert model.input_names == tuple(full())
    assert (logits.shape, features.shape) == ((3, 4), (3, 16))
    assert torch.equal(scores, logits.softmax(dim=1))


@pytest.mark.parametrize(
    ("modality", "names"),
    [
        ("image", ("pixels", "pixels_row")),
        ("text", ("input_ids", "attention_mask", "text_row")),
        ("audio", ("log_mel", "log_mel_row")),
    ],
)
def test_no_rows_and_rows_that_are_not_present_are_the_same(model, modality, names):
    given = full()
    given["present"][:, model.modalities.index(modality)] = False
    if modality == "audio":
        given["log_mel"].fill_(torch.nan)
    without = given | {name: given[name][:0] for name in names}
    for found, expected in zip(model(**given), model(**without), strict=True):
        torch.testing.assert_close(found, expected)
    assert model(**given)[0].isfinite().all()


def test_each_modality_counts(model):
    whole = model(**full())[0]
    for column in range(3):
        given = full()
        given["present"][:, column] = False
        assert not torch.allclose(model(**given)[0], whole, atol=1e-4)


def test_padding_of_texts_changes_nothing(model):
    given = full()
    given["attention_mask"][:] = 1
    padded = given | {
        "input_ids": F.pad(given["input_ids"], (0, 9), value=7),
        "attention_mask": F.pad(given["attention_mask"], (0, 9)),
    }
    torch.testing.assert_close(model(**padded)[0], model(**given)[0])


def test_a_record_scores_the_same_in_any_batch(model):
    """Order of the rows within a modality, and the neighbours, do not matter."""
    given, order = full(), torch.tensor([2, 0, 1])
    expected = model(**given)[0]
    patches = torch.tensor([5, 1, 3, 0, 4, 2])
    shuffled = given | {name: given[name][order] for name in given if not name.startswith("log_mel")}
    shuffled |= {name: given[name][patches] for name in ("log_mel", "log_mel_row")}
    torch.testing.assert_close(model(**shuffled)[0], expected, rtol=1e-4, atol=1e-5)


def test_takes_the_modalities_of_its_spec_and_no_others():
    model = EarlyFusion(PreprocessSpec(audio=AudioSpec()), 4, sizes=TINY)
    assert model.input_names == ("present", "log_mel", "log_mel_row")
    with pytest.raises(ValueError, match="takes audio: give log_mel, log_mel_row"):
        model(torch.ones(1, 1, dtype=torch.bool))


def test_a_picture_of_broken_patches_is_refused():
    with pytest.raises(ValueError, match="not a multiple of 16"):
        EarlyFusion(PreprocessSpec(image=ImageSpec(height=100, width=96)), 4, sizes=TINY)


def test_learns_a_word_beside_a_picture():
    """The class is whether picture and word agree."""
    torch.manual_seed(0)
    model = EarlyFusion(SPEC, 2, VOCABULARY, TINY)
    given = tensors(feeds(32, 32, 32, 3, 0))
    given["present"][:, :2] = True
    bright, word = torch.randint(0, 2, (32,)), torch.randint(0, 2, (32,))
    given["pixels"] = (bright[:, None, None, None] * 255).expand(32, 32, 48, 3).to(torch.uint8)
    given["pixels_row"] = given["text_row"] = torch.arange(32)
    given["input_ids"] = (10 + word[:, None]).expand(32, 3).to(torch.int32)
    label = (bright == word).long()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(model(**given)[0], label).backward()
        optimizer.step()
    assert (model.eval()(**given)[0].argmax(dim=1) == label).all()
