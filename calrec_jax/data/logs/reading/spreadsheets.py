"""Sheets of Excel's workbooks (.xlsx), with their dates and numbers."""

from __future__ import annotations

import collections
import itertools
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from typing import IO, Any

import numpy as np
import pyarrow as pa

from calrec_jax.data.logs import problems as problems_lib
from calrec_jax.data.logs.csv import csv_header
from calrec_jax.data.logs.files import read_options, row_blocks
from calrec_jax.data.logs.json import json_values
from calrec_jax.errors import InputError, MissingPackageError, nearest

_BATCH = 8192
_SEEN = 200  # Rows that show whether others stand before the header.
_FEWEST = 4  # Of them, so that most are rows of the table.
_MOST_BEFORE = 20
_SHOWN = 80  # Characters of a title in a note.
_UNPACKED = 4 << 30  # Bytes; a workbook that unpacks to more is a trap.


class Sheet:
  """Reads a sheet; the first row that is not blank, nor a title, is the header.

  Attributes:
    available: Names of the columns.
    num_lines: Number of the rows that were read so far.
  """

  def __init__(
    self,
    stream: IO[bytes],
    path: str,
    sheet: str | None,
    options: read_options.ReadOptions,
    problems: problems_lib.Problems,
  ) -> None:
    """Opens the workbook and reads the header.

    Args:
      stream: The workbook, a stream that can seek.
      path: Path of the workbook, for messages.
      sheet: Name of the sheet; None is the first one.
      options: Names of the columns of a sheet without a header.
      problems: Receives a note if there are several sheets, or titles before
        the header.

    Raises:
      InputError: If there is no such sheet, or the workbook is damaged.
      MissingPackageError: If openpyxl is not installed.
    """
    self._path = path
    self.num_lines = 0
    book = _workbook(stream, path)
    names = [one.title for one in book.worksheets]
    if sheet is not None and sheet not in names:
      raise InputError(
        f"{path} has no sheet {sheet!r}. It has {', '.join(map(repr, names))}."
        + nearest(sheet, names)
      )
    if not names:
      raise InputError(f"{path} has no sheet of cells.")
    self._sheet = sheet or names[0]
    if sheet is None and len(names) > 1:
      problems.note(
        "info",
        f"{problems_lib.base_name(path)} has {len(names)} sheets; the first, "
        f"{names[0]!r}, is read",
        f'LogFiles.interactions = "{path}/{names[1]}"',
      )
    cells = book[self._sheet]
    cells.reset_dimensions()  # Some programs write wrong ones.
    self._rows = cells.iter_rows(values_only=True)
    if not options.columns:
      self._skip_titles(problems)
    self._names = options.columns or self._header()
    twice = [
      name for name in self._names if name and self._names.count(name) > 1
    ]
    if twice:
      raise InputError(
        f"{path}:{self.num_lines}: two columns are called {twice[0]!r}. "
        "Rename one."
      )
    self.available = tuple(name for name in self._names if name)

  def describe(self) -> dict[str, Any]:
    """How the file is read."""
    return {"format": "xlsx", "sheet": self._sheet}

  def rows(self, wanted: Sequence[str]) -> Iterator[row_blocks.Rows]:
    """The rows that are not blank, with all wanted columns."""
    at = {
      name: self._names.index(name) if name in self._names else None
      for name in wanted
    }
    while batch := self._batch():
      lines = np.array([line for line, _ in batch], np.int64)
      columns = {
        name: json_values.column(
          [
            row[index] if index is not None and index < len(row) else None
            for _, row in batch
          ]
        )
        for name, index in at.items()
      }
      yield row_blocks.Rows(pa.table(columns), lines)

  def _batch(self) -> list[tuple[int, tuple[Any, ...]]]:
    batch = []
    while len(batch) < _BATCH and (row := self._next()) is not None:
      if _filled(row):
        batch.append((self.num_lines, row))
    return batch

  def _next(self) -> tuple[Any, ...] | None:
    try:
      with warnings.catch_warnings():  # On styles and the like.
        warnings.simplefilter("ignore")
        row = next(self._rows, None)
    except Exception as error:
      raise _damaged(self._path, error) from error
    if row is not None:
      self.num_lines += 1
    return row

  def _skip_titles(self, problems: problems_lib.Problems) -> None:
    seen = []
    while len(seen) < _SEEN and (row := self._next()) is not None:
      seen.append(row)
    self.num_lines = 0
    self._rows = itertools.chain(seen, self._rows)
    titles = _before_header(seen)
    for _ in range(titles):
      self._next()
    if titles:
      [shown, *_] = itertools.chain.from_iterable(map(_filled, seen))
      where = problems_lib.location(self._path, 1, titles)
      problems.note(
        "info",
        f"{where}: no row of the table, skipped: {shown[:_SHOWN]!r}",
      )

  def _header(self) -> tuple[str, ...]:
    while (row := self._next()) is not None:
      if _filled(row):
        return tuple((json_values.text(cell) or "").strip() for cell in row)
    raise InputError(f"{self._path}: the sheet {self._sheet!r} is empty.")


def _filled(row: Sequence[Any]) -> list[str]:
  """The texts of the cells of a row that are not empty."""
  return [
    json_values.text(cell) or ""
    for cell in row
    if cell is not None and cell != ""
  ]


def _before_header(rows: Sequence[Sequence[Any]]) -> int:
  """Number of rows before the names of the columns: titles, as in CSV files.

  Only one of their cells is filled, and most rows have three or more.
  """
  cells = list(map(_filled, rows))
  counts = [min(len(texts), 3) for texts in cells if texts]
  [(most, same)] = collections.Counter(counts).most_common(1) or [(0, 0)]
  # A title in a table of two columns may be the only name of a header.
  if most < 3 or same < 0.5 * len(counts) or len(counts) < _FEWEST:
    return 0
  header = next(i for i, texts in enumerate(cells) if len(texts) > 1)
  titles = [texts for texts in cells[:header] if texts]
  if not titles or header > _MOST_BEFORE:
    return 0
  return 0 if csv_header.looks_like_data(cells[header]) else header


def _workbook(stream: IO[bytes], path: str) -> Any:
  try:
    import openpyxl
  except ModuleNotFoundError as error:
    raise MissingPackageError(
      f"{path}: reading .xlsx needs openpyxl. Install it with "
      "pip install 'calrec_jax[xlsx]', or save the sheet as CSV."
    ) from error
  try:
    with zipfile.ZipFile(stream) as archive:
      unpacked = sum(info.file_size for info in archive.infolist())
  except zipfile.BadZipFile as error:
    raise _damaged(path, error) from error
  if unpacked > _UNPACKED:
    raise InputError(
      f"{path} unpacks to {unpacked >> 30:,} GiB. Save the sheet as CSV."
    )
  stream.seek(0)
  try:
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")
      return openpyxl.load_workbook(stream, read_only=True, data_only=True)
  except Exception as error:  # Of many kinds, by what is damaged.
    raise _damaged(path, error) from error


def _damaged(path: str, error: Exception) -> InputError:
  return InputError(
    f"{path} cannot be read as a workbook ({error}). Open it in a spreadsheet "
    "program and save it again, or as CSV."
  )
