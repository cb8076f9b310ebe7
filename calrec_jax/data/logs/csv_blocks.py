"""CSV files as columns of text: PyArrow for plain rows, Python for odd ones.

Python's strict `csv` parser defines what a file holds. A line is plain if it is
a whole row, whatever the lines around it are: its quotes enclose whole fields,
and it has as many fields as the header. PyArrow, which parses whole blocks
without the interpreter's lock, reads plain lines the same way; all others go to
Python, a row at a time. So how a row is read depends on the row alone.

Every line of the file is counted: as the header, as blank, as a row, as a line
inside a row, or as bad.
"""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute creates its functions at run time.)

from __future__ import annotations

import csv
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from calrec_jax.data.logs import (
  csv_dialect,
  csv_header,
  csv_lines,
  csv_rows,
  json_blocks,
  row_stream,
)
from calrec_jax.data.logs import problems as problems_lib
from calrec_jax.data.logs.csv_lines import BYTE_ORDER_MARK, ENCODING, Block
from calrec_jax.data.logs.csv_rows import Dialect
from calrec_jax.data.logs.read_options import ReadOptions
from calrec_jax.errors import InputError

_PEEKED = 200  # Lines that show how wide the rows are.
_QUOTES_ARE_TEXT = 'LogFiles.quoting = "none"'


def open_csv(
  path: str,
  stream: IO[Any],
  problems: problems_lib.Problems,
  *,
  suffix: str,
  options: ReadOptions,
) -> Reader:
  """Reads a file in the dialect that its first lines show.

  Args:
    path: Path of the file, for messages.
    stream: Text of the file, its line breaks as they are; or its bytes, if they
      are UTF-8. It need not be seekable.
    problems: Counter of bad rows.
    suffix: Suffix of the file, without that of a compression; may be empty.
    options: Options that the user gave.

  Raises:
    InputError: If an option cannot be, or as `Reader` does.
  """
  head = csv_lines.take(stream, csv_dialect.SAMPLE_CHARACTERS)
  sample = head
  if isinstance(head, bytes):
    sample = head.decode("utf-8-sig", "surrogateescape")
  try:
    dialect = csv_dialect.detect(sample, suffix=suffix, options=options)
  except InputError as error:
    raise InputError(f"{path}: {error}") from error
  return Reader(path, stream, dialect, problems, options.columns, head=head)


