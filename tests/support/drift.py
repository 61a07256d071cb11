"""References to compare with: one made by hand, and bundles that have one of some records."""

import numpy as np

from mmray.bundle import extend_bundle
from mmray.drift import Sketch, VariantReference
from mmray.evaluation.outputs import LabelledTensors
from mmray.evaluation.reference import bundle_reference
from mmray.predictor import open_preprocessor


def by_hand(kinds=(300, 100, 0), sizes=(100, 100, 100, 100)):
    """A reference of 400 records: of which kind they are, and how large."""
    return VariantReference(
        records=sum(kinds),
        sketches=(
            Sketch(name="kind", codes=(0, 1), names=("cat", "dog"), counts=kinds),
            Sketch(name="size", edges=(0.25, 0.5, 0.75), counts=sizes),
        ),
    )


def counts(kinds, sizes):
    """Of records in the bins of that reference."""
    return np.array([*kinds, *sizes], np.int64)


def drawn(random, records, kinds=(0.75, 0.25, 0), sizes=(0.25, 0.25, 0.25, 0.25)):
    """Counts of records drawn independently with these shares."""
    return counts(random.multinomial(records, kinds), random.multinomial(records, sizes))


def labelled(bundle, records):
    """RECORDS as the optimization half has them, each a group of its own, without labels."""
    tensors = open_preprocessor(bundle)(records)
    tensors = tensors.filter(np.array([e is None for e in tensors["error"].to_pylist()]))
    rows = tensors.num_rows
    groups = np.array([f"group {i}" for i in range(rows)])
    return LabelledTensors(tensors, np.full(rows, -1), groups, bundle.spec, tuple(bundle.labels))


def referring(folder, bundle, records):
    """A bundle with a reference made of some RECORDS."""
    known = labelled(bundle, records)
    return extend_bundle(
        folder,
        bundle,
        {},
        scorecard=bundle.scorecard,
        origin={},
        describe=lambda made: bundle_reference(made, known),
    )
