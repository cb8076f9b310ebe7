"""One block of a column of times, read in every way that is possible."""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute creates its functions at run time.)

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from calrec_jax.data.logs import events as events_lib
from calrec_jax.data.logs.columns import (
  arrow_columns,
  time_layouts,
  time_numbers,
)

_TEXT = arrow_columns.TEXT
_NUMBER = r"^[+-]?([0-9]+[.,]?[0-9]*|[.,][0-9]+)([eE][+-]?[0-9]+)?$"
_FEW = 8
_ISO = (pa.timestamp("us"), pa.timestamp("us", "UTC"))
# MongoDB's dates, as JSON and as its shell writes them, and .NET's.
_WRAPPED_DATE = (
  r'^(?:\{\s*"\$date"\s*:\s*(?:\{\s*"\$numberLong"\s*:\s*)?"?|ISODate\(\s*"'
  r'|\\?/Date\()(?P<inside>[^"{}()]*?)'
  r'(?:[+-][0-9]{4}\)\\?/|"?\s*\}?\s*\}|"\s*\)|\)\\?/)$'
)
_WRAPPED_NUMBER = r'^\{\s*"\$numberLong"\s*:\s*"?(?P<inside>-?[0-9]+)"?\s*\}$'


@dataclasses.dataclass
class Read:
  """Times: int64[n] milliseconds, 0 if unreadable, and bool[n] readable."""

  times: np.ndarray
  readable: np.ndarray

  @classmethod
  def nothing(cls, size: int) -> Read:
    """No time is readable."""
    return cls(np.zeros(size, np.int64), np.zeros(size, bool))

  def count(self) -> int:
    """Number of readable times."""
    return int(np.count_nonzero(self.readable))

  def present(self) -> np.ndarray:
    """The readable times."""
    return self.times if self.readable.all() else self.times[self.readable]

  def over(self, other: Read) -> Read:
    """These times, and those of `other` where they are unreadable."""
    return Read(
      np.where(self.readable, self.times, other.times),
      self.readable | other.readable,
    )


@dataclasses.dataclass
class Block:
  """A block of a column.

  Attributes:
    size: Number of rows.
    missing: Number of rows without a value.
    exact: Times whose type says what they are; None if there are none.
    numbers: float64[n], not a number elsewhere; None if there are none.
    sure: Texts that can be read in one way only; None if there are none.
    by_order: Texts that depend on the order of day, month and year.
    iso: Whether PyArrow read all texts, as ISO 8601.
    noon: Whether texts have AM or PM.
  """

  size: int
  missing: int = 0
  exact: Read | None = None
  numbers: np.ndarray | None = None
  sure: Read | None = None
  by_order: Mapping[str, Read] = dataclasses.field(default_factory=dict)
  iso: bool = False
  noon: bool = False

  def texts(self, order: str) -> Read:
    """The texts, by the order that their dates have."""
    return self.texts_if_any(order) or Read.nothing(self.size)

  def texts_if_any(self, order: str) -> Read | None:
    """As `texts`, but None if the block holds no text."""
    found = self.by_order.get(order)
    if found is None or self.sure is None:
      return found or self.sure
    return found.over(self.sure)


def read(
  column: pa.Array,
  *,
  unit: str | None,
  pattern: str | None,
  orders: Sequence[str],
  missing: Sequence[str],
) -> Block:
  """Reads a block.

  Args:
    column: Array[n] as from `arrow_columns.array`.
    unit: Unit of the times; None tries all.
    pattern: strptime pattern of the times; None has none.
    orders: Orders of day, month and year to try.
    missing: Words that mean a missing value.
  """
  kind, block = column.type, Block(len(column), missing=column.null_count)
  if pa.types.is_struct(kind):
    names = [kind.field(i).name for i in range(kind.num_fields)]
    if "$date" in names:
      block.exact = _dates(_part(column, "$date"))
      return block
    if "$numberLong" in names:
      column = arrow_columns.array(_part(column, "$numberLong"), str)
      kind = column.type
  if arrow_columns.is_binary(kind):
    column, _ = arrow_columns.decoded(column)
    kind = column.type
  if _is_moment(kind):
    block.exact = _moments(column)
  elif arrow_columns.is_text(kind):
    _read_texts(block, column, unit, pattern, orders, missing)
  elif arrow_columns.is_number(kind):
    if pattern is not None:
      _read_texts(block, _digits(column), unit, pattern, orders, missing)
    elif unit != "iso":
      block.numbers = _floats(column)
  return block


