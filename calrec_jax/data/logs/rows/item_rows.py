"""Descriptions of items, block by block, to one description per item.

Each field of an item has the first value that is there: rows whose title is
empty do not hide the title of a later row. An item's later rows that say
something else are counted.
"""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute creates its functions at run time.)

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from calrec_jax.data.logs import events as events_lib
from calrec_jax.data.logs import problems as problems_lib
from calrec_jax.data.logs.columns import (
  arrow_columns,
  id_codes,
  id_rules,
  values,
)
from calrec_jax.data.logs.files import row_blocks
from calrec_jax.data.logs.guessing import id_checks

_ID, _FILE, _LINE = "id", "file", "line"
# Names of the fields' columns are numbers, so that none is one of these.
_COMPACT_ROWS = 1 << 20


class Described(NamedTuple):
  """What a block says of items.

  Attributes:
    table: The rows that may matter: ids, lines, and fields by number.
    present: Names of the fields that it has.
    broken: Lines whose bytes are no text, of each field.
    missing: int64[m], lines without an id.
  """

  table: pa.Table
  present: list[str]
  broken: list[np.ndarray]
  missing: np.ndarray


class ItemRows:
  """Collects rows that describe items."""

  def __init__(
    self,
    id_column: str,
    names: Mapping[str, str],
    problems: problems_lib.Problems,
    *,
    own_files: bool,
    missing: tuple[str, ...] = (),
    id_rules: tuple[str, ...] = (),
  ) -> None:
    """Starts without rows.

    Args:
      id_column: Column of the item's id.
      names: Column of the files by item column, see `LogFiles.text_columns`.
      problems: Counter of the rows that describe no item, or one again.
      own_files: Whether the rows describe items only; otherwise they are
        events, which describe the same item many times.
      missing: Words that mean a missing value.
      id_rules: Rules that spell ids alike, see `id_rules`.
    """
    self._id_column, self._names, self._problems = id_column, names, problems
    self._own_files = own_files
    self._missing, self._id_rules = missing, id_rules
    self._files: list[str] = []
    self._tables: list[pa.Table] = []
    self._waiting = self._num_rows = 0
    self._present: dict[str, None] = {}
    self._available: dict[str, None] = {}

  def read(
    self,
    rows: row_blocks.Rows,
    available: tuple[str, ...],
    ids: id_codes.Ids | None = None,
  ) -> Described:
    """Reads a block; any thread may.

    Args:
      rows: The block, with the columns of the names that it has.
      available: Names of all columns of its file.
      ids: Ids of its items, if they have been read already.
    """
    if ids is None:
      found = values.ids(_array(rows.table, self._id_column), self._missing)
      ids = id_rules.normalise(found, self._id_rules)
    texts: Any = ids
    if isinstance(ids, np.ndarray):
      texts = pa.array(ids, mask=ids < 0 if np.any(ids < 0) else None)
    missing = texts.is_null().to_numpy(zero_copy_only=False)
    fields = {
      column: _array(rows.table, name)
      for column, name in self._names.items()
      if name in rows.table.column_names
    }
    broken = [rows.lines[values.broken(raw)] for raw in fields.values()]
    # JSON has a column of nulls where a block does not have the name.
    fields = {
      column: raw
      for column, raw in fields.items()
      if self._names[column] in available
      or values.tidy(raw, self._missing).null_count < len(raw)
    }
    numbers = {column: str(i) for i, column in enumerate(self._names)}
    table = pa.table(
      {_ID: texts, _LINE: pa.array(rows.lines)}
      | {numbers[column]: raw for column, raw in fields.items()}
    )
    if missing.any():
      table = table.filter(pa.array(~missing))
    if not self._own_files:
      table = _without_repeats(table)
    for number in table.column_names[2:]:
      tidy = self._flat(values.tidy(_array(table, number), self._missing))
      at = table.column_names.index(number)
      table = table.set_column(at, number, tidy)
    return Described(table, list(fields), broken, rows.lines[missing])

  def add(
    self,
    file: str,
    rows: row_blocks.Rows,
    available: tuple[str, ...],
    found: Described | None = None,
  ) -> None:
    """Adds a block.

    Args:
      file: Path of its file.
      rows: The block, with the columns of the names that it has.
      available: Names of all columns of its file.
      found: What `read` says of it, if that has been asked already.
    """
    found = found or self.read(rows, available)
    self._available |= dict.fromkeys(available)
    if file not in self._files:
      self._files.append(file)
    for lines in found.broken:
      self._problems.add_rows("broken_encoding", file, lines)
    if self._own_files:
      self._problems.add_rows("missing_item", file, found.missing)
    self._present |= dict.fromkeys(found.present)
    self._num_rows += rows.num_rows
    number = np.full(len(found.table), self._files.index(file), np.int32)
    self._tables.append(found.table.append_column(_FILE, pa.array(number)))
    self._waiting += len(found.table)
    if not self._own_files and self._waiting > _COMPACT_ROWS:
      self._tables = [_compact(_concatenated(self._tables))]
      self._waiting = -len(self._tables[0])  # Wait for as many new rows.

  def _flat(self, column: pa.Array) -> pa.Array:
    """A column by which rows can be grouped: lists and objects as text."""
    if pa.types.is_nested(column.type) and not self._own_files:
      return _nested_texts(column)
    if pa.types.is_dictionary(column.type):
      return column.dictionary_decode()
    if pa.types.is_null(column.type):
      return column.cast(pa.large_string())
    return column

  def finish(self) -> events_lib.Items:
    """The distinct items, in the order of their first rows."""
    table = _concatenated(self._tables)
    codes, starts = _codes(table)
    count = len(starts)
    lines = _array(table, _LINE).to_numpy()
    differs = np.zeros(len(table), bool)
    chosen: dict[str, id_codes.Column] = {}
    for number, column in enumerate(self._names):
      if column in self._present:
        raw = _array(table, str(number))
        first, other = _first_values(raw, codes, count)
        differs |= other
        values_ = raw.take(first)
        id_checks.note_words(column, values_, self._missing, self._problems)
        chosen[column] = id_codes.Column(values_)
    item_ids = _array(table, _ID).take(pa.array(starts)).cast(pa.large_string())
    conflicting = np.flatnonzero(differs)
    if not self._own_files:  # An item counts once, however often it is bought.
      once = _first_rows(codes, conflicting, count)
      conflicting = np.sort(once[once >= 0])
    if len(conflicting):
      row = int(conflicting[0])
      file = self._files[table[_FILE][row].as_py()]
      first_place = problems_lib.location(file, int(lines[row]))
      self._problems.add("conflicting_item", first_place, len(conflicting))
    return events_lib.Items(
      item_ids=item_ids.to_pylist(),
      columns=dict(chosen),
      file=self._files[0] if self._files else "",
      lines=lines[starts],
      available=tuple(self._available),
      num_rows=self._num_rows,
    )


