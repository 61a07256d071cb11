"""Sets of encoders: small ones for tests, and the published ones."""

import pytest
import torch
from tokenizers import Tokenizer

from mmray.errors import ConfigError
from mmray.models.encoders import tiny_encoders


def test_tiny_encoders_know_every_word_of_the_captions(shards):
    encoders = tiny_encoders([str(shards)])
    tokenizer = Tokenizer.from_str(encoders.tokenizer)
    tokens = tokenizer.encode("a warm ROUND thing nobodywrotethis").tokens
    assert (tokens[0], tokens[-1]) == ("[CLS]", "[SEP]")
    assert tokens[-2] == "[UNK]"
    assert "round" in tokenizer.get_vocab()
    assert tokenizer.get_vocab_size() == encoders.modules["text"].words.num_embeddings


def test_tiny_encoders_follow_their_seed(shards):
    first, again, other = (tiny_encoders([str(shards)], seed=seed) for seed in (1, 1, 2))
    weight = first.modules["image"].stem.conv.weight
    assert torch.equal(weight, again.modules["image"].stem.conv.weight)
    assert not torch.equal(weight, other.modules["image"].stem.conv.weight)
    assert first.identity != other.identity


def test_building_encoders_leaves_the_caller_s_random_state_alone(shards):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    tiny_encoders([str(shards)])
    assert torch.equal(torch.rand(1), expected)


def test_a_set_may_be_cut_to_some_modalities(shards):
    cut = tiny_encoders([str(shards)]).only(("image", "audio"))
    assert tuple(cut.modules) == cut.spec.modalities == ("image", "audio")
    assert cut.tokenizer is None
    with pytest.raises(ConfigError, match="no encoder for text"):
        cut.only(("text",))


def test_encoders_are_frozen(shards):
    for module in tiny_encoders([str(shards)]).modules.values():
        assert not module.training
        assert not any(parameter.requires_grad for parameter in module.parameters())