def read_whole(texts: pa.Array, unit: str | None) -> Block | None:
  """Reads a block of texts if all are numbers, or all are ISO 8601."""
  block = Block(len(texts), missing=texts.null_count)
  return block if _read_whole(block, texts, unit) else None


def _read_texts(
  block: Block,
  texts: pa.Array,
  unit: str | None,
  pattern: str | None,
  orders: Sequence[str],
  missing: Sequence[str],
) -> None:
  """Reads a block of texts."""
  if pattern is None and _read_whole(block, texts, unit):
    return
  texts = arrow_columns.trimmed(texts, missing)
  block.missing = texts.null_count
  if pattern is not None:
    block.sure = Read(*time_layouts.read_pattern(texts, pattern))
    return
  texts = _unwrapped(block, texts)
  if _read_whole(block, texts, unit):
    return
  if unit == "iso":
    orders = ()
  else:
    is_number = pc.match_substring_regex(texts, _NUMBER)
    block.numbers = _text_numbers(texts, is_number)
    if unit is not None:
      return
    texts = pc.if_else(is_number, pa.scalar(None, _TEXT), texts)
  _read_layouts(block, texts, orders)
  if unit == "iso" and block.sure is not None:
    _read_by_python(block.sure, texts)


def _read_layouts(block: Block, texts: pa.Array, orders: Sequence[str]) -> None:
  """Reads the texts of a block that have one of the common layouts."""
  times, readable, by_order = time_layouts.read(texts, orders)
  block.sure = Read(times, readable)
  block.by_order = {name: Read(*found) for name, found in by_order.items()}
  if by_order:
    noon = pc.match_substring_regex(texts.slice(0, 1000), "(?i)[ap]m$")
    block.noon = bool(pc.any(noon).as_py())


def _read_whole(block: Block, texts: pa.Array, unit: str | None) -> bool:
  """Lets PyArrow read a whole block, as numbers or as ISO 8601."""
  if unit != "iso":
    numbers = _cast(texts, pa.float64())
    if numbers is not None:
      block.numbers = numbers.to_numpy(zero_copy_only=False)
      return True
  for kind in _ISO if unit in (None, "iso") else ():
    microseconds = _cast(texts, kind)
    if microseconds is None:
      continue
    values = pc.fill_null(microseconds.cast(pa.int64()), 0).to_numpy()
    # As Python's `datetime.timestamp() * 1000` would.
    times = np.round(values / 1e6 * 1000).astype(np.int64)
    block.sure = Read(times, arrow_columns.to_numpy(texts.is_valid()))
    block.iso = True
    return True
  return False


def _cast(texts: pa.Array, kind: pa.DataType) -> pa.Array | None:
  """A column in another type; None if any text does not fit."""
  try:
    texts.slice(0, _FEW).cast(kind)  # A failure takes long for each text.
    return texts.cast(kind)
  except pa.ArrowInvalid:
    return None


def _read_by_python(found: Read, texts: pa.Array) -> None:
  """Reads rare kinds of ISO 8601, such as days of weeks; each text once."""
  left = arrow_columns.to_numpy(texts.is_valid()) & ~found.readable
  rows = np.flatnonzero(left)
  encoded = texts.take(pa.array(rows)).dictionary_encode()
  known = np.array(
    [_milliseconds(text) for text in encoded.dictionary.to_pylist()], np.float64
  )
  times = known[encoded.indices.to_numpy()]
  good = ~np.isnan(times)
  found.times[rows[good]] = np.round(times[good]).astype(np.int64)
  found.readable[rows[good]] = True


