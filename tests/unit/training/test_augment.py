"""Altered records: of the same form, by the generator alone, and text untouched."""

import torch

from mmray.training.augment import augment


def feeds():
    random = torch.Generator().manual_seed(0)
    return {
        "pixels": torch.randint(0, 256, (5, 24, 32, 3), generator=random, dtype=torch.uint8),
        "log_mel": torch.randn(4, 48, 32, generator=random).half(),
        "input_ids": torch.arange(6).view(2, 3),
    }


def altered(seed):
    return augment(feeds(), torch.Generator().manual_seed(seed))


def test_form_and_range_stay():
    found = altered(1)
    assert found["pixels"].shape == (5, 24, 32, 3)
    assert 0 <= found["pixels"].min() <= found["pixels"].max() <= 255
    assert found["log_mel"].shape == (4, 48, 32)
    assert found["log_mel"].dtype == torch.float16
    assert torch.equal(found["input_ids"], feeds()["input_ids"])


def test_the_seed_decides():
    assert torch.equal(altered(1)["pixels"], altered(1)["pixels"])
    assert not torch.equal(altered(1)["pixels"], altered(2)["pixels"])
    assert not torch.equal(altered(1)["log_mel"], altered(2)["log_mel"])


def test_records_are_altered_each_by_itself():
    same = {"pixels": feeds()["pixels"][:1].expand(3, -1, -1, -1)}
    found = augment(same, torch.Generator().manual_seed(1))["pixels"]
    assert not torch.equal(found[0], found[1])


def test_a_batch_without_rows_is_left_alone():
    empty = {"pixels": torch.zeros(0, 8, 8, 3, dtype=torch.uint8), "log_mel": torch.zeros(0, 8, 8)}
    assert {name: len(values) for name, values in augment(empty, torch.Generator()).items()} == {
        "pixels": 0,
        "log_mel": 0,
    }