def _first_values(
  column: pa.Array, codes: np.ndarray, count: int
) -> tuple[pa.Array, np.ndarray]:
  """The row of each item's first value that is there, and who differs from it.

  Args:
    column: Values of a field, one per row.
    codes: int32[n], the item of each row.
    count: Number of items.

  Returns:
    int64[N] rows, null for items without a value, and bool[n]: whether a row's
    value is there and is another one.
  """
  if pa.types.is_nested(column.type):
    column = _nested_texts(column)
  valid = column.is_valid()
  if pa.types.is_floating(column.type):
    valid = pc.fill_null(pc.invert(pc.is_nan(column)), False)
  there = np.flatnonzero(valid.to_numpy(zero_copy_only=False))
  first = _first_rows(codes, there, count)
  firsts = pa.array(first[codes[there]])
  unequal = pc.not_equal(column.take(pa.array(there)), column.take(firsts))
  other = np.zeros(len(codes), bool)
  other[there] = pc.fill_null(unequal, False).to_numpy(zero_copy_only=False)
  return pa.array(first, mask=first < 0), other


def _compact(table: pa.Table) -> pa.Table:
  """The rows that the result depends on: at most a few per item.

  Of each item its first row, the first value of each field, and the first row
  that says something else.
  """
  codes, starts = _codes(table)
  count = len(starts)
  keep = np.zeros(len(table), bool)
  keep[starts] = True
  for name in table.column_names:
    if name not in (_ID, _FILE, _LINE):
      first, other = _first_values(_array(table, name), codes, count)
      keep[first.drop_null().to_numpy()] = True
      conflicts = _first_rows(codes, np.flatnonzero(other), count)
      keep[conflicts[conflicts >= 0]] = True
  return table.filter(pa.array(keep)).combine_chunks()


def _without_repeats(table: pa.Table) -> pa.Table:
  """The rows of a block without those that repeat their item's first row."""
  fields = [n for n in table.column_names if n not in (_ID, _FILE, _LINE)]
  columns = [_array(table, name) for name in fields]
  if not all(_is_simple(column.type) for column in columns):
    return table
  first = id_codes.first_rows(_array(table, _ID))
  keep, firsts = first == np.arange(len(first)), pa.array(first)
  for column in columns:
    equal = pc.fill_null(pc.equal(column, column.take(firsts)), False)
    keep |= ~equal.to_numpy(zero_copy_only=False)
  return table.filter(pa.array(keep))


def _is_simple(kind: pa.DataType) -> bool:
  """Whether values of a type can be compared as they are."""
  return arrow_columns.is_text(kind) or arrow_columns.is_number(kind)


def _codes(table: pa.Table) -> tuple[np.ndarray, np.ndarray]:
  """int[n], the item of each row by first appearance, and its first row."""
  first = id_codes.first_rows(_array(table, _ID))
  new = first == np.arange(len(first))
  return (np.cumsum(new) - 1)[first], np.flatnonzero(new)


def _first_rows(codes: np.ndarray, rows: np.ndarray, count: int) -> np.ndarray:
  """int64[N], the first of some rows of each item, -1 if it has none.

  Args:
    codes: int32[n], the item of each row.
    rows: int64[m], the rows, in order.
    count: Number of items.
  """
  first = np.full(count, -1, np.int64)
  first[codes[rows[::-1]]] = rows[::-1]
  return first


def _nested_texts(column: pa.Array) -> pa.Array:
  """Lists and objects as text; null if they are empty."""
  texts = [text or None for text in values.texts(column)]
  return pa.array(texts, pa.large_string())


def _concatenated(tables: list[pa.Table]) -> pa.Table:
  """Tables as one, which may be none."""
  if not tables:
    return pa.table(
      {
        _ID: pa.array([], pa.large_string()),
        _LINE: pa.array([], pa.int64()),
        _FILE: pa.array([], pa.int32()),
      }
    )
  return arrow_columns.concatenated(tables)


def _array(table: pa.Table, name: str) -> pa.Array:
  if name not in table.column_names:
    return pa.nulls(table.num_rows, pa.large_string())
  column = table[name].combine_chunks()
  if isinstance(column, pa.ChunkedArray):  # It has no or several chunks.
    column = (
      pa.concat_arrays(column.chunks)
      if column.chunks
      else pa.array([], column.type)
    )
  return column
