"""The header of a CSV file: its names, and what is odd about them."""

from __future__ import annotations

import collections
import re
from collections.abc import Sequence
from typing import NamedTuple

from calrec_jax.data.logs.csv import csv_rows

_TYPED = re.compile(r"(.+):(?:token|token_seq|float|float_seq)")
_VALUE = re.compile(
  r"[-+]?[\d.,]*\d([eE][-+]?\d+)?"  # A number,
  r"|\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}([ T].*)?"  # a date or a time,
  r"|(?=.*\d)[0-9a-fA-F]{8}-[0-9a-fA-F-]{27}"  # or a UUID.
)
# Never a name, even among names that are.
_CERTAIN = re.compile(
  r"\d{9,}(\.\d+)?|\d{4}-\d\d-\d\d([ T].*)?|https?://\S+|\[\]|\[\{.*"
)
_LONG = 80  # Characters; names of columns are shorter.
_MOST = 0.9  # Share of the rows that decide how many fields a row has.


class Fitted(NamedTuple):
  """A header as wide as the rows.

  Attributes:
    names: One name per field; "" for fields without a name.
    message: Sentence about what was done or seen, or "".
    fits: Whether most rows have as many fields.
  """

  names: tuple[str, ...]
  message: str = ""
  fits: bool = True


def untyped(names: Sequence[str]) -> tuple[str, ...] | None:
  """RecBole's `user_id:token` as `user_id`; None unless all are typed."""
  found = [_TYPED.fullmatch(name) for name in names]
  if not found or not all(found):
    return None
  return tuple(match[1].strip() for match in found if match)


def looks_like_data(header: Sequence[str]) -> bool:
  """Whether a first row holds values rather than names.

  Numbers, dates and UUIDs are values; a name may be one of many (the years of a
  pivot table), but not one of few. Nor are names very long, and they are not
  repeated unless they are empty.
  """
  names = [name.strip() for name in header]
  if not any(names):
    return False
  values = sum(bool(_VALUE.fullmatch(name)) for name in names)
  filled = [name for name in names if name]
  odd = any(len(name) > _LONG for name in names) or (
    len(set(filled)) < len(filled)
  )
  return (
    values >= max(1, len(filled) / 3)
    or (odd and values > 0)
    or any(_CERTAIN.fullmatch(name) for name in names)
  )


def fit(names: Sequence[str], rows: Sequence[Sequence[str]]) -> Fitted:
  """Makes a header as wide as the rows that follow it.

  A delimiter at the end of each row is a field without a name at the end. R
  numbers the rows in a column without a name at the front.

  Args:
    names: Names of the columns.
    rows: Some of the rows, without blank ones.
  """
  names = tuple(names)
  sizes = collections.Counter(map(len, rows))
  size, count = max(sizes.items(), key=lambda pair: pair[1], default=(0, 0))
  if not names or size == len(names) or count < _MOST * len(rows):
    return Fitted(names)
  seen = f"the header has {len(names)} names, the rows have {size} fields"
  if size == len(names) + 1:
    wide = [row for row in rows if len(row) == size]
    if not any(row[-1].strip() for row in wide):
      message = f"{seen}; the last, always empty, is left out"
      return Fitted((*names, ""), message)
    numbers = [row[0] for row in wide]
    if all(number.isdecimal() for number in numbers) and all(
      int(number) == int(numbers[0]) + step
      for step, number in enumerate(numbers)
    ):
      message = f"{seen}; the first, which numbers the rows, is left out"
      return Fitted(("", *names), message)
  return Fitted(names, seen, fits=False)


def peek(lines: Sequence[str], dialect: csv_rows.Dialect) -> list[list[str]]:
  """The good rows among some lines of a file."""
  found, rest = [], iter(lines)
  try:
    while True:
      row = csv_rows.read(rest, dialect)
      if row:
        found.append(row)
  except (StopIteration, csv_rows.Unclosed):
    return found