class Reader:
  """Reads a file; its first row that is not blank is the header.

  Attributes:
    header: Names of the columns, "" for those without a name.
    dialect: Dialect of the file.
    header_lines: Number of lines of the header, Excel's `sep=;` included.
    blank_lines: Number of lines without a character.
    quoted_lines: Number of lines that continue a row, inside its fields.
    rows_read: Number of rows.
    bad_lines: Number of lines of rows that cannot be used.
  """

  def __init__(
    self,
    path: str,
    stream: IO[Any],
    dialect: Dialect,
    problems: problems_lib.Problems,
    columns: Sequence[str] = (),
    *,
    head: str | bytes | None = None,
  ) -> None:
    """Reads the header.

    Args:
      path: Path of the file, for messages.
      stream: Text of the file, its line breaks as they are; or its bytes, if
        they are UTF-8.
      dialect: How its rows are written.
      problems: Counter of bad rows and of broken encodings; takes notes on what
        looks wrong.
      columns: Names of the columns if the file has no header.
      head: Whole lines that were taken from the stream already.

    Raises:
      InputError: If the columns do not fit the rows, or if a quoted field is
        never closed, here or while rows are read; the message names the line.
    """
    self.dialect, self._path, self._problems = dialect, path, problems
    self._delimiter = dialect.translation.delimiter
    self._lines = csv_lines.Lines(stream, dialect.translation, head)
    self.header_lines = self.blank_lines = self.quoted_lines = 0
    self.rows_read = self.bad_lines = 0
    self._noted: set[str] = set()
    self._header_line = b""
    self._skip_blank()
    more, block = self._lines.more(), self._lines.block
    first = block.line(self._lines.index) if more else ""
    if csv_dialect.sep_line(dialect.translation.restore(first)) is not None:
      next(self._lines)
      self.header_lines += 1
      self._skip_blank()
    names = self._given(columns) if columns else self._read_header()
    self.header = self._fitted(names, given=bool(columns))

  @property
  def num_lines(self) -> int:
    """Number of lines that were read; of the file, once all rows are."""
    return self._lines.number - 1

  @property
  def available(self) -> tuple[str, ...]:
    """Names of the columns."""
    return self.header

  def describe(self) -> dict[str, Any]:
    """How the file was read, as JSON, once all rows are."""
    dialect = self.dialect
    return {
      "file": self._path,
      "format": "csv",
      "delimiter": dialect.delimiter,
      "quote": dialect.quote,
      "escape": dialect.escape,
      "reasons": list(dialect.reasons),
      "lines": self.num_lines,
      "header_lines": self.header_lines,
      "blank_lines": self.blank_lines,
      "quoted_lines": self.quoted_lines,
      "bad_lines": self.bad_lines,
      "rows": self.rows_read,
    }

  def rows(self, columns: Sequence[str]) -> Iterator[json_blocks.Rows]:
    """The rows in the file's order, with the header's columns of these names.

    All values are text. `malformed` holds every line of the bad rows.
    """
    if (
      columns and self._header_line and csv_header.looks_like_data(self.header)
    ):
      self._note_data()
    layout = _Layout(
      {name: self.header.index(name) for name in columns},
      len(self.header),
      self.dialect,
      self._header_line,
    )
    work = functools.partial(_parse, layout=layout)
    for rows, blank, bad, inside in row_stream.in_order(
      work, self._parts(layout)
    ):
      self.blank_lines += blank
      self.quoted_lines += inside
      self.rows_read += len(rows.lines)
      self.bad_lines += len(rows.broken) + len(rows.malformed)
      for stretch in bad:
        self._count(stretch)
      self._problems.add_rows("broken_encoding", self._path, rows.broken)
      yield rows

  def _count(self, bad: _Bad) -> None:
    kind, first, last = bad
    place = problems_lib.location(self._path, first, last)
    self._problems.add(kind, place, last - first + 1)
    if kind == "swallowed_rows":
      self._note_once(
        kind,
        "wrong",
        f"{place}: a quote opens a field that holds text like rows; these "
        f"{last - first + 1:,} lines, and others like them, are skipped",
      )
    elif kind == "malformed_row" and last > first:
      self._note_once(
        kind,
        "wrong",
        f"{place}: a quote opens a field over several lines, and the row does "
        f"not fit; these {last - first + 1:,} lines, and others like them, are "
        "skipped",
      )

  def _note_once(self, kind: str, severity: Any, message: str) -> None:
    if kind not in self._noted:
      self._noted.add(kind)
      message += ' (LogFiles.quoting = "quoted" trusts all quotes)'
      self._problems.note(severity, message, _QUOTES_ARE_TEXT)

  def _note_data(self) -> None:
    shown = ", ".join(map(repr, self.header[:4]))
    self._problems.note(
      "wrong",
      f"{problems_lib.location(self._path, self.header_lines)}: the first row "
      f"looks like data, but is taken for the header: {shown}",
      "LogFiles.columns = ({})".format(
        ", ".join(f'"column_{i + 1}"' for i in range(len(self.header)))
        + ("," if len(self.header) == 1 else "")
      ),
    )

  def _skip_blank(self) -> None:
    lines = self._lines
    while lines.more() and not lines.block.content(lines.index):
      next(lines)
      self.blank_lines += 1

  def _read_header(self) -> tuple[str, ...]:
    lines, translation = self._lines, self.dialect.translation
    if not lines.more():
      return ()
    first, block = lines.number, lines.block
    content = block.content(lines.index)
    row = self._row()
    last = lines.number - 1
    if row is None:
      self._count(_Bad("malformed_row", first, last))
      self.bad_lines += last - first + 1
      return ()
    self.header_lines += last - first + 1
    if first == last:
      self._header_line = content
    names = tuple(translation.restore(name).strip() for name in row)
    untyped = csv_header.untyped(names)
    if untyped is not None:
      self._problems.note(
        "info",
        f"{problems_lib.location(self._path, first)}: the header says types; "
        f"{names[0]!r} is read as {untyped[0]!r}, the others likewise",
      )
    return untyped or names

  def _given(self, columns: Sequence[str]) -> tuple[str, ...]:
    """The names that the user gave; a first row of just these is skipped."""
    columns = tuple(columns)
    lines, restore = self._lines, self.dialect.translation.restore
    if not lines.more():
      return columns
    first = lines.block.line(lines.index)
    rows = csv_header.peek([first], self.dialect)
    if rows and tuple(restore(name).strip() for name in rows[0]) == columns:
      self._header_line = lines.block.content(lines.index)
      self._problems.note(
        "info",
        f"{problems_lib.location(self._path, lines.number)}: this row holds "
        "the names of LogFiles.columns; it is skipped as the header",
      )
      next(lines)
      self.header_lines += 1
    return columns

  def _fitted(self, names: tuple[str, ...], given: bool) -> tuple[str, ...]:
    """The header, as wide as the first rows."""
    lines = self._lines
    if not names or not lines.more():
      return names
    block = lines.cut()
    peeked = [block.line(i) for i in range(min(_PEEKED, len(block)))]
    rows = csv_header.peek(peeked, self.dialect)
    fitted = csv_header.fit(names, rows)
    if not fitted.message:
      return names
    message = f"{problems_lib.location(self._path, lines.number)}: " + (
      fitted.message.replace("the header has", "LogFiles.columns has")
      if given
      else fitted.message
    )
    if fitted.fits:
      self._problems.note("info", message)
    elif given:
      raise InputError(f"{message}. Name each of them.")
    else:
      self._problems.note(
        "wrong", message, "LogFiles.columns, with a name each"
      )
    return fitted.names

  def _parts(self, layout: _Layout) -> Iterator[_Part]:
    """The file's blocks, their odd rows already read."""
    lines = self._lines
    while lines.more():
      block = lines.cut()
      if layout.is_simple(block):
        lines.index = len(block)
        yield _Part(block)
      else:
        yield self._odd_rows(block, layout)

  def _odd_rows(self, block: Block, layout: _Layout) -> _Part:
    """Reads the rows of a block that are not plain."""
    lines, restore = self._lines, self.dialect.translation.restore
    plain = _plain(block, layout)
    headers = layout.headers(block)
    plain[headers] = False
    repeated = set(headers.tolist())
    part = _Part(block, plain)
    for index in np.flatnonzero(~plain).tolist():
      if index < lines.index:  # Read with the row before it.
        continue
      lines.index = index
      first = lines.number
      if index in repeated:
        next(lines)
        plain[index] = False
        part.bad.append(_Bad("repeated_header", first, first))
        continue
      row = self._row()
      last = lines.number - 1
      spills = lines.block is not block
      plain[index : None if spills else lines.index] = False
      kind = self._fault(row, layout.num_fields, last > first)
      if row is None or kind:
        part.bad.append(_Bad(kind, first, last))
      else:
        part.lines.append(first)
        part.inside.append(last - first)
        part.rows.append(
          [restore(row[i]).encode(*ENCODING) for i in layout.at.values()]
        )
      if spills:
        break
    else:
      lines.index = len(block)
    return part

  def _fault(
    self, row: list[str] | None, num_fields: int, several_lines: bool
  ) -> str:
    """The kind of a bad row, or "" for a good one."""
    if row is None or len(row) != num_fields:
      return "malformed_row"
    if several_lines and not self.dialect.trusted:
      if csv_rows.swallows(row, self._delimiter):
        return "swallowed_rows"
      if self._delimiter == "\t":
        self._note_once(
          "line_break",
          "suspect",
          f"{problems_lib.location(self._path, self._lines.number - 1)}: a "
          "line break inside a field between tabs is read as text",
        )
    return ""

  def _row(self) -> list[str] | None:
    """The next row; None if it is malformed."""
    first = self._lines.number
    opening = self._lines.block.content(self._lines.index)
    try:
      return csv_rows.read(self._lines, self.dialect)
    except csv_rows.Unclosed as error:
      quote = self.dialect.quote
      if quote is None or quote.encode() not in opening:
        if not error.too_long:
          return None  # An escape character ends the file.
        raise InputError(
          f"{self._path}:{first}: a field of this row is longer than "
          f"{csv.field_size_limit():,} characters; the file is damaged or is "
          "no CSV file."
        ) from error
      raise InputError(
        f"{self._path}:{first}: a quoted field that begins in this row is "
        "never closed; everything after it would be lost. Set "
        'LogFiles.quoting = "none" if quotes are text, or LogFiles.quote and '
        "LogFiles.escape; else close the quote or double it."
      ) from error


