"""CSV files: what Python's reader alone would say, from blocks of any size."""

import csv
import gzip
import io

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from calrec_jax.data.logs import csv_blocks, tables
from calrec_jax.data.logs import problems as problems_lib

WANTED = ("id", "title")


def plain_rows(path, stream, delimiter, problems):
  """(line, fields) of each row, None where it is malformed."""
  reader = csv.reader(stream, delimiter=delimiter, strict=True)
  while True:
    line = reader.line_num + 1
    try:
      row = next(reader, [])
      if not row and reader.line_num < line:
        return
    except csv.Error as error:
      if "unexpected end" in str(error) or "field larger" in str(error):
        raise ValueError(f"{path}:{line}: ") from error
      location = problems_lib.location(path, line, reader.line_num)
      problems.add("malformed_row", location)
      row = None
    if row != []:
      yield line, row


def plain_read(path, data, delimiter, encoding):
  """Columns, lines, header, number of rows and problems, by Python's `csv`."""
  problems = problems_lib.Problems()
  stream = io.TextIOWrapper(
    io.BytesIO(data), encoding, "surrogateescape", newline=""
  )
  rows = plain_rows(path, stream, delimiter, problems)
  header = tuple(name.strip() for name in next(rows, (0, []))[1] or ())
  at = {name: header.index(name) for name in WANTED if name in header}
  if any(header.count(name) > 1 for name in at):
    raise ValueError(f"{path}:1: ")
  good, broken, num_rows = [], [], 0
  for line, row in rows:
    num_rows += 1
    if row is not None and len(row) != len(header):
      problems.add("malformed_row", problems_lib.location(path, line))
    elif row is not None:
      text = "".join(row[i] for i in at.values())
      is_broken = any("\ud800" <= letter <= "\udfff" for letter in text)
      (broken if is_broken else good).append((line, row))
  if broken:
    first = problems_lib.location(path, broken[0][0])
    problems.add("broken_encoding", first, len(broken))
  return (
    {name: [row[i] for _, row in good] for name, i in at.items()},
    [line for line, _ in good],
    header,
    num_rows,
    problems.as_list(),
  )


def read(path, _, delimiter, encoding):
  """The same by the library."""
  problems = problems_lib.Problems()
  table = tables.read(
    path, WANTED, problems, delimiter=delimiter, encoding=encoding
  )
  return (
    {name: list(values) for name, values in table.columns.items()},
    table.lines.tolist(),
    table.available,
    table.num_rows,
    problems.as_list(),
  )


def outcome(reader, *arguments):
  """What a reader returns, or the place that its error names."""
  try:
    return reader(*arguments)
  except ValueError as error:
    return str(error).partition(": ")[0]


PLAIN = st.sampled_from(
  [
    b"",
    b"x",
    b" x ",
    b"NA",
    b"null",
    b"007",
    b"1e5",
    b"true",
    b"2024-01-02",
    b"#",
    b"\\",
    b"\xc3\xa9",
    b"\xff",
    b"\xed\xb2\x80",
    b"\x00",
    b"\xef\xbb\xbf",
    b"\xe2\x80\xa8",
    b"\x0b\x1c\x85",
    b'""',
    b'"x"',
    b'"a ""b"" c"',
    b'"""a"',
    b'""""',
    b'"a,b;c\td"',
    b'"\xff"',
  ]
)
ODD = st.sampled_from(
  [
    b'"over\ntwo"',
    b'"over\r\n\r\nthree"',
    b'"a\rreturn"',
    b'5" nail',
    b'x"',
    b'"x"y',
    b'""x',
    b' "x"',
    b'"',
    b'"""',
    b'"open',
    b"longer than most" * 3,
    b"a,b",
  ]
)
ROWS = (
  st.lists(PLAIN, min_size=3, max_size=3)
  | st.lists(PLAIN | PLAIN | PLAIN | ODD, min_size=3, max_size=3)
  | st.lists(PLAIN | ODD, max_size=4)
)
BREAKS = st.sampled_from([b"\n"] * 4 + [b"\r\n", b"\r", b"\n\n", b"\n \r\n"])
LINES = st.lists(st.tuples(ROWS, BREAKS), max_size=16)
HEADERS = st.sampled_from(
  [
    b"id,title,note\n",
    b"\xef\xbb\xbfid,title,note\r\n",
    b'\n\r\n"id"," title",note\n',
    b"note,title,id\n",
    b"id\n",
    b"note,other,more\n",
    b"id,id,title\n",
    b'id,"title\n or",title\n',
    b'"id"x,title\n',
    b"",
  ]
)


