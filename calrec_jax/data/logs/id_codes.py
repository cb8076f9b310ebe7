"""Streams of ids to numbers, and columns that stay in Arrow."""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute creates its functions at run time.)

from __future__ import annotations

import concurrent.futures
from collections.abc import Iterator, Sequence
from typing import Any, overload

import numpy as np
import pyarrow as pa

_PENDING = 4 << 20  # Ids held as text before they become numbers.
_THREADS = concurrent.futures.ThreadPoolExecutor(2, "id_codes")
_SLICE = 8192  # Values converted to Python objects at a time.


class IdCodes:
  """Numbers ids by their first appearance, in Arrow, millions at a time.

  A Python dictionary would need some hundred bytes per id, and a look-up for
  every event. A thread numbers ids while the caller reads the next ones.
  """

  def __init__(self) -> None:
    self._ids = pa.array([], pa.large_string())
    self._codes: list[np.ndarray] = []
    self._pending: list[pa.Array] = []
    self._num_pending = 0
    self._work: concurrent.futures.Future[None] | None = None

  def add(self, ids: pa.Array | pa.ChunkedArray) -> None:
    """Adds ids, none of them null, in order."""
    ids = ids.cast(pa.large_string())
    chunks = ids.chunks if isinstance(ids, pa.ChunkedArray) else [ids]
    self._pending += chunks
    self._num_pending += len(ids)
    # Numbering reads all known ids again, so wait for about as many new ones.
    if self._num_pending >= max(_PENDING, len(self._ids)):
      self.start()

  def finish(self) -> tuple[np.ndarray, pa.LargeStringArray]:
    """Returns int32[n], the code of every added id, and the ids by code."""
    self.start()
    self._wait()
    codes = np.concatenate([np.empty(0, np.int32), *self._codes])
    return codes, self._ids

  def start(self) -> None:
    """Lets a thread number what was added; `finish` waits for it."""
    self._wait()
    pending, self._pending, self._num_pending = self._pending, [], 0
    self._work = _THREADS.submit(self._number, pending)

  def _wait(self) -> None:
    if self._work is not None:
      self._work.result()
      self._work = None

  def _number(self, pending: list[pa.Array]) -> None:
    known = len(self._ids)
    chunked = pa.chunked_array([self._ids, *pending], pa.large_string())
    encoded = chunked.dictionary_encode().combine_chunks()
    if isinstance(encoded, pa.ChunkedArray):  # It has no chunks.
      encoded = encoded.chunk(0)
    self._ids = encoded.dictionary
    self._codes.append(encoded.indices.to_numpy()[known:].astype(np.int32))


class Column(Sequence[Any]):
  """An Arrow column as a sequence of Python values, converted when read.

  Half a million titles take a third of the memory of Python's strings.

  Attributes:
    values: The column itself.
  """

  def __init__(self, values: pa.Array | pa.ChunkedArray) -> None:
    chunked = isinstance(values, pa.ChunkedArray)
    self.values: pa.Array = values.combine_chunks() if chunked else values

  def __len__(self) -> int:
    return len(self.values)

  @overload
  def __getitem__(self, index: int) -> Any: ...
  @overload
  def __getitem__(self, index: slice) -> list[Any]: ...
  def __getitem__(self, index: int | slice) -> Any:
    if isinstance(index, slice):
      return self.values[index].to_pylist()
    return self.values[int(index)].as_py()

  def __iter__(self) -> Iterator[Any]:
    for start in range(0, len(self), _SLICE):
      yield from self.values.slice(start, _SLICE).to_pylist()


def strings(values: Sequence[str]) -> pa.LargeStringArray:
  """Texts as an Arrow array, without going through Python for a `Column`."""
  if isinstance(values, Column):
    return values.values.cast(pa.large_string())
  return pa.array(values, pa.large_string())
