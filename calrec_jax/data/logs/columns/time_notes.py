"""What looks wrong with the times of a column."""

from __future__ import annotations

import contextlib
import datetime
import re
import time

import numpy as np

from calrec_jax.data.logs.columns import time_numbers
from calrec_jax.data.logs.problems import Note

_DAY = time_numbers.DAY
_1990 = 631_152_000_000
_ZONE = re.compile(
  r"(?P<when>.*\d:\d\d(?:[:.,]\d+)*(?: ?[AaPp][Mm])?) ?"
  r"(?P<zone>\b[A-Z]{2,5}|[A-Z][A-Za-z]+/[A-Za-z_/+-]+)"
)
_WITH_ZONES = tuple(
  f"{date} {clock}"
  for date in ("%Y-%m-%d", "%Y/%m/%d", "%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y")
  for clock in ("%H:%M:%S.%f", "%H:%M:%S", "%H:%M", "%I:%M:%S %p", "%I:%M %p")
)


def shown(milliseconds: int) -> str:
  """A time for a message, `2020-09-14 05:18:46`."""
  text = str(np.datetime64(int(milliseconds), "ms").astype("datetime64[s]"))
  return text.replace("T", " ")


def on_values(times: np.ndarray, name: str = "") -> list[Note]:
  """Notes on readable times.

  Args:
    times: int64[n], unix milliseconds.
    name: Name of the column as conditions write it, for the remedy.
  """
  if len(times) < 2:
    return []
  low, high = int(times.min()), int(times.max())
  span = f"from {shown(low)} to {shown(high)}"
  if low == high:
    return [Note("suspect", f"all times are the same, {shown(low)}")]
  if low > -_DAY and high < _DAY:
    message = f"all times lie within a day of 1970, {span}; they look like"
    message += " positions or have another unit"
    return [Note("wrong", message, 'LogFiles.time_unit = "order"')]
  notes = []
  early = int(np.count_nonzero(times < _1990))
  if early:
    message = f"{early:,} of {len(times):,} times lie before 1990, {span}"
    condition = f'{name} >= "1990-01-01"'
    few = name and 2 * early < len(times)  # Zero may stand for no time.
    remedy = f"LogFiles.where = {condition!r}" if few else ""
    notes.append(Note("suspect", message, remedy))
  late = int(np.count_nonzero(times > time.time() * 1000 + _DAY))
  if late:
    message = f"{late:,} of {len(times):,} times lie after today, {span}"
    notes.append(Note("suspect", message))
  return notes


def on_unit(numbers: np.ndarray, unit: str) -> list[Note]:
  """A note if numbers, float64[n], are times in another unit than said."""
  better = time_numbers.guess(numbers)
  if better in (unit, "order"):
    return []
  if time_numbers.plausible(numbers, unit) > 0.1 * len(numbers):
    return []
  names = time_numbers.NAMES
  return [
    Note(
      "wrong",
      f"as {names[unit]}, the times lie {_span(numbers, unit)}; as "
      f"{names[better]}, they would lie {_span(numbers, better)}",
      f'LogFiles.time_unit = "{better}"',
    )
  ]


def on_guess(numbers: np.ndarray, unit: str, remedy: str = "") -> list[Note]:
  """A note if a unit that was guessed is uncertain.

  Args:
    numbers: float64[n], not a number where there is none.
    unit: The unit.
    remedy: Binding that reads them as times; empty names another unit.
  """
  if unit == "ns" and _are_ticks(numbers):
    return [
      Note(
        "wrong",
        "the times look like ticks of .NET, 100 ns since the year 1; as unix "
        f"nanoseconds they lie {_span(numbers, unit)}. Subtract "
        "621355968000000000 and divide by 10000 to get milliseconds",
      )
    ]
  if unit not in ("excel", "order"):
    return []
  with np.errstate(invalid="ignore"):
    first = numbers[np.abs(numbers) > 0][:1]
  if not len(first):
    return []
  other = "s" if unit == "order" else "order"
  return [
    Note(
      "suspect",
      f"the times are small numbers, such as {first[0]:.15g}; read as "
      f"{time_numbers.NAMES[unit]}",
      remedy or f'LogFiles.time_unit = "{other}"',
    )
  ]


def _are_ticks(numbers: np.ndarray) -> bool:
  """Whether numbers are ticks since the year 1, of the years 2000 to 2050."""
  numbers = numbers[~np.isnan(numbers)]
  return bool(np.all((numbers > 6.3e17) & (numbers < 6.47e17)))


def _span(numbers: np.ndarray, unit: str) -> str:
  times, readable = time_numbers.read(numbers, unit)
  times = times[readable]
  if not len(times):
    return "beyond all years"
  return f"from {shown(times.min())} to {shown(times.max())}"


def plausible(times: np.ndarray, readable: np.ndarray) -> int:
  """How many times, int64[n] and bool[n], lie from 1990 to today."""
  last = time.time() * 1000 + _DAY
  return int(np.count_nonzero(readable & (times >= _1990) & (times <= last)))


def unknown_zone(text: str) -> tuple[str, str] | None:
  """The zone that makes a time unreadable, and a pattern that leaves it out.

  Returns:
    The zone's name, and the strptime pattern that reads the time as it is
    written, or "" if there is none or more than one; None if the text has no
    such zone.
  """
  match = _ZONE.fullmatch(text.strip())
  if match is None:
    return None
  zone = text.strip()[len(match["when"]) :]
  fitting = []
  for pattern in _WITH_ZONES:
    with contextlib.suppress(ValueError):
      datetime.datetime.strptime(match["when"], pattern)
      fitting.append(pattern + zone)
  return match["zone"], fitting[0] if len(fitting) == 1 else ""
