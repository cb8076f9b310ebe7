"""Opened files: format, encoding and compression, whatever the name says."""

import bz2
import csv
import gzip
import io
import json
import lzma
import zipfile

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from calrec_jax.data.logs import problems as problems_lib
from calrec_jax.data.logs.files import (
  encodings,
  log_paths,
  read_options,
  row_blocks,
)
from calrec_jax.data.logs.json import json_blocks
from calrec_jax.data.logs.reading import log_source
from calrec_jax.errors import CalrecError

ROWS = [{"user": f"u{i}", "item": i, "title": "Grüner Tee"} for i in range(60)]
CSV = "user,item,title\n" + "".join(
  f"{r['user']},{r['item']},{r['title']}\n" for r in ROWS
)
JSON = "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS)
PLAIN = [(f"u{i}", str(i), "Grüner Tee") for i in range(60)]


class CsvSource:
  """A plain reader in place of the real one."""

  num_lines = 0

  def __init__(self, file, text, options, problems):
    if not isinstance(text, io.TextIOBase):  # It is UTF-8.
      text = io.TextIOWrapper(text, "utf-8", "surrogateescape", newline="")
    self._reader = csv.reader(text)
    self.available = tuple(next(self._reader))
    self._problems, self._file = problems, file

  def describe(self):
    return {"format": "csv"}

  def rows(self, wanted):
    rows = list(self._reader)
    good = [row for row in rows if json_blocks.encodes(row)]
    self._problems.add("broken_encoding", "x:1", len(rows) - len(good))
    table = {
      name: [row[self.available.index(name)] for row in good] for name in wanted
    }
    yield row_blocks.Rows(pa.table(table), np.arange(len(good)) + 2)


def read(path, wanted=("user", "item", "title"), **options):
  problems = problems_lib.Problems()
  rows, said = [], []
  for file in log_paths.expand(str(path), None):
    with log_source.open_file(
      file,
      read_options.ReadOptions(**options),
      problems,
      csv_source=CsvSource,
    ) as source:
      for block in source.rows(wanted):
        rows += [
          tuple(map(str, row.values())) for row in block.table.to_pylist()
        ]
      said.append(source.describe())
      assert {*wanted} <= {*source.available}
  return rows, said[0], problems


PACK = {
  None: bytes,
  "gzip": gzip.compress,
  "bz2": bz2.compress,
  "xz": lzma.compress,
  "zstd": lambda data: pa.Codec("zstd").compress(data, asbytes=True),
}


@pytest.mark.parametrize("packed", PACK)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("text", [CSV, JSON])
def test_any_packing_and_encoding_under_any_name(
  tmp_path, packed, encoding, text
):
  path = tmp_path / "part-00000"
  path.write_bytes(PACK[packed](text.encode(encoding)))
  rows, said, problems = read(path)
  assert rows == PLAIN
  assert said["format"] == ("csv" if text is CSV else "json")
  assert said.get("compression") == packed
  assert said["encoding"] in encoding or encoding == "utf-16"
  assert len(problems.notes()) == (encoding == "cp1252")
  assert not problems.as_list()


@pytest.mark.parametrize(
  "suffix", [".csv", ".json", ".parquet", ".txt", ".xlsx"]
)
def test_the_bytes_decide_rather_than_the_name(tmp_path, suffix):
  path = tmp_path / f"log{suffix}"
  path.write_text(JSON)
  rows, said, problems = read(path)
  assert rows == PLAIN
  assert said["format"] == "json"
  assert len(problems.notes()) == (suffix != ".json")
  pq.write_table(pa.Table.from_pylist(ROWS), path)
  rows, said, problems = read(path)
  assert (rows, said) == (PLAIN, {"format": "parquet"})
  assert len(problems.notes()) == (suffix != ".parquet")


def test_a_set_format(tmp_path):
  path = tmp_path / "log.csv"
  path.write_text("1 2 3\n2 4\n3 4 5 6\n")
  rows, said, problems = read(path, ("user_id", "item_id"), format="sequences")
  assert rows[:2] == [("1", "2"), ("1", "3")]
  assert said["format"] == "sequences"
  *_, problems = read(path, ())
  assert problems.notes()[0].remedy == 'LogFiles.format = "sequences"'
  for format in ("parquet", "xlsx"):
    with pytest.raises(ValueError, match=f"LogFiles.format = '{format}'"):
      read(path, format=format)
  pq.write_table(pa.Table.from_pylist(ROWS), path)
  with pytest.raises(ValueError, match=r"LogFiles\.format = 'csv'.*parquet"):
    read(path, format="csv")


def test_parquet_in_a_zip_and_packed(tmp_path):
  pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "a.parquet")
  data = (tmp_path / "a.parquet").read_bytes()
  (tmp_path / "b.parquet.gz").write_bytes(gzip.compress(data, mtime=0))
  with zipfile.ZipFile(tmp_path / "c.zip", "w") as archive:
    archive.writestr("a.parquet", data)
    archive.writestr("b.csv.gz", gzip.compress(CSV.encode()))
  for name in ("b.parquet.gz", "c.zip/a.parquet", "c.zip/b.csv.gz"):
    assert read(tmp_path / name)[0] == PLAIN


