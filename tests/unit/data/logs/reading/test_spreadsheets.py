"""Workbooks: sheets, types, and what is refused."""

import datetime
import io
import sys

import pytest

from calrec_jax.data.logs import problems as problems_lib
from calrec_jax.data.logs.files import read_options
from calrec_jax.data.logs.reading import spreadsheets
from calrec_jax.errors import MissingPackageError

TIME = datetime.datetime(2020, 9, 14, 5, 18)
ROWS = [
  [None, None],
  ["user ", "item", "at", "price", None],
  ["00123", 5, TIME, 1.5, None],
  [None, None, None],
  ["x", "6", TIME, None, "note"],
]


def book(sheets):
  openpyxl = pytest.importorskip("openpyxl")
  workbook = openpyxl.Workbook()
  workbook.remove(workbook.active)
  for name, rows in sheets.items():
    sheet = workbook.create_sheet(name)
    for row in rows:
      sheet.append(row)
  stream = io.BytesIO()
  workbook.save(stream)
  stream.seek(0)
  return stream


def read(stream, sheet=None, wanted=("user", "item", "at", "no"), **options):
  problems = problems_lib.Problems()
  options = read_options.ReadOptions(**options)
  file = spreadsheets.Sheet(stream, "a.xlsx", sheet, options, problems)
  blocks = list(file.rows(wanted))
  rows = [tuple(row.values()) for b in blocks for row in b.table.to_pylist()]
  lines = [line for block in blocks for line in block.lines.tolist()]
  return rows, lines, file, problems


def test_the_first_sheet_with_its_types():
  rows, lines, file, problems = read(book({"log": ROWS, "more": [["x"]]}))
  assert rows == [("00123", "5", TIME, None), ("x", "6", TIME, None)]
  assert lines == [3, 5]
  assert file.available == ("user", "item", "at", "price")
  assert file.num_lines == 5
  assert file.describe() == {"format": "xlsx", "sheet": "log"}
  assert problems.notes()[0].remedy == 'LogFiles.interactions = "a.xlsx/more"'


def test_a_named_sheet_and_columns_by_name():
  sheets = {"a": [["x"]], "b": [["u", 1], ["v", 2]]}
  rows, lines, *_ = read(
    book(sheets), "b", ("user", "n"), columns=("user", "n")
  )
  assert rows == [("u", 1), ("v", 2)]
  assert lines == [1, 2]
  with pytest.raises(ValueError, match=r"no sheet 'bb'.*Did you mean 'b'"):
    read(book(sheets), "bb")


TABLE = [["user", "item", "at"], *[[f"u{n}", n, TIME] for n in range(4)]]


def test_titles_before_the_header_are_skipped_and_stated():
  titles = [[None, "Sales of May"], ["Confidential"], [None]]
  rows, lines, file, problems = read(book({"a": [*titles, *TABLE]}))
  assert rows[0] == ("u0", 0, TIME, None)
  assert lines == [5, 6, 7, 8]
  assert file.num_lines == 8
  assert file.available == ("user", "item", "at")
  [note] = problems.notes()
  assert note.severity == "info"
  assert note.message == (
    "a.xlsx:1-3: no row of the table, skipped: 'Sales of May'"
  )


@pytest.mark.parametrize(
  ("rows", "header"),
  [
    ([[None, None], *TABLE], "user"),  # Blank rows are no titles.
    ([["Sales"], ["u", "i"], ["a", 1], ["b", 2], ["c", 3]], "Sales"),
    ([["Sales"], *TABLE[1:]], "Sales"),  # There is no header below it.
    ([["Sales"], *TABLE[:2]], "Sales"),  # Too few rows show what is one.
  ],
)
def test_what_is_no_title_is_the_header(rows, header):
  *_, file, problems = read(book({"a": rows}))
  assert file.available[0] == header
  assert not problems.notes()


def test_titles_of_a_sheet_with_given_columns_are_rows():
  rows, *_ = read(
    book({"a": [["Sales"], *TABLE[1:]]}), columns=("user", "item", "at")
  )
  assert rows[0][0] == "Sales"


def test_empty_and_repeated():
  with pytest.raises(ValueError, match="'a' is empty"):
    read(book({"a": []}))
  with pytest.raises(ValueError, match=r"a\.xlsx:1: two columns are called"):
    read(book({"a": [["u", "u"]]}))


def test_damage():
  data = book({"a": ROWS}).getvalue()
  for damaged in (data[:-50], b"PK\x03\x04" + bytes(100)):
    with pytest.raises(ValueError, match="cannot be read as a workbook"):
      read(io.BytesIO(damaged))


def test_without_the_package(monkeypatch):
  monkeypatch.setitem(sys.modules, "openpyxl", None)
  with pytest.raises(MissingPackageError, match=r"calrec_jax\[xlsx\]"):
    read(io.BytesIO(b""))
