"""Answers of a model that was never run: text answers most records, sound none, all together every one."""

import numpy as np

from mmray.variants.cascades.evidence import Evidence

NAMES = ("text", "audio", "image", "image+text", "image+audio", "text+audio", "image+text+audio")


def made_evidence(rows=1000, easy=0.7, wrong=0.0, seed=0, classes=5, groups=None, without_text=0):
    """Text answers the easy records, of which a share is surely wrong; the rest takes all modalities.

    The last `without_text` records lack text.
    """
    random = np.random.default_rng(seed)
    labels = random.integers(classes, size=rows)
    is_easy = random.random(rows) < easy
    misled = is_easy & (random.random(rows) < wrong)

    def logits(sure, answer):
        values = random.normal(0, 0.1, (rows, classes)).astype(np.float32)
        guess = random.integers(classes, size=rows)
        values[np.arange(rows), np.where(sure, answer, guess)] += np.where(sure, 8.0, 0.3)
        return values

    early = logits(is_easy, np.where(misled, (labels + 1) % classes, labels))
    full = logits(np.ones(rows, bool), labels)
    by_subset = dict.fromkeys(NAMES, early) | {
        "audio": logits(np.zeros(rows, bool), labels),
        "image+text+audio": full,
    }
    present = np.ones((rows, 3), bool)
    present[rows - without_text :, 1] = False
    return Evidence(
        ("image", "text", "audio"),
        present,
        labels,
        np.arange(rows).astype(str) if groups is None else groups,
        by_subset,
    )
