"""CSV files as columns of text: PyArrow for plain rows, Python for odd ones.

Python's `csv`, strict, defines what a file holds. A line is plain if it is a
whole row, whatever the lines around it are: its quotes enclose whole fields,
and it has as many fields as the header. PyArrow's parser, made for blocks and
free of the interpreter's lock, reads those alike; all others go to Python, a
row at a time. So the fate of a row depends on the row alone.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TextIO

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv

from calrec_jax.data.logs import json_blocks, row_stream
from calrec_jax.data.logs import problems as problems_lib
from calrec_jax.errors import InputError

_BLOCK_CHARACTERS = 4 << 20
_MAX_FIELD = 2**24  # Titles may be longer than the module's default limit.
_QUOTE, _NEW_LINE, _RETURN = b'"\n\r'
# Bytes that could not be decoded are surrogates in text. As bytes of UTF-8
# they are invalid, and so found by whoever checks the encoding.
_ENCODING: tuple[str, str] = ("utf-8", "surrogatepass")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclasses.dataclass(frozen=True)
class Dialect:
  """How the rows of a file are written.

  Attributes:
    delimiter: Character between two fields.
  """

  delimiter: str

  def reader(self, lines: Iterable[str]) -> Iterator[list[str]]:
    """Python's reader of the rows that the lines hold."""
    return csv.reader(lines, delimiter=self.delimiter, strict=True)

  def parse_options(self) -> pa_csv.ParseOptions:
    """PyArrow's options for plain lines."""
    return pa_csv.ParseOptions(delimiter=self.delimiter)

  def plain(self, block: _Block, num_fields: int) -> np.ndarray:
    """Which lines are plain; blank lines are, since no parser sees them.

    Args:
      block: Lines of the file.
      num_fields: Number of fields of a row.

    Returns:
      bool[n].
    """
    delimiter = self.delimiter.encode(*_ENCODING)
    if len(delimiter) > 1 or delimiter[0] in b'"\n\r\0' or not num_fields:
      return block.blank
    codes, starts = block.codes, block.bounds[:-1]
    plain = np.diff(block.bounds) <= csv.field_size_limit()
    delimiters = np.flatnonzero(codes == delimiter[0])
    if _QUOTE in block.data:
      quotes = np.flatnonzero(codes == _QUOTE)
      line = np.searchsorted(starts, quotes, "right") - 1
      earlier = np.searchsorted(quotes, block.bounds)
      opens = (np.arange(len(quotes)) - earlier[line]) % 2 == 0
      # Outside, a quote may only begin a field; inside, it may end the field,
      # and two are one quote of the text: as if the field ended and began.
      adjacent = np.diff(quotes, prepend=-2, append=-2) == 1
      begins = (quotes == starts[line]) | (codes[quotes - 1] == delimiter[0])
      ends = (quotes + 1 == block.stops[line]) | (
        codes.take(quotes + 1, mode="clip") == delimiter[0]
      )
      regular = np.where(opens, begins | adjacent[:-1], ends | adjacent[1:])
      plain[line[~regular]] = False
      plain &= np.diff(earlier) % 2 == 0
      # Every line that is left has an even number of quotes.
      enclosed = np.searchsorted(quotes[plain[line]], delimiters) % 2
      delimiters = delimiters[enclosed == 0]
    plain &= (
      np.diff(np.searchsorted(delimiters, block.bounds)) + 1 == num_fields
    )
    return plain | block.blank


