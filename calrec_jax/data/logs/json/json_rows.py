"""Rows of JSON as columns: by PyArrow where they are plain, else by Python.

Plain lines of objects are parsed by PyArrow, whole blocks at a time, in the
types of the first rows. Python reads pieces of a block with odd rows.
"""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute creates its functions at run time.)

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from calrec_jax.data.logs.files import line_blocks, nested, row_blocks
from calrec_jax.data.logs.json import json_blocks, json_values, python_literals

_FEW, _PIECES = 32, 16  # Rows of a piece of a block, and number of pieces.
_MAX_SCHEMAS = 4


def of_values(
  values: Sequence[Mapping[str, Any]],
  lines: np.ndarray,
  ways: Mapping[str, nested.Steps],
  as_json: Sequence[str] = (),
) -> row_blocks.Rows:
  """Objects as rows.

  Args:
    values: The objects.
    lines: int64[n], line of each.
    ways: Way to each wanted column by its name, see `nested.steps`.
    as_json: Keys whose values become their JSON, see `ReadOptions`.
  """
  tops, lines, broken = _tops(values, lines, ways, as_json)
  return _flat(tops, lines, ways)._replace(broken=broken)


def _tops(
  values: Sequence[Mapping[str, Any]],
  lines: np.ndarray,
  ways: Mapping[str, nested.Steps],
  as_json: Sequence[str],
) -> tuple[dict[str, pa.Array], np.ndarray, np.ndarray]:
  """Top columns, the lines of their rows, and the lines of broken rows."""
  keys = list(dict.fromkeys(way[0] for way in ways.values()))
  try:
    tops = {key: _column(values, key, as_json) for key in keys}
    return tops, lines, np.empty(0, np.int64)
  except UnicodeEncodeError:
    good = np.array(
      [json_blocks.encodes([row.get(key) for key in keys]) for row in values],
      bool,
    )
    values = [values[i] for i in np.flatnonzero(good).tolist()]
    tops = {key: _column(values, key, as_json) for key in keys}
    return tops, lines[good], lines[~good]


def _column(
  values: Sequence[Mapping[str, Any]], key: str, as_json: Sequence[str]
) -> pa.Array:
  parts = [row.get(key) for row in values]
  if any(isinstance(part, dict | list) for part in parts):
    parts = list(map(json_values.plain, parts))
  if key in as_json:
    written = [
      None
      if part is None
      else json.dumps(part, ensure_ascii=False, default=str)
      for part in parts
    ]
    return pa.array(written, pa.string())
  return json_values.column(parts)


def _flat(
  tops: Mapping[str, pa.Array],
  lines: np.ndarray,
  ways: Mapping[str, nested.Steps],
) -> row_blocks.Rows:
  """The wanted columns of top columns."""
  flat = nested.flatten(tops, ways, len(lines))
  rows = lines if flat.rows is None else lines[flat.rows]
  return row_blocks.Rows(pa.table(flat.columns), rows, lines[flat.uneven])


