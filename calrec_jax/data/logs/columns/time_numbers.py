"""Numbers that stand for times: unix times of four units, dates, Excel's days.

Between 1990 and now these are of different magnitudes, so a column's numbers
tell their unit.
"""

from __future__ import annotations

import time

import numpy as np

from calrec_jax.data.logs.columns import time_layouts

UNITS = ("s", "ms", "us", "ns", "date", "excel")
NAMES = {
  "s": "unix seconds",
  "ms": "unix milliseconds",
  "us": "unix microseconds",
  "ns": "unix nanoseconds",
  "date": "dates as numbers, such as 20200914",
  "excel": "Excel's numbers of days",
  "order": "positions",
}
DAY = 86_400_000
_PIECE = 1 << 16  # Numbers that are read together, within a core's cache.
_SAMPLE = 1 << 19  # Numbers that decide on a unit, evenly spaced.
# Milliseconds, exactly, of a unit: a factor and a divisor.
_SCALES = {"s": (1000, 1), "ms": (1, 1), "us": (1, 1e3), "ns": (1, 1e6)}
# Upper limit of each unit, in the year 5138: larger values have another unit.
_LIMITS = {"s": 1e11, "ms": 1e14, "us": 1e17, "ns": 1e20, "order": 2**53}
_FIRST_YEAR = 1990
_EXCEL_1970 = 25_569  # Days since Excel's epoch.
_EXCEL_LAST = 2_958_465  # The end of the year 9999.


def read(numbers: np.ndarray, unit: str) -> tuple[np.ndarray, np.ndarray]:
  """Numbers to unix milliseconds, or to positions for "order".

  Args:
    numbers: float64[n], not a number where there is none.
    unit: One of `UNITS`, or "order".

  Returns:
    int64[n] times, 0 if unreadable, and bool[n]: whether they are readable.
  """
  if unit == "date":
    return _dates(numbers)
  times = np.empty(len(numbers), np.int64)
  readable = np.empty(len(numbers), bool)
  for start in range(0, len(numbers), _PIECE):
    part = slice(start, start + _PIECE)
    times[part], readable[part] = _read(numbers[part], unit)
  return times, readable


def _read(numbers: np.ndarray, unit: str) -> tuple[np.ndarray, np.ndarray]:
  """A piece of numbers, see `read`."""
  with np.errstate(invalid="ignore", over="ignore"):
    if unit == "excel":
      readable = (numbers >= 1) & (numbers < _EXCEL_LAST + 1)
      factor, divisor = DAY, 1
      numbers = numbers - _EXCEL_1970
    else:
      readable = np.abs(numbers) < _LIMITS[unit]
      if unit == "order":
        readable &= numbers == np.floor(numbers)
      factor, divisor = _SCALES.get(unit, (1, 1))
  scaled = np.where(readable, numbers, 0) * factor
  if divisor != 1:
    scaled /= divisor
  return np.rint(scaled, out=scaled).astype(np.int64), readable


def plausible(numbers: np.ndarray, unit: str) -> int:
  """How many numbers are times from 1990 to a year from now."""
  return int(np.count_nonzero(read_plausible(numbers, unit)[1]))


def read_plausible(
  numbers: np.ndarray, unit: str
) -> tuple[np.ndarray, np.ndarray]:
  """As `read`, but only times from 1990 to a year from now are readable."""
  times, readable = read(numbers, unit)
  return times, readable & _are_plausible(times)


def _are_plausible(times: np.ndarray) -> np.ndarray:
  first, last = limits()
  return (times >= first) & (times <= last)


def limits() -> tuple[float, float]:
  """The plausible times, in milliseconds: from 1990 to a year from now."""
  first = (_FIRST_YEAR - 1970) * 365.25 * DAY
  return first, time.time() * 1000 + 366 * DAY


def read_each(
  numbers: np.ndarray, unit: str
) -> tuple[np.ndarray, np.ndarray, str, np.ndarray]:
  """Numbers in a unit, but those that only another one makes plausible in that.

  Seconds and milliseconds in one column differ in magnitude, so each tells what
  it is.

  Args:
    numbers: float64[n], not a number where there is none.
    unit: Unit of most of them.

  Returns:
    int64[n] times, bool[n] whether they are readable, another unit of some, and
    bool[n]: of which.
  """
  times, readable = read(numbers, unit)
  others = np.zeros(len(numbers), bool)
  if unit not in _SCALES:
    return times, readable, unit, others
  doubtful = np.flatnonzero(~(readable & _are_plausible(times)))
  doubtful = doubtful[~np.isnan(numbers[doubtful])]
  other = unit
  for name in _SCALES:
    found, good = read_plausible(numbers[doubtful], name)
    if good.any():
      rows, other = doubtful[good], name
      times[rows], readable[rows], others[rows] = found[good], True, True
  return times, readable, other, others


def guess(numbers: np.ndarray) -> str:
  """The unit in which most numbers are plausible, or "order"."""
  numbers = np.ascontiguousarray(numbers[:: 1 + len(numbers) // _SAMPLE])
  with np.errstate(invalid="ignore"):
    numbers = numbers[np.abs(numbers) > 0]  # Zero often means none.
  if not len(numbers):
    return "s"
  counts = {unit: plausible(numbers, unit) for unit in UNITS}
  unit = max(UNITS, key=counts.__getitem__)
  # Positions may happen to be days or dates, but not nearly all of them.
  needed = 0.5 if unit in _SCALES else 0.9
  if counts[unit] >= needed * len(numbers):
    return unit
  whole = numbers == np.floor(numbers)
  return "order" if whole.all() else "s"


def _dates(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Numbers such as 20200914, 202009140518 and 20200914051846 to times."""
  with np.errstate(invalid="ignore"):
    readable = (numbers >= 1e7) & (numbers < 1e14)
    readable &= numbers == np.floor(numbers)
  if not readable.any():
    return np.zeros(len(numbers), np.int64), readable
  digits = np.where(readable, numbers, 0).astype(np.int64)
  digits = np.where(digits < 10**8, digits * 10**6, digits)
  minutes = (digits >= 10**11) & (digits < 10**12)
  digits = np.where(minutes, digits * 100, digits)
  readable &= digits >= 10**13
  return _split(digits, readable)


def _split(
  digits: np.ndarray, readable: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  date, clock = digits // 10**6, digits % 10**6
  days, is_date = time_layouts.civil_days(
    date // 10**4, date // 100 % 100, date % 100
  )
  hour, minute, second = clock // 10**4, clock // 100 % 100, clock % 100
  good = readable & is_date & (hour < 24) & (minute < 60) & (second < 60)
  times = days * DAY + ((hour * 60 + minute) * 60 + second) * 1000
  return np.where(good, times, 0), good
