"""CSV files: what Python's reader alone would say, from blocks of any size."""

import csv
import io
import re
import time

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from calrec_jax.data.logs import problems as problems_lib
from calrec_jax.data.logs.csv import (
  csv_blocks,
  csv_dialect,
  csv_header,
  csv_lines,
  csv_parts,
  csv_rows,
)
from calrec_jax.data.logs.csv.csv_header import Fitted
from calrec_jax.data.logs.csv.csv_rows import Dialect
from calrec_jax.data.logs.files.read_options import ReadOptions
from calrec_jax.errors import InputError

WANTED = ("id", "title")


def plain_rows(path, stream, delimiter, problems):
  """(line, fields, last line) of each row, None where it is malformed."""
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
      problems.add("malformed_row", location, reader.line_num - line + 1)
      row = None
    if row != []:
      yield line, row, reader.line_num


def plain_read(path, data, delimiter, encoding):
  """Columns, lines, header, number of rows and problems, by Python's `csv`."""
  problems = problems_lib.Problems()
  stream = io.TextIOWrapper(
    io.BytesIO(data), encoding, "surrogateescape", newline=""
  )
  rows = plain_rows(path, stream, delimiter, problems)
  header = tuple(name.strip() for name in next(rows, (0, [], 0))[1] or ())
  at = {name: header.index(name) for name in WANTED if name in header}
  if any(header.count(name) > 1 for name in at):
    raise ValueError(f"{path}:1: ")
  good, broken, num_rows = [], [], 0
  for line, row, last in rows:
    bad = row is None or len(row) != len(header)
    num_rows += last - line + 1 if bad else 1
    if row is not None and bad:
      location = problems_lib.location(path, line, last)
      problems.add("malformed_row", location, last - line + 1)
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


def read(path, data, delimiter, encoding):
  """The same by the library."""
  problems = problems_lib.Problems()
  stream = io.BytesIO(data)
  if encoding != "utf-8-sig":
    stream = io.TextIOWrapper(stream, encoding, "surrogateescape", newline="")
  dialect = Dialect(delimiter, trusted=True)
  reader = csv_blocks.Reader(path, stream, dialect, problems)
  values, lines, num_rows = rows_of(reader, path, WANTED)
  assert lines_add_up(reader, data.decode(encoding, "surrogateescape"))
  return values, lines, reader.header, num_rows, problems.as_list()


def rows_of(reader, path, wanted):
  """Columns, lines and number of rows, lines of bad rows included."""
  for name in wanted:
    if reader.header.count(name) > 1:
      raise ValueError(f"{path}:1: ")
  present = [name for name in wanted if name in reader.header]
  values, lines, num_rows = {name: [] for name in present}, [], 0
  for rows in reader.rows(present):
    for name in present:
      values[name] += rows.table[name].to_pylist()
    lines += rows.lines.tolist()
    num_rows += rows.num_rows
  return values, lines, num_rows