@settings(
  max_examples=300,
  deadline=None,
  suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
  header=st.just(b"id,title,note\n") | HEADERS,
  lines=LINES,
  cut=st.integers(0, 12),
  delimiter=st.sampled_from([",", ",", "\t", ";", " ", "\xa7"]),
  encoding=st.sampled_from(
    ["utf-8-sig", "utf-8-sig", "latin-1", "ascii", "cp1252", "utf-16"]
  ),
  size=st.integers(1, 200),
)
@example(
  b"id,title,note\n",
  [([b'"a\n"'] * 3, b"\n"), ([b"x"] * 3, b"\n")],
  0,
  ",",
  "utf-8-sig",
  15,
)
def test_any_file_is_what_pythons_reader_says(
  tmp_path, monkeypatch, header, lines, cut, delimiter, encoding, size
):
  data = header + b"".join(b",".join(row) + end for row, end in lines)
  data = data[: len(data) - cut] if cut else data
  if encoding == "utf-16":
    data = data.decode("utf-8", "ignore").encode("utf-16")
  data = data.replace(b",", delimiter.encode("latin-1"))
  path = tmp_path / "log.csv.gz"
  path.write_bytes(gzip.compress(data))
  monkeypatch.setattr(csv_blocks, "_BLOCK_CHARACTERS", size)
  arguments = str(path), data, delimiter, encoding
  assert outcome(read, *arguments) == outcome(plain_read, *arguments)


@pytest.mark.parametrize("delimiter", ['"', "\n", "\r"])
def test_what_cannot_part_fields_is_refused(tmp_path, delimiter):
  path = tmp_path / "log.csv"
  path.write_text("")
  with pytest.raises(ValueError, match=r"LogFiles\.delimiter"):
    read(str(path), None, delimiter, "utf-8")


def test_only_odd_rows_are_read_by_python(tmp_path, monkeypatch):
  path = tmp_path / "log.csv"
  plain = b'1,"a ""quoted"", and a comma",x\n\n2,b,""\r\n'
  path.write_bytes(b"id,title,note\n" + plain + b'3,5" nail,x\n' + plain)
  read_by_python = []
  reader = csv.reader

  def spy(lines, **options):
    for row in reader(lines, **options):
      read_by_python.append(row[0])
      yield row

  monkeypatch.setattr(csv, "reader", spy)
  columns, lines, *_ = read(str(path), None, ",", "utf-8")
  assert read_by_python == ["id", "3"]
  assert columns["id"] == ["1", "2", "3", "1", "2"]
  assert lines == [2, 4, 5, 6, 8]


@pytest.mark.parametrize("quote", ["", '"'])
def test_a_field_beyond_pythons_limit_is_an_error(tmp_path, monkeypatch, quote):
  monkeypatch.setattr(csv_blocks, "_MAX_FIELD", 100)
  before = csv.field_size_limit(100)
  try:
    path = tmp_path / "log.csv"
    path.write_text(f"id,title\n1,a\n2,{quote}{'x' * 101}{quote}\n")
    with pytest.raises(ValueError, match=r"log\.csv:3: "):
      read(str(path), None, ",", "utf-8")
  finally:
    csv.field_size_limit(before)
