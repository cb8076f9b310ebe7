"""Files as columns: formats, line numbers, and what cannot be read."""

import dataclasses
import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from calrec_jax.data.logs import problems as problems_lib
from calrec_jax.data.logs import tables


def read(path, wanted=("id", "title"), **options):
  problems = problems_lib.Problems()
  table = tables.read(str(path), wanted, problems, **options)
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
  table, problems = read(path)
  assert table.columns["id"] == ["1", "4"]
  assert table.lines.tolist() == [2, 5]
  assert found(problems) == {"broken_encoding": (2, "a.csv:3")}
  table, problems = read(path, encoding="latin-1")
  assert table.columns["title"] == ["a", "café", "né", "d"]
  assert not len(problems)


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
  table, problems = read(path)
  assert table.columns == {"id": ["1", 4], "title": ["a\nb", None]}
  assert table.lines.tolist() == [1, 7]
  assert table.num_rows == 6
  assert found(problems) == {
    "malformed_row": (2, "a.jsonl:3"),
    "broken_encoding": (2, "a.jsonl:5"),
  }


@pytest.mark.parametrize(
  ("content", "match"),
  [("[{}]", "one JSON array"), ("{'id': 1}", "Python literals")],
)
def test_json_that_is_not_json_lines(tmp_path, content, match):
  path = tmp_path / "a.json"
  path.write_text(content)
  with pytest.raises(ValueError, match=match):
    read(path)


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
    "at": [1_500_000_000_000, None],
  }
  assert table.milliseconds == {"at"}
  assert table.lines.tolist() == [1, 2]
  assert not len(problems)


def test_damaged_and_unknown_files(tmp_path):
  cut = tmp_path / "a.csv.gz"
  cut.write_bytes(gzip.compress(b"id,title\n" + b"1,a\n" * 999)[:-12])
  with pytest.raises(ValueError, match=r"a\.csv\.gz is damaged"):
    read(cut)
  fake = tmp_path / "a.parquet"
  fake.write_text("id,title\n")
  with pytest.raises(ValueError, match=r"a\.parquet is damaged"):
    read(fake)
  (tmp_path / "a.xlsx").write_text("")
  with pytest.raises(ValueError, match="suffix"):
    read(tmp_path / "a.xlsx")
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
  with pytest.raises(ValueError, match=r"LogFiles\.user_column.*'userId'\?"):
    table.require("user_id", "LogFiles.user_column")


def test_a_hash_follows_the_content(tmp_path):
  path = tmp_path / "a.csv"
  path.write_text("id\n1\n")
  first = tables.sha256(str(path))
  assert tables.sha256(str(path)) == first
  path.write_text("id\n22\n")
  assert tables.sha256(str(path)) != first
