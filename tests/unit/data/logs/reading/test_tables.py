"""Files as columns: formats, line numbers, and what cannot be read."""

import dataclasses
import datetime
import gzip
import json
import pathlib

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from calrec_jax.data.logs import problems as problems_lib
from calrec_jax.data.logs.files import log_paths, read_options
from calrec_jax.data.logs.reading import tables
from calrec_jax.errors import InputError


def read(path, wanted=("id", "title"), **options):
  problems = problems_lib.Problems()
  options = read_options.ReadOptions(**options)
  table = tables.read(str(path), wanted, problems, options)
  columns = {name: list(values) for name, values in table.columns.items()}
  return dataclasses.replace(table, columns=columns), problems


def found(problems):
  return {p["kind"]: (p["count"], p["first"]) for p in problems.as_list()}


def test_csv_with_quoted_line_breaks_keeps_line_numbers(tmp_path):
  path = tmp_path / "a.csv"
  path.write_bytes(
    b"\xef\xbb\xbfid,title\r\n"
    b'1,"two\r\nlines ""quoted"", and a comma"\r\n'
    b"\r\n"
    b"2,b,extra\r\n"
    b'3,"x"y\r\n'
    b"4,d\r\n"
  )
  table, problems = read(path)
  assert table.columns == {
    "id": ["1", "4"],
    "title": ['two\r\nlines "quoted", and a comma', "d"],
  }
  assert table.lines.tolist() == [2, 7]
  assert table.num_rows == 4  # The blank line is none.
  assert found(problems) == {"malformed_row": (2, "a.csv:5")}


def test_csv_quote_that_is_never_closed_is_an_error_with_its_line(tmp_path):
  path = tmp_path / "a.csv"
  quoted = '1,"a, b"\n' * 3
  path.write_text(f'id,title\n{quoted}2,"b\n3,c\n')
  with pytest.raises(ValueError, match=r"a\.csv:5: a quoted field .* never"):
    read(path)


def test_csv_broken_encoding_is_counted_and_latin_1_can_be_chosen(tmp_path):
  path = tmp_path / "a.csv"
  path.write_bytes("id,title\n1,a\n2,café\n3,né\n4,d\n".encode("latin-1"))
  table, problems = read(path, encoding="utf-8")
  assert table.columns["id"] == ["1", "4"]
  assert table.lines.tolist() == [2, 5]
  assert found(problems) == {"broken_encoding": (2, "a.csv:3")}
  for encoding in ("latin-1", None):
    table, problems = read(path, encoding=encoding)
    assert table.columns["title"] == ["a", "café", "né", "d"]
    assert not len(problems)
    noted = any("LogFiles.encoding" in n.remedy for n in problems.notes())
    assert noted == (encoding is None)


def test_broken_bytes_in_an_unwanted_column_do_no_harm(tmp_path):
  path = tmp_path / "a.csv"
  path.write_bytes(b"id,title,note\n1,a,\xff\n")
  table, problems = read(path)
  assert table.columns["id"] == ["1"]
  assert not len(problems)


def test_tsv_delimiter_and_repeated_header(tmp_path):
  path = tmp_path / "a.tsv.gz"
  path.write_bytes(gzip.compress(b"id\ttitle\n1\ta,b\n"))
  assert read(path)[0].columns == {"id": ["1"], "title": ["a,b"]}
  path = tmp_path / "b.csv"
  path.write_text("id;id\n1;2\n")
  with pytest.raises(ValueError, match="two columns are called 'id'"):
    read(path, delimiter=";")


def test_json_lines(tmp_path):
  path = tmp_path / "a.jsonl"
  lines = [
    b'{"id": "1", "title": "a\\nb", "other": 1}',
    b"",
    b"{not json",
    b'["a list"]',
    b'{"id": "2", "title": "\xff"}',
    b'{"id": "3", "title": "lone \\ud800 surrogate"}',
    b'{"id": 4}',
  ]
  path.write_bytes(b"\n".join(lines))
  table, problems = read(path, encoding="utf-8")
  # Ids of several types become text.
  assert table.columns == {"id": ["1", "4"], "title": ["a\nb", None]}
  assert table.lines.tolist() == [1, 7]
  assert table.num_rows == 6
  assert found(problems) == {
    "malformed_row": (2, "a.jsonl:3"),
    "broken_encoding": (2, "a.jsonl:5"),
  }