def test_a_workbook_and_its_sheets(tmp_path):
  openpyxl = pytest.importorskip("openpyxl")
  book = openpyxl.Workbook()
  book.active.append(["user"])
  sheet = book.create_sheet("log")
  for row in [["user", "item", "title"], *map(list, PLAIN)]:
    sheet.append(row)
  book.save(tmp_path / "a.xlsx")
  rows, said, _ = read(tmp_path / "a.xlsx/log")
  assert rows == PLAIN
  assert said == {"format": "xlsx", "sheet": "log"}
  assert read(tmp_path / "a.xlsx", ("user",))[0] == []


@pytest.mark.parametrize("name", ["a.csv", "a.json", "a.parquet", "a.csv.gz"])
def test_buckets(tmp_path, name):
  system = fsspec.filesystem("memory")
  pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "a.parquet")
  data = {
    "a.csv": CSV.encode(),
    "a.json": JSON.encode(),
    "a.parquet": (tmp_path / "a.parquet").read_bytes(),
    "a.csv.gz": gzip.compress(CSV.encode()),
  }[name]
  system.pipe(f"/source/{name}", data)
  try:
    assert read(f"memory://source/{name}")[0] == PLAIN
  finally:
    system.rm("/source", recursive=True)


@pytest.mark.parametrize("data", [b"", gzip.compress(b"", mtime=0)])
def test_an_empty_file(tmp_path, data):
  (tmp_path / "a.csv").write_bytes(data)
  with pytest.raises(ValueError, match=r"a\.csv is empty"):
    read(tmp_path / "a.csv")


def test_a_cut_archive_is_an_error_with_its_line(tmp_path):
  path = tmp_path / "a.csv.gz"
  path.write_bytes(gzip.compress(CSV.encode())[:-8])
  with pytest.raises(ValueError, match=r"a\.csv\.gz:\d+: the compressed data"):
    read(path)


def test_an_umlaut_behind_the_sample(tmp_path, monkeypatch):
  monkeypatch.setattr(encodings, "SAMPLE_BYTES", 100)
  path = tmp_path / "a.csv"
  text = "user,item,title\n" + "u,1,Tee\n" * 500 + "u,2,Grüner Tee\n" * 500
  path.write_bytes(text.encode("cp1252"))
  rows, said, problems = read(path)
  assert said["encoding"] == "cp1252"
  assert rows[-1] == ("u", "2", "Grüner Tee")
  # In a packed file one cannot look ahead: it is counted, and said.
  path.write_bytes(gzip.compress(text.encode("cp1252")))
  rows, said, problems = read(path)
  assert said["encoding"] == "utf-8"
  assert problems.count("broken_encoding") == 500
  (note,) = problems.notes()
  assert "500 rows" in note.message
  assert "LogFiles.encoding" in note.remedy
  rows, *_ = read(path, encoding="cp1252")
  assert len(rows) == 1000


class Text(CsvSource):
  """Reads the text of any CSV file, but no rows."""

  available = ()

  def __init__(self, file, text, options, problems):
    self._text = text

  def rows(self, wanted):
    self._text.read()
    return iter(())


PIECES = st.sampled_from(
  [
    *(b"PAR1", b"ORC", b"ARROW1\0\0", b"PK\x03\x04", b"\x1f\x8b", b"BZh9"),
    *(b"\x28\xb5\x2f\xfd", b"\xfd7zXZ\0", b"\xff\xfe", b"\xfe\xff", b"\0\0"),
    *(b"{", b"}", b"[", b"]", b'"a":', b"{'a': u'", b'{"a": [1]}', b"\n", b","),
    *(b"1", b'"', b"'", b"\\", b"\xe4", b"\xc3\xa4", b"\x80\x04]", b"\\ud800"),
  ]
)


@given(
  st.lists(PIECES | st.binary(max_size=4), max_size=12).map(b"".join),
  st.sampled_from([None, None, *read_options.FORMATS]),
)
@settings(
  deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_bytes_are_read_or_refused_in_one_line(tmp_path, data, format):
  path = tmp_path / "any"
  path.write_bytes(data)
  assert "\n" not in refusal(path, format)


def refusal(path, format=None):
  """Reads a file; returns the message of an error, if there is one."""
  try:
    (file,) = log_paths.expand(str(path), None)
    with log_source.open_file(
      file,
      read_options.ReadOptions(format=format),
      problems_lib.Problems(),
      csv_source=Text,
    ) as source:
      for block in source.rows(["user", "title", "a[]"]):
        assert len(block.table.to_pylist()) == len(block.lines)
  except CalrecError as error:
    return str(error)
  return ""


@pytest.mark.parametrize("kind", ["parquet", "json", "zip"])
def test_any_damage_is_refused_in_one_line(tmp_path, kind):
  random = np.random.default_rng(0)
  path = tmp_path / f"log.{kind}"
  pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "log.parquet")
  if kind == "json":
    path.write_text(json.dumps(ROWS, indent=1))
  if kind == "zip":
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
      archive.writestr("log.json", JSON)
  whole = np.frombuffer(path.read_bytes(), np.uint8)
  for _ in range(150):
    damaged = whole.copy()
    at = random.integers(len(whole), size=3)
    damaged[at] = random.integers(256, size=3)
    path.write_bytes(damaged.tobytes()[: random.integers(len(whole)) + 1])
    if random.random() < 0.7:
      path.write_bytes(damaged.tobytes())
    assert "\n" not in refusal(path)
