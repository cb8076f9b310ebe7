"""Columns of times, in any of the ways that logs write them, to milliseconds.

How a column is to be read is a question about the whole column: 44,088 may be a
position, a day in Excel or a second of 1970. A reader takes a column block by
block, reads it in all ways that are possible, and decides at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from calrec_jax.data.logs import (
  arrow_columns,
  time_columns,
  time_layouts,
  time_notes,
  time_numbers,
)
from calrec_jax.data.logs.problems import Note
from calrec_jax.errors import InputError

UNITS = (*time_numbers.UNITS, "iso", "order")
FORMATS = time_layouts.ORDERS

_ENOUGH = 1000  # Rows after which an order that reads few is dropped.
_HEAD = 1000  # Rows that are tried otherwise, if many are unreadable.
_AUTO = "LogFiles.time_unit = None"
_A_PATTERN = 'LogFiles.time_format = "%d.%m.%Y %H:%M"'


class Times(NamedTuple):
  """The times of a column.

  Attributes:
    values: int64[n], unix milliseconds, or positions; 0 if unreadable.
    readable: bool[n], whether each could be read.
    how: How they were read, such as "unix seconds", for the card.
    binding: Gin binding that says so; empty if there is none.
    by_time: Whether they are times rather than positions.
    notes: What looks wrong.
  """

  values: np.ndarray
  readable: np.ndarray
  how: str
  binding: str
  by_time: bool
  notes: list[Note]


class TimeReader:
  """Reads a column of times, block by block."""

  def __init__(
    self,
    unit: str | None = None,
    pattern: str | None = None,
    missing: Sequence[str] = (),
  ) -> None:
    """Checks the settings.

    Args:
      unit: One of `UNITS`; None finds it. Ignored for Arrow's types of times.
      pattern: strptime pattern of texts, or one of `FORMATS`, which is the
        order of dates that are all numbers. It comes before the unit.
      missing: Words that mean a missing value.

    Raises:
      InputError: If there is no such unit or pattern.
    """
    if unit is not None and unit not in UNITS:
      raise InputError(
        f"LogFiles.time_unit = {unit!r}: must be one of "
        f"{', '.join(map(repr, UNITS))}, or None."
      )
    if pattern is not None:
      time_layouts.check_pattern(pattern)
    ordered = pattern in FORMATS
    self._unit = None if pattern is not None else unit
    self._pattern = None if ordered else pattern
    self._format = pattern
    self._orders: tuple[str, ...] = FORMATS
    if ordered:
      self._orders = (str(pattern),)
    self._missing = missing
    self._blocks: list[time_columns.Block] = []
    self._head: pa.Array = pa.nulls(0)
    # The first value that each way cannot read, and an ambiguous one.
    self._unreadable: dict[str, str] = {}
    self._ambiguous: tuple[str, str, int] | None = None

  def add(self, column: Any) -> None:
    """Reads a block of the column: an Arrow column, or a list."""
    array = arrow_columns.array(column, _text)
    if not len(self._head):
      self._head = array.slice(0, _HEAD)
    block = time_columns.read(
      array,
      unit=self._unit,
      pattern=self._pattern,
      orders=self._orders,
      missing=self._missing,
    )
    self._blocks.append(block)
    self._collect_examples(array, block)
    if block.size - block.missing >= _ENOUGH and len(block.by_order) > 1:
      counts = {
        order: block.texts(order).count() if order in block.by_order else 0
        for order in self._orders
      }
      most = max(counts.values())
      self._orders = tuple(o for o, n in counts.items() if 2 * n >= most)

  def finish(self) -> Times:
    """Returns the times of all blocks, in order."""
    exact = self._joined(lambda block: block.exact)
    numbers = self._numbers()
    order, texts = self._best_order()
    way, found, notes = order, texts, self._order_notes(order)
    how, binding = self._text_way(order)
    by_time = True
    if len(numbers):
      unit = self._unit
      if unit is None or unit == "iso":
        unit = time_numbers.guess(numbers)
      by_number = time_columns.Read(*time_numbers.read(numbers, unit))
      if by_number.count() > texts.count() or self._unit == unit:
        way, found, by_time = "number", by_number, unit != "order"
        notes = self._number_notes(numbers, unit)
        how, binding = time_numbers.NAMES[unit], _unit(unit)
    if exact.count() > found.count():
      how, binding, by_time = "times of the file's own type", "", True
      notes = []
    found = exact.over(found)
    if by_time and not any(note.severity == "wrong" for note in notes):
      notes += time_notes.on_values(found.times[found.readable])
      notes += self._unreadable_notes(found, way, how, numbers)
    return Times(found.times, found.readable, how, binding, by_time, notes)

  def _numbers(self) -> np.ndarray:
    """float64[n], not a number for texts; empty if all are."""
    if all(block.numbers is None for block in self._blocks):
      return np.empty(0)
    return np.concatenate(list(map(_numbers, self._blocks)))

  def _joined(
    self, part: Callable[[time_columns.Block], time_columns.Read | None]
  ) -> time_columns.Read:
    """One kind of times of all blocks."""
    reads = [
      part(block) or time_columns.Read.nothing(block.size)
      for block in self._blocks
    ]
    reads.append(time_columns.Read.nothing(0))
    return time_columns.Read(
      np.concatenate([read.times for read in reads]),
      np.concatenate([read.readable for read in reads]),
    )

  def _best_order(self) -> tuple[str, time_columns.Read]:
    """The order of dates that reads most, and the times of all texts in it."""
    present = {order for block in self._blocks for order in block.by_order}
    if len(present) < 2:
      order = next(iter(present), self._orders[0])
      return order, self._joined(lambda block: block.texts(order))
    noon = any(block.noon for block in self._blocks)
    preferred = sorted(present, key=lambda o: (noon != (o == FORMATS[1]), o))
    reads = {
      order: self._joined(lambda block, order=order: block.texts(order))
      for order in preferred
    }
    best = max(
      preferred,
      key=lambda order: (
        reads[order].count(),
        time_notes.plausible(reads[order].times, reads[order].readable),
      ),
    )
    return best, reads[best]

  def _collect_examples(
    self, array: pa.Array, block: time_columns.Block
  ) -> None:
    ways = dict.fromkeys(("number", *self._orders)).keys()
    for way in ways - self._unreadable.keys():
      if way == "number":
        readable = ~np.isnan(_numbers(block))
      else:
        readable = block.texts(way).readable
      if block.exact is not None:
        readable = readable | block.exact.readable
      found = time_columns.example(array, readable, self._missing)
      if found is not None:
        self._unreadable[way] = found
    if self._ambiguous is None and len(block.by_order) > 1:
      one, *others = block.by_order
      for other in others:
        a, b = block.by_order[one], block.by_order[other]
        rows = np.flatnonzero(a.readable & b.readable & (a.times != b.times))
        if len(rows):
          row = int(rows[0])
          self._ambiguous = (other, str(array[row].as_py()), row)
          break

  def _text_way(self, order: str) -> tuple[str, str]:
    if self._pattern is not None:
      return f"times such as {self._pattern}", _bound(self._pattern)
    if any(order in block.by_order for block in self._blocks):
      return f"dates with the {order.replace('-', ' ')}", _bound(order)
    if self._unit == "iso" or all(block.iso for block in self._blocks):
      return "ISO 8601", 'LogFiles.time_unit = "iso"'
    return "times in words or ISO 8601", _AUTO

  def _number_notes(self, numbers: np.ndarray, unit: str) -> list[Note]:
    if self._unit is None:
      return time_notes.on_guess(numbers, unit)
    if unit == "order" or not np.any(np.abs(numbers) > 0):
      return []
    return time_notes.on_unit(numbers, unit)

  def _order_notes(self, order: str) -> list[Note]:
    """A note if dates can be read in two orders, and differ."""
    if self._format is not None or self._ambiguous is None:
      return []
    present = {name for block in self._blocks for name in block.by_order}
    counts = {
      name: sum(block.texts(name).count() for block in self._blocks)
      for name in present
    }
    rivals = sorted(
      name for name in present - {order} if counts[name] == counts[order]
    )
    if not rivals:
      return []
    return [
      Note(
        "suspect",
        f"no time tells whether the order is {order} or {rivals[0]}, such as "
        f"{self._ambiguous[1]!r}; read as {order}",
        _bound(rivals[0]),
      )
    ]

  def _unreadable_notes(
    self, found: time_columns.Read, way: str, how: str, numbers: np.ndarray
  ) -> list[Note]:
    """A note if more than 1% of the times cannot be read."""
    size = len(found.times)
    bad, missing = size - found.count(), sum(b.missing for b in self._blocks)
    if 100 * bad <= size:
      return []
    message = f"{bad:,} of {size:,} times cannot be read as {how}"
    if missing:
      message += f"; {missing:,} of them are empty"
    sample = self._unreadable.get(way)
    if sample is None and len(numbers):
      rows = np.flatnonzero(~found.readable & ~np.isnan(numbers))
      sample = f"{numbers[rows[0]]:.17g}" if len(rows) else None
    remedy = ""
    if sample is not None:
      message += f"; the first is {sample!r}"
      remedy = self._otherwise(found) or _A_PATTERN
    severity = "suspect" if found.count() else "wrong"
    return [Note(severity, message, remedy, "bad_timestamp")]

  def _otherwise(self, found: time_columns.Read) -> str:
    """The binding with which more of the first rows would be readable."""
    if self._unit is None and self._format is None:
      return ""
    reader = TimeReader(missing=self._missing)
    reader.add(self._head)
    trial = reader.finish()
    head = found.readable[: len(self._head)]
    better = np.count_nonzero(trial.readable) > np.count_nonzero(head)
    return trial.binding if better and trial.by_time else ""


def timestamps(values: Any, unit: str) -> tuple[np.ndarray, np.ndarray]:
  """Raw times to unix milliseconds, or to positions for `order`.

  Returns:
    int64[n] times, and bool[n]: whether each could be read.
  """
  reader = TimeReader(unit)
  reader.add(values)
  found = reader.finish()
  return found.values, found.readable


def _unit(unit: str) -> str:
  return f'LogFiles.time_unit = "{unit}"'


def _bound(pattern: str) -> str:
  return f'LogFiles.time_format = "{pattern}"'


def _numbers(block: time_columns.Block) -> np.ndarray:
  if block.numbers is None:
    return np.full(block.size, np.nan)
  return block.numbers


def _text(value: Any) -> str | None:
  """A Python value among others of several types as text."""
  if isinstance(value, bool):
    return None
  return str(value) if isinstance(value, (str, int, float)) else None
