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

_PENDING = 4 << 20  # Ids held until a thread numbers them.
_THREADS = concurrent.futures.ThreadPoolExecutor(2, "id_codes")
# A table by number may have this many places per id.
_SPARSE, _SMALL, _LARGE = 8, 1 << 20, 1 << 24
_FEW = 64  # Values that mostly show what the others are.
_SLICE = 8192  # Values converted to Python objects at a time.

# Ids of a block: as whole numbers, -1 where missing, or as text with nulls.
Ids = np.ndarray | pa.Array


class IdCodes:
  """Numbers ids by their first appearance, millions at a time.

  A Python dictionary would need some hundred bytes per id, and a look-up for
  every event. As long as all ids are whole numbers, a table numbers them at
  once, or a hash table where they are sparse; a thread numbers texts while the
  caller reads the next ones. Missing ids have the code -1.
  """

  def __init__(self) -> None:
    # Code by number, and -1 at the end, which is the place of a missing id.
    self._table: np.ndarray | None = np.full(1, -1, np.int32)
    self._fresh: list[np.ndarray] = []
    self._ids = pa.array([], pa.int64())
    self._num_ids = self._num_added = 0
    self._codes: list[np.ndarray] = []
    self._pending: list[pa.Array] = []
    self._num_pending = 0
    self._work: concurrent.futures.Future[None] | None = None

  def add(self, ids: Ids) -> None:
    """Adds the ids of a block, in order."""
    numbers = ids if isinstance(ids, np.ndarray) else None
    if numbers is None and pa.types.is_integer(self._ids.type):
      numbers = whole_numbers(ids)
    if self._table is not None:
      if numbers is not None and self._reaches(numbers):
        self._codes.append(self._by_table(self._table, numbers))
        return
      self._ids = pa.array(_joined(self._fresh).astype(np.int64))
      self._table, self._fresh = None, []
    if numbers is not None:
      ids = pa.array(numbers, pa.int64(), mask=numbers < 0)
    if ids.type != self._ids.type:
      ids = ids.cast(pa.large_string())
      self._wait()
      self._ids = self._ids.cast(pa.large_string())
      self._pending = [one.cast(pa.large_string()) for one in self._pending]
    self._pending.append(ids)
    self._num_pending += len(ids)
    # Numbering reads all known ids again, so wait for about as many new ones.
    if self._num_pending >= max(_PENDING, len(self._ids)):
      self.start()

  def finish(self) -> tuple[np.ndarray, pa.LargeStringArray]:
    """Returns int32[n], the code of every added id, and the ids by code."""
    self.start()
    self._wait()
    ids = self._ids
    if self._table is not None:
      ids = pa.array(_joined(self._fresh))
    return _joined(self._codes), ids.cast(pa.large_string())

  def start(self) -> None:
    """Lets a thread number what was added; `finish` waits for it."""
    self._wait()
    if self._pending:
      pending, self._pending, self._num_pending = self._pending, [], 0
      self._work = _THREADS.submit(self._number, pending)

  def _wait(self) -> None:
    if self._work is not None:
      self._work.result()
      self._work = None

  def _number(self, pending: list[pa.Array]) -> None:
    known = len(self._ids)
    chunked = pa.chunked_array([self._ids, *pending], self._ids.type)
    encoded = chunked.dictionary_encode().combine_chunks()
    if isinstance(encoded, pa.ChunkedArray):  # It has no chunks.
      encoded = encoded.chunk(0)
    self._ids = encoded.dictionary
    codes = pc.fill_null(encoded.indices.slice(known), -1)
    self._codes.append(codes.to_numpy().astype(np.int32))

  def _reaches(self, numbers: np.ndarray) -> bool:
    """Makes the table long enough, unless the numbers are too sparse."""
    assert self._table is not None
    self._num_added += len(numbers)
    size = int(numbers.max(initial=0)) + 2
    if size > _SPARSE * self._num_added + _LARGE:
      return False
    if size > len(self._table):
      longer = np.full(max(size, 2 * len(self._table)), -1, np.int32)
      longer[: len(self._table)] = self._table
      self._table = longer
    return True

  def _by_table(self, table: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """int32[n], the codes of numbers, some of which may be new."""
    codes = table.take(numbers)
    at = np.flatnonzero(codes < 0)
    new = numbers[at]
    if len(at) and int(new.min()) < 0:
      at = at[new >= 0]
      new = numbers[at]
    if len(at):
      order = np.arange(len(new), dtype=np.int32)
      table[new[::-1]] = order[::-1]
      fresh = new[table[new] == order]  # The first of each.
      table[fresh] = self._num_ids + order[: len(fresh)]
      codes[at] = table[new]
      self._fresh.append(fresh)
      self._num_ids += len(fresh)
    return codes


def whole_numbers(ids: pa.Array) -> np.ndarray | None:
  """Texts as int64[n], -1 where null, if Python writes all numbers like that.

  Args:
    ids: Ids as text.
  """
  try:
    ids[:_FEW].cast(pa.int64())  # A failure takes long for each text.
    numbers = ids.cast(pa.int64())
  except pa.ArrowInvalid:
    return None
  if ids.null_count:
    numbers = pc.fill_null(numbers, -1)
  numbers = numbers.to_numpy()
  # Arrow also reads leading zeros, "-0" and hexadecimal numbers.
  begin = ids.filter(pc.starts_with(ids, "0"))
  if len(begin) != np.count_nonzero(numbers == 0) or begin != pa.array(
    ["0"] * len(begin), begin.type
  ):
    return None
  return numbers if np.count_nonzero(numbers < 0) == ids.null_count else None


def first_rows(ids: pa.Array) -> np.ndarray:
  """int[n], the first row with the id of each row.

  Args:
    ids: Ids as text or whole numbers, none of them null.
  """
  numbers, order = None, np.arange(len(ids), dtype=np.int32)
  if pa.types.is_integer(ids.type):
    numbers = ids.to_numpy()
  size = 0 if numbers is None else int(numbers.max(initial=0)) + 1
  if numbers is None or size > _SPARSE * len(ids) + _SMALL:
    encoded = ids.dictionary_encode()
    numbers, size = encoded.indices.to_numpy(), len(encoded.dictionary)
  first = np.empty(size, np.int32)
  first[numbers[::-1]] = order[::-1]
  return first.take(numbers)


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
