"""A block of a CSV file to rows: PyArrow's, and Python's among them.

A line is plain if it is a whole row, whatever the lines around it are: its
quotes enclose whole fields, and it has as many fields as the header. PyArrow
reads plain lines as Python's strict `csv` parser does; all others go to Python,
a row at a time.
"""

from __future__ import annotations

import contextlib
import csv
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from calrec_jax.data.logs.csv import csv_lines, csv_plain, csv_rows
from calrec_jax.data.logs.csv.csv_lines import BYTE_ORDER_MARK, ENCODING, Block
from calrec_jax.data.logs.csv.csv_rows import Dialect
from calrec_jax.data.logs.files import row_blocks
from calrec_jax.errors import InputError


class Layout(NamedTuple):
  """What the rows of a file are like.

  Attributes:
    path: Path of the file, for messages.
    at: Index by name of the requested columns.
    num_fields: Number of fields of a row.
    dialect: Dialect of the file.
    header_line: The header as it is written, or nothing.
  """

  path: str
  at: Mapping[str, int]
  num_fields: int
  dialect: Dialect
  header_line: bytes

  def is_regular(self, block: Block) -> bool:
    """Whether a block surely ends with a row, and does not hold the header."""
    return (
      self.num_fields > 0
      and not (self.header_line and self.header_line in block.data)
      and csv_plain.is_regular(block, self.dialect)
    )

  def headers(self, block: Block) -> np.ndarray:
    """int64[n], the lines that are the header again."""
    found, header = [], self.header_line
    at = block.data.find(header) if header else -1
    while at >= 0:
      index = int(np.searchsorted(block.bounds, at, "right")) - 1
      if block.content(index).removeprefix(BYTE_ORDER_MARK) == header:
        found.append(index)
      at = block.data.find(header, int(block.bounds[index + 1]))
    return np.array(found, np.int64)


class Bad(NamedTuple):
  """Lines of one bad row: its kind, and its first and last line."""

  kind: str
  first: int
  last: int


class Part:
  """A block and what Python read of it.

  Attributes:
    block: The block.
    plain: bool[n], the lines that remain for PyArrow, or are blank; None if no
      line was looked at.
    lines: First line of each odd row.
    inside: Number of other lines of each odd row.
    rows: Requested values of each odd row, as bytes.
    bad: The bad rows.
  """

  def __init__(self, block: Block, plain: np.ndarray | None = None) -> None:
    """Nothing was read yet."""
    self.block, self.plain = block, plain
    self.lines: list[int] = []
    self.inside: list[int] = []
    self.rows: list[list[bytes]] = []
    self.bad: list[Bad] = []


class Parsed(NamedTuple):
  """What a part holds.

  Attributes:
    rows: The rows.
    blank: Number of blank lines.
    inside: Number of lines that continue a row.
    breaks: First lines of the rows that others continue.
    bad: The bad rows.
  """

  rows: row_blocks.Rows
  blank: int
  inside: int
  breaks: Sequence[int]
  bad: Sequence[Bad]


def odd_rows(lines: csv_lines.Lines, layout: Layout) -> Part:
  """Reads the rows of the next block that are not plain."""
  block, restore = lines.block, layout.dialect.translation.restore
  plain = csv_plain.plain_lines(block, layout.num_fields, layout.dialect)
  headers = layout.headers(block)
  plain[headers] = False
  repeated = set(headers.tolist())
  part = Part(block, plain)
  for index in np.flatnonzero(~plain).tolist():
    if index < lines.index:  # Read with the row before it.
      continue
    lines.index = index
    first = lines.number
    if index in repeated:
      next(lines)
      part.bad.append(Bad("repeated_header", first, first))
      continue
    fields = row(lines, layout.path, layout.dialect)
    last = lines.number - 1
    spills = lines.block is not block
    plain[index : None if spills else lines.index] = False
    kind = _fault(fields, layout, last > first)
    if fields is None or kind:
      part.bad.append(Bad(kind, first, last))
    else:
      part.lines.append(first)
      part.inside.append(last - first)
      part.rows.append(
        [restore(fields[i]).encode(*ENCODING) for i in layout.at.values()]
      )
    if spills:
      break
  else:
    lines.index = len(block)
  return part


