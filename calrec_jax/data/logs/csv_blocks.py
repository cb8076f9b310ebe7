"""CSV files as columns of text: PyArrow for plain rows, Python for odd ones.

Python's strict `csv` parser defines what a file holds. A line is plain if it is
a whole row, whatever the lines around it are: its quotes enclose whole fields,
and it has as many fields as the header. PyArrow, which parses whole blocks
without the interpreter's lock, reads plain lines the same way; all others go to
Python, a row at a time. So how a row is read depends on the row alone.
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Iterator, Mapping, Sequence
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
# Bytes that could not be decoded are surrogates in text; encoded again they are
# invalid UTF-8, which `_decoded` finds.
_ENCODING: tuple[str, str] = ("utf-8", "surrogatepass")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Reader:
  """Reads a file; its first row that is not blank is the header."""

  def __init__(
    self,
    path: str,
    stream: TextIO,
    delimiter: str,
    problems: problems_lib.Problems,
  ) -> None:
    """Reads the header.

    Args:
      path: Path of the file, for messages.
      stream: Text of the file, its line breaks as they are.
      delimiter: Character between two fields.
      problems: Counter of the malformed rows and of broken encodings.

    Raises:
      InputError: If the delimiter cannot be one, or if a quoted field is never
        closed, here or while rows are read; the message names the line.
    """
    if delimiter in '"\r\n':
      raise InputError(
        f"{path}: LogFiles.delimiter is {delimiter!r}; quotes and line breaks "
        "cannot part fields."
      )
    csv.field_size_limit(max(csv.field_size_limit(), _MAX_FIELD))
    self._path, self._delimiter, self._problems = path, delimiter, problems
    self._lines = _Lines(stream)
    header: list[str] | None = []
    while header == [] and self._lines.more():
      header = self._row()
    self.header = tuple(name.strip() for name in header or ())

  def rows(self, columns: Sequence[str]) -> Iterator[json_blocks.Rows]:
    """The rows in the file's order, with the header's columns of these names.

    All values are text.
    """
    at = {name: self.header.index(name) for name in columns}
    work = functools.partial(
      _parse, at=at, num_fields=len(self.header), delimiter=self._delimiter
    )
    for rows in row_stream.in_order(work, self._parts(list(at.values()))):
      self._problems.add_rows("broken_encoding", self._path, rows.broken)
      yield rows

  def _parts(self, at: list[int]) -> Iterator[_Part]:
    """The file's blocks, their odd rows already read."""
    lines = self._lines
    while lines.more():
      block, start = lines.block, lines.index
      plain = _plain(block, len(self.header), self._delimiter)
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
    """The next row; None, and counted, if it is malformed."""
    first = self._lines.number
    reader = csv.reader(self._lines, delimiter=self._delimiter, strict=True)
    try:
      return next(reader)
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
    blank: bool[n], whether a line is empty.
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
    block: Block of the next line, or the last block at the end of the file.
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
    """Whether there is a next line; reads the next block when needed."""
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
    plain: bool[n], the lines that remain for PyArrow, or are blank.
    lines: First line of each odd row.
    rows: Requested values of each odd row, as bytes.
    malformed: First line of each malformed row, already counted.
  """

  block: _Block
  plain: np.ndarray
  lines: list[int]
  rows: list[list[bytes]]
  malformed: list[int]


def _plain(block: _Block, num_fields: int, delimiter: str) -> np.ndarray:
  """bool[n], which lines are plain; blank ones are, since no parser sees them.

  Args:
    block: Lines of the file.
    num_fields: Number of fields of a row.
    delimiter: Character between two fields.
  """
  separator = delimiter.encode(*_ENCODING)
  if len(separator) > 1 or separator[0] in b'"\n\r\0' or not num_fields:
    return block.blank
  codes, starts = block.codes, block.bounds[:-1]
  plain = np.diff(block.bounds) <= csv.field_size_limit()
  delimiters = np.flatnonzero(codes == separator[0])
  if _QUOTE in block.data:
    quotes = np.flatnonzero(codes == _QUOTE)
    line = np.searchsorted(starts, quotes, "right") - 1
    earlier = np.searchsorted(quotes, block.bounds)
    opens = (np.arange(len(quotes)) - earlier[line]) % 2 == 0
    # Outside a field, a quote may only begin one; inside, it may end the field,
    # and two are one quote of the text: as if the field ended and began.
    adjacent = np.diff(quotes, prepend=-2, append=-2) == 1
    begins = (quotes == starts[line]) | (codes[quotes - 1] == separator[0])
    ends = (quotes + 1 == block.stops[line]) | (
      codes.take(quotes + 1, mode="clip") == separator[0]
    )
    regular = np.where(opens, begins | adjacent[:-1], ends | adjacent[1:])
    plain[line[~regular]] = False
    plain &= np.diff(earlier) % 2 == 0
    # Every remaining line has an even number of quotes.
    enclosed = np.searchsorted(quotes[plain[line]], delimiters) % 2
    delimiters = delimiters[enclosed == 0]
  fields = np.diff(np.searchsorted(delimiters, block.bounds)) + 1
  return (plain & (fields == num_fields)) | block.blank


def _parse(
  part: _Part, at: Mapping[str, int], num_fields: int, delimiter: str
) -> json_blocks.Rows:
  """Reads the plain lines of a part, and inserts the odd rows among them."""
  block = part.block
  lines = np.flatnonzero(part.plain & ~block.blank) + block.first_line
  table = pa.table({name: pa.array([], pa.large_binary()) for name in at})
  if len(lines) and at:
    data = _joined(block, part.plain)
    table = _plain_table(data, at, num_fields, delimiter)
  if part.lines:
    values = zip(*part.rows, strict=True)
    odd = [pa.array(column, pa.large_binary()) for column in values]
    table = pa.concat_tables([table, pa.table(odd, names=list(at))])
    lines = np.concatenate([lines, part.lines])
    order = np.argsort(lines)
    table, lines = table.take(pa.array(order)), lines[order]
  table, good = _decoded(table, len(lines))
  malformed = np.array(part.malformed, np.int64)
  return json_blocks.Rows(table, lines[good], malformed, lines[~good])


def _joined(block: _Block, chosen: np.ndarray) -> bytes:
  """The text of the chosen lines."""
  if chosen.all():
    return block.data
  turns = np.flatnonzero(np.diff(chosen, prepend=False, append=False))
  bounds = block.bounds[turns].tolist()
  runs = zip(bounds[::2], bounds[1::2], strict=True)
  return b"".join(block.data[start:end] for start, end in runs)


def _plain_table(
  data: bytes, at: Mapping[str, int], num_fields: int, delimiter: str
) -> pa.Table:
  """The requested columns of plain lines, as bytes."""
  if data.startswith(_BYTE_ORDER_MARK):  # Text here, but PyArrow removes it.
    data = b"\n" + data
  names = [str(i) for i in range(num_fields)]
  wanted = [names[i] for i in at.values()]
  table = pa_csv.read_csv(
    pa.BufferReader(data),
    read_options=pa_csv.ReadOptions(
      use_threads=False, block_size=len(data) + 1, column_names=names
    ),
    parse_options=pa_csv.ParseOptions(delimiter=delimiter),
    convert_options=pa_csv.ConvertOptions(
      include_columns=wanted,
      column_types={name: pa.large_binary() for name in wanted},
    ),
  )
  return table.rename_columns(list(at))


def _decoded(table: pa.Table, num_rows: int) -> tuple[pa.Table, np.ndarray]:
  """The rows that are valid UTF-8, as text, and bool[n]: which those are."""
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
