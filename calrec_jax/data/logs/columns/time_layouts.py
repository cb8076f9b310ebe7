"""Layouts of times in texts: the common ones, and those of strptime patterns.

A layout is a regular expression over shapes (see `time_shapes`) whose named
groups say what each token is.
"""

from __future__ import annotations

import datetime
import functools
import re
from collections.abc import Callable, Collection, Sequence

import numpy as np
import pyarrow as pa

from calrec_jax.data.logs.columns import time_shapes
from calrec_jax.errors import InputError

# Orders of day, month and year; each name is also a `LogFiles.time_format`.
ORDERS = ("day-first", "month-first", "year-first")
_MINUTE = 60_000

_CLOCK = (
  r"(?P<h>[12])(?P<c>[:.])(?P<m>[12])"
  r"(?:(?P=c)(?P<s>[12])(?:[.,](?P<f>[1-9]))?)?(?: ?(?P<p>P)| U)?"
)
_OFFSET = r"(?P<o>[+-])(?:(?P<zz>4)|(?P<zh>[12])(?::(?P<zm>2))?)"
_CITY = r"(?:\[[^\[\]]*\])?"  # Java's, `+01:00[Europe/Berlin]`.
_ZONE = rf"(?: ?(?P<z>Z){_CITY})?(?: ?{_OFFSET}{_CITY})?(?: \([^()]*\))?"
_WHEN = rf"(?:(?:T|(?:, ?| )(?:F )?| - ){_CLOCK}{_ZONE})?"
_WEEKDAY = r"(?:F )?(?:W[.,]* )?"
_SEPARATOR = r"(?P<q>[-/.])"

# Those that can be read in one way only.
_PLAIN = (
  rf"(?P<Y>4){_SEPARATOR}(?P<M>[12])(?P=q)(?P<D>[12]){_WHEN}",
  rf"(?P<ymd>8){_WHEN}",
  rf"(?P<ymd>8)(?:T| |-|_)(?P<hms>[46])(?:[.,](?P<f>[1-9]))?{_ZONE}",
  rf"(?P<ymdhms>[ce])(?:[.,](?P<f>[1-9]))?{_ZONE}",
  rf"{_WEEKDAY}(?P<D>[12])O?[-/. ]{{1,2}}(?:F )?(?P<M>M)[-/., ]{{1,2}}(?:F )?"
  r"(?P<Y>[42])"
  rf"{_WHEN}",
  # Web servers' logs.
  rf"(?P<D>[12])/(?P<M>M)/(?P<Y>4):{_CLOCK}{_ZONE}",
  rf"{_WEEKDAY}(?P<M>M)[-/. ]{{1,2}}(?P<D>[12])O?[-/, ]{{1,2}}(?P<Y>4){_WHEN}",
  rf"(?P<Y>4)[-/ ](?P<M>M)[-/ ](?P<D>[12]){_WHEN}",
  # C's ctime, Twitter, Java.
  rf"{_WEEKDAY}(?P<M>M) (?P<D>[12]) {_CLOCK}{_ZONE} (?P<Y>4)",
)
_DAY_FIRST = rf"(?P<D>[12]){_SEPARATOR} ?(?P<M>[12])(?P=q) ?(?P<Y>[42])"
_MONTH_FIRST = r"(?P<M>[12])(?P<q>[-/])(?P<D>[12])(?P=q)(?P<Y>[42])"
_YEAR_FIRST = rf"(?P<Y>2){_SEPARATOR}(?P<M>2)(?P=q)(?P<D>2)"
_ORDERED = {
  name: (f"{_WEEKDAY}{date}{_WHEN}",)
  for name, date in zip(
    ORDERS, (_DAY_FIRST, _MONTH_FIRST, _YEAR_FIRST), strict=True
  )
}

_DIRECTIVES = {
  **{"Y": r"(?P<Y>4)", "y": r"(?P<Y>2)", "m": r"(?P<M>[12])"},
  **{"d": r"(?P<D>[12])", "H": r"(?P<h>[12])", "I": r"(?P<h>[12])"},
  **{"M": r"(?P<m>[12])", "S": r"(?P<s>[12])", "f": r"(?P<f>[1-6])"},
  **{"b": r"(?P<M>M)", "B": r"(?P<M>M)", "a": "W", "A": "W"},
  **{"p": r"(?P<p>P)", "Z": r"(?P<z>Z)"},
  "z": rf"(?:(?P<z>Z)|{_OFFSET})",
}
# Numbers without anything between them are one token.
_JOINED = {
  "%Y%m%d%H%M%S": r"(?P<ymdhms>e)",
  "%Y%m%d%H%M": r"(?P<ymdhms>c)",
  "%Y%m%d": r"(?P<ymd>8)",
  "%H%M%S": r"(?P<hms>6)",
  "%H%M": r"(?P<hms>4)",
}
_SHORT = {"%T": "%H:%M:%S", "%F": "%Y-%m-%d", "%R": "%H:%M", "%D": "%m/%d/%y"}


