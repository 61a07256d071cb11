"""What a stage of a model saw of some records; sketches are made from this."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mmray.schema import Modality

#: Column that may be added to TENSORS: bool, true for a row that is not a record that arrived.
UNWATCHED = "unwatched"


class Batch(NamedTuple):
    """Rows that were run together, their outputs, and which of them have their answer now."""

    rows: npt.NDArray[np.int64]  # [n], of the table
    outputs: Mapping[str, npt.NDArray[np.generic]]  # of each output the values of these rows
    leaves: npt.NDArray[np.bool_]  # [n]


@dataclass(frozen=True)
class Seen:
    """What a stage of a model answered to n rows of a table."""

    tensors: pa.Table  # of TENSORS, more rows perhaps
    rows: npt.NDArray[np.int64]  # [n], which of them
    outputs: Mapping[str, npt.NDArray[np.generic]]  # "scores", calibrated, [n, C]; "features" [n, D]
    leaves: npt.NDArray[np.bool_]  # [n]
    takes: Collection[Modality]  # modalities that the stage is the first to look at
    stage: int = 1  # of a cascade, from 1
    stages: int = 1

    @classmethod
    def of(
        cls,
        tensors: pa.Table,
        batches: Sequence[Batch],
        counts: npt.NDArray[np.bool_],
        *,
        takes: Collection[Modality],
        stage: int,
        stages: int,
    ) -> Seen | None:
        """All batches of a table in one; None if none of their rows counts.

        Args:
            tensors: the table.
            batches: of its rows.
            counts: [rows of the table], which rows count; rows that we made ourselves do not.
            takes: as in this class; so are the other arguments.
        """
        if UNWATCHED in tensors.column_names:
            counts = counts & ~tensors[UNWATCHED].to_numpy()
        rows = np.concatenate([batch.rows for batch in batches]) if batches else np.zeros(0, np.int64)
        kept = counts[rows]
        if not kept.any():
            return None
        outputs = {
            name: np.concatenate([batch.outputs[name] for batch in batches])[kept]
            for name in ("scores", "features")
            if name in batches[0].outputs
        }
        leaves = np.concatenate([batch.leaves for batch in batches])[kept]
        return cls(tensors, rows[kept], outputs, leaves, takes, stage, stages)


class Watcher(Protocol):
    """Gets what stages see."""

    def see(self, seen: Seen | None) -> None:
        """Some rows of a table, at one stage; None: none of them counts."""
