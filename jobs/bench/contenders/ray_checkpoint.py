"""The pipeline that Ray Data's documentation shows for checkpoints, around the same model.

    python jobs/bench/contenders/ray_checkpoint.py RECORDS OUTPUT BUNDLE

RECORDS is a directory of Parquet files of RECORDS with a unique column `id`. A second call resumes.
Appends the bytes read from RECORDS, a line for each opened file, to OUTPUT-read.txt.
"""

import sys
from typing import Any

import pyarrow.fs as pafs
import ray
from counting import CountingFileSystem  # next to this script, so that Ray's workers find it, too
from ray.data import ActorPoolStrategy, DataContext
from ray.data.checkpoint import CheckpointConfig

from mmray.bundle import Bundle
from mmray.predictor import Predictor, open_preprocessor


class Infer:
    """Raw records in, outcomes out."""

    def __init__(self, bundle: str) -> None:
        opened = Bundle.open(bundle)
        self._preprocess, self._predict = open_preprocessor(opened), Predictor(opened)

    def __call__(self, batch: Any) -> Any:  # noqa: ANN401  (an Arrow table)
        return self._predict(self._preprocess(batch)).append_column("id", batch["id"])


if __name__ == "__main__":
    records, output, bundle = sys.argv[1:]
    ray.init(include_dashboard=False)
    DataContext.get_current().checkpoint_config = CheckpointConfig(
        id_column="id", checkpoint_path=f"{output}-checkpoint", delete_checkpoint_on_success=False
    )
    disk = pafs.PyFileSystem(pafs.FSSpecHandler(CountingFileSystem(f"{output}-read.txt")))
    # One actor without its own CPU: a resume filters in actors that each take a CPU, so with two CPUs none
    # would
    # be left for reading, and it would hang.
    # Enough blocks so that some are written before the end; by default Ray would make a single one.
    ray.data.read_parquet(records, filesystem=disk, override_num_blocks=40).map_batches(
        Infer,
        fn_constructor_args=(bundle,),
        batch_size=64,
        batch_format="pyarrow",
        num_cpus=0,
        compute=ActorPoolStrategy(size=1),
    ).write_parquet(output)
