"""Files of rows, of any size, as a stream of columns with line numbers.

JSON lines are decompressed here and parsed in order by threads, a few blocks
ahead; PyArrow's parser releases the interpreter's lock. Memory depends on the
size of a block and the number of cores, not on the file.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from calrec_jax.data.logs import problems as problems_lib
from calrec_jax.data.logs import progress
from calrec_jax.data.logs.files import ahead, line_blocks, row_blocks
from calrec_jax.data.logs.json import json_blocks
from calrec_jax.errors import InputError

_PARQUET = b"PAR1"
_PARQUET_ROWS = 32768

Convert = Callable[[bytes], bytes]


def read(
  path: str,
  schema: pa.Schema,
  problems: problems_lib.Problems,
  *,
  variants: Sequence[pa.Schema] = (),
  convert: Convert | None = None,
  workers: int | None = None,
) -> Iterator[row_blocks.Rows]:
  """Reads a file of JSON lines, plain or gzip, or of Parquet.

  Args:
    path: Path of the file; its first bytes determine the format, not its name.
    schema: Requested columns and their types.
    problems: Counter of malformed rows and broken encodings.
    variants: Other types of whole columns, see `json_blocks.parse`.
    convert: Function that converts lines of another format to JSON lines, a
      block at a time, each line by itself.
    workers: Number of threads that parse; None is one per core.

  Yields:
    Rows in the file's order, with their lines (in Parquet: row numbers).

  Raises:
    InputError: If the file is damaged.
    OSError: If it cannot be read.
  """
  name = os.path.basename(path)
  with progress.of_bytes(f"read {name}", os.path.getsize(path)) as bar:
    if _starts_with(path, _PARQUET):
      stream = _parquet(path, schema, bar.update)
    else:

      def parse(block: line_blocks.Block) -> row_blocks.Rows:
        if convert is not None:
          block = block._replace(data=convert(block.data))
        return json_blocks.parse(block, schema, variants)

      blocks = line_blocks.read(path, on_bytes=bar.update)
      stream = ahead.in_order(parse, blocks, workers)
    for rows in stream:
      problems.add_rows("malformed_row", path, rows.malformed)
      problems.add_rows("broken_encoding", path, rows.broken)
      yield rows


def _parquet(
  path: str, schema: pa.Schema, on_bytes: Callable[[int], object]
) -> Iterator[row_blocks.Rows]:
  try:
    file = pq.ParquetFile(path)
    present = [name for name in schema.names if name in file.schema_arrow.names]
    per_row = os.path.getsize(path) / max(file.metadata.num_rows, 1)
    line = 1
    for batch in file.iter_batches(_PARQUET_ROWS, columns=present):
      table, wrong = _cast(pa.table(batch), schema)
      lines = np.arange(line, line + table.num_rows)
      line += table.num_rows
      on_bytes(round(per_row * table.num_rows))
      yield row_blocks.Rows(table, lines, wrong_type=lines[wrong])
  except FileNotFoundError:
    raise
  except (pa.ArrowInvalid, OSError) as error:
    raise InputError(f"{path} is damaged: {error}") from error


def _cast(table: pa.Table, schema: pa.Schema) -> tuple[pa.Table, np.ndarray]:
  """A table in the schema's types, and bool[n]: rows that lost a value."""
  try:
    columns = [
      table[field.name].cast(field.type)
      if field.name in table.column_names
      else pa.nulls(table.num_rows, field.type)
      for field in schema
    ]
    return pa.table(columns, schema=schema), np.zeros(table.num_rows, bool)
  except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
    values = [json_blocks.coerce(row, schema) for row in table.to_pylist()]
    rows = [dict(zip(schema.names, row, strict=True)) for row, _ in values]
    return (
      pa.Table.from_pylist(rows, schema=schema),
      np.array([wrong for _, wrong in values], bool),
    )


def _starts_with(path: str, magic: bytes) -> bool:
  with open(path, "rb") as stream:
    return stream.read(len(magic)) == magic