def read(
  texts: pa.Array, orders: Sequence[str] = ORDERS
) -> tuple[np.ndarray, np.ndarray, dict[str, tuple[np.ndarray, np.ndarray]]]:
  """Reads a column in all common layouts.

  Args:
    texts: LargeString[n] without white space around the texts.
    orders: Orders to try for dates that are all numbers, from `ORDERS`.

  Returns:
    int64[n] milliseconds and bool[n], whether a text can be read in one way
    only and was; and the same by order for texts that depend on it.
  """
  sure = _Read.empty(len(texts))
  by_order = {name: _Read.empty(len(texts)) for name in orders}
  for group in time_shapes.groups(texts):
    if not sure.take(group, _PLAIN):
      for name, found in by_order.items():
        found.take(group, _ORDERED[name])
  return (
    sure.times,
    sure.readable,
    {
      name: (found.times, found.readable)
      for name, found in by_order.items()
      if found.readable.any()
    },
  )


def read_pattern(
  texts: pa.Array, pattern: str
) -> tuple[np.ndarray, np.ndarray]:
  """Reads a column by a strptime pattern; int64[n] milliseconds, bool[n]."""
  found = _Read.empty(len(texts))
  layout = _layout(pattern)
  if layout is not None:
    for group in time_shapes.groups(texts):
      found.take(group, (layout,))
    return found.times, found.readable
  encoded = texts.dictionary_encode()
  read_one = functools.partial(_strptime, pattern=pattern)
  known = list(map(read_one, encoded.dictionary.to_pylist()))
  rows = np.flatnonzero(texts.is_valid().to_numpy(zero_copy_only=False))
  codes = encoded.indices.drop_null().to_numpy()
  found.times[rows] = np.array([time or 0 for time in known], np.int64)[codes]
  found.readable[rows] = np.array([t is not None for t in known], bool)[codes]
  return found.times, found.readable


def check_pattern(pattern: str) -> None:
  """Refuses a text that is neither an order nor a strptime pattern.

  Raises:
    InputError: If strptime does not know the pattern, or it has no year.
  """
  if pattern in ORDERS:
    return
  full = _written_out(pattern)
  names = re.findall(r"%([a-zA-Z])", full.replace("%%", ""))
  problem = ""
  if not {"Y", "y", "G", "c", "x"} & set(names):
    problem = "it has no year, %Y"
  else:
    example = datetime.datetime(2020, 9, 14, 5, 18, 46, tzinfo=datetime.UTC)
    try:
      datetime.datetime.strptime(example.strftime(full), full)
    except (ValueError, re.error) as error:
      problem = str(error)
  if problem:
    raise InputError(
      f"LogFiles.time_format = {pattern!r}: {problem}. Give a pattern such as "
      f"'%d.%m.%Y %H:%M', or one of {', '.join(map(repr, ORDERS))}."
    )


class _Read:
  """Times found so far: int64[n] milliseconds, and bool[n] readable."""

  def __init__(self, times: np.ndarray, readable: np.ndarray) -> None:
    self.times, self.readable = times, readable

  @classmethod
  def empty(cls, size: int) -> _Read:
    return cls(np.zeros(size, np.int64), np.zeros(size, bool))

  def take(self, group: time_shapes.Group, layouts: Sequence[str]) -> bool:
    """Reads a group by the first layout of its shape, if there is one."""
    roles = _roles(group.shape, tuple(layouts))
    if roles is None:
      return False
    times, good = _milliseconds(group, roles)
    self.times[group.rows] = np.where(good, times, 0)
    self.readable[group.rows] = good
    return True


@functools.lru_cache(maxsize=4096)
def _roles(shape: str, layouts: tuple[str, ...]) -> dict[str, int] | None:
  """The place of each part of a time in a shape."""
  for layout in layouts:
    match = re.fullmatch(layout, shape)
    if match is not None:
      parts = match.groupdict()
      return {n: match.start(n) for n, part in parts.items() if part}
  return None