@pytest.mark.parametrize(
  ("content", "lines"),
  [
    ('[{"id": 1, "title": "A"}, {"id": 2}]', [1, 1]),
    ('{\n"id": 1,\n"title": "A"\n}\n{\n"id": 2\n}\n', [1, 5]),
    ("{'id': 1, 'title': u'A'}\n{'id': 2, 'title': None}\n", [1, 2]),
  ],
)
def test_json_that_is_not_json_lines(tmp_path, content, lines):
  path = tmp_path / "a.json"
  path.write_text(content)
  table, problems = read(path)
  assert table.columns == {"id": [1, 2], "title": ["A", None]}
  assert table.lines.tolist() == lines
  assert not len(problems)


def test_parquet(tmp_path):
  path = tmp_path / "a.parquet"
  seconds = pa.array([1_500_000_000, None], pa.int64())
  pq.write_table(
    pa.table(
      {
        "id": pa.array([7, 8]),
        "title": ["a", None],
        "at": seconds.cast(pa.timestamp("s")),
        "other": [0, 0],
      }
    ),
    path,
  )
  table, problems = read(path, ["id", "title", "at", "absent"])
  assert table.columns == {
    "id": [7, 8],
    "title": ["a", None],
    "at": [datetime.datetime(2017, 7, 14, 2, 40), None],
  }
  assert table.lines.tolist() == [1, 2]
  assert not len(problems)


def test_damaged_and_unknown_files(tmp_path):
  cut = tmp_path / "a.csv.gz"
  cut.write_bytes(gzip.compress(b"id,title\n" + b"1,a\n" * 999)[:-12])
  with pytest.raises(ValueError, match=r"a\.csv\.gz:\d+: .* damaged or end"):
    read(cut)
  fake = tmp_path / "a.parquet"
  fake.write_bytes(b"PAR1 but nothing else")
  with pytest.raises(ValueError, match=r"a\.parquet is damaged"):
    read(fake)
  fake.write_text("id,title\n1,a\n")
  table, problems = read(fake)  # Its first bytes tell the format.
  assert table.columns == {"id": ["1"], "title": ["a"]}
  assert any("a.parquet" in note.message for note in problems.notes())
  (tmp_path / "a.csv").write_text("")
  with pytest.raises(ValueError, match=r"a\.csv is empty"):
    read(tmp_path / "a.csv")
  (tmp_path / "a.rds").write_text("x")
  with pytest.raises(
    ValueError, match=r"a\.rds: .rds is not read.* write Parquet"
  ):
    read(tmp_path / "a.rds")
  with pytest.raises(FileNotFoundError, match=r"LogFiles\.interactions"):
    read(tmp_path / "none.csv")
  good = tmp_path / "b.csv"
  good.write_text("id\n1\n")
  with pytest.raises(ValueError, match=r"LogFiles\.encoding"):
    read(good, encoding="utf-99")


def test_a_missing_column_names_the_nearest(tmp_path):
  path = tmp_path / "a.jsonl"
  path.write_text(json.dumps({"userId": 1}))
  table, _ = read(path, ["user_id"])
  assert table.columns == {} or table.columns == {"user_id": [None]}
  with pytest.raises(InputError, match=r"LogFiles\.user_column.*'userId'\?"):
    blocks(path, {"user_id": "LogFiles.user_column"})


def blocks(path, required, wanted=(), problems=None, **options):
  """Rows as dicts, with the file and line of each."""
  problems = problems_lib.Problems() if problems is None else problems
  rows = []
  for block in tables.blocks(
    log_paths.expand([str(p) for p in path], None)
    if isinstance(path, list)
    else log_paths.expand(str(path), None),
    required,
    wanted,
    options=read_options.ReadOptions(**options),
    problems=problems,
  ):
    assert len(block.rows.lines) == block.rows.table.num_rows
    file = pathlib.Path(block.file).name
    for line, row in zip(
      block.rows.lines.tolist(), block.rows.table.to_pylist(), strict=True
    ):
      rows.append((file, line, row))
  return rows


USER = {"user_id": "LogFiles.user_column"}


@pytest.mark.parametrize(
  ("name", "content", "said"),
  [
    ("a.csv", "userid,b\n1,2\n", r"LogFiles\.user_column.*'userid', 'b'.*mean"),
    ("a.csv", "7;8\n1;2\n", r"first row looks like data.*LogFiles\.columns"),
    ("a.csv", "a\n1\n", r"Is LogFiles\.delimiter right"),
    ("a.jsonl", "[1, 2]\n[1, 2]\n", r"names.*LogFiles\.columns"),
    ("a.jsonl", '{"b": 1}\n', r"no column 'user_id'.*It has 'b' \(json"),
  ],
)
def test_a_required_column_that_is_not_there(tmp_path, name, content, said):
  (tmp_path / name).write_text(content)
  with pytest.raises(InputError, match=said) as raised:
    blocks(tmp_path / name, USER)
  assert name in str(raised.value)