def lines_add_up(reader, text):
  """Whether each line of the file is counted, and once."""
  lines = len(re.findall(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+$", text))
  counted = (
    reader.header_lines
    + reader.blank_lines
    + reader.rows_read
    + reader.quoted_lines
    + reader.bad_lines
  )
  return reader.num_lines == counted == lines


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
@example(b"id\n", [([b"\xef\xbb"], b"")], 0, ",", "utf-8-sig", 1)
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
  assume(data not in (b"\xef", b"\xef\xbb"))  # Python takes it for a mark.
  path = tmp_path / "log.csv"
  monkeypatch.setattr(csv_lines, "BLOCK_CHARACTERS", size)
  monkeypatch.setattr(csv_header, "fit", lambda names, _: Fitted(names))
  none = np.empty(0, np.int64)
  monkeypatch.setattr(csv_parts.Layout, "headers", lambda *_: none)
  arguments = str(path), data, delimiter, encoding
  assert outcome(read, *arguments) == outcome(plain_read, *arguments)


@pytest.mark.parametrize("delimiter", ['"', "\n", "\r", ""])
def test_what_cannot_part_fields_is_refused(delimiter):
  with pytest.raises(ValueError, match=r"x\.csv: LogFiles\.delimiter"):
    auto(b"", delimiter=delimiter)


def test_only_odd_rows_are_read_by_python(monkeypatch):
  plain = b'1,"a ""quoted"", and a comma",x\n\n2,b,""\r\n'
  data = b"id,title,note\n" + plain + b'3,5" nail,x\n' + plain
  read_by_python = []
  reader = csv.reader

  def spy(lines, **options):
    for row in reader(lines, **options):
      if isinstance(lines, csv_lines.Lines):  # The others are looked at.
        read_by_python.append(row[0])
      yield row

  monkeypatch.setattr(csv, "reader", spy)
  columns, lines, *_ = read("log.csv", data, ",", "utf-8")
  assert read_by_python == ["id", "3"]
  assert columns["id"] == ["1", "2", "3", "1", "2"]
  assert lines == [2, 4, 5, 6, 8]


@pytest.mark.parametrize("quote", ["", '"'])
def test_a_field_beyond_pythons_limit_is_an_error(monkeypatch, quote):
  monkeypatch.setattr(csv_rows, "MAX_FIELD", 100)
  before = csv.field_size_limit(100)
  try:
    data = f"id,title\n1,a\n2,{quote}{'x' * 101}{quote}\n".encode()
    with pytest.raises(ValueError, match=r"log\.csv:3: "):
      read("log.csv", data, ",", "utf-8")
  finally:
    csv.field_size_limit(before)


def auto(data, suffix=".csv", columns=(), **options):
  """Reader, rows and problems of a file whose dialect is detected."""
  problems = problems_lib.Problems()
  options = ReadOptions(columns=columns, **options)
  stream = io.BytesIO(data.encode() if isinstance(data, str) else data)
  reader = csv_blocks.open_csv(
    f"x{suffix}", stream, problems, suffix=suffix, options=options
  )
  header = reader.header
  names = [name for name in header if name and header.count(name) == 1]
  columns = {name: [] for name in names}
  for rows in reader.rows(names):
    for name in names:
      columns[name] += rows.table[name].to_pylist()
  rows = list(map(list, zip(*columns.values(), strict=True)))
  text = data if isinstance(data, str) else data.decode("utf-8", "replace")
  assert lines_add_up(reader, text.removeprefix("\ufeff"))
  counted = {row["kind"]: row["count"] for row in problems.as_list()}
  assert sum(counted.values()) == reader.bad_lines
  return reader, rows, counted, problems.notes()


# Texts that begin and end with a letter, so that a row is not prose.
WORDS = st.text("ab,;|\t\"'\\\n .é", max_size=8).map(lambda s: f"t{s}x")
SIMPLE = st.text("abxyz0189 é.'", min_size=1, max_size=6).map(
  lambda s: f"t{s}x"
)


def tables_of(words):
  return st.integers(2, 4).flatmap(
    lambda size: st.lists(
      st.lists(words, min_size=size, max_size=size), min_size=5, max_size=12
    )
  )


DIALECTS = st.fixed_dictionaries(
  {
    "delimiter": st.sampled_from(",;\t|"),
    "lineterminator": st.sampled_from(["\n", "\r\n"]),
  }
) | st.fixed_dictionaries(
  {
    "delimiter": st.sampled_from(",;\t|"),
    "lineterminator": st.sampled_from(["\n", "\r\n"]),
    "doublequote": st.booleans(),
    "escapechar": st.just("\\"),
  }
)
QUOTINGS = st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL, csv.QUOTE_NONE])


def written(table, quoting, dialect):
  stream = io.StringIO(newline="")
  dialect = {"escapechar": "\\"} | dialect if quoting == 3 else dialect
  header = [f"c{i}" for i in range(len(table[0]))]
  csv.writer(stream, quoting=quoting, **dialect).writerows([header, *table])
  return stream.getvalue()


