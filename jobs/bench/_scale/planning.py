"""Cost of planning: shards of 10,000 rows each, for 64 devices, none of them processed yet."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from _scale.process import peak_mb

sys.path.insert(0, str(Path(__file__).parents[3] / "tests"))
from support.bundles import small_bundle  # type: ignore[import-not-found]

from mmray.config import RunConfig
from mmray.pipeline.census import Census
from mmray.pipeline.ledger import Ledger
from mmray.pipeline.plan import Machines, make_plan
from mmray.pipeline.survey import Survey
from mmray.sources import Shard
from mmray.sources.state import State

SHARD_ROWS, ROW_BYTES = 10_000, 100_000
MACHINES = Machines(cpus=2_048, gpus=64, nodes=8)


def of_shards(shards: int) -> dict[str, float]:
    """Cut so many shards into units, write the plan, and read it again."""
    size = SHARD_ROWS * ROW_BYTES
    listed = tuple(
        Shard(f"{i // 1000:05d}/t-{i:08d}.tar@{size}", f"s3://bucket/in/{i // 1000:05d}/t-{i:08d}.tar", size,
              state=State(size, 1_700_000_000_000_000_000, "", f"{i:032x}", f"{i:032x}"))
        for i in range(shards)
    )  # fmt: skip
    values = {"input": ("s3://bucket/in",), "bundle": str(small_bundle().path), "output": "/out"}
    config = RunConfig.model_validate({**values, "provider": "cuda", "variant": "fp32"})
    survey = Survey(config, small_bundle(), listed, Census(10, float(ROW_BYTES), {"image": 10}))
    base_mb, start = peak_mb(), time.process_time()
    plan = make_plan(survey, MACHINES)
    units = plan.units(Ledger().missing(survey.shards))
    units_s = time.process_time() - start
    start = time.process_time()
    text = json.dumps(plan.to_json(), indent=1)
    write_s = time.process_time() - start
    start = time.process_time()
    for values_of_shard in json.loads(text)["shards"]:
        Shard.from_list(values_of_shard)
    read_s = time.process_time() - start
    return {
        **{"units": len(units), "units_cpu_s": units_s, "write_cpu_s": write_s, "read_cpu_s": read_s},
        **{"plan_mb": len(text) / 1e6, "shards_mb": base_mb, "peak_mb": peak_mb()},
    }
