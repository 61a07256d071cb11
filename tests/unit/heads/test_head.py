"""Training of the head: one set of weights for every subset, and no more trust than is earned."""

import numpy as np
import pytest
import torch
from support.examples import LABELS, clusters

from mmray.heads.train import grouped_folds, logits_of, train_head
from mmray.schema import set_name, subsets


def accuracy(trained, examples, subset):
    predicted = np.array(trained.labels)[logits_of(trained.head, examples, subset).argmax(axis=1)]
    return (predicted == examples.labels).mean()


def test_subsets_go_from_one_modality_to_all():
    names = [set_name(("image", "text", "audio"), subset) for subset in subsets(3)]
    assert names == [
        *("image", "text", "audio"),
        *("image+text", "image+audio", "text+audio"),
        "image+text+audio",
    ]


def test_every_subset_predicts_from_one_head():
    trained = train_head(clusters(missing=0.3))
    fresh = clusters(seed=1)
    assert trained.labels == LABELS
    for subset in subsets(3):
        least = 0.85 if subset[0] or subset[1] else 0.45
        assert accuracy(trained, fresh, subset) > least, subset


def test_a_modality_of_pure_noise_is_not_trusted_beside_a_good_one():
    """Plain weights know the noise of 24 features by heart; the gains are fitted where it cannot be known."""
    train, fresh = clusters(60, noise=(1.5, 1.0, 40.0)), clusters(600, noise=(1.5, 1.0, 40.0), seed=1)
    trained = train_head(train)
    with_all, only = (True, False, True), (True, False, False)
    with_noise, without = (accuracy(trained, fresh, subset) for subset in (with_all, only))
    assert with_noise >= without - 0.02
    gain = trained.head.gain[0b101]
    assert abs(gain[2]) < 0.5 * gain[0]


def test_training_twice_gives_the_same_head():
    first, second = (train_head(clusters(missing=0.2)).head for _ in range(2))
    for name, parameter in first.named_parameters():
        assert torch.equal(parameter, dict(second.named_parameters())[name]), name


def test_the_number_of_threads_is_left_as_it_was():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        train_head(clusters(60))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_units_of_a_modality_do_not_matter():
    """Blocks are scaled, so features a thousand times larger train the same head in effect."""
    plain, large = clusters(), clusters()
    large.features["audio"] = large.features["audio"] * 1000 + 500
    subset = (True, True, True)
    expected = logits_of(train_head(plain).head, plain, subset)
    np.testing.assert_allclose(logits_of(train_head(large).head, large, subset), expected, atol=0.05)


def test_a_feature_that_never_varies_is_harmless():
    examples = clusters()
    examples.features["audio"][:] = 3.0
    trained = train_head(examples)
    logits = logits_of(trained.head, examples, (False, False, True))
    assert np.isfinite(logits).all()
    assert np.ptp(logits, axis=0).max() < 1e-4


def test_nothing_present_gives_the_share_of_each_label():
    examples = clusters(120)
    rare = examples.take(~((examples.labels == "dog") & (np.arange(120) % 4 > 0)))
    scores = torch.from_numpy(logits_of(train_head(rare).head, rare, (False, False, False))[0]).softmax(0)
    counts = np.array([(rare.labels == label).sum() for label in LABELS]) + 1
    np.testing.assert_allclose(scores, counts / counts.sum(), rtol=1e-5)


@pytest.mark.parametrize("folds", [2, 5])
def test_no_group_lies_on_both_sides_of_a_fold(folds):
    examples = clusters()
    seen = []
    for train, test in grouped_folds(examples, folds, seed=3):
        assert not set(examples.groups[train]) & set(examples.groups[test])
        assert set(examples.labels[test]) == set(LABELS)
        seen.extend(test)
    assert sorted(seen) == list(range(len(examples)))
