"""Whole runs in this process: what the workers of a run do, without Ray."""

from pathlib import Path

from mmray.config import RunConfig
from mmray.pipeline.ledger import Ledger
from mmray.pipeline.plan import Machines, make_plan
from mmray.pipeline.rundir import RunDirectory
from mmray.pipeline.sink import PartBuffer
from mmray.pipeline.survey import output_columns, read_options, survey
from mmray.predictor import Predictor, open_preprocessor
from mmray.sources import read
from support.bundles import small_bundle


def make_config(input, output, **settings):
    """A config over some shards with the small bundle."""
    values = {
        "input": str(input),
        "output": str(output),
        "bundle": str(small_bundle().path),
        "provider": "cpu",
    }
    return RunConfig.model_validate(values | settings)


def run_here(config):
    """Process what is missing of a run, shard by shard; returns its directory and plan."""
    found = survey(config)
    plan = make_plan(found, Machines(cpus=1, gpus=0))
    out = RunDirectory.at(found.config.output)
    out.begin(plan.to_json())
    preprocess = open_preprocessor(
        found.bundle,
        limits=config.limits,
        on_damaged=config.on_damaged,
        foreign_text=config.foreign_text,
    )
    predict = Predictor(found.bundle, provider="cpu", columns=output_columns(config, found.bundle))
    for shard, wanted in Ledger.load(out).missing(found.shards):
        buffer = PartBuffer(out, predict.columns, plan.part_rows, config.part_seconds)
        for records in read(shard, read_options(config), wanted):
            buffer.add(predict(preprocess(records)))
        buffer.close()
    return out, plan


def part_files(out):
    return sorted((Path(out.root.path) / "parts").iterdir())