def _milliseconds(
  group: time_shapes.Group, roles: dict[str, int]
) -> tuple[np.ndarray, np.ndarray]:
  """int64[r] milliseconds, and bool[r]: whether they are a time."""
  zeros = np.zeros(len(group.rows), np.int64)

  def part(name: str, default: int = 0) -> np.ndarray:
    place = roles.get(name)
    return zeros + default if place is None else group.values[:, place]

  def width(name: str) -> int:
    return int(group.shape[roles[name]], 16)

  year, month, day = part("Y"), part("M", 1), part("D", 1)
  hour, minute, second = part("h"), part("m"), part("s")
  if "Y" in roles and width("Y") == 2:  # As POSIX reads them.
    year = year + np.where(year < 69, 2000, 1900)
  if "ymd" in roles:
    year, month, day = _pairs(part("ymd"), 2)
  if "hms" in roles:
    clock = part("hms") * (100 if width("hms") == 4 else 1)
    hour, minute, second = _pairs(clock, 2)
  if "ymdhms" in roles:
    whole = part("ymdhms") * (100 if width("ymdhms") == 12 else 1)
    year, month, day, hour, minute, second = _pairs(whole, 5)
  good = np.ones(len(zeros), bool)
  if "p" in roles:
    noon = part("p")
    good &= (hour <= 12) | (noon == 12)
    hour = np.where(hour <= 12, hour % 12 + noon, hour)
  east, is_zone = _east(part, roles)
  days, is_date = civil_days(year, month, day)
  good &= is_date & is_zone & (hour < 24) & (minute < 60) & (second < 60)
  minutes = days * 1440 + hour * 60 + minute - east
  times = minutes * _MINUTE + second * 1000
  if "f" in roles:
    # As Python's `datetime.timestamp() * 1000` rounds, and whole blocks do.
    digits = width("f")
    micro = part("f") * 10 ** max(6 - digits, 0) // 10 ** max(digits - 6, 0)
    times = np.round((times * 1000 + micro) / 1e6 * 1000).astype(np.int64)
  return times, good


def _east(
  part: Callable[[str], np.ndarray], roles: Collection[str]
) -> tuple[np.ndarray, np.ndarray]:
  """int64[r] minutes east of Greenwich, and bool[r]: whether they can be."""
  offset = part("zh") * 60 + part("zm")
  if "zz" in roles:
    offset = part("zz") // 100 * 60 + part("zz") % 100
  east = np.where(part("o") == ord("-"), -offset, offset)
  return part("z") + east, offset < 24 * 60


def _pairs(number: np.ndarray, count: int) -> list[np.ndarray]:
  """A number's first digits, and its last `count` pairs of digits."""
  parts = [number // 100 ** (count - place) % 100 for place in range(count + 1)]
  parts[0] = number // 100**count
  return parts


def civil_days(
  year: np.ndarray, month: np.ndarray, day: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """int64[n] days since 1970, and bool[n]: whether there is such a date."""
  good = (year >= 1) & (year <= 9999) & (month >= 1) & (month <= 12)
  months = np.where(good, (year - 1970) * 12 + month - 1, 0)
  first = months.astype("datetime64[M]").astype("datetime64[D]")
  days = first.astype(np.int64) + day - 1
  again = days.astype("datetime64[D]").astype("datetime64[M]")
  # A day that is not in its month is in the next one.
  good &= (day >= 1) & (day <= 31) & (again.astype(np.int64) == months)
  return days, good


def _written_out(pattern: str) -> str:
  for short, long in _SHORT.items():
    pattern = pattern.replace(short, long)
  return pattern


@functools.lru_cache(maxsize=64)
def _layout(pattern: str) -> str | None:
  """The layout of a strptime pattern; None if there is none."""
  rest, layout, names = _written_out(pattern).strip(), "", set[str]()
  after_number = False
  while rest:
    joined = next((text for text in _JOINED if rest.startswith(text)), "")
    if joined:
      piece, rest, number = _JOINED[joined], rest[len(joined) :], True
    elif rest[0] == "%":
      name, rest = rest[1:2], rest[2:]
      piece = _DIRECTIVES.get(name, "")
      if not piece or name in names:
        return None
      names.add(name)
      number = name in "YymdHIMSf"
    elif rest[0].isspace():
      piece, rest, number = " ", rest.lstrip(), False
    elif rest[0] in "TZ" and not rest[1:2].isalpha():
      piece, number = ("T" if rest[0] == "T" else "(?P<z>Z)"), False
      rest = rest[1:]
    elif rest[0].isascii() and not rest[0].isalnum():
      piece, rest, number = re.escape(rest[0]), rest[1:], False
    else:
      return None
    if after_number and number:
      return None
    layout, after_number = layout + piece, number
  try:
    re.compile(layout)
  except re.error:  # A part occurs twice.
    return None
  return None if "I" in names and "p" not in names else layout


def _strptime(text: str, pattern: str) -> int | None:
  try:
    time = datetime.datetime.strptime(text, _written_out(pattern))
  except ValueError:
    return None
  zone = time.tzinfo or datetime.UTC
  return round(time.replace(tzinfo=zone).timestamp() * 1000)