def _milliseconds(text: str) -> float:
  try:
    return events_lib.milliseconds(text)
  except (ValueError, OverflowError):
    return float("nan")


def _unwrapped(block: Block, texts: pa.Array) -> pa.Array:
  """Reads the texts that are objects of JSON; the others remain."""
  first = pc.utf8_slice_codeunits(texts, 0, 1)
  candidate = pc.is_in(first, value_set=pa.array(["{", "I", "/", "\\"], _TEXT))
  if not candidate.true_count:
    return texts
  inside = _inside(texts, _WRAPPED_DATE)
  if inside.null_count < len(texts):
    block.exact = _dates(inside)
    texts = pc.if_else(inside.is_valid(), pa.scalar(None, _TEXT), texts)
  return pc.coalesce(_inside(texts, _WRAPPED_NUMBER), texts)


def _inside(texts: pa.Array, pattern: str) -> pa.Array:
  found = pc.extract_regex(texts, pattern)
  return pc.struct_field(found, "inside").cast(_TEXT)


def _dates(column: pa.Array) -> Read:
  """The values of MongoDB's `$date`: numbers are milliseconds."""
  if pa.types.is_struct(column.type):
    column = _part(column, "$numberLong")
  column = arrow_columns.array(column, str)
  block = read(column, unit=None, pattern=None, orders=(), missing=())
  found = block.exact or block.texts("")
  if block.numbers is not None:
    found = found.over(Read(*time_numbers.read(block.numbers, "ms")))
  return found


def _part(column: pa.Array, name: str) -> pa.Array:
  if name not in {field.name for field in column.type}:
    return pa.nulls(len(column))
  return pc.struct_field(column, name)


def _is_moment(kind: pa.DataType) -> bool:
  return pa.types.is_timestamp(kind) or pa.types.is_date(kind)


def _moments(column: pa.Array) -> Read:
  values = column.cast(pa.timestamp("ms"), safe=False).cast(pa.int64())
  return Read(
    pc.fill_null(values, 0).to_numpy(),
    arrow_columns.to_numpy(column.is_valid()),
  )


def _floats(column: pa.Array) -> np.ndarray:
  return column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)


def _digits(column: pa.Array) -> pa.Array:
  """Numbers as texts, without decimals where they are whole."""
  floats = _floats(column)
  with np.errstate(invalid="ignore"):
    whole = np.abs(floats) < 2**63
  integers = np.where(whole, floats, 0).astype(np.int64)
  return pa.array(integers, mask=~whole).cast(_TEXT)


def _text_numbers(texts: pa.Array, is_number: pa.Array) -> np.ndarray:
  """float64[n], the numbers among texts."""
  numbers = np.full(len(texts), np.nan)
  rows = np.flatnonzero(arrow_columns.to_numpy(pc.fill_null(is_number, False)))
  if not len(rows):
    return numbers
  found = texts.take(pa.array(rows))
  found = pc.replace_substring(pc.utf8_ltrim(found, "+"), ",", ".")
  try:
    numbers[rows] = _floats(found)
  except pa.ArrowInvalid:
    numbers[rows] = list(map(float, found.to_pylist()))
  return numbers


def example(
  column: pa.Array, readable: np.ndarray, missing: Sequence[str]
) -> str | None:
  """The first value that cannot be read, though there is one."""
  absent = {*missing, ""}
  rows = np.flatnonzero(~readable)
  for row in itertools.islice(rows.tolist(), 10_000):
    value = column[row].as_py()
    if value is not None and str(value).strip() not in absent:
      return str(value)[:80]
  return None
