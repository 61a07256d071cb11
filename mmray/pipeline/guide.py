"""What a run directory says of itself to people and to other libraries, beside the run's own files.

Hugging Face's `datasets` takes every data file below a directory for one table, unless the YAML at the head
of its README.md names the tables. A glob over no file is an error in DuckDB and Polars, so there is always a
table of rejects, if one without rows.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq

from mmray.schema import REJECTS

#: In rejects/ and faults/: the columns and no rows. Not hidden, as names with "_" or "." in front are.
NONE = "none.parquet"

README = b"""\
---
configs:
- config_name: predictions
  default: true
  data_files: parts/*.parquet
- config_name: rejects
  data_files: rejects/*.parquet
- config_name: faults
  data_files: faults/*.parquet
---

# A run of mmray

| here | |
| --- | --- |
| `parts/` | predictions, a row for each record |
| `rejects/` | records that could not be processed, and why |
| `faults/` | places where a shard is damaged, so that an unknown number of records is lost there |
| `report.html` | all of it as a page: time, counts, labels, confidence; `mmray report .` makes it anew |
| `summary.json` | counts, speed and settings |
| `plan.json`, `events.jsonl`, `leases/`, `footers.cache` | for mmray, to resume, audit, retry; leave them |

`rejects/none.parquet` and `faults/none.parquet` have the columns and no rows: a query always finds a table.

In this directory:

    duckdb -c "select * from 'parts/*.parquet' limit 5"
    duckdb -c "select stage, type, count(*) from 'rejects/*.parquet' group by all"
    python -c "import pandas; print(pandas.read_parquet('parts'))"
    python -c "import datasets; print(datasets.load_dataset('.'))"
    mmray audit .
    mmray retry .
"""


def no_rejects() -> pa.Buffer:
    """A Parquet file with the columns of rejects and no rows, and so without a row group, as in a part."""
    sink = pa.BufferOutputStream()
    pq.ParquetWriter(sink, REJECTS).close()
    return sink.getvalue()