class Lines:
  """Parses blocks of lines in the types of earlier rows.

  Attributes:
    seen: Top keys that Python found in rows.
  """

  def __init__(
    self,
    ways: Mapping[str, nested.Steps],
    first: Sequence[Mapping[str, Any]],
    *,
    literals: bool,
    as_json: Sequence[str] = (),
  ) -> None:
    """Learns the types of the first rows.

    Args:
      ways: Way to each wanted column by its name, see `nested.steps`.
      first: First rows of the file.
      literals: Whether lines are printed Python rather than JSON.
      as_json: Keys whose values become their JSON, see `ReadOptions`.
    """
    self._ways, self._literals, self._as_json = ways, literals, as_json
    self._schemas: list[pa.Schema] = []
    self.seen = {key for row in first for key in row}
    self._learn(first)

  def _learn(self, rows: Sequence[Mapping[str, Any]]) -> bool:
    """Adds the types of some rows; whether they are new."""
    inner: dict[str, list[nested.Steps]] = {}
    for way in self._ways.values():
      inner.setdefault(way[0], []).append(way[1:])
    try:
      kinds = {
        key: None
        if key in self._as_json
        else _type([row.get(key) for row in rows], ways)
        for key, ways in inner.items()
      }
    except UnicodeEncodeError:
      return False
    if not kinds or any(kind is None for kind in kinds.values()):
      return False
    schema = pa.schema(list(kinds.items()))
    if schema in self._schemas or len(self._schemas) >= _MAX_SCHEMAS:
      return False
    self._schemas = [*self._schemas, schema]
    return True

  def parse(self, block: line_blocks.Block) -> row_blocks.Rows:
    """The rows of a block."""
    data = block.data
    if self._literals:
      data = python_literals.to_json(data)
    if b"\r" in data:  # In JSON itself it can only be white space.
      data = data.replace(b"\r\n", b"\n")
    count = data.count(b"\n") + (not data.endswith(b"\n"))
    lines = np.arange(block.first_line, block.first_line + count)
    tops = self._whole(data, count)
    if tops is not None:
      return _flat(tops, lines, self._ways)
    texts = [line.strip() for line in data.split(b"\n")]
    filled = [row for row, text in enumerate(texts) if text]
    texts, lines = [texts[row] for row in filled], lines[filled]
    step = max(len(texts) // 200, 1)
    sample = [row for text in texts[::step] if (row := _row(text)) is not None]
    self.seen.update(*sample)
    self._learn(sample)
    parts = list(self._pieces(texts, lines))
    tops = {
      key: json_values.joined([part[key] for part, *_ in parts])
      for key in parts[0][0]
    }
    good, malformed, broken = (
      np.concatenate([part[i] for part in parts]) for i in (1, 2, 3)
    )
    rows = _flat(tops, good, self._ways)
    malformed = np.sort(np.concatenate([rows.malformed, malformed]))
    return rows._replace(malformed=malformed, broken=broken)

  def _pieces(self, texts: list[bytes], lines: np.ndarray) -> Iterator[Any]:
    """The rows of a block that PyArrow rejects as a whole, piece by piece.

    Further halving would read the block once more for each halving, which takes
    longer than Python if there are many odd rows.
    """
    nothing = np.empty(0, np.int64)
    size = max(len(texts) // _PIECES + 1, _FEW)
    for start in range(0, max(len(texts), 1), size):
      piece, at = texts[start : start + size], lines[start : start + size]
      tops = self._whole(b"\n".join(piece), len(piece))
      if tops is not None:
        yield tops, at, nothing, nothing
        continue
      rows = list(map(_row, piece))
      good = np.array([row is not None for row in rows], bool)
      values = [row for row in rows if row is not None]
      self.seen.update(*values)
      tops, kept, broken = _tops(values, at[good], self._ways, self._as_json)
      yield tops, kept, at[~good], broken

  def _whole(self, data: bytes, count: int) -> dict[str, pa.Array] | None:
    """Top columns, if every line is a row of one of the schemas."""
    # PyArrow also takes several objects in a line, and one over several lines.
    # A line break between objects cannot be inside one, so as many of these
    # as lines mean one object a line.
    if (
      not data.startswith(b"{")
      or not data.endswith((b"}", b"}\n"))
      or data.count(b"}\n{") != count - 1
    ):
      return None
    for schema in self._schemas:
      table = json_blocks.whole(data, count, schema)
      if table is not None and not any(map(_is_rounded, table.columns)):
        return {name: table[name].combine_chunks() for name in schema.names}
    return None


def _row(text: bytes) -> dict[str, Any] | None:
  try:
    row = json.loads(text.decode("utf-8", "surrogateescape"))
  except (ValueError, RecursionError):
    return None
  return row if isinstance(row, dict) else None


def _type(
  values: Sequence[Any], ways: Sequence[nested.Steps]
) -> pa.DataType | None:
  """The type of values as far as ways lead into them; None has to be Python."""
  if () in ways:
    kind = json_values.column(values).type
    return kind if _is_flat(kind) else None
  present = [value for value in values if value is not None]
  if not present:
    return pa.null()
  if all(way[0] == nested.EACH for way in ways):
    if not all(isinstance(value, list) for value in present):
      return None
    parts = [part for value in present for part in value]
    kind = _type(parts, [way[1:] for way in ways])
    return pa.list_(kind) if kind is not None else None
  if any(way[0] == nested.EACH for way in ways) or not all(
    isinstance(value, dict) for value in present
  ):
    return None
  fields: dict[str, list[nested.Steps]] = {}
  for way in ways:
    fields.setdefault(way[0], []).append(way[1:])
  kinds = {
    key: _type([value.get(key) for value in present], inner)
    for key, inner in fields.items()
  }
  if any(kind is None for kind in kinds.values()):
    return None
  return pa.struct(list(kinds.items()))


def _is_flat(kind: pa.DataType) -> bool:
  """Whether PyArrow reads a type as Python does."""
  if pa.types.is_list(kind):
    return _is_flat(kind.value_type)
  return (
    pa.types.is_string(kind)
    or pa.types.is_int64(kind)
    or pa.types.is_float64(kind)
    or pa.types.is_boolean(kind)
    or pa.types.is_null(kind)
  )


def _is_rounded(column: pa.ChunkedArray) -> bool:
  """Whether a number in the column, at any depth, may have been rounded."""
  if pa.types.is_struct(column.type):
    return any(map(_is_rounded, column.flatten()))
  if pa.types.is_list(column.type):
    return _is_rounded(pc.list_flatten(column))
  if not pa.types.is_float64(column.type):
    return False
  largest = pc.max(pc.abs(column)).as_py()
  return largest is not None and largest >= json_values.EXACT
