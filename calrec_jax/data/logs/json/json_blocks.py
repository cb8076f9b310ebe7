"""Blocks of JSON lines to columns of given types.

PyArrow parses whole blocks without the interpreter's lock, and only the
requested columns. It rejects a block because of one odd row; the block is then
halved until the odd rows are isolated. Python's more lenient parser reads
those, and rows that it rejects too are counted. So how a row is read depends on
the row alone.
"""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute creates its functions at run time.)

from __future__ import annotations

import contextlib
import io
import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pa_json

from calrec_jax.data.logs.files import line_blocks
from calrec_jax.data.logs.files.row_blocks import Rows

_FEW = 32  # Rows that Python reads faster than halving finds the odd one.


def parse(
  block: line_blocks.Block,
  schema: pa.Schema,
  variants: Sequence[pa.Schema] = (),
) -> Rows:
  """Reads the rows of a block, in order; blank lines are skipped.

  Args:
    block: Lines of the file, one JSON object each.
    schema: Requested columns and their types.
    variants: Other types that whole columns may have, such as numbers where the
      schema has text; these blocks are converted.
  """
  data = block.data
  schemas = (schema, *variants)
  count = data.count(b"\n") + (not data.endswith(b"\n"))
  lines = np.arange(block.first_line, block.first_line + count)
  table = _whole(data, count, schemas)
  if table is not None:
    return Rows(table, lines)
  texts = [line.strip() for line in data.split(b"\n")]
  filled = [row for row, text in enumerate(texts) if text]
  parts = _halved([texts[row] for row in filled], lines[filled], schemas)
  tables, *columns = zip(*parts, strict=True)
  return Rows(pa.concat_tables(tables), *map(np.concatenate, columns))


def _halved(
  texts: list[bytes], lines: np.ndarray, schemas: Sequence[pa.Schema]
) -> list[Rows]:
  """The rows of a block that PyArrow rejects as a whole."""
  if len(texts) <= _FEW:
    return [_one_by_one(texts, lines, schemas)]
  table = _whole(b"\n".join(texts), len(texts), schemas)
  if table is not None:
    return [Rows(table, lines)]
  half = len(texts) // 2
  return [
    *_halved(texts[:half], lines[:half], schemas),
    *_halved(texts[half:], lines[half:], schemas),
  ]


def _one_by_one(
  texts: list[bytes], lines: np.ndarray, schemas: Sequence[pa.Schema]
) -> Rows:
  rows, good, malformed, broken, wrong_type = [], [], [], [], []
  for text, line in zip(texts, lines.tolist(), strict=True):
    row = _row(text, schemas)
    if row is None:
      malformed.append(line)
      continue
    values, wrong = coerce(row, schemas[0])
    if not encodes(values):
      broken.append(line)
      continue
    if wrong:
      wrong_type.append(line)
    good.append(line)
    rows.append(dict(zip(schemas[0].names, values, strict=True)))
  found = (good, malformed, broken, wrong_type)
  return Rows(
    pa.Table.from_pylist(rows, schema=schemas[0]),
    *(np.array(lines, np.int64) for lines in found),
  )


def coerce(row: dict[str, Any], schema: pa.Schema) -> tuple[list[Any], bool]:
  """A row's values in the schema's types.

  Numbers become text and text becomes numbers where that loses nothing; a
  single value becomes a list of one where the schema has a list.

  Returns:
    One value per column, None where there is none, and whether a value was
    dropped because its type cannot hold it.
  """
  values, wrong = [], False
  for name, kind in zip(schema.names, schema.types, strict=True):
    raw = row.get(name)
    value = _as_type(raw, kind)
    wrong |= value is None and raw is not None
    values.append(value)
  return values, wrong


def _whole(
  data: bytes, count: int, schemas: Sequence[pa.Schema]
) -> pa.Table | None:
  """The rows if every line is a row of one of the schemas, else None."""
  for schema in schemas:
    table = whole(data, count, schema)
    if table is None:
      continue
    try:
      table = table.select(schemas[0].names).cast(schemas[0])
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
      continue
    # PyArrow retains nulls in lists, which `coerce` omits.
    odd = any(_has_null_parts(column) for column in table.columns)
    return None if odd else table
  return None