def bound(quoting, dialect):
  """The dialect as a user binds it."""
  escape = "\\" if quoting == csv.QUOTE_NONE else dialect.get("escapechar", "")
  return {
    "delimiter": dialect["delimiter"],
    "quoting": "none" if quoting == csv.QUOTE_NONE else "quoted",
    "escape": escape,
  }


@settings(max_examples=300, deadline=None)
@given(tables_of(WORDS), QUOTINGS, DIALECTS)
def test_a_table_comes_back_in_the_dialect_that_is_bound(
  table, quoting, dialect
):
  text = written(table, quoting, dialect)
  reader, rows, counted, _ = auto(text, **bound(quoting, dialect))
  assert rows == table
  assert not counted
  assert reader.rows_read == len(table)


@settings(max_examples=300, deadline=None)
@given(tables_of(SIMPLE), QUOTINGS, DIALECTS, st.sampled_from([".csv", ""]))
def test_a_simple_table_comes_back_undeclared(table, quoting, dialect, suffix):
  _, rows, counted, _ = auto(written(table, quoting, dialect), suffix)
  assert rows == table
  assert not counted


@settings(max_examples=400, deadline=None)
@given(
  tables_of(SIMPLE),
  QUOTINGS,
  DIALECTS,
  st.lists(st.integers(0, 10_000), min_size=1, max_size=6),
  st.booleans(),
)
def test_bare_quotes_lose_no_line(table, quoting, dialect, places, say):
  text = written(table, quoting, dialect)
  head = text.index("\n") + 1
  for place in places:
    place = head + place % (len(text) - head)
    text = text[:place] + '"' + text[place:]
  options = {"delimiter": dialect["delimiter"]} if say else {}
  try:
    _, rows, _, _ = auto(text, **options)  # It adds up the lines.
  except InputError as error:
    refusal = str(error)
  else:
    refusal = None
  if refusal is not None:
    assert "LogFiles.quoting" in refusal
    return
  others = [dialect["delimiter"].join(row) for row in table]
  for value in (value for row in rows for value in row):
    inner = value.replace('"', "").splitlines()[1:]
    assert not set(inner) & set(others), value


def test_excels_first_line_and_mark_are_no_header():
  reader, rows, counted, _ = auto("\ufeffsep=;\r\na;b\r\n1;2,5\r\n\r\n")
  assert reader.header == ("a", "b")
  assert rows == [["1", "2,5"]]
  assert not counted
  assert (reader.header_lines, reader.blank_lines) == (2, 1)


def test_names_of_a_file_without_a_header():
  text = "1\tTea\n2\tCoffee\n"
  reader, rows, _, notes = auto(text, ".tsv", columns=("id", "title"))
  assert reader.header == ("id", "title")
  assert rows == [["1", "Tea"], ["2", "Coffee"]]
  assert not notes
  reader, again, _, notes = auto(
    "id\ttitle\n" + text + "id\ttitle\n", ".tsv", columns=("id", "title")
  )
  assert again == rows
  assert reader.header_lines == 1
  assert "LogFiles.columns" in notes[0].message
  with pytest.raises(InputError, match=r"x\.tsv:1: LogFiles\.columns has 3"):
    auto(text, ".tsv", columns=("id", "title", "price"))


def test_a_first_row_of_data_is_a_warning():
  _, _, _, notes = auto("15::1::5::978824268\n16::2::4::978824269\n")
  assert notes[0].severity == "wrong"
  assert notes[0].remedy.startswith("LogFiles.columns = (")
  assert not auto("user,item\n15,1\n")[3]


@pytest.mark.parametrize(
  ("header", "expected"),
  [
    ("user_id,item_id", False),
    ("user,2019,2020,2021", True),
    ("store,product,name,size,color,2019", False),
    ("u1,2020-09-14T05:18:46Z,x,y,z", True),
    ("15,1", True),
    ("1::2", False),
    ("a,a,5", True),
    (",a", False),
    ("", False),
  ],
)
def test_what_looks_like_data(header, expected):
  assert csv_header.looks_like_data(header.split(",")) == expected


