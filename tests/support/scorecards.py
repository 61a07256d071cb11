"""Scorecards as `mmray optimize` writes them, with invented figures."""

import numpy as np

from mmray.bundle import NewVariant, Variant, extend_bundle
from support.bundles import small_bundle


def accuracy(middle, half=0.04, *, records=400, groups=310):
    return {
        "accuracy": middle,
        "low": middle - half,
        "high": min(1.0, middle + half),
        "records": records,
        "groups": groups,
    }


def point(name, kind, ms, middle, *, test=None, **changes):
    return {
        "name": name,
        "kind": kind,
        "variant": "fp32",
        "modalities": ["image", "text", "audio"],
        "threshold": None,
        "ms": ms,
        **accuracy(middle),
        "split": "tune",
        "measured": True,
        "chosen": False,
        **({"test": accuracy(test, 0.045, records=250, groups=190)} if test else {}),
    } | changes


def variant(name, ms, middle, test):
    return point(name, "variant", ms, middle, test=test, variant=name)


def setting(threshold, ms, middle, **changes):
    """One setting of a cascade's exits."""
    fixed = {"variant": "cascade", "threshold": threshold, "measured": False}
    return point(f"cascade at {threshold:g}", "cascade", ms, middle) | fixed | changes


def tradeoff():
    """Three modalities alone, four variants that crowd together, a cascade with one setting chosen."""
    return [
        point("text", "modality", 5.3, 0.885, modalities=["text"]),
        point("image", "modality", 11.4, 0.832, modalities=["image"]),
        point("audio", "modality", 8.1, 0.425, modalities=["audio"]),
        variant("fp32", 24.5, 0.918, 0.911),
        variant("int8-static", 13.6, 0.916, 0.907),
        variant("int8-dynamic", 17.9, 0.921, 0.912),
        variant("fp16", 26.3, 0.918, 0.911),
        *[
            setting(threshold, ms, middle)
            for threshold, ms, middle in (
                (0.4, 5.9, 0.889),
                (0.5, 6.3, 0.9),
                (0.6, 6.7, 0.909),
                (0.7, 7.2, 0.914),
                (0.9, 9.1, 0.919),
                (0.95, 10.4, 0.92),
                (0.99, 14.2, 0.919),
            )
        ],
        setting(
            0.87,
            8.2,
            0.918,
            chosen=True,
            measured=True,
            name="cascade",
            test=accuracy(0.909, records=250, groups=190),
        ),
    ]


def card(verdict="passed", **changes):
    """Of one variant."""
    judged = {"records": 250, "groups": 190, "agreement": 0.98, "agreement_bound": 0.962}
    changed = {"difference": -0.004, "difference_bound": -0.018}
    return {
        "passed": verdict == "passed",
        "verdict": verdict,
        "reason": "",
        "split": "test",
        "accuracy": 0.907,
        **judged,
        **changed,
        "slices": {
            "image": {"verdict": "passed", **judged, **changed},
            "text+audio": {"verdict": "not enough records", **judged, "records": 21, "groups": 9},
            "label cat": {"verdict": "passed", **judged},
        },
        "size_bytes": 12_345_678,
        "latency_ms": {"batch_1": 20.0, "batch_32": 10.0},
        "peak_memory_bytes": 300_000_000,
    } | changes


def scorecard(**changes):
    """Of a bundle with all that a scorecard may say."""
    return {
        "variants": {
            "fp32": card(slices={}, agreement=1.0, difference=0.0),
            "int8-static": card(),
            "int8-dynamic": card(),
            "fp16": card("failed", reason="text: 9 of 250 decisions are <others> & too many"),
            "cascade": card("not enough records", reason="12 groups; 30 are needed"),
        },
        "splits": {
            "rule": "hash of caption_group",
            "train": {"records": 1200, "groups": 930},
            "tune": {"records": 400, "groups": 310},
            "test": {"records": 250, "groups": 190},
        },
        "test_uses": [
            {"variant": "int8-static", "when": "2026-11-29T10:00:00+00:00", "why": "first judgement"}
        ],
        "tradeoff": tradeoff(),
    } | changes


def old_card(passed=True, *, reason=""):
    """As mmray wrote before there were three splits."""
    found = {
        "agreement": 0.98,
        "accuracy": 0.8,
        "difference": -0.01,
        "interval": [-0.03, 0.01],
        "records": 156,
    }
    return {
        "passed": passed,
        "reason": reason,
        **found,
        "slices": {"image": found, "label cat": found},
        "size_bytes": 12_345_678,
        "latency_ms": {"batch_1": 20.0, "batch_32": 10.0},
        "peak_memory_bytes": 300_000_000,
    }


def judged_bundle(folder, card=None, *, variants=("int8-static", "int8-dynamic", "cascade"), parent=None):
    """A bundle whose scorecard says this. Its graphs are all the small one: nobody runs them."""
    parent = parent or small_bundle()
    graph = parent.graph("fp32")
    added = {
        name: NewVariant(
            Variant(file=f"variants/{name}.onnx", parent="fp32"), graph, {"scores": np.ones((1, 4))}
        )
        for name in variants
    }
    return extend_bundle(folder, parent, added, scorecard=card or scorecard(), origin={"optimize": "{}"})
