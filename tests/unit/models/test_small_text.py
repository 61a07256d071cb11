"""The student's text encoder: the mean of word vectors, whatever the padding, from a larger one's vectors."""

import pytest
import torch

from mmray.models.small_text import SmallText, projected_words


@pytest.fixture
def model():
    torch.manual_seed(0)
    return SmallText(50, dim=8).eval().requires_grad_(False)


def test_padding_changes_nothing(model):
    ids = torch.tensor([[2, 7, 9, 3]], dtype=torch.int32)
    padded = torch.cat([ids, torch.full((1, 12), 11, dtype=torch.int32)], dim=1)
    mask = (torch.arange(16) < 4).to(torch.int32)[None]
    torch.testing.assert_close(model(padded, mask), model(ids, torch.ones_like(ids)))


def test_a_row_of_padding_gives_zeros_and_an_empty_batch_no_rows(model):
    ids = torch.zeros(1, 5, dtype=torch.int32)
    assert torch.equal(model(ids, torch.zeros_like(ids)), torch.zeros(1, 8))
    assert model(ids[:0], ids[:0]).shape == (0, 8)


def test_inherited_vectors_keep_who_is_near_to_whom(model):
    """Vectors that lie in a plane lose nothing on two components but their scale."""
    words = torch.randn(50, 2) @ torch.randn(2, 32) + 5.0
    model = SmallText(50, dim=2)
    model.inherit(words)
    before, after = (torch.cdist(table, table) for table in (words.double(), model.words.weight.double()))
    torch.testing.assert_close(after / after.mean(), before / before.mean(), rtol=1e-3, atol=1e-3)
    assert model.words.weight.norm(dim=1).mean().item() == pytest.approx(1.0, rel=1e-4)


def test_vectors_that_do_not_fit_are_refused(model):
    with pytest.raises(ValueError, match="a table of 40 words for a vocabulary of 50"):
        model.inherit(torch.randn(40, 32))
    with pytest.raises(ValueError, match="width 4 have no 8 principal components"):
        projected_words(torch.randn(50, 4), 8)
