"""The text encoder: the published sentence vectors, whatever the padding."""

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

from mmray.models.minilm import MiniLM
from mmray.models.pretrained import MINILM, MINILM_TOKENIZER


@pytest.fixture(scope="module")
def tiny():
    torch.manual_seed(0)
    return MiniLM(vocabulary=50, layers=2, hidden=16, heads=4, intermediate=32, positions=32).eval()


@torch.no_grad()
def test_gives_the_published_sentence_vectors(weights):
    """The numbers are those that sentence-transformers prints for its own example sentence."""
    model = MiniLM().eval()
    model.load_checkpoint(load_file(weights(MINILM)))
    tokenizer = Tokenizer.from_file(str(weights(MINILM_TOKENIZER)))
    tokenizer.no_padding()
    ids = torch.tensor([tokenizer.encode("This is an example sentence").ids], dtype=torch.int32)
    vector = model(ids, torch.ones_like(ids))[0]
    expected = torch.tensor([0.0677, 0.0635, 0.0487, 0.0793, 0.0374, 0.0027])
    torch.testing.assert_close(vector[:6], expected, rtol=0, atol=6e-5)
    assert vector.norm().item() == pytest.approx(1.0, abs=1e-5)


@torch.no_grad()
def test_padding_changes_nothing(tiny):
    ids = torch.tensor([[2, 7, 9, 3]], dtype=torch.int32)
    padded = torch.cat([ids, torch.full((1, 12), 11, dtype=torch.int32)], dim=1)
    mask = (torch.arange(16) < 4).to(torch.int32)[None]
    torch.testing.assert_close(tiny(padded, mask), tiny(ids, torch.ones_like(ids)), rtol=0, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_row_of_padding_gives_zeros_and_no_nan(dtype):
    torch.manual_seed(0)
    model = MiniLM(vocabulary=50, layers=1, hidden=16, heads=4, intermediate=32, positions=32).to(dtype)
    ids = torch.zeros(1, 5, dtype=torch.int32)
    vector = model(ids, torch.zeros_like(ids))
    assert torch.equal(vector, torch.zeros_like(vector))


@torch.no_grad()
def test_an_empty_batch_gives_no_rows(tiny):
    empty = torch.zeros(0, 8, dtype=torch.int32)
    assert tiny(empty, empty).shape == (0, 16)
