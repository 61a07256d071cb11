"""README.md and empty tables of a run directory, for people and for other libraries.

Hugging Face's `datasets` reads every data file below a directory as one table, unless the YAML front matter
of its README.md names the tables. A glob without files is an error in DuckDB and Polars, so there is always a
table of rejects, possibly without rows.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq

from mmray.schema import REJECTS

#: In rejects/ and faults/: the columns without rows. Names that begin with "_" or "." would be hidden.
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
| `faults/` | places where a shard is damaged; an unknown number of records is lost there |
| `report.html` | all results as a page: time, counts, labels, confidence; `mmray report .` writes it again |
| `summary.json` | counts, speed and settings |
| `plan.json`, `events.jsonl`, `leases/`, `footers.cache` | for mmray only: to resume, audit and retry |

`rejects/none.parquet` and `faults/none.parquet` have columns but no rows: queries find a table.

In this directory:

    duckdb -c "select * from 'parts/*.parquet' limit 5"
    duckdb -c "select stage, type, count(*) from 'rejects/*.parquet' group by all"
    python -c "import pandas; print(pandas.read_parquet('parts'))"
    python -c "import datasets; print(datasets.load_dataset('.'))"
    mmray audit .
    mmray retry .
"""


def no_rejects() -> pa.Buffer:
    """A Parquet file with the columns of rejects, without rows and row groups, as in a part."""
    sink = pa.BufferOutputStream()
    pq.ParquetWriter(sink, REJECTS).close()
    return sink.getvalue()
