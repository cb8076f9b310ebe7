"""CSV files as columns of text: PyArrow for plain rows, Python for odd ones.

Python's strict `csv` parser defines what a file holds. PyArrow, which parses
whole blocks without the interpreter's lock, reads plain rows the same way; all
others go to Python, a row at a time. So how a row is read depends on the row
alone.

Every line of the file is counted: as the header, as blank, as a row, as a line
inside a row, or as bad.
"""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute creates its functions at run time.)

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from calrec_jax.data.logs import problems as problems_lib
from calrec_jax.data.logs.csv import (
  csv_dialect,
  csv_header,
  csv_lines,
  csv_parts,
)
from calrec_jax.data.logs.csv.csv_rows import Dialect
from calrec_jax.data.logs.files import ahead, row_blocks
from calrec_jax.data.logs.files.read_options import ReadOptions
from calrec_jax.errors import InputError

_SHOWN = 60  # Characters of a line in a note.
_PEEKED = 200  # Lines that show how wide the rows are.
_FEW = 20  # Rows with a line break inside a field,
_SELDOM = 0.05  # or such a share of them, may be damage.
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
  before = csv_dialect.before_header(sample, options)
  for _ in range(before):
    sample = csv_dialect.BREAKS.split(sample, maxsplit=1)[1]
  try:
    dialect = csv_dialect.detect(sample, suffix=suffix, options=options)
  except InputError as error:
    raise InputError(f"{path}: {error}") from error
  return Reader(
    path,
    stream,
    dialect,
    problems,
    options.columns,
    head=head,
    binding=options.columns_binding,
    before=before,
  )


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
    binding: str = "LogFiles.columns",
    before: int = 0,
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
      binding: The gin name of `columns`, for messages.
      before: Number of lines before the header, which are skipped.

    Raises:
      InputError: If the columns do not fit the rows, or if a quoted field is
        never closed, here or while rows are read; the message names the line.
    """
    self.dialect, self._path, self._problems = dialect, path, problems
    self._delimiter, self._binding = dialect.translation.delimiter, binding
    self._lines = csv_lines.Lines(stream, dialect.translation, head)
    self.header_lines = self.blank_lines = self.quoted_lines = 0
    self.rows_read = self.bad_lines = 0
    self._noted: set[str] = set()
    self._header_line, self._looks_like_data = b"", False
    self._skip_before(before)
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

  def rows(self, wanted: Sequence[str]) -> Iterator[row_blocks.Rows]:
    """The rows in the file's order, with the header's columns of these names.

    All values are text. `malformed` holds every line of the bad rows.
    """
    if wanted and self._looks_like_data:
      self._note_data()
    layout = csv_parts.Layout(
      self._path,
      {name: self.header.index(name) for name in wanted},
      len(self.header),
      self.dialect,
      self._header_line,
    )

    def work(part: csv_parts.Part) -> tuple[csv_parts.Parsed, np.ndarray]:
      parsed = csv_parts.parse(part, layout)
      return parsed, self._headers(parsed.rows, layout)

    broken: list[int] = []
    for parsed, headers in ahead.in_order(work, self._parts(layout)):
      rows = self._without(parsed.rows, headers)
      self.blank_lines += parsed.blank
      self.quoted_lines += parsed.inside
      self.rows_read += len(rows.lines)
      self.bad_lines += len(rows.broken) + len(rows.malformed)
      for stretch in parsed.bad:
        self._count(stretch)
      broken += list(parsed.breaks)
      self._problems.add_rows("broken_encoding", self._path, rows.broken)
      yield rows
    # Where many rows have them, fields of several lines are the rule.
    seldom = 0 < len(broken) <= max(_FEW, _SELDOM * self.rows_read)
    if seldom and self._delimiter == "\t" and not self.dialect.trusted:
      self._note_once(
        "line_break",
        "suspect",
        f"{problems_lib.location(self._path, broken[0])}: a line break inside "
        "a field between tabs is read as text",
      )

  def _headers(
    self, rows: row_blocks.Rows, layout: csv_parts.Layout
  ) -> np.ndarray:
    """int64[n], the rows that hold the names, however these are written.

    Files that were joined may differ in case, quotes and byte order marks.
    """
    names = [name for name in layout.at if name]
    if len(names) < 2 or self._looks_like_data or not len(rows.lines):
      return np.empty(0, np.int64)
    at = np.flatnonzero(_may_be(rows.table[names[0]], names[0]))
    for name in names[1:]:
      at = at[_may_be(rows.table[name].take(pa.array(at)), name)]
    for name in names:
      found = rows.table[name].take(pa.array(at))
      found = pc.utf8_trim(pc.utf8_lower(found), ' \t\ufeff"')
      at = at[pc.equal(found, name.lower()).to_numpy()]
    return at

  def _without(self, rows: row_blocks.Rows, at: np.ndarray) -> row_blocks.Rows:
    """Rows without those that hold the names, which are counted."""
    if not len(at):
      return rows
    is_header = np.zeros(len(rows.lines), bool)
    is_header[at] = True
    repeated = rows.lines[is_header]
    self._problems.add_rows("repeated_header", self._path, repeated)
    return rows._replace(
      table=rows.table.filter(pa.array(~is_header)),
      lines=rows.lines[~is_header],
      malformed=np.sort(np.concatenate([rows.malformed, repeated])),
    )

  def _count(self, bad: csv_parts.Bad) -> None:
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
      "{} = ({})  # in order; see calrec data guess {}".format(
        self._binding,
        ", ".join(f'"column_{i + 1}"' for i in range(len(self.header)))
        + ("," if len(self.header) == 1 else ""),
        os.path.basename(self._path),
      ),
    )

  def _skip_before(self, count: int) -> None:
    lines, shown = self._lines, ""
    for _ in range(count):
      if not lines.more():
        return
      blank = not lines.block.content(lines.index)
      text = self.dialect.translation.restore(next(lines)).strip()
      shown = shown or text
      self.blank_lines += blank
      self.header_lines += not blank
    if count:
      self._problems.note(
        "info",
        f"{problems_lib.location(self._path, 1, count)}: no row of the table, "
        f"skipped: {shown[:_SHOWN]!r}",
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
    row = csv_parts.row(lines, self._path, self.dialect)
    last = lines.number - 1
    if row is None:
      self._count(csv_parts.Bad("malformed_row", first, last))
      self.bad_lines += last - first + 1
      return ()
    self.header_lines += last - first + 1
    names = tuple(translation.restore(name).strip() for name in row)
    self._looks_like_data = csv_header.looks_like_data(names)
    if first == last and not self._looks_like_data:
      self._header_line = content
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
        f"the names of {self._binding}; it is skipped as the header",
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
      fitted.message.replace("the header has", f"{self._binding} has")
      if given
      else fitted.message
    )
    if fitted.fits:
      self._problems.note("info", message)
    elif given:
      raise InputError(f"{message}. Name each of them.")
    else:
      self._problems.note(
        "wrong", message, f"{self._binding} = (…)  # with a name each"
      )
    return fitted.names

  def _parts(self, layout: csv_parts.Layout) -> Iterator[csv_parts.Part]:
    """The file's blocks, their odd rows already read."""
    lines = self._lines
    while lines.more():
      block = lines.cut()
      if layout.is_regular(block):  # Each row ends in it.
        lines.index = len(block)
        yield csv_parts.Part(block)
      else:
        yield csv_parts.odd_rows(lines, layout)


def _may_be(column: pa.ChunkedArray, name: str) -> np.ndarray:
  """bool[n], which texts have the length of a column's name.

  With quotes or a byte order mark around it, or without.
  """
  length = pc.binary_length(column).to_numpy()
  return np.isin(length - len(name.encode()), (0, 2, 3, 5))