def whole(data: bytes, count: int, schema: pa.Schema) -> pa.Table | None:
  """The rows of some lines if each is a row of a schema, else None.

  Args:
    data: Lines, none of them blank.
    count: Number of the lines.
    schema: Requested columns and their types.
  """
  if b"\r" in data:  # In JSON itself it can only be white space.
    data = data.replace(b"\r\n", b"\n")
  # PyArrow also takes several objects in a line, and one over several lines.
  # A line break between objects cannot be inside one, so as many of these
  # as lines mean one object a line.
  if (
    not data.startswith(b"{")
    or not data.endswith((b"}", b"}\n"))
    or data.count(b"}\n{") != count - 1
  ):
    return None
  try:
    table = pa_json.read_json(
      io.BytesIO(data),
      read_options=pa_json.ReadOptions(
        use_threads=False, block_size=len(data) + 1
      ),
      parse_options=pa_json.ParseOptions(
        explicit_schema=schema, unexpected_field_behavior="ignore"
      ),
    )
    table.validate(full=True)  # PyArrow does not look at the encoding.
  except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
    return None
  return table if table.num_rows == count else None


def _has_null_parts(column: pa.ChunkedArray) -> bool:
  """Whether a list in the column, at any depth, holds a null."""
  if pa.types.is_struct(column.type):
    return any(map(_has_null_parts, column.flatten()))
  if not pa.types.is_list(column.type):
    return False
  parts = pc.list_flatten(column)
  return bool(parts.null_count) or _has_null_parts(parts)


def _row(text: bytes, schemas: Sequence[pa.Schema]) -> dict[str, Any] | None:
  """A line as an object, or None."""
  try:
    row = json.loads(text.decode("utf-8", errors="surrogateescape"))
  except RecursionError:  # PyArrow has no such limit.
    table = _whole(text, 1, schemas)
    return table.to_pylist()[0] if table is not None else None
  except ValueError:
    return None
  return row if isinstance(row, dict) else None


def _as_type(value: Any, kind: pa.DataType) -> Any:
  """A value in an Arrow type, or None."""
  if value is None or isinstance(value, bool):
    return None
  if pa.types.is_string(kind) or pa.types.is_large_string(kind):
    if isinstance(value, str):
      return value
    if isinstance(value, float):
      whole = math.isfinite(value) and value.is_integer()
      return str(int(value)) if whole else repr(value)
    return str(value) if isinstance(value, int) else None
  if pa.types.is_list(kind):
    if not isinstance(value, list):
      value = [value]
    parts = [_as_type(part, kind.value_type) for part in value]
    return [part for part in parts if part is not None]
  if pa.types.is_struct(kind):
    if isinstance(value, str):  # Parquet files hold objects as their text.
      with contextlib.suppress(ValueError, RecursionError):
        value = json.loads(value)
    if not isinstance(value, dict):
      return None
    return {
      part.name: _as_type(value.get(part.name), part.type) for part in kind
    }
  return _as_number(value, kind)


def _as_number(value: Any, kind: pa.DataType) -> int | float | None:
  try:
    number = float(value)
  except (TypeError, ValueError, OverflowError):
    return None
  if not math.isfinite(number):
    return None
  if not pa.types.is_integer(kind):
    return number
  # A float holds whole numbers up to 2^53, and ids or times are below.
  whole = value if isinstance(value, int) else round(number)
  return whole if abs(whole) < 2**63 else None


def encodes(value: Any) -> bool:
  """Whether all text in a JSON value can be written as UTF-8."""
  if isinstance(value, str):
    try:
      return value.isascii() or bool(value.encode())
    except UnicodeEncodeError:
      return False
  if isinstance(value, dict):
    return all(map(encodes, (*value.keys(), *value.values())))
  return not isinstance(value, list) or all(map(encodes, value))
