"""What every worker of a run needs and does, in both topologies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

import pyarrow as pa
import ray

from mmray.bundle import Bundle
from mmray.canary import Canary
from mmray.config import RunConfig
from mmray.engine.turns import Device
from mmray.errors import InputError, RunError
from mmray.pipeline.liveness import Reporter
from mmray.pipeline.plan import Unit
from mmray.pipeline.rundir import RunDirectory
from mmray.pipeline.survey import output_columns
from mmray.predictor import Predictor, open_preprocessor
from mmray.preprocess import Preprocessor
from mmray.schema import Modality, record_count
from mmray.shapes import Ladder
from mmray.sources import ReadOptions, read


@dataclass(frozen=True)
class Job:
    """What every worker needs to know."""

    config: RunConfig
    bundle: str  # its digest
    part_rows: int
    threads: int  # threads of one inference: the CPUs that an actor owns
    ladder: Ladder | None = None  # sizes of batches on a device
    memory_bytes: int = 0  # bytes that a worker on a CPU may take; 0: no bound
    lease: str | None = None  # of the run directory; without it nothing may be written

    @property
    def out(self) -> RunDirectory:
        return RunDirectory.at(self.config.output, self.lease)

    def open_bundle(self) -> Bundle:
        """The bundle that the run was planned with.

        Raises:
            RunError: another bundle is in its place now.
        """
        bundle = Bundle.open(self.config.bundle)
        if bundle.digest != self.bundle:
            raise RunError(
                f"{bundle.path}: is a different bundle than when the run was planned "
                f"({bundle.digest[:12]}, was {self.bundle[:12]}); restore that one"
            )
        return bundle

    def open_predictor(self) -> Predictor:
        bundle = self.open_bundle()
        return Predictor(
            bundle,
            variant=self.config.variant,
            provider=self.config.provider,
            threads=self.threads,
            batch_rows=self.config.batch_rows,
            ladder=self.ladder,
            shared=True,
            shadow=self.config.shadow,
            columns=output_columns(self.config, bundle),
            device=self.open_device(),
        )

    def open_canary(self) -> Canary | None:
        """The second model, if there is one to compare."""
        options = self.config.canary
        if options is None:
            return None
        bundle = Bundle.open(options.bundle)
        predict = Predictor(
            bundle,
            variant=options.variant,
            provider=self.config.provider,
            threads=self.threads,
            batch_rows=self.config.batch_rows,
            shared=True,
            abstain="never",
        )
        return Canary(predict, self._preprocessor(bundle), options.share)

    def open_device(self) -> Device:
        """What runs the graphs of an actor."""
        return Device()

    def later(self) -> tuple[Modality, ...]:
        """Modalities that are decoded only when a cascade needs them."""
        return () if self.config.verify_all else self.open_bundle().later(self.config.variant)

    def takes(self, stage: int) -> tuple[Modality, ...]:
        """Modalities that a stage of the cascade looks at, counted from 1."""
        cascade = self.open_bundle().manifest.variants[self.config.variant].cascade
        return cascade.stages[stage - 1].modalities if cascade else ()

    def heed_shift(self, predict: Predictor, report: Reporter) -> None:
        """Disable early exits once the meter reports a shift, if the config says so."""
        if self.config.on_shift == "stop" and predict.later:
            report.tell()
            with suppress(ray.exceptions.RayError):  # a lost meter costs figures, never the run
                if ray.get(report.meter.shift.remote()):
                    predict.close_exits()

    def records(
        self, unit: Unit, options: ReadOptions, fail: Callable[[str, str], object]
    ) -> Iterator[pa.Table]:
        """The wanted rows of each shard of a unit, as tables of RECORDS.

        A shard that cannot be read does not stop the others: it stays missing, and the run reports it at the
        end.

        Args:
            unit: what to read.
            options: how.
            fail: gets the name of a shard that cannot be read, and why.
        """
        for work in unit:
            try:
                yield from read(work.shard, options, work.wanted)
            except (OSError, InputError) as e:
                fail(work.shard.name, str(e))

    def open_preprocessor(self) -> Preprocessor:
        return self._preprocessor(self.open_bundle())

    def _preprocessor(self, bundle: Bundle) -> Preprocessor:
        return open_preprocessor(
            bundle,
            limits=self.config.limits,
            modalities=self.config.modalities,
            on_damaged=self.config.on_damaged,
            on_unread=self.config.on_unread,
            foreign_text=self.config.foreign_text,
            align=self.config.align,
        )


def count(outcomes: pa.Table) -> dict[str, float]:
    """Rows and rejects, for the meter."""
    rows = record_count(outcomes)
    return {"rows": rows, "rejects": rows - outcomes["error"].null_count}
