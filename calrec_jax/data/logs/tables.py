"""CSV, JSON lines and Parquet files as columns with line numbers.

Rows that are not rows are counted and left out; a file that cannot be read at
all is an error. `.gz` files are read as they are.
"""

from __future__ import annotations

import dataclasses
import functools
import gzip
import hashlib
import io
import json
import os
import pathlib
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from calrec_jax.data.logs import csv_blocks, id_codes
from calrec_jax.data.logs import problems as problems_lib
from calrec_jax.errors import InputError, nearest

_TEXT = pa.large_string()
_UNPACKED_BYTES = 1 << 18
_FORMATS = {
  ".csv": "csv",
  ".tsv": "csv",
  ".txt": "csv",
  ".jsonl": "json",
  ".json": "json",
  ".ndjson": "json",
  ".parquet": "parquet",
}


@dataclasses.dataclass(frozen=True, eq=False)
class Table:
  """Some columns of one file.

  Attributes:
    file: Path of the file.
    columns: Values by column name, missing ones are None; a CSV file's stay
      in Arrow.
    lines: int64[n], the line a row starts at; the row's number in Parquet.
    available: Names of all columns of the file.
    milliseconds: Names of the columns of times, here unix milliseconds.
    num_rows: Number of rows in the file, unreadable ones included.
  """

  file: str
  columns: dict[str, Sequence[Any]]
  lines: np.ndarray
  available: tuple[str, ...]
  num_rows: int
  milliseconds: frozenset[str] = frozenset()

  def require(self, column: str, binding: str) -> Sequence[Any]:
    """Values of a column that must exist; `binding` is the gin name for it."""
    if column not in self.available:
      raise InputError(
        f"{self.file} has no column {column!r} ({binding}). It has "
        f"{', '.join(map(repr, self.available)) or 'no columns'}."
        + nearest(column, self.available)
      )
    return self.columns[column]


def read(
  path: str,
  wanted: Sequence[str],
  problems: problems_lib.Problems,
  *,
  delimiter: str | None = None,
  encoding: str = "utf-8",
) -> Table:
  """Reads the wanted columns of a file; its suffix tells the format.

  Args:
    path: Path of a file .csv, .tsv, .txt, .jsonl, .json, .ndjson (each also
      .gz) or .parquet.
    wanted: Names of the columns to read; absent ones are left out.
    problems: Counter of malformed rows and broken encodings.
    delimiter: Character between fields of CSV; None is a tab for .tsv, else a
      comma.
    encoding: Encoding of text files.

  Raises:
    InputError: for an unknown suffix or a file that cannot be read.
    FileNotFoundError: if there is no such file.
  """
  _require_file(path)
  kind = _format(path)
  wanted = list(dict.fromkeys(wanted))
  try:
    if kind == "csv":
      if delimiter is None:
        delimiter = "\t" if ".tsv" in pathlib.Path(path).suffixes else ","
      return _read_csv(path, wanted, problems, delimiter, encoding)
    if kind == "json":
      return _read_json(path, wanted, problems, encoding)
    return _read_parquet(path, wanted)
  except (
    EOFError,
    gzip.BadGzipFile,
    zlib.error,
    pa.ArrowInvalid,
    UnicodeError,
  ) as error:
    raise InputError(
      f"{path} is damaged or is not what its suffix says: {error}"
    ) from error
  except LookupError as error:
    raise InputError(f"LogFiles.encoding: {error}") from error


def sha256(path: str) -> str:
  """Hash of a file's bytes, computed once while the file stays the same."""
  _require_file(path)
  status = os.stat(path)
  return _sha256(os.path.realpath(path), status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=256)
def _sha256(path: str, size: int, modified_ns: int) -> str:
  del size, modified_ns  # Part of the key only.
  with open(path, "rb") as stream:
    return hashlib.file_digest(stream, "sha256").hexdigest()


def _require_file(path: str) -> None:
  if not os.path.isfile(path):
    raise FileNotFoundError(
      f"There is no file {path}. Set LogFiles.interactions, LogFiles.items and "
      "LogFiles.folder, or the folder of the domain's source."
    )


def _format(path: str) -> str:
  suffixes = [suffix.lower() for suffix in pathlib.Path(path).suffixes]
  if suffixes and suffixes[-1] == ".gz":
    suffixes.pop()
  kind = _FORMATS.get(suffixes[-1] if suffixes else "")
  if kind is None:
    raise InputError(
      f"{path}: the suffix tells the format; it must be one of "
      f"{', '.join(_FORMATS)}, and all but .parquet may end in .gz."
    )
  return kind


def _open(path: str) -> Any:
  if not path.endswith(".gz"):
    return open(path, "rb")
  # The module unpacks only as much as is requested, so request more.
  return io.BufferedReader(gzip.open(path, "rb"), _UNPACKED_BYTES)


