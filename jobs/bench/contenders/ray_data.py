"""Ray Data as in its documentation of batch inference: read_webdataset, map, map_batches, write_parquet.

    python jobs/bench/contenders/ray_data.py INPUT OUTPUT BUNDLE

A session of ONNX Runtime with one thread for each core, in a pool of actors; no torch. Each actor requests
half a CPU: with a whole one for each, none would be left for the tasks that read and preprocess, and Ray
would wait forever; with one actor fewer than cores, a core would idle, because the model takes three quarters
of the time.
"""

import sys
from functools import partial
from typing import Any

import numpy as np
import ray
from ray.data import ActorPoolStrategy, DataContext
from shared import BATCH_ROWS, CORES, Collator, Model, finish, opened_decoder, shards_of

_ACTOR_CPUS = 0.5


def preprocess(row: dict[str, Any], bundle: str) -> dict[str, Any]:
    """One sample → its tensors, compact: uint8 pixels, token ids, float16 log-mel."""
    # A missing member is NaN.
    members = {name: value for name, value in row.items() if isinstance(value, bytes)}
    return {"path": row["path"], "key": row["__key__"], **opened_decoder(bundle)(members)}


class Infer:
    """Tensors → predictions, in an actor that holds the model."""

    def __init__(self, bundle: str) -> None:
        self._collate, self._model = Collator(bundle), Model(bundle)

    def __call__(self, batch: Any) -> dict[str, np.ndarray[Any, Any]]:  # noqa: ANN401  (an Arrow table)
        found = self._model(self._collate(batch))
        return {"path": np.array(batch["path"]), "key": np.array(batch["key"]), **found}


if __name__ == "__main__":
    folder, output, bundle = sys.argv[1:]
    ray.init(include_dashboard=False, log_to_driver=False)
    DataContext.get_current().enable_progress_bars = False
    ray.data.read_webdataset(shards_of(folder), decoder=None, include_paths=True).map(
        partial(preprocess, bundle=bundle)
    ).map_batches(
        Infer,
        fn_constructor_args=(bundle,),
        batch_size=BATCH_ROWS,
        batch_format="pyarrow",
        num_cpus=_ACTOR_CPUS,
        compute=ActorPoolStrategy(size=CORES),
    ).write_parquet(output)
    finish(output)
