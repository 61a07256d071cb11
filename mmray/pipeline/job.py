"""What every worker of a run knows and does, in either topology; and units of work on their way to it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import ray

from mmray.bundle import Bundle
from mmray.config import RunConfig
from mmray.coverage import Missing
from mmray.errors import InputError
from mmray.pipeline.plan import Unit, Work
from mmray.pipeline.rundir import RunDirectory
from mmray.pipeline.survey import output_columns
from mmray.predictor import Predictor, open_preprocessor
from mmray.preprocess import Preprocessor
from mmray.schema import Modality
from mmray.sources import ReadOptions, Shard, read

MeterHandle = Any  # a Ray actor handle of mmray.pipeline.meter.Meter; Ray gives it no type


@dataclass(frozen=True)
class Job:
    """What every worker needs to know."""

    config: RunConfig
    part_rows: int
    threads: int  # of one inference: the CPUs that an actor owns

    @property
    def out(self) -> RunDirectory:
        return RunDirectory.at(self.config.output)

    def open_predictor(self) -> Predictor:
        bundle = Bundle.open(self.config.bundle)
        return Predictor(
            bundle,
            variant=self.config.variant,
            provider=self.config.provider,
            threads=self.threads,
            batch_rows=self.config.batch_rows,
            shared=True,
            shadow=self.config.shadow,
            columns=output_columns(self.config, bundle),
        )

    def later(self) -> tuple[Modality, ...]:
        """Modalities whose bytes wait until a cascade asks for them."""
        return () if self.config.verify_all else Bundle.open(self.config.bundle).later(self.config.variant)

    def open_preprocessor(self) -> Preprocessor:
        return open_preprocessor(
            Bundle.open(self.config.bundle),
            limits=self.config.limits,
            modalities=self.config.modalities,
            on_damaged=self.config.on_damaged,
            align=self.config.align,
        )


def read_unit(unit: Unit, options: ReadOptions, meter: MeterHandle) -> Iterator[pa.Table]:
    """The wanted rows of each shard of a unit, as tables of RECORDS.

    A shard that cannot be read stops none of the others: it stays missing, and the run says so at its end.
    """
    for work in unit:
        try:
            yield from read(work.shard, options, work.wanted)
        except (OSError, InputError) as e:
            meter.fail.remote(work.shard.name, str(e))


def units_to_tables(units: Iterable[Unit]) -> list[pa.Table]:
    """One table a unit, so that Ray makes one task of each."""
    return [pa.table({"unit": [json.dumps([asdict(work) for work in unit])]}) for unit in units]


def unit_from_json(text: str) -> Unit:
    """The inverse of what `units_to_tables` puts into column `unit`."""
    return tuple(
        Work(Shard(**work["shard"]), tuple(Missing(*gap) for gap in work["wanted"]), work["size"])
        for work in json.loads(text)
    )


def heed(job: Job, predict: Predictor, meter: MeterHandle) -> None:
    """Let no record leave a cascade early any more, where that is wanted and early answers went wrong."""
    if job.config.on_shift == "stop" and predict.later and ray.get(meter.shift.remote()):
        predict.close_exits()


def count(outcomes: pa.Table) -> dict[str, float]:
    """Rows and rejects, for the meter."""
    return {"rows": outcomes.num_rows, "rejects": outcomes.num_rows - outcomes["error"].null_count}