def test_typed_headers_are_names():
  text = "user_id:token\titem_id:token\tt:float\tx:token_seq\n1\t2\t3\ta b\n"
  reader, _, _, notes = auto(text, ".inter")
  assert reader.header == ("user_id", "item_id", "t", "x")
  assert "user_id:token" in notes[0].message
  reader, *_ = auto("user_id:token\titem_id\n1\t2\n", ".inter")
  assert reader.header == ("user_id:token", "item_id")


def test_a_delimiter_at_the_end_of_each_row():
  reader, rows, counted, notes = auto("a,b\n1,2,\n3,4,\n5,,\n")
  assert reader.header == ("a", "b", "")
  assert rows == [["1", "2"], ["3", "4"], ["5", ""]]
  assert not counted
  assert notes[0].severity == "info"


def test_rows_that_are_numbered():
  text = '"a","b"\n"1","x",2\n"2","y",4\n"3","z",3\n'
  reader, rows, counted, _ = auto(text)
  assert reader.header == ("", "a", "b")
  assert rows == [["x", "2"], ["y", "4"], ["z", "3"]]
  assert not counted


def test_a_header_again_between_rows_is_counted():
  _, rows, counted, _ = auto("a,b\n1,2\n\ufeffa,b\n3,4\na,b\n5,a,b\n6,b\n")
  assert rows == [["1", "2"], ["3", "4"], ["6", "b"]]
  assert counted == {"repeated_header": 2, "malformed_row": 1}


def test_delimiters_of_several_characters_keep_their_texts():
  text = 'a::b::c\n"x::y"::\x1f::2\n::5:: \x1f\n' + '1::"2"::3\n' * 9
  _, rows, counted, _ = auto(text, quoting="quoted")
  assert rows[:2] == [["x::y", "\x1f", "2"], ["", "5", " \x1f"]]
  assert not counted
  _, rows, _, _ = auto("a || b§c\n1 || 2§c\n", delimiter=" || ")
  assert rows == [["1", "2§c"]]
  _, rows, _, _ = auto("a§b\n1§é\n", delimiter="§")
  assert rows == [["1", "é"]]


def test_runs_of_blanks_part_fields():
  text = " user item  t\n" + "   1  2 \t 3 \r\n 10  20   30\n   \n" * 4
  reader, rows, counted, _ = auto(text, ".txt", delimiter=csv_lines.BLANKS)
  assert rows == [["1", "2", "3"], ["10", "20", "30"]] * 4
  assert reader.blank_lines == 4
  assert not counted


def test_escapes_count_before_special_characters_only():
  text = 'a,b\n1,\\N\n2,x\\,y\n3,"5\\" \\\\ \\n"\n4,6\\"\n5,C:\\dir\n'
  _, rows, counted, _ = auto(text)
  assert [row[1] for row in rows] == [
    "\\N",
    "x,y",
    '5" \\ \\n',
    '6"',
    "C:\\dir",
  ]
  assert not counted


def test_swallowed_rows_beyond_the_sample_are_counted(monkeypatch):
  monkeypatch.setattr(csv_dialect, "SAMPLE_CHARACTERS", 100)
  good = "".join(f'u{i},"Tea, {i}",{i}\n' for i in range(30))
  bad = 'u1,"Stand,1\nu2,Cable,2\nu3,Display 32",3\n'
  reader, rows, counted, notes = auto("user,title,n\n" + good + bad + good)
  assert len(rows) == 60
  assert counted == {"swallowed_rows": 3}
  assert notes[0].severity == "wrong"
  assert notes[0].remedy == 'LogFiles.quoting = "none"'
  assert "x.csv:32-34" in notes[0].message
  assert reader.bad_lines == 3