class _Bad(NamedTuple):
  """Lines of one bad row: its kind, and its first and last line."""

  kind: str
  first: int
  last: int


class _Layout(NamedTuple):
  """What the rows of a file are like.

  Attributes:
    at: Index by name of the requested columns.
    num_fields: Number of fields of a row.
    dialect: Dialect of the file.
    header_line: The header as it is written, or nothing.
  """

  at: Mapping[str, int]
  num_fields: int
  dialect: Dialect
  header_line: bytes

  def is_simple(self, block: Block) -> bool:
    """Whether each line is one row without a quote, or a malformed row."""
    quote, escape = self.dialect.quote, self.dialect.escape
    return (
      self.num_fields > 0
      and len(block.data) < csv.field_size_limit()
      and not (quote and quote.encode() in block.data)
      and not (escape and escape.encode() in block.data)
      and block.simple_breaks
      and not (self.header_line and self.header_line in block.data)
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


class _Part:
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
    self.block, self.plain = block, plain
    self.lines: list[int] = []
    self.inside: list[int] = []
    self.rows: list[list[bytes]] = []
    self.bad: list[_Bad] = []


class _Parsed(NamedTuple):
  """The rows of a part, the blank lines, the bad rows, the lines inside."""

  rows: json_blocks.Rows
  blank: int
  bad: Sequence[_Bad]
  inside: int


def _plain(block: Block, layout: _Layout) -> np.ndarray:
  """bool[n], which lines are plain; blank ones are, since no parser sees them.

  Args:
    block: Lines of the file.
    layout: What its rows are like.
  """
  if not layout.num_fields:
    return block.blank.copy()
  dialect, starts = layout.dialect, block.bounds[:-1]
  codes = block.codes
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
  return (plain & (fields == layout.num_fields)) | block.blank


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
  at = np.flatnonzero(codes == escape)
  begins = np.diff(at, prepend=-2) != 1
  order = np.arange(len(at))
  since = order - np.maximum.accumulate(np.where(begins, order, 0))
  at = at[since % 2 == 0]  # In a row of them, each other one is escaped.
  after = np.minimum(at + 1, len(codes) - 1)
  breaks = after[np.isin(codes[after], (csv_lines.NEW_LINE, csv_lines.RETURN))]
  codes = codes.copy()
  codes[at] = codes[after] = ord("x")
  return codes, breaks


def _parse(part: _Part, layout: _Layout) -> _Parsed:
  """Reads the plain lines of a part, and inserts the odd rows among them."""
  block, plain, bad = part.block, part.plain, part.bad
  table = pa.table(
    {name: pa.array([], pa.large_binary()) for name in layout.at}
  )
  lines, blank = np.empty(0, np.int64), 0
  if plain is None:
    try:
      if layout.at:
        table = _plain_table(block.data, layout)
        lines = np.arange(block.first_line, block.first_line + len(block))
    except pa.ArrowInvalid:
      pass
  if plain is None and (len(lines) != table.num_rows or not len(lines)):
    plain = _plain(block, layout)
    odd = np.flatnonzero(~plain) + block.first_line
    bad = [_Bad("malformed_row", line, line) for line in odd.tolist()]
    table = table.slice(0, 0)
  if plain is not None:
    lines = np.flatnonzero(plain & ~block.blank) + block.first_line
    blank = int(np.count_nonzero(plain & block.blank))
    if len(lines) and layout.at:
      table = _plain_table(_joined(block, plain), layout)
  if part.lines and not layout.at:
    lines = np.sort(np.concatenate([lines, part.lines]))
  elif part.lines:
    values = zip(*part.rows, strict=True)
    odd_rows = [pa.array(column, pa.large_binary()) for column in values]
    table = pa.concat_tables([table, pa.table(odd_rows, names=list(layout.at))])
    lines = np.concatenate([lines, part.lines])
    order = np.argsort(lines)
    table, lines = table.take(pa.array(order)), lines[order]
  table, good = _decoded(table, len(lines))
  malformed = [np.arange(one.first, one.last + 1) for one in bad]
  rows = json_blocks.Rows(
    table,
    lines[good],
    np.concatenate([np.empty(0, np.int64), *malformed]),
    lines[~good],
  )
  return _Parsed(rows, blank, bad, sum(part.inside))


def _joined(block: Block, chosen: np.ndarray) -> bytes:
  """The text of the chosen lines."""
  if chosen.all():
    return block.data
  turns = np.flatnonzero(np.diff(chosen, prepend=False, append=False))
  bounds = block.bounds[turns].tolist()
  runs = zip(bounds[::2], bounds[1::2], strict=True)
  return b"".join(block.data[start:end] for start, end in runs)


def _plain_table(data: bytes, layout: _Layout) -> pa.Table:
  """The requested columns of plain lines, as bytes."""
  if data.startswith(BYTE_ORDER_MARK):  # Text here, but PyArrow removes it.
    data = b"\n" + data
  names = [str(i) for i in range(layout.num_fields)]
  wanted = [names[i] for i in layout.at.values()]
  dialect = layout.dialect
  table = pa_csv.read_csv(
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
    table = _restored(table, dialect.translation)
  return table.rename_columns(list(layout.at))


def _restored(table: pa.Table, translation: csv_lines.Translation) -> pa.Table:
  """Values as they were before the translation, as bytes."""
  columns = []
  for column in table.columns:
    for new, old in translation.changed:
      pattern, replacement = new.encode(*ENCODING), old.encode(*ENCODING)
      if pc.any(pc.match_substring(column, pattern)).as_py():
        column = pc.replace_substring(column, pattern, replacement)
    columns.append(column)
  return pa.table(columns, names=table.column_names)


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
