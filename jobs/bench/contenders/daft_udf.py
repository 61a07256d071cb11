"""Daft with a class UDF, one process for each core, each with a session of ONNX Runtime with one thread.

    PYTHONPATH=jobs/bench/contenders python jobs/bench/contenders/daft_udf.py INPUT OUTPUT BUNDLE

Reads Parquet files of the raw bytes (columns `key`, `image`, `text`, `audio`) next to the tars in
INPUT: Daft reads them fastest, and they are made before the measurement. One UDF decodes and infers, so that
    tensors are not sent between processes.
"""

import sys
from typing import Any

import daft
import pyarrow as pa
from daft import DataType
from shared import BATCH_ROWS, CORES, Collator, Decoder, Model, finish

from mmray.sources import EXTENSIONS

_RESULT = DataType.struct(
    {"label": DataType.string(), "score": DataType.float32(), "predicted_at": DataType.float64()}
)


@daft.cls(max_concurrency=CORES, use_process=True)
class Infer:
    """Raw bytes → predictions."""

    def __init__(self, bundle: str) -> None:
        self._decode, self._collate, self._model = Decoder(bundle), Collator(bundle), Model(bundle)

    @daft.method.batch(return_dtype=_RESULT, batch_size=BATCH_ROWS, unnest=True)  # type: ignore[untyped-decorator]
    def predict(self, image: Any, text: Any, audio: Any) -> Any:  # noqa: ANN401  (Daft's series)
        members = zip(*(column.to_pylist() for column in (image, text, audio)), strict=True)
        extensions = [EXTENSIONS[modality][0] for modality in ("image", "text", "audio")]
        rows = [self._decode(dict(zip(extensions, record, strict=True))) for record in members]
        found = self._model(self._collate({name: [row[name] for row in rows] for name in rows[0]}))
        return pa.StructArray.from_arrays([pa.array(values) for values in found.values()], list(found))


if __name__ == "__main__":
    folder, output, bundle = sys.argv[1:]
    records = daft.read_parquet(f"{folder}/*.parquet", file_path_column="path")
    predicted = Infer(bundle).predict(records["image"], records["text"], records["audio"])
    records.select("path", "key", predicted).write_parquet(output)
    finish(output)
