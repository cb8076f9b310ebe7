"""Streams of ids to numbers, and columns that stay in Arrow."""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute creates its functions at run time.)

from __future__ import annotations

import concurrent.futures
from collections.abc import Iterator, Sequence
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_PENDING = 4 << 20  # Ids held as text before they become numbers.
_THREADS = concurrent.futures.ThreadPoolExecutor(2, "id_codes")
# A table by number may have this many places per id.
_SPARSE, _SMALL = 8, 1 << 20
_SLICE = 8192  # Values converted to Python objects at a time.


class IdCodes:
  """Numbers ids by their first appearance, in Arrow, millions at a time.

  A Python dictionary would need some hundred bytes per id, and a look-up for
  every event. A thread numbers ids while the caller reads the next ones. As
  long as all ids are whole numbers they are not even hashed.
  """

  def __init__(self) -> None:
    self._numbers: list[np.ndarray] | None = []
    self._ids = pa.array([], pa.large_string())
    self._codes: list[np.ndarray] = []
    self._pending: list[pa.Array] = []
    self._num_pending = 0
    self._work: concurrent.futures.Future[None] | None = None

  def add(self, ids: pa.Array | pa.ChunkedArray) -> None:
    """Adds ids, none of them null, in order."""
    ids = ids.cast(pa.large_string())
    for chunk in ids.chunks if isinstance(ids, pa.ChunkedArray) else [ids]:
      numbers = None if self._numbers is None else _whole_numbers(chunk)
      if numbers is not None and self._numbers is not None:
        self._numbers.append(numbers)
        continue
      if self._numbers:  # Those so far are texts after all.
        earlier = pa.array(_joined(self._numbers)).cast(pa.large_string())
        self._append(earlier)
      self._numbers = None
      self._append(chunk)

  def _append(self, ids: pa.Array) -> None:
    self._pending.append(ids)
    self._num_pending += len(ids)
    # Numbering reads all known ids again, so wait for about as many new ones.
    if self._num_pending >= max(_PENDING, len(self._ids)):
      self.start()

  def finish(self) -> tuple[np.ndarray, pa.LargeStringArray]:
    """Returns int32[n], the code of every added id, and the ids by code."""
    if self._numbers is not None:
      return _number_codes(_joined(self._numbers))
    self.start()
    self._wait()
    codes = np.concatenate([np.empty(0, np.int32), *self._codes])
    return codes, self._ids

  def start(self) -> None:
    """Lets a thread number what was added; `finish` waits for it."""
    if self._numbers is not None:
      return
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


def _whole_numbers(ids: pa.Array) -> np.ndarray | None:
  """int32[n] or int64[n] if each id is a whole number as Python writes it."""
  try:
    numbers = ids.cast(pa.int64()).to_numpy()
  except pa.ArrowInvalid:
    return None
  if not len(numbers):
    return numbers
  low, high = int(numbers.min()), int(numbers.max())
  if low < 0:
    return None
  # Arrow also reads leading zeros, "-0" and hexadecimal numbers.
  zeros = pc.sum(pc.equal(ids, "0")).as_py()
  begin = pc.sum(pc.starts_with(ids, "0")).as_py()
  if not zeros == begin == np.count_nonzero(numbers == 0):
    return None
  return numbers.astype(np.int32) if high < 2**31 else numbers


def _number_codes(
  numbers: np.ndarray,
) -> tuple[np.ndarray, pa.LargeStringArray]:
  """int32[n], codes of whole numbers by first appearance, and their texts."""
  if int(numbers.max(initial=0)) > _SPARSE * len(numbers) + _SMALL:
    encoded = pa.array(numbers).dictionary_encode()
    codes = encoded.indices.to_numpy().astype(np.int32)
    return codes, encoded.dictionary.cast(pa.large_string())
  first = np.full(int(numbers.max(initial=-1)) + 1, -1, np.int64)
  first[numbers[::-1]] = np.arange(len(numbers))[::-1]
  known = np.flatnonzero(first >= 0)
  known = known[np.argsort(first[known])]
  code = np.empty(len(first), np.int32)
  code[known] = np.arange(len(known), dtype=np.int32)
  return code[numbers], pa.array(known).cast(pa.large_string())


def _joined(parts: Sequence[np.ndarray]) -> np.ndarray:
  return np.concatenate([np.empty(0, np.int32), *parts])


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
