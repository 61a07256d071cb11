"""Made-up training examples whose answers are known: clusters of features, with captions' groups."""

import numpy as np

from mmray.heads.examples import Examples

LABELS = ("cat", "crow", "dog")


def clusters(count=180, noise=(0.5, 1.0, 4.0), missing=0.0, seed=0):
    """Three clusters in each modality, 24 features wide; `noise` says how blurred each modality is.

    Records come in groups of two. The last third is the test split.
    """
    random = np.random.default_rng(seed)
    targets = np.arange(count) // 2 % len(LABELS)
    centres = np.random.default_rng(7).normal(size=(3, len(LABELS), 24))
    present = random.random((count, 3)) >= missing
    present[~present.any(axis=1), 0] = True
    features = {}
    for m, modality in enumerate(("image", "text", "audio")):
        values = centres[m, targets] + noise[m] * random.normal(size=(count, 24))
        features[modality] = np.where(present[:, m, None], values, 0).astype(np.float32)
    return Examples(
        features,
        present,
        labels=np.array(LABELS)[targets],
        groups=np.array([f"g{i // 2}" for i in range(count)]),
        splits=np.where(np.arange(count) < count * 2 // 3, "train", "test"),
    )
