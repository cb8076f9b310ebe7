"""CSV, JSON lines and Parquet files as columns with line numbers.

Lines that are not rows are counted and skipped; a file that cannot be read at
all is an error. `.gz` files are decompressed on the fly.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gzip
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

from calrec_jax.data.logs import (
  csv_blocks,
  id_codes,
  json_blocks,
  read_options,
)
from calrec_jax.data.logs import problems as problems_lib
from calrec_jax.errors import InputError, nearest
from calrec_jax.storage import identity

_TEXT = pa.large_string()
_UNPACKED_BYTES = 1 << 18
_FORMATS = (
  dict.fromkeys((".csv", ".tsv", ".txt"), "csv")
  | dict.fromkeys((".jsonl", ".json", ".ndjson"), "json")
  | {".parquet": "parquet"}
)


@dataclasses.dataclass(frozen=True, eq=False)
class Table:
  """Some columns of one file.

  Attributes:
    file: Path of the file.
    columns: Values by column name, None where missing; those of a CSV file stay
      in Arrow.
    lines: int64[n], the line where each row starts; its number in Parquet.
    available: Names of all columns of the file.
    milliseconds: Names of time columns, converted to unix milliseconds.
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
  """Reads some columns of a file; its suffix determines the format.

  Args:
    path: Path of a .csv, .tsv, .txt, .jsonl, .json or .ndjson file (each also
      with .gz), or of a .parquet file.
    wanted: Names of the columns to read; absent ones are omitted.
    problems: Counter of malformed rows and broken encodings.
    delimiter: Text between fields of CSV; None detects it.
    encoding: Encoding of text files.

  Raises:
    InputError: If the suffix is unknown or the file cannot be read.
    FileNotFoundError: If there is no such file.
  """
  _require_file(path)
  kind = _format(path)
  wanted = list(dict.fromkeys(wanted))
  try:
    if kind == "csv":
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
  return identity.file_sha256(path)


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
  # `gzip` decompresses only as much as is requested, so request more.
  return io.BufferedReader(gzip.open(path, "rb"), _UNPACKED_BYTES)


def _read_csv(
  path: str,
  wanted: list[str],
  problems: problems_lib.Problems,
  delimiter: str | None,
  encoding: str,
) -> Table:
  suffixes = [s.lower() for s in pathlib.Path(path).suffixes if s != ".gz"]
  with contextlib.ExitStack() as stack:
    stream = stack.enter_context(_open(path))
    if encoding.lower().replace("_", "-") not in ("utf-8", "utf8", "utf-8-sig"):
      text = io.TextIOWrapper(
        stream, encoding=encoding, errors="surrogateescape", newline=""
      )
      stream = stack.enter_context(text)
    reader = csv_blocks.open_csv(
      path,
      stream,
      problems,
      suffix=suffixes[-1] if suffixes else "",
      options=read_options.ReadOptions(delimiter=delimiter),
    )
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
    problems.reading.append(reader.reading())
  return Table(
    file=path,
    columns={  # A column's chunks are freed before the next one is copied.
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
      row, kind = _json_row(raw, wanted, encoding)
      available.update(dict.fromkeys(row))
      if kind is not None:
        problems.add(kind, problems_lib.location(path, line))
        continue
      lines.append(line)
      for name, values in columns.items():
        values.append(row.get(name))
  return Table(
    file=path,
    columns={name: columns[name] for name in wanted if name in available},
    lines=np.array(lines, np.int64),
    available=tuple(available),
    num_rows=num_rows,
  )


def _json_row(
  raw: bytes, wanted: list[str], encoding: str
) -> tuple[dict[str, Any], str | None]:
  """A line as an object, and what is wrong with it or None."""
  try:
    row = json.loads(raw.decode(encoding))
  except UnicodeDecodeError:
    return {}, "broken_encoding"
  except (ValueError, RecursionError):
    row = None
  if not isinstance(row, dict):
    return {}, "malformed_row"
  whole = json_blocks.encodes([row.get(name) for name in wanted])
  return row, None if whole else "broken_encoding"


def _not_json_lines(path: str, raw: bytes) -> str:
  if raw.lstrip().startswith(b"["):
    return (
      f"{path}:1: this is one JSON array. Write one object per line "
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
