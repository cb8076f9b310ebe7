"""Parquet, ORC and Arrow (Feather) files, in their own types."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import orc

from calrec_jax.data.logs import problems as problems_lib
from calrec_jax.data.logs.files import formats, nested, row_blocks
from calrec_jax.errors import InputError

_ROWS = 32768
_DAMAGED = (pa.ArrowException, OSError, ValueError)


class ColumnarFile:
  """Reads a file of typed columns.

  Attributes:
    available: Names of the columns, and of those inside others.
    num_lines: Number of the rows that were read so far.
  """

  def __init__(
    self,
    source: str | IO[bytes],
    path: str,
    kind: str,
    problems: problems_lib.Problems,
    on_rows: Callable[[float], object] = lambda part: None,
  ) -> None:
    """Reads the file's description of itself.

    Args:
      source: Path of the file on this machine, or a stream that can seek.
      path: Path of the file, for messages.
      kind: "parquet", "orc" or "arrow".
      problems: Counter of rows whose parallel lists differ in length.
      on_rows: Function called with the part of the file that was read since
        the last call, of 1, for a progress bar.

    Raises:
      InputError: If the file is damaged, or two columns have one name.
    """
    self._path, self._problems, self._on_rows = path, problems, on_rows
    self.num_lines, self._kind = 0, kind
    try:
      opened = {"parquet": _Parquet, "orc": _Orc, "arrow": _Arrow}[kind]
      self._file = opened(source)
      schema = self._file.schema
    except FileNotFoundError:
      raise
    except _DAMAGED as error:
      raise self._damaged(error) from error
    self._keys = schema.names
    twice = sorted({name for name in self._keys if self._keys.count(name) > 1})
    if twice:
      raise InputError(
        f"{path}: two columns are called {twice[0]!r}. Rename one."
      )
    inner = [
      name
      for field in schema
      for name in nested.names_of_type(field.name, field.type)
    ]
    self.available = tuple(dict.fromkeys([*self._keys, *inner]))

  def describe(self) -> dict[str, Any]:
    """How the file is read."""
    return {"format": self._kind}

  def rows(self, wanted: Sequence[str]) -> Iterator[row_blocks.Rows]:
    """The rows in the file's order; their numbers are their lines.

    All wanted columns are there, of nulls where the file has none. Rows whose
    parallel lists differ in length are counted already.
    """
    ways = {name: nested.steps(name, self._keys) for name in wanted}
    keys = list(dict.fromkeys(way[0] for way in ways.values()))
    present = [key for key in keys if key in self._keys]
    for batch in self._batches(present):
      numbers = np.arange(batch.num_rows) + self.num_lines + 1
      self.num_lines += batch.num_rows
      tops = {key: _decoded(batch.column(key)) for key in present}
      flat = nested.flatten(tops, ways, batch.num_rows)
      uneven = numbers[flat.uneven]
      self._problems.add_rows("malformed_row", self._path, uneven)
      lines = numbers if flat.rows is None else numbers[flat.rows]
      table, good = self._valid(pa.table(flat.columns), len(lines))
      broken = lines[~good]
      self._problems.add_rows("broken_encoding", self._path, broken)
      yield row_blocks.Rows(table, lines[good], uneven, broken)

  def _valid(self, table: pa.Table, count: int) -> tuple[pa.Table, np.ndarray]:
    """The rows whose texts are UTF-8, and bool[n]: which those are.

    Some programs write texts of other encodings as they are.
    """
    good = np.ones(count, bool)
    try:
      table.validate(full=True)
      return table, good
    except pa.ArrowInvalid:
      pass
    for column in table.columns:
      try:
        column.validate(full=True)
      except pa.ArrowInvalid as error:
        if not (
          pa.types.is_string(column.type)
          or pa.types.is_large_string(column.type)
        ):
          raise self._damaged(error) from error
        values = column.cast(pa.large_binary()).to_pylist()
        good &= np.fromiter(map(_is_text, values), bool, count)
    return table.filter(pa.array(good)), good

  def _batches(self, present: list[str]) -> Iterator[pa.RecordBatch]:
    batches = self._file.batches(present)
    total = max(self._file.num_rows or 1, 1)
    while True:
      try:
        batch = next(batches, None)
      except _DAMAGED as error:
        raise self._damaged(error) from error
      if batch is None:
        return
      self._on_rows(batch.num_rows / total)
      yield batch

  def _damaged(self, error: Exception) -> InputError:
    said = str(error).partition("\n")[0].rstrip(".")
    return InputError(
      f"{self._path} is damaged, after row {self.num_lines:,}: {said}. Fetch "
      "or write it again."
    )


def _decoded(array: pa.Array) -> pa.Array:
  """An array without extension types, whose storage it is."""
  while isinstance(array, pa.ExtensionArray):
    array = array.storage
  return array


def _is_text(value: bytes | None) -> bool:
  try:
    return value is None or value.isascii() or bool(value.decode())
  except UnicodeDecodeError:
    return False


class _Parquet:
  def __init__(self, source: Any) -> None:
    self._file = pq.ParquetFile(source)
    self.schema: pa.Schema = self._file.schema_arrow
    self.num_rows: int | None = self._file.metadata.num_rows

  def batches(self, present: list[str]) -> Iterator[pa.RecordBatch]:
    read = 0
    for batch in self._file.iter_batches(_ROWS, columns=present):
      read += batch.num_rows
      yield batch
    if read != self.num_rows and present:
      raise ValueError(f"it says {self.num_rows} rows and holds {read}")


class _Orc:
  def __init__(self, source: Any) -> None:
    self._file = orc.ORCFile(source)
    self.schema: pa.Schema = self._file.schema
    self.num_rows: int | None = self._file.nrows

  def batches(self, present: list[str]) -> Iterator[pa.RecordBatch]:
    for i in range(self._file.nstripes):
      stripe = self._file.read_stripe(i, columns=present)
      for start in range(0, stripe.num_rows, _ROWS):
        yield stripe.slice(start, _ROWS)


class _Arrow:
  """Arrow's files, and its streams, which have no table of contents."""

  def __init__(self, source: Any) -> None:
    stored = pa.memory_map(source) if isinstance(source, str) else source
    is_stream = stored.read(len(formats.ARROW_STREAM)) == formats.ARROW_STREAM
    stored.seek(0)
    open_ = pa.ipc.open_stream if is_stream else pa.ipc.open_file
    self._is_stream, self._file = is_stream, open_(stored)
    self.schema: pa.Schema = self._file.schema
    self.num_rows: int | None = None

  def batches(self, present: list[str]) -> Iterator[pa.RecordBatch]:
    for batch in self._all():
      batch = batch.select(present)
      for start in range(0, batch.num_rows, _ROWS):
        yield batch.slice(start, _ROWS)

  def _all(self) -> Iterator[pa.RecordBatch]:
    if self._is_stream:
      yield from self._file
    else:
      for i in range(self._file.num_record_batches):
        yield self._file.get_batch(i)


def in_memory(stream: IO[bytes], path: str, limit: int) -> io.BytesIO:
  """A file that its reader has to go back and forth in, from a packed stream.

  Raises:
    InputError: If it has more than `limit` bytes.
  """
  data = stream.read(limit + 1)
  if len(data) > limit:
    raise InputError(
      f"{path} is packed and has more than {limit >> 20:,} MiB. Unpack it: "
      "such files are compressed in themselves."
    )
  return io.BytesIO(data)
