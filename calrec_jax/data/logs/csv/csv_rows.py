"""Rows by Python's strict `csv` parser, and those that swallowed others.

A quote that is text can open a field that runs on to the next quote, over any
number of rows. Such a row looks whole; only what is inside it tells.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import re
from collections.abc import Iterator, Sequence
from typing import Any

from calrec_jax.data.logs.csv import csv_lines

MAX_FIELD = 2**24  # Titles may be longer than the module's default limit.
_BREAK = re.compile(r"\r\n|\r|\n")
_NUMBER = re.compile(r"\s*[-+$€£]?\d[\d.,:/TZ +-]*\s*")


@dataclasses.dataclass(frozen=True)
class Dialect:
  """How the rows of a CSV file are written.

  Attributes:
    delimiter: Text between two fields; `csv_lines.BLANKS` is any run of blanks.
    quote: Character that encloses fields; None if quotes are text.
    escape: Character that makes a quote, a delimiter, a line break or itself
      text; before others it is text. None if there is none.
    doubled: Whether two quotes inside a field are one quote of its text.
    reasons: Sentences for the card: what was chosen, and why.
    trusted: Whether the user says that quotes enclose fields; then text is
      never taken for rows that a quote swallowed.
  """

  delimiter: str = ","
  quote: str | None = '"'
  escape: str | None = None
  doubled: bool = True
  reasons: tuple[str, ...] = ()
  trusted: bool = False

  @functools.cached_property
  def translation(self) -> csv_lines.Translation:
    """Translation of text for the parsers."""
    return csv_lines.Translation(self.delimiter, self.quote, self.escape)

  @functools.cached_property
  def python(self) -> dict[str, Any]:
    """Options of Python's parser for translated text."""
    csv.field_size_limit(max(csv.field_size_limit(), MAX_FIELD))
    options = {
      "delimiter": self.translation.delimiter,
      "escapechar": self.escape,
      "strict": True,
    }
    if self.quote is None:
      return options | {"quoting": csv.QUOTE_NONE}
    return options | {"quotechar": self.quote, "doublequote": self.doubled}


class Unclosed(ValueError):
  """A quoted field is never closed, or a field is longer than any may be.

  Attributes:
    too_long: Whether a field is too long.
  """

  def __init__(self, too_long: bool) -> None:
    super().__init__()
    self.too_long = too_long


def read(lines: Iterator[str], dialect: Dialect) -> list[str] | None:
  """The next row of translated lines; None if it is malformed.

  Raises:
    StopIteration: If there is no other line.
    Unclosed: If the lines end inside the row.
  """
  try:
    return next(csv.reader(lines, **dialect.python))
  except csv.Error as error:
    if "unexpected end" in str(error) or "field larger" in str(error):
      raise Unclosed("field larger" in str(error)) from error
    return None


def swallows(
  fields: Sequence[str], delimiter: str, num_fields: int = 0
) -> bool:
  """Whether a row of several lines holds text that looks like rows.

  A line inside a field looks like a row if it has a row's delimiters: as many,
  not counting those before a blank, which are punctuation; or exactly as many
  of any kind, with numbers where the row has numbers. Two halves of rows show
  in that each line of the file has the delimiters of a row by itself. A tab has
  no business in a text of several lines.

  Args:
    fields: Values of the row.
    delimiter: Delimiter of the text, one character.
    num_fields: Number of fields of other rows, if they have more.
  """
  needed = max(len(fields), num_fields) - 1
  if not needed:
    return False
  numeric = [bool(_NUMBER.fullmatch(field)) for field in fields]
  per_line = [0]
  for index, field in enumerate(fields):
    per_line[-1] += index > 0
    first, *others = _BREAK.split(field)
    if others and delimiter == "\t" and "\t" in field:
      return True
    per_line[-1] += _delimiters(first, delimiter, needed)
    for line in others:
      tight = _delimiters(line, delimiter, needed)
      if tight >= needed or _same_numbers(line.split(delimiter), numeric):
        return True
      per_line.append(tight)
  return min(per_line) >= needed and len(per_line) > 1


def looks_like_row(line: str, num_fields: int, delimiter: str) -> bool:
  """Whether a line by itself has the delimiters of a row."""
  return _delimiters(line, delimiter, num_fields - 1) >= num_fields - 1 > 0


def _delimiters(line: str, delimiter: str, needed: int) -> int:
  """Number of delimiters that are no punctuation."""
  count = line.count(delimiter)
  if count and delimiter in ",;|":
    count -= line.count(delimiter + " ")
    if needed == 1 and line.rstrip("\r\n").endswith(delimiter):
      count -= 1
  return count


def _same_numbers(fields: Sequence[str], numeric: Sequence[bool]) -> bool:
  return (
    len(fields) == len(numeric)
    and any(numeric)
    and all(
      bool(_NUMBER.fullmatch(field))
      for field, number in zip(fields, numeric, strict=True)
      if number
    )
  )
