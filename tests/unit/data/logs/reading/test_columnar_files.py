"""Parquet, ORC and Arrow: native types, nested columns, damage."""

import datetime
import decimal
import io
import uuid

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import feather, orc

from calrec_jax.data.logs import problems as problems_lib
from calrec_jax.data.logs.reading import columnar_files

TABLE = pa.table(
  {
    "user": pa.array([{"id": i} for i in range(5)]),
    "items": pa.array([[{"sku": "a"}, {"sku": "b"}], [], None, [], []]),
    "price": pa.array([decimal.Decimal("1.10")] * 5),
    "day": pa.array([datetime.date(2020, 9, 14)] * 5),
    "raw": pa.array([b"x"] * 5),
    "title": pa.array(["t"] * 5),
  }
)
WRITE = {
  "parquet": pq.write_table,
  "orc": orc.write_table,
  "arrow": feather.write_feather,
}


def read(source, wanted, kind="parquet", progress=lambda part: None):
  problems = problems_lib.Problems()
  file = columnar_files.ColumnarFile(source, "log.x", kind, problems, progress)
  blocks = list(file.rows(wanted))
  rows = [row for block in blocks for row in block.table.to_pylist()]
  lines = [line for block in blocks for line in block.lines.tolist()]
  return rows, lines, file, problems, blocks


@pytest.mark.parametrize("kind", WRITE)
@pytest.mark.parametrize("as_stream", [False, True])
def test_columns_and_columns_in_them(tmp_path, kind, as_stream):
  path = tmp_path / "log"
  WRITE[kind](TABLE, str(path))
  source = io.BytesIO(path.read_bytes()) if as_stream else str(path)
  rows, lines, file, *_ = read(source, ["user.id", "title", "none"], kind)
  assert rows == [{"user.id": i, "title": "t", "none": None} for i in range(5)]
  assert lines == [1, 2, 3, 4, 5]
  assert file.num_lines == 5
  assert file.describe() == {"format": kind}
  assert {"user", "user.id", "items[].sku", "title"} <= {*file.available}
  source = io.BytesIO(path.read_bytes()) if as_stream else str(path)
  rows, lines, *_ = read(source, ["user.id", "items[].sku"], kind)
  assert rows == [
    {"user.id": 0, "items[].sku": "a"},
    {"user.id": 0, "items[].sku": "b"},
    {"user.id": 2, "items[].sku": None},
  ]
  assert lines == [1, 1, 3]


def test_types_stay(tmp_path):
  path = tmp_path / "log.parquet"
  pq.write_table(TABLE, path)
  wanted = ["price", "day", "raw"]
  *_, blocks = read(str(path), wanted)
  for name in wanted:
    assert blocks[0].table[name].type == TABLE[name].type


def test_extension_types_are_their_storage(tmp_path):
  path = tmp_path / "log.parquet"
  values = [uuid.UUID(int=i).bytes for i in range(3)]
  array = pa.ExtensionArray.from_storage(
    pa.uuid(), pa.array(values, pa.binary(16))
  )
  pq.write_table(pa.table({"id": array}), path)
  rows, *_ = read(str(path), ["id"])
  assert [row["id"] for row in rows] == values


def test_a_name_with_a_dot_wins(tmp_path):
  path = tmp_path / "log.parquet"
  table = pa.table({"user.id": [1], "user": [{"id": 2}], "0": [3]})
  pq.write_table(table, path)
  rows, *_ = read(str(path), ["user.id", "0"])
  assert rows == [{"user.id": 1, "0": 3}]


def test_several_batches_and_their_progress(tmp_path, monkeypatch):
  monkeypatch.setattr(columnar_files, "_ROWS", 10)
  path = tmp_path / "log.parquet"
  pq.write_table(pa.table({"a": range(35)}), path, row_group_size=13)
  parts = []
  rows, lines, *_ = read(str(path), ["a"], progress=parts.append)
  assert [row["a"] for row in rows] == list(range(35))
  assert lines == list(range(1, 36))
  assert sum(parts) == pytest.approx(1)


def test_lists_of_different_length_are_counted(tmp_path):
  path = tmp_path / "log.parquet"
  pq.write_table(pa.table({"a": [[1], [2, 3]], "b": [[4], [5]]}), path)
  rows, _lines, _, problems, _ = read(str(path), ["a[]", "b[]"])
  assert rows == [{"a[]": 1, "b[]": 4}]
  assert problems.as_list()[0]["first"] == "log.x:2"


def test_texts_of_another_encoding_are_counted(tmp_path):
  path = tmp_path / "log.parquet"
  texts = pa.array([b"a", "é".encode("latin-1"), None, "é".encode()])
  buffers = texts.buffers()
  column = pa.StringArray.from_buffers(4, buffers[1], buffers[2], buffers[0])
  pq.write_table(pa.table({"a": column, "b": [1, 2, 3, 4]}), path)
  rows, lines, _, problems, _ = read(str(path), ["a", "b"])
  assert rows == [{"a": "a", "b": 1}, {"a": None, "b": 3}, {"a": "é", "b": 4}]
  assert lines == [1, 3, 4]
  assert problems.as_list()[0]["kind"] == "broken_encoding"
  assert problems.as_list()[0]["first"] == "log.x:2"


def test_two_columns_of_one_name_are_refused(tmp_path):
  path = tmp_path / "log.parquet"
  pq.write_table(pa.table([[1], [2]], names=["a", "a"]), path)
  with pytest.raises(ValueError, match="two columns are called 'a'"):
    read(str(path), ["a"])


@pytest.mark.parametrize("kind", WRITE)
def test_damage(tmp_path, kind):
  path = tmp_path / "log"
  WRITE[kind](pa.table({"a": [str(i) * 20 for i in range(5000)]}), str(path))
  data = path.read_bytes()
  path.write_bytes(data[: len(data) // 2])
  with pytest.raises(ValueError, match=r"log\.x is damaged, after row 0"):
    read(str(path), ["a"], kind)
  path.write_bytes(data[:100] + b"\xaa" * 300 + data[400:])
  if kind == "parquet":
    with pytest.raises(ValueError, match=r"log\.x is damaged") as raised:
      read(str(path), ["a"], kind)
    assert "\n" not in str(raised.value)
  with pytest.raises(FileNotFoundError):
    read(str(tmp_path / "none"), ["a"], kind)


def test_a_packed_file_has_a_limit():
  stream = columnar_files.in_memory(io.BytesIO(b"12345"), "x", 5)
  assert stream.read() == b"12345"
  with pytest.raises(ValueError, match="x is packed"):
    columnar_files.in_memory(io.BytesIO(b"123456"), "x", 5)
