"""Runs to report on, made by the job's own parts, with names and labels that a page must not trust."""

import json

from mmray.pipeline.audit import audit
from mmray.pipeline.ledger import Ledger
from mmray.pipeline.summary import conclude
from mmray.pipeline.survey import survey
from support.media import image_bytes
from support.runs import make_config, run_here
from support.tars import write_shard

EVIL = "<script>alert('$x_1$')</script>"


def labelled_run(folder, *, records=24, output="out", **settings):
    """A finished run over two shards: labels in `label`, one of them hostile, and three rejects."""
    for number, name in enumerate(("train-000", "test-000")):
        made = []
        for i in range(records // 2):
            meta = {"label": ("cat", "dog", "fish", EVIL)[i % 4], "caption_group": f"g{i // 2}"}
            members = {"png": image_bytes(colour=(20 * i % 256, 40, 90)), "txt": b"a red cat"}
            made.append((f"{name}-{i}", members | {"json": json.dumps(meta).encode()}))
        if not number:
            broken = [("broken-<b>", {"png": b"\x89PNG\r\n\x1a\nno"}), ("empty", {"png": b""})]
            made += [*broken, ("text", {"txt": b"caf\xe9"})]
        if not (folder / "in" / f"{name}.tar").exists():
            write_shard(folder / "in" / f"{name}.tar", made)
    chosen = {"carry": ["label"], "max_reject_rate": 0.5} | settings
    return finish(make_config(folder / "in", folder / output, **chosen))


def finish(config):
    """Run a config here, up to its summary; returns its directory."""
    out, _ = run_here(config)
    out.log("started", topology="fused", actors=1, done=0)
    for rows in (5, 20):
        out.log("progress", rows=rows, rejects=0)
    stages = {"read": 0.5, "image": 1.5, "text": 0.0, "audio": 0.0, "model": 2.0, "write": 0.0}
    this_run = {"rows": 27, "topology": "fused", "actors": 1, "elapsed_s": 9.0, "startup_s": 5.0}
    this_run |= {"rows_per_s": 6.75, "stage_seconds": stages}
    conclude(out, survey(config), Ledger.load(out), audit(out), this_run)
    return out
