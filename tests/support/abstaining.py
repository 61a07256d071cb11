"""A bundle that may say nothing: the small one, with temperatures and least scores of one's own."""

import json

from mmray.bundle import MANIFEST, Bundle, Selective, extend_bundle
from support.bundles import small_bundle


def abstaining(folder, thresholds, *, temperatures=None, asks=None, parent=None):
    """The parent bundle whose fp32 has these least scores by risk; `asks` is the bundle's own risk."""
    parent = parent or small_bundle()
    table = tuple(Selective(risk=r, threshold=t, coverage=0.5, bound=r) for r, t in thresholds.items())
    found = {"fp32": {"temperatures": temperatures or {}, "selective": table}}
    card = parent.scorecard | {"variants": {"fp32": {}}}
    bundle = extend_bundle(folder, parent, {}, scorecard=card, origin={}, found=found)
    if asks is None:
        return bundle
    manifest = json.loads((folder / MANIFEST).read_text()) | {"abstain": asks}
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return Bundle.open(folder)