def test_without_the_column_of_times_rows_may_be_in_order(tmp_path):
  (tmp_path / "a.csv").write_text("user_id,item_id\n1,2\n")
  with pytest.raises(InputError, match=r"LogFiles\.time_column = None"):
    blocks(tmp_path / "a.csv", {"timestamp": "LogFiles.time_column"})


def test_many_columns_are_listed_in_part(tmp_path):
  names = [f"c{i}" for i in range(40)]
  (tmp_path / "a.csv").write_text(
    ",".join(names) + "\n" + ",".join("x" * 40) + "\n"
  )
  with pytest.raises(InputError, match=r"'c15', 24 more \(csv"):
    blocks(tmp_path / "a.csv", USER)


def test_names_are_found_with_and_without_their_types(tmp_path):
  path = tmp_path / "toys.inter"
  path.write_text("user_id:token\titem_id:token\trating:float\n1\t2\t4.5\n")
  row = {"user_id": "1", "rating": "4.5"}
  assert blocks(path, USER, ["rating"]) == [("toys.inter", 2, row)]
  row = {"user_id:token": "1", "rating:float": "4.5"}
  typed = {"user_id:token": "LogFiles.user_column"}
  assert blocks(path, typed, ["rating:float"]) == [("toys.inter", 2, row)]


def test_folders_name_columns_unless_the_file_has_them(tmp_path):
  for date, name in (("2024-01-01", "a"), ("2024-01-02", "b")):
    folder = tmp_path / "log" / f"date={date}"
    folder.mkdir(parents=True)
    (folder / f"{name}.csv").write_text("user_id\n1\n")
  folder = tmp_path / "log" / "date=__HIVE_DEFAULT_PARTITION__"
  folder.mkdir()
  (folder / "c.csv").write_text("user_id\n1\n2\n")
  rows = blocks(tmp_path / "log", USER | {"date": "LogFiles.time_column"})
  assert rows == [
    ("a.csv", 2, {"user_id": "1", "date": "2024-01-01"}),
    ("b.csv", 2, {"user_id": "1", "date": "2024-01-02"}),
    ("c.csv", 2, {"user_id": "1", "date": None}),
    ("c.csv", 3, {"user_id": "2", "date": None}),
  ]
  (folder / "c.csv").write_text("user_id,date\n1,today\n")
  assert blocks(folder, USER, ["date"])[-1][2]["date"] == "today"


def test_later_parts_may_lack_the_header(tmp_path):
  parts = [tmp_path / f"part-{i}.csv" for i in (1, 2, 10)]
  parts[0].write_text("user_id,item_id,timestamp\nu1,a,1700000000\n")
  parts[1].write_text("u2,b,1700000001\nu3,c,1700000002\n")
  parts[2].write_text("user_id,item_id,timestamp\nu4,d,1700000003\n")
  problems = problems_lib.Problems()
  rows = blocks(tmp_path, USER, ["item_id"], problems)
  assert rows == [
    ("part-1.csv", 2, {"user_id": "u1", "item_id": "a"}),
    ("part-2.csv", 1, {"user_id": "u2", "item_id": "b"}),
    ("part-2.csv", 2, {"user_id": "u3", "item_id": "c"}),
    ("part-10.csv", 2, {"user_id": "u4", "item_id": "d"}),
  ]
  [note] = [n for n in problems.notes() if "has no header" in n.message]
  assert "part-2.csv" in note.message
  assert [reading["rows"] for reading in problems.reading] == [1, 2, 1]
  assert [reading["lines"] for reading in problems.reading] == [2, 2, 2]


def test_columns_of_one_name_are_refused_only_if_they_are_read(tmp_path):
  path = tmp_path / "a.csv"
  path.write_text("user_id,x,x\n1,2,3\n")
  assert blocks(path, USER) == [("a.csv", 2, {"user_id": "1"})]
  with pytest.raises(InputError, match=r"a\.csv:1: two columns .* 'x'"):
    blocks(path, USER, ["x"])


def test_a_sample_holds_the_first_rows_of_all_columns(tmp_path):
  path = tmp_path / "a.csv"
  path.write_text("user_id,x\n" + "1,2\n" * 50)
  [file] = log_paths.expand(str(path), None)
  sample = tables.sample(file, read_options.ReadOptions(), 10)
  assert sample.table.column_names == ["user_id", "x"]
  assert sample.table.num_rows == 10
  assert sample.how == "csv, utf-8, delimiter ',', quotes \""
  assert not sample.headless
  path.write_text("17,2024-01-01\n18,2024-01-02\n")
  assert tables.sample(file, read_options.ReadOptions(), 10).headless
  named = read_options.ReadOptions(columns=("a", "b"))
  assert not tables.sample(file, named, 10).headless
