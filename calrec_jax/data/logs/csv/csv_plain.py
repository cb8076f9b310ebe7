"""Lines of CSV files that PyArrow reads as Python would, and their columns."""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute creates its functions at run time.)

from __future__ import annotations

import csv
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from calrec_jax.data.logs.csv import csv_lines
from calrec_jax.data.logs.csv.csv_lines import (
  BYTE_ORDER_MARK,
  ENCODING,
  NEW_LINE,
  RETURN,
  Block,
)
from calrec_jax.data.logs.csv.csv_rows import Dialect


def is_regular(block: Block, dialect: Dialect) -> bool:
  """Whether all quotes of a block enclose whole fields, and end in it.

  If a row does not begin with each of its lines, or has too few fields, PyArrow
  fails or reads fewer rows than there are lines.
  """
  if len(block.data) >= csv.field_size_limit() or not block.simple_breaks:
    return False
  codes = block.codes
  if dialect.escape and dialect.escape.encode() in block.data:
    codes, breaks = _without_escapes(codes, ord(dialect.escape))
    if len(breaks):
      return False
  if dialect.quote is None or dialect.quote.encode() not in block.data:
    return True
  quotes = np.flatnonzero(codes == ord(dialect.quote))
  if len(quotes) % 2:
    return False
  opening, closing = quotes[::2], quotes[1::2]
  separator = ord(dialect.translation.delimiter)
  before, after = codes.take(opening - 1), codes.take(closing + 1, mode="clip")
  begins = (before == separator) | (before == NEW_LINE) | (opening == 0)
  ends = (after == separator) | (after == NEW_LINE) | (after == RETURN)
  ends |= closing + 1 == len(codes)
  if dialect.doubled:  # As if the field ended and began.
    again = closing[:-1] + 1 == opening[1:]
    begins[1:] |= again
    ends[:-1] |= again
  return bool(begins.all() and ends.all())


def plain_lines(block: Block, num_fields: int, dialect: Dialect) -> np.ndarray:
  """bool[n], which lines are plain; blank ones are, since no parser sees them.

  Args:
    block: Lines of the file.
    num_fields: Number of fields of a row.
    dialect: Dialect of the file.
  """
  if not num_fields:
    return block.blank.copy()
  codes, starts = block.codes, block.bounds[:-1]
  plain = np.diff(block.bounds) <= csv.field_size_limit()
  if dialect.escape and dialect.escape.encode() in block.data:
    codes, breaks = _without_escapes(codes, ord(dialect.escape))
    # An escaped line break is text: the row goes on.
    plain[np.searchsorted(starts, breaks, "right") - 1] = False
  separator = ord(dialect.translation.delimiter)
  delimiters = np.flatnonzero(codes == separator)
  if dialect.quote is not None and dialect.quote.encode() in block.data:
    quotes = np.flatnonzero(codes == ord(dialect.quote))
    line = np.searchsorted(starts, quotes, "right") - 1
    earlier = np.searchsorted(quotes, block.bounds)
    opens = (np.arange(len(quotes)) - earlier[line]) % 2 == 0
    # Outside a field, a quote may only begin one; inside, it may end the field,
    # and two are one quote of the text: as if the field ended and began.
    adjacent = np.diff(quotes, prepend=-2, append=-2) == 1
    adjacent &= dialect.doubled
    begins = (quotes == starts[line]) | (codes[quotes - 1] == separator)
    ends = (quotes + 1 == block.stops[line]) | (
      codes.take(quotes + 1, mode="clip") == separator
    )
    regular = np.where(opens, begins | adjacent[:-1], ends | adjacent[1:])
    plain[line[~regular]] = False
    plain &= np.diff(earlier) % 2 == 0
    # Every remaining line has an even number of quotes.
    enclosed = np.searchsorted(quotes[plain[line]], delimiters) % 2
    delimiters = delimiters[enclosed == 0]
  fields = np.diff(np.searchsorted(delimiters, block.bounds)) + 1
  return (plain & (fields == num_fields)) | block.blank


def _without_escapes(
  codes: np.ndarray, escape: int
) -> tuple[np.ndarray, np.ndarray]:
  """Bytes with a letter for each escape and what it escapes.

  Args:
    codes: uint8[b], translated text: an escape is never alone.
    escape: Byte of the escape character.

  Returns:
    uint8[b], and the positions of escaped line breaks.
  """
  at = csv_lines.escapes(codes, escape)
  after = np.minimum(at + 1, len(codes) - 1)
  breaks = after[np.isin(codes[after], (NEW_LINE, RETURN))]
  codes = codes.copy()
  codes[at] = codes[after] = ord("x")
  return codes, breaks


def table(
  data: bytes, fields: Sequence[int], num_fields: int, dialect: Dialect
) -> pa.Table:
  """The requested fields of plain lines, as bytes; columns have no names.

  Raises:
    pa.ArrowInvalid: If they are not plain.
  """
  if data.startswith(BYTE_ORDER_MARK[:1]):  # Text, but PyArrow removes it.
    data = b"\n" + data
  names = [str(i) for i in range(num_fields)]
  wanted = [names[i] for i in fields]
  read = pa_csv.read_csv(
    pa.BufferReader(data),
    read_options=pa_csv.ReadOptions(
      use_threads=False, block_size=len(data) + 1, column_names=names
    ),
    parse_options=pa_csv.ParseOptions(
      delimiter=dialect.translation.delimiter,
      quote_char=dialect.quote or False,
      double_quote=dialect.doubled,
      escape_char=dialect.escape or False,
    ),
    convert_options=pa_csv.ConvertOptions(
      include_columns=wanted,
      column_types={name: pa.large_binary() for name in wanted},
    ),
  )
  if dialect.translation.changed:
    return _restored(read, dialect.translation)
  return read


def _restored(read: pa.Table, translation: csv_lines.Translation) -> pa.Table:
  """Values as they were before the translation, as bytes."""
  columns = []
  for column in read.columns:
    for new, old in translation.changed:
      pattern, replacement = new.encode(*ENCODING), old.encode(*ENCODING)
      if pc.any(pc.match_substring(column, pattern)).as_py():
        column = pc.replace_substring(column, pattern, replacement)
    columns.append(column)
  return pa.table(columns, names=read.column_names)


def decoded(read: pa.Table, num_rows: int) -> tuple[pa.Table, np.ndarray]:
  """The rows that are valid UTF-8, as text, and bool[n]: which those are."""
  good = np.ones(num_rows, bool)
  schema = pa.schema([(name, pa.large_string()) for name in read.column_names])
  try:
    return read.cast(schema), good
  except pa.ArrowInvalid:
    for column in read.columns:
      good &= np.fromiter(map(_is_text, column.to_pylist()), bool, num_rows)
    return read.filter(pa.array(good)).cast(schema), good


def _is_text(value: Any) -> bool:
  try:
    return value.isascii() or bool(value.decode())
  except UnicodeDecodeError:
    return False