@pytest.mark.parametrize(
  "text",
  [
    "Soft, warm, and light.\nFits all, they say\nand, well, it does, too,",
    "one\n\n\ntwo, three",
    "3 pots\n2 pans, 1 lid, black",
  ],
)
def test_descriptions_of_several_lines_are_text(text):
  data = "id,title,price\n" + "".join(f'{i},"{text}",{i}.5\n' for i in range(5))
  reader, rows, counted, _ = auto(data)
  assert [row[1] for row in rows] == [text] * 5
  assert not counted
  assert reader.quoted_lines == 5 * text.count("\n")


def test_a_line_break_between_tabs_is_a_warning():
  text = "a\tb\tc\n" + '1\t"two\nlines"\t3\n' * 4
  _, rows, counted, notes = auto(text, ".tsv")
  assert rows == [["1", "two\nlines", "3"]] * 4
  assert not counted
  assert notes[0].severity == "suspect"
  _, _, _, notes = auto(text, ".tsv", quoting="quoted")
  assert not notes


def test_a_quote_that_is_never_closed_names_the_setting():
  text = "a,b\n" + '1,"x, y"\n' * 3 + '2,"open\n3,z\n'
  with pytest.raises(InputError, match=r"x\.csv:5: .*LogFiles\.quoting"):
    auto(text)


def test_many_lines_with_odd_rows_among_them():
  lines, good, bad = ["user,item,title\n"], 0, 0
  for i in range(100_000):
    if i % 997 == 5:
      lines.append(f'{i},{i},"two\nlines {i}"\n')
    elif i % 1009 == 7:
      lines.append(f"{i},{i}\n")
      bad += 1
    elif i % 1013 == 11:
      lines.append(f"{i},{i},a,b\n")
      bad += 1
    elif i % 1019 == 13:
      lines.append(f'{i},{i},"x"y\n')
      bad += 1
    elif i % 3:
      lines.append(f'{i},{i},"Tea, ""{i}"""\n')
    else:
      lines.append(f"{i},{i},Tea {i}\n")
    good = i + 1 - bad
  reader, rows, counted, _ = auto("".join(lines))
  assert reader.rows_read == len(rows) == good
  assert counted == {"malformed_row": bad}
  assert [int(row[0]) for row in rows] == sorted(int(row[0]) for row in rows)
  assert all(row[0] == row[1] and row[0] in row[2] for row in rows)


def test_a_file_full_of_bare_quotes_takes_no_longer(monkeypatch):
  monkeypatch.setattr(csv_lines, "BLOCK_CHARACTERS", 1 << 14)
  rows = "".join(f'u{i}\t"Heroes {i}\t{i}\n' for i in range(20_000))
  begin = time.process_time()
  reader, *_ = auto("a\tb\tc\n" + rows, delimiter="\t", quote='"')
  assert reader.rows_read == 20_000
  text = "a,b,c\n" + '1,"x, y",2\n' * 30_000 + rows.replace("\t", ",")
  reader, _, counted, _ = auto(text)
  assert reader.rows_read == 30_000
  assert counted == {"malformed_row": 20_000}
  assert time.process_time() - begin < 5


@st.composite
def described(draw):
  """A table whose last column is any text, few lines of which are like rows."""
  size = draw(st.integers(3, 5))
  mark = draw(st.sampled_from(",;\t|"))
  texts = draw(st.lists(WORDS, min_size=20, max_size=30))
  table = [
    [*(f"{name}{i}" for name in "uvwx"[: size - 1]), text]
    for i, text in enumerate(texts)
  ]
  limit = 1 if mark == "\t" else size - 1
  assume(
    all(
      line.count(mark) < limit
      for text in texts
      for line in text.splitlines()
      if len(text.splitlines()) > 1
    )
  )
  return mark, table


@settings(max_examples=200, deadline=None)
@given(described(), st.sampled_from([0, 1]), st.sampled_from(["\n", "\r\n"]))
def test_any_text_in_quotes_comes_back_undeclared(described, quoting, ends):
  mark, table = described
  dialect = {"delimiter": mark, "lineterminator": ends}
  _, rows, counted, _ = auto(written(table, quoting, dialect))
  assert rows == table
  assert not counted
