"""A batch job from a program: a notebook, Airflow, a script."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds

from mmray.config import RunConfig, load_config, with_assignments
from mmray.pipeline.run import Watcher
from mmray.pipeline.run import run as run_pipeline
from mmray.pipeline.rundir import RunDirectory
from mmray.pipeline.snapshot import Snapshot
from mmray.report.page import try_report
from mmray.storage import Location


@dataclass(frozen=True)
class Finished:
    """A finished run."""

    output: str  # the run directory
    summary: Mapping[str, Any]  # contents of summary.json

    @property
    def ok(self) -> bool:
        """Whether each record of the input is predicted or rejected, once."""
        return bool(self.summary["ok"])

    def parts(self) -> ds.Dataset:
        """Predictions, a row each: `.to_table()`, `.to_table(columns=["key", "label"])`, `.to_batches()`."""
        return self._dataset("parts")

    def rejects(self) -> ds.Dataset:
        """Records that could not be predicted: `stage`, `type` and `reason` of each."""
        return self._dataset("rejects")

    @property
    def report(self) -> str | None:
        """Path of report.html, if it was written."""
        report = RunDirectory.at(self.output).report
        return str(report) if report.exists() else None

    def _dataset(self, name: str) -> ds.Dataset:
        place = Location.parse(self.output) / name
        return ds.dataset(place.path, filesystem=place.filesystem, format="parquet")


def run(
    config: RunConfig | str | PathLike[str] | None = None,
    *,
    on_progress: Callable[[Snapshot], None] = lambda _: None,
    on_message: Callable[[str], None] = lambda _: None,
    **settings: Any,  # noqa: ANN401
) -> Finished:
    """Run a bundle over all records of some shards, or resume an interrupted call.

        done = mmray.run(input="data/shards", bundle="bundles/stamps", output="runs/first", carry=["label"])
        done.parts().to_table().to_pandas()

    It joins the Ray cluster of this program, of RAY_ADDRESS or of `ray start`, or starts a temporary one.

    Args:
        config: of the run, or its YAML file.
        on_progress: gets the progress twice a second, in a separate thread.
        on_message: gets messages for the user.
        settings: keys of the config, which override the file.

    Raises:
        UsageError: nothing was run: a setting, the input, the bundle or the output is invalid.
        RunError: the run was interrupted; the same call resumes it.
    """
    if isinstance(config, RunConfig):
        config = (
            config
            if not settings
            else with_assignments(RunConfig, {**config.model_dump(), **settings}, (), "run")
        )
    else:
        config = load_config(Path(config) if config else None, settings)
    watcher = Watcher(lambda *_: None, lambda _: None, on_progress, on_message)
    result = run_pipeline(config, watcher)
    if config.report and (problem := try_report(config.output)):
        on_message(problem)
    return Finished(config.output, result.summary)