class Reader:
  """Reads a file; its first row that is not blank is the header."""

  def __init__(
    self,
    path: str,
    stream: TextIO,
    dialect: Dialect,
    problems: problems_lib.Problems,
  ) -> None:
    """Reads the header.

    Args:
      path: Path of the file, for messages.
      stream: Text of the file, its line breaks as they are.
      dialect: How its rows are written.
      problems: Counter of the malformed rows and of broken encodings.

    Raises:
      InputError: if a quoted field is never closed, here and while rows are
        read; the message names the line.
    """
    csv.field_size_limit(max(csv.field_size_limit(), _MAX_FIELD))
    self._path, self._dialect, self._problems = path, dialect, problems
    self._lines = _Lines(stream)
    header: list[str] | None = []
    while header == [] and self._lines.more():
      header = self._row()
    self.header = tuple(name.strip() for name in header or ())

  def rows(self, columns: Sequence[str]) -> Iterator[json_blocks.Rows]:
    """Reads all rows.

    Args:
      columns: Names of the columns wanted, of those in the header.

    Yields:
      Rows in the file's order, with their lines; all values are text.
    """
    at = {name: self.header.index(name) for name in columns}
    work = functools.partial(
      _parse, at=at, num_fields=len(self.header), dialect=self._dialect
    )
    for rows in row_stream.in_order(work, self._parts(list(at.values()))):
      self._problems.add_rows("broken_encoding", self._path, rows.broken)
      yield rows

  def _parts(self, at: list[int]) -> Iterator[_Part]:
    """The file's blocks, their odd rows already read."""
    lines = self._lines
    while lines.more():
      block, start = lines.block, lines.index
      plain = self._dialect.plain(block, len(self.header))
      odd = np.flatnonzero(~plain)
      plain[:start] = False
      part = _Part(block, plain, [], [], [])
      for index in odd.tolist():
        if index < lines.index:  # Read with the row before it.
          continue
        lines.index = index
        row = self._row()
        spills = lines.block is not block
        plain[index : None if spills else lines.index] = False
        line = block.first_line + index
        if row is not None and len(row) == len(self.header):
          part.lines.append(line)
          part.rows.append([row[i].encode(*_ENCODING) for i in at])
        else:
          part.malformed.append(line)
          if row is not None:  # Else it is counted already.
            self._problems.add(
              "malformed_row", problems_lib.location(self._path, line)
            )
        if spills:
          break
      else:
        lines.index = len(block)
      yield part

  def _row(self) -> list[str] | None:
    """The next row; None, and counted, where it is malformed."""
    first = self._lines.number
    try:
      return next(self._dialect.reader(self._lines))
    except csv.Error as error:
      if "unexpected end" in str(error) or "field larger" in str(error):
        raise InputError(
          f"{self._path}:{first}: a quoted field that begins in this row is "
          "never closed; everything after it would be lost. Close the quote "
          "or double it."
        ) from error
      self._problems.add(
        "malformed_row",
        problems_lib.location(self._path, first, self._lines.number - 1),
      )
      return None


class _Block:
  """Some whole lines of a file.

  Attributes:
    data: Their text as bytes.
    codes: uint8[b], the same.
    first_line: Number of the first line, from 1.
    bounds: int64[n + 1], the first byte of each line, and the end.
    stops: int64[n], the end of each line without its line break.
    blank: bool[n], whether a line holds nothing.
  """

  def __init__(self, text: str, first_line: int) -> None:
    self.data = text.encode(*_ENCODING)
    self.codes = codes = np.frombuffer(self.data, np.uint8)
    self.first_line = first_line
    ends = np.flatnonzero(codes == _NEW_LINE)
    if _RETURN in self.data:  # Also a line break if alone.
      returns = np.flatnonzero(codes == _RETURN)
      alone = codes.take(returns + 1, mode="clip") != _NEW_LINE
      ends = np.sort(np.concatenate([ends, returns[alone]]))
    bounds = np.concatenate([[0], ends + 1])
    if bounds[-1] < len(codes):
      bounds = np.append(bounds, len(codes))
      ends = np.append(ends, len(codes))
    self.bounds = bounds
    pair = (ends > bounds[:-1]) & (codes.take(ends - 1) == _RETURN)
    self.stops = ends - (pair & (codes.take(ends, mode="clip") == _NEW_LINE))
    self.blank = self.stops == bounds[:-1]

  def __len__(self) -> int:
    return len(self.stops)

  def line(self, index: int) -> str:
    """A line with its line break."""
    start, end = self.bounds[index : index + 2].tolist()
    return self.data[start:end].decode(*_ENCODING)