def _read_csv(
  path: str,
  wanted: list[str],
  problems: problems_lib.Problems,
  delimiter: str,
  encoding: str,
) -> Table:
  if encoding.lower().replace("_", "-") in ("utf-8", "utf8"):
    encoding = "utf-8-sig"  # Also removes the mark some exports begin with.
  with (
    _open(path) as raw,
    io.TextIOWrapper(
      raw, encoding=encoding, errors="surrogateescape", newline=""
    ) as stream,
  ):
    dialect = csv_blocks.Dialect(delimiter)
    reader = csv_blocks.Reader(path, stream, dialect, problems)
    header = reader.header
    repeated = [name for name in wanted if header.count(name) > 1]
    if repeated:
      raise InputError(
        f"{path}:1: two columns are called {repeated[0]!r}. Rename one."
      )
    present = [name for name in wanted if name in header]
    values: dict[str, list[pa.Array]] = {name: [] for name in present}
    lines = [np.empty(0, np.int64)]
    num_rows = 0
    for rows in reader.rows(present):
      for name, chunks in values.items():
        chunks += rows.table[name].chunks
      lines.append(rows.lines)
      num_rows += rows.num_rows
  return Table(
    file=path,
    columns={  # Each column's chunks go before the next column is copied.
      name: id_codes.Column(pa.chunked_array(values.pop(name), _TEXT))
      for name in present
    },
    lines=np.concatenate(lines),
    available=header,
    num_rows=num_rows,
  )


def _read_json(
  path: str, wanted: list[str], problems: problems_lib.Problems, encoding: str
) -> Table:
  lines: list[int] = []
  columns: dict[str, list[Any]] = {name: [] for name in wanted}
  available: dict[str, None] = {}
  num_rows = 0
  with _open(path) as stream:
    for line, raw in enumerate(stream, start=1):
      if line == 1:
        raw = raw.removeprefix(b"\xef\xbb\xbf")
        if raw.lstrip().startswith((b"[", b"{'")):
          raise InputError(_not_json_lines(path, raw))
      if raw.isspace() or not raw:
        continue
      num_rows += 1
      try:
        row = json.loads(raw.decode(encoding))
      except UnicodeDecodeError:
        problems.add("broken_encoding", problems_lib.location(path, line))
        continue
      except (ValueError, RecursionError):
        row = None
      if not isinstance(row, dict):
        problems.add("malformed_row", problems_lib.location(path, line))
        continue
      available.update(dict.fromkeys(row))
      lines.append(line)
      for name, values in columns.items():
        values.append(row.get(name))
  table = Table(
    file=path,
    columns={name: columns[name] for name in wanted if name in available},
    lines=np.array(lines, np.int64),
    available=tuple(available),
    num_rows=num_rows,
  )
  return _without_broken(table, problems)


def _not_json_lines(path: str, raw: bytes) -> str:
  if raw.lstrip().startswith(b"["):
    return (
      f"{path}:1: this is one JSON array. Write one object a line "
      "(jq -c '.[]')."
    )
  return (
    f"{path}:1: these are Python literals with single quotes, not JSON. "
    "Convert them, e.g. with ast.literal_eval and json.dumps."
  )


def _read_parquet(path: str, wanted: list[str]) -> Table:
  available = pq.read_schema(path).names
  present = [name for name in wanted if name in available]
  table = pq.read_table(path, columns=present)
  columns, milliseconds = {}, set()
  for name in present:
    column = table[name]
    if pa.types.is_temporal(column.type):
      column = column.cast(pa.timestamp("ms"), safe=False).cast(pa.int64())
      milliseconds.add(name)
    columns[name] = column.to_pylist()
  num_rows = pq.read_metadata(path).num_rows
  return Table(
    file=path,
    columns=columns,
    lines=np.arange(1, num_rows + 1),
    available=tuple(available),
    num_rows=num_rows,
    milliseconds=frozenset(milliseconds),
  )


def _without_broken(table: Table, problems: problems_lib.Problems) -> Table:
  """Leaves out rows whose text holds bytes that could not be decoded."""
  broken: set[int] = set()
  for values in table.columns.values():
    if not _encodes(values):
      broken.update(i for i, value in enumerate(values) if not _encodes(value))
  if not broken:
    return table
  bad = np.array(sorted(broken))
  problems.add_rows("broken_encoding", table.file, table.lines[bad])
  keep = np.setdiff1d(np.arange(len(table.lines)), bad)
  return dataclasses.replace(
    table,
    columns={
      name: [values[i] for i in keep] for name, values in table.columns.items()
    },
    lines=table.lines[keep],
  )


def _encodes(value: Any) -> bool:
  """Whether all text in a value can be written as UTF-8."""
  if isinstance(value, str):
    try:
      return value.isascii() or bool(value.encode())
    except UnicodeEncodeError:
      return False
  if isinstance(value, dict):
    return all(map(_encodes, (*value.keys(), *value.values())))
  if isinstance(value, (list, tuple)):
    return all(map(_encodes, value))
  return True
