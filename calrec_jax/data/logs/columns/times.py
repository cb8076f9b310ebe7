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

from calrec_jax.data.logs.columns import (
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
# Dates that are all digits, and how many they have.
_DIGITS = {"%d%m%Y": 8, "%m%d%Y": 8, "%y%m%d": 6, "%Y%m": 6, "%Y": 4}
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


class _Way(NamedTuple):
  """One way of reading a column.

  Attributes:
    name: Order of dates, or unit of numbers.
    read: The times.
    how: The way in words.
    binding: Gin binding that says so; empty if there is none.
    by_time: Whether they are times rather than positions.
    notes: What looks wrong.
  """

  name: str
  read: time_columns.Read
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
    name: str = "",
  ) -> None:
    """Checks the settings.

    Args:
      unit: One of `UNITS`; None finds it. Ignored for Arrow's types of times.
      pattern: strptime pattern of texts, or one of `FORMATS`, which is the
        order of dates that are all numbers. It comes before the unit.
      missing: Words that mean a missing value.
      name: Name of the column as conditions write it, for notes.

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
    self._missing, self._name = missing, name
    self._blocks: list[time_columns.Block] = []
    self._head: pa.Array = pa.nulls(0)
    # The first value that each way cannot read, and an ambiguous one.
    self._unreadable: dict[str, str] = {}
    self._ambiguous: tuple[str, str, int] | None = None

  def whole(self, column: pa.Array) -> time_columns.Block | None:
    """A block, if it is read alike whatever the others are; in any thread."""
    if self._pattern is not None or not arrow_columns.is_text(column.type):
      return None
    return time_columns.read_whole(column.cast(arrow_columns.TEXT), self._unit)

  def add(self, column: Any, block: time_columns.Block | None = None) -> None:
    """Reads a block of the column.

    Args:
      column: Arrow column, or a list.
      block: What `whole` says of it, if that has been asked already.
    """
    array = arrow_columns.array(column, _text)
    if not len(self._head):
      self._head = array.slice(0, _HEAD)
    block = block or time_columns.read(
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
    texts, numbers = self._texts_way(), self._numbers_way()
    way, other = texts, numbers
    if numbers is not None and (
      numbers.read.count() > texts.read.count() or self._unit == numbers.name
    ):
      way, other = numbers, texts
    if self._detects and other is not None:
      way = _mixed(way, other)
    if exact.count() > way.read.count():
      how = "times of the file's own type"
      way = way._replace(how=how, binding="", by_time=True, notes=[])
    found, notes = way.read, [*way.notes]
    if exact.count():
      found = exact.over(found)
    if way.by_time and not any(note.severity == "wrong" for note in notes):
      notes += time_notes.on_values(found.present(), self._name)
      notes += self._unreadable_notes(found, way)
    return Times(
      found.times, found.readable, way.how, way.binding, way.by_time, notes
    )

  @property
  def _detects(self) -> bool:
    """Whether no setting says how times are written."""
    return self._unit is None and self._format is None

  def _texts_way(self) -> _Way:
    order, read = self._best_order()
    how, binding = self._text_way(order)
    notes = self._order_notes(order)
    return _Way(order, read, how, binding, True, notes)

  def _numbers_way(self) -> _Way | None:
    numbers = self._numbers()
    if not len(numbers):
      return None
    unit = self._unit
    if unit is None or unit == "iso":
      unit = time_numbers.guess(numbers)
    notes = self._number_notes(numbers, unit)
    if self._detects:
      *read, other, rows = time_numbers.read_each(numbers, unit)
      if rows.any():
        names = time_numbers.NAMES
        notes.append(_mixed_note(rows, names[other], names[unit]))
    else:
      read = time_numbers.read(numbers, unit)
    how = time_numbers.NAMES[unit]
    by_time = unit != "order"
    return _Way(
      unit, time_columns.Read(*read), how, _unit(unit), by_time, notes
    )

  def _numbers(self) -> np.ndarray:
    """float64[n], not a number for texts; empty if all are."""
    if all(block.numbers is None for block in self._blocks):
      return np.empty(0)
    return np.concatenate(list(map(_numbers, self._blocks)))

  def _joined(
    self, part: Callable[[time_columns.Block], time_columns.Read | None]
  ) -> time_columns.Read:
    """One kind of times of all blocks."""
    found = list(map(part, self._blocks))
    if not any(found):
      return time_columns.Read.nothing(sum(b.size for b in self._blocks))
    reads = [
      read or time_columns.Read.nothing(block.size)
      for read, block in zip(found, self._blocks, strict=True)
    ]
    return time_columns.Read(
      np.concatenate([read.times for read in reads]),
      np.concatenate([read.readable for read in reads]),
    )

  def _best_order(self) -> tuple[str, time_columns.Read]:
    """The order of dates that reads most, and the times of all texts in it."""
    present = {order for block in self._blocks for order in block.by_order}
    if len(present) < 2:
      order = next(iter(present), self._orders[0])
      return order, self._joined(lambda block: block.texts_if_any(order))
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
      pattern = self._pattern_of_digits() if unit == "order" else ""
      return time_notes.on_guess(numbers, unit, pattern and _bound(pattern))
    if unit == "order" or not np.any(np.abs(numbers) > 0):
      return []
    return time_notes.on_unit(numbers, unit)

  def _pattern_of_digits(self) -> str:
    """The pattern of dates that all first numbers may be, such as 13092020."""
    if self._head.type != arrow_columns.TEXT:
      return ""
    digits = arrow_columns.trimmed(self._head, self._missing).drop_null()
    widths = {len(text) for text in digits.to_pylist()}
    for pattern, width in _DIGITS.items():
      if widths == {width}:
        times, readable = time_layouts.read_pattern(digits, pattern)
        if time_notes.plausible(times, readable) == len(digits):
          return pattern
    return ""

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
    self, found: time_columns.Read, way: _Way
  ) -> list[Note]:
    """A note if more than 1% of the times cannot be read."""
    size = len(found.times)
    bad, missing = size - found.count(), sum(b.missing for b in self._blocks)
    if 100 * bad <= size:
      return []
    message = f"{bad:,} of {size:,} times cannot be read as {way.how}"
    if missing:
      message += f"; {missing:,} of them are empty"
    key = way.name if way.name in self._orders else "number"
    sample = self._unreadable.get(key)
    numbers = self._numbers()
    if sample is None and len(numbers):
      rows = np.flatnonzero(~found.readable & ~np.isnan(numbers))
      sample = f"{numbers[rows[0]]:.17g}" if len(rows) else None
    remedy = ""
    if sample is not None:
      message += f"; the first is {sample!r}"
      remedy = self._otherwise(found)
      zone = time_notes.unknown_zone(sample) if self._detects else None
      if zone is not None:
        message += f"; its time zone {zone[0]!r} is unknown or ambiguous"
        remedy = _bound(zone[1]) if zone[1] else ""
      if not remedy and 2 * (bad - missing) > size:
        remedy = _A_PATTERN  # Most are written in an unknown way.
    for order in self._orders:
      turned = self._joined(lambda block, order=order: block.texts(order))
      more = np.count_nonzero(turned.readable & ~found.readable)
      if self._detects and way.name in self._orders and more:
        message += (
          f"; {more:,} of them can be read with the {order.replace('-', ' ')}, "
          "so the column mixes two orders, and days that fit both may be wrong"
        )
        return [Note("wrong", message, "", "bad_timestamp")]
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


def _mixed(way: _Way, other: _Way) -> _Way:
  """A way of reading, and for what it cannot read the other one."""
  read = other.read
  if other.name in time_numbers.UNITS:
    # Not any number among texts is a time.
    limits = time_numbers.limits()
    within = (read.times >= limits[0]) & (read.times <= limits[1])
    read = time_columns.Read(read.times, read.readable & within)
  rows = read.readable & ~way.read.readable
  if not rows.any() or not way.by_time or other.name in ("order", "excel"):
    return way
  note = _mixed_note(rows, other.how, way.how)
  return way._replace(read=way.read.over(read), notes=[*way.notes, note])


def _mixed_note(rows: np.ndarray, here: str, others: str) -> Note:
  return Note(
    "info",
    f"the column mixes two ways: {np.count_nonzero(rows):,} of {len(rows):,} "
    f"times are {here}, the others {others}; each is read as what it is",
  )


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