class _Lines(Iterator[str]):
  """The lines of a file, one after another, and the block they are in.

  Attributes:
    block: The block of the next line, unless that is the last block's end.
    index: Index of the next line in it.
  """

  def __init__(self, stream: TextIO) -> None:
    self._stream = stream
    self.block, self.index = _Block("", 1), 0

  @property
  def number(self) -> int:
    """Number of the next line in the file, from 1."""
    return self.block.first_line + self.index

  def more(self) -> bool:
    """Whether there is a next line; reads a block where it is needed."""
    if self.index == len(self.block):
      text = self._stream.read(_BLOCK_CHARACTERS) + self._stream.readline()
      if not text:
        return False
      self.block, self.index = _Block(text, self.number), 0
    return True

  def __next__(self) -> str:
    if not self.more():
      raise StopIteration
    self.index += 1
    return self.block.line(self.index - 1)


class _Part(NamedTuple):
  """A block and what Python read of it.

  Attributes:
    block: The block.
    plain: bool[n], the lines that are left for PyArrow, or blank.
    lines: The first line of each odd row.
    rows: The wanted values of each odd row, as bytes.
    malformed: Lines that no row begins in, already counted.
  """

  block: _Block
  plain: np.ndarray
  lines: list[int]
  rows: list[list[bytes]]
  malformed: list[int]


def _parse(
  part: _Part, at: Mapping[str, int], num_fields: int, dialect: Dialect
) -> json_blocks.Rows:
  """Reads the plain lines of a part, and puts the odd rows between them."""
  block = part.block
  lines = np.flatnonzero(part.plain & ~block.blank) + block.first_line
  table = pa.table({name: pa.array([], pa.large_binary()) for name in at})
  if len(lines) and at:
    table = _plain_table(_joined(block, part.plain), at, num_fields, dialect)
  if part.lines:
    values = zip(*part.rows, strict=True)
    odd = [pa.array(column, pa.large_binary()) for column in values]
    table = pa.concat_tables([table, pa.table(odd, names=list(at))])
    lines = np.concatenate([lines, part.lines])
    order = np.argsort(lines)
    table, lines = table.take(pa.array(order)), lines[order]
  table, good = _decoded(table, len(lines))
  return json_blocks.Rows(
    table,
    lines[good],
    np.array(part.malformed, np.int64),
    lines[~good],
    np.empty(0, np.int64),
  )


def _joined(block: _Block, chosen: np.ndarray) -> bytes:
  """The text of the chosen lines."""
  if chosen.all():
    return block.data
  turns = np.flatnonzero(np.diff(chosen, prepend=False, append=False))
  bounds = block.bounds[turns].tolist()
  runs = zip(bounds[::2], bounds[1::2], strict=True)
  return b"".join(block.data[start:end] for start, end in runs)


def _plain_table(
  data: bytes, at: Mapping[str, int], num_fields: int, dialect: Dialect
) -> pa.Table:
  """The wanted columns of plain lines, as bytes."""
  if data.startswith(_BYTE_ORDER_MARK):  # Text here, but PyArrow removes it.
    data = b"\n" + data
  names = [str(i) for i in range(num_fields)]
  wanted = [names[i] for i in at.values()]
  table = pa_csv.read_csv(
    pa.BufferReader(data),
    read_options=pa_csv.ReadOptions(
      use_threads=False, block_size=len(data) + 1, column_names=names
    ),
    parse_options=dialect.parse_options(),
    convert_options=pa_csv.ConvertOptions(
      include_columns=wanted,
      column_types={name: pa.large_binary() for name in wanted},
    ),
  )
  return table.rename_columns(list(at))


def _decoded(table: pa.Table, num_rows: int) -> tuple[pa.Table, np.ndarray]:
  """The rows as text, and which rows they are: those that are valid UTF-8."""
  good = np.ones(num_rows, bool)
  schema = pa.schema([(name, pa.large_string()) for name in table.column_names])
  try:
    return table.cast(schema), good
  except pa.ArrowInvalid:
    for column in table.columns:
      good &= np.fromiter(map(_is_text, column.to_pylist()), bool, num_rows)
    return table.filter(pa.array(good)).cast(schema), good


def _is_text(value: Any) -> bool:
  try:
    return value.isascii() or bool(value.decode())
  except UnicodeDecodeError:
    return False
