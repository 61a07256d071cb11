"""The pipeline that Ray Data's documentation shows for checkpoints, around the same model.

    python jobs/contenders/ray_checkpoint.py RECORDS OUTPUT BUNDLE

RECORDS is a directory of Parquet files of RECORDS with a unique column `id`. Run again, it resumes.
"""

import sys
from typing import Any

import ray
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
    # One actor without a CPU of its own: with one, a resume stood still on two CPUs (see docs/log.md).
    # Enough blocks that some are written before the end; by default Ray would make one of all.
    ray.data.read_parquet(records, override_num_blocks=40).map_batches(
        Infer,
        fn_constructor_args=(bundle,),
        batch_size=64,
        batch_format="pyarrow",
        num_cpus=0,
        compute=ActorPoolStrategy(size=1),
    ).write_parquet(output)