def row(
  lines: csv_lines.Lines, path: str, dialect: Dialect
) -> list[str] | None:
  """The next row; None if it is malformed.

  Raises:
    InputError: If a quoted field in it is never closed, or a field is too long.
  """
  first, opening = lines.number, lines.block.content(lines.index)
  try:
    return csv_rows.read(lines, dialect)
  except csv_rows.Unclosed as error:
    quote = dialect.quote
    if quote is None or quote.encode() not in opening:
      if not error.too_long:
        return None  # An escape character ends the file.
      raise InputError(
        f"{path}:{first}: a field of this row is longer than "
        f"{csv.field_size_limit():,} characters; the file is damaged or is no "
        "CSV file."
      ) from error
    raise InputError(
      f"{path}:{first}: a quoted field that begins in this row is never "
      "closed; everything after it would be lost. Set LogFiles.quoting = "
      '"none" if quotes are text, or LogFiles.quote and LogFiles.escape; else '
      "close the quote or double it."
    ) from error


def _fault(
  fields: Sequence[str] | None, layout: Layout, several_lines: bool
) -> str:
  """The kind of a bad row, or "" for a good one."""
  dialect = layout.dialect
  if fields is None or len(fields) != layout.num_fields:
    return "malformed_row"
  if not several_lines or dialect.trusted:
    return ""
  swallows = csv_rows.swallows(fields, dialect.translation.delimiter)
  return "swallowed_rows" if swallows else ""


def parse(part: Part, layout: Layout) -> Parsed:
  """Reads the plain lines of a part, and inserts the odd rows among them."""
  block, plain = part.block, part.plain
  fields = list(layout.at.values())
  options = (fields, layout.num_fields, layout.dialect)
  nothing = pa.table(
    [pa.array([], pa.large_binary())] * len(fields), list(layout.at)
  )
  table = nothing
  if plain is None:
    with contextlib.suppress(pa.ArrowInvalid):  # Most are plain throughout.
      table = csv_plain.table(block.data, *options) if fields else nothing
    if table.num_rows != len(block):
      part = odd_rows(csv_lines.Lines.of(block), layout)
      plain, table = part.plain, nothing
  if plain is None:
    lines, blank = block.first_line + np.arange(len(block)), 0
  else:
    lines = np.flatnonzero(plain & ~block.blank) + block.first_line
    blank = int(np.count_nonzero(plain & block.blank))
    if len(lines) and fields:
      table = csv_plain.table(_joined(block, plain), *options)
  table = table.rename_columns(list(layout.at))
  if part.lines:
    values = zip(*part.rows, strict=True)
    odd = [pa.array(column, pa.large_binary()) for column in values]
    lines = np.concatenate([lines, part.lines])
    order = np.argsort(lines)
    lines = lines[order]
    if fields:
      table = pa.concat_tables([table, pa.table(odd, names=list(layout.at))])
      table = table.take(pa.array(order))
  table, good = csv_plain.decoded(table, len(lines))
  malformed = [np.arange(one.first, one.last + 1) for one in part.bad]
  rows = row_blocks.Rows(
    table,
    lines[good],
    np.concatenate([np.empty(0, np.int64), *malformed]),
    lines[~good],
  )
  breaks = [
    line for line, inside in zip(part.lines, part.inside, strict=True) if inside
  ]
  return Parsed(rows, blank, sum(part.inside), breaks, part.bad)


def _joined(block: Block, chosen: np.ndarray) -> bytes:
  """The text of the chosen lines."""
  if chosen.all():
    return block.data
  turns = np.flatnonzero(np.diff(chosen, prepend=False, append=False))
  bounds = block.bounds[turns].tolist()
  runs = zip(bounds[::2], bounds[1::2], strict=True)
  return b"".join(block.data[start:end] for start, end in runs)
