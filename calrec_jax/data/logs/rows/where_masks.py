"""For which rows of a log the comparisons of a condition hold.

Each comparison works on a whole Arrow column. Missing values satisfy none, but
`== None`.
"""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute creates its functions at run time.)

from __future__ import annotations

import math
import operator
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from calrec_jax.data.logs import events as events_lib
from calrec_jax.data.logs.columns import numbers, values
from calrec_jax.data.logs.rows.where import Comparison
from calrec_jax.errors import InputError

_SYMBOLS = {
  "==": operator.eq,
  "!=": operator.ne,
  "<": operator.lt,
  "<=": operator.le,
  ">": operator.gt,
  ">=": operator.ge,
}
_OF_TEXTS = {
  "==": pc.equal,
  "<": pc.less,
  "<=": pc.less_equal,
  ">": pc.greater,
  ">=": pc.greater_equal,
}


def mask(
  comparison: Comparison,
  column: pa.Array | pa.ChunkedArray,
  decimal: str = ".",
  missing: Sequence[str] = (),
) -> np.ndarray:
  """bool[n], for which values a comparison holds; missing ones satisfy none.

  Only `== None` holds for missing values, and `!= None` for all others.

  Args:
    comparison: Comparison with a number, a text or None.
    column: Values of its column, of any type.
    decimal: Decimal sign of numbers that are written as text.
    missing: Words that mean a missing value.
  """
  name = comparison.column
  if comparison.symbol in ("in", "not in"):
    found = np.zeros(len(column), bool)
    for value in comparison.value:
      found |= mask(Comparison(name, "==", value), column, decimal, missing)
    return (
      found if comparison.symbol == "in" else ~found & ~_absent(column, missing)
    )
  value, symbol = comparison.value, comparison.symbol
  if value is None or symbol == "!=":
    absent = _absent(column, missing)
    if value is None:
      return absent if symbol == "==" else ~absent
    equal = Comparison(name, "==", value)
    return ~mask(equal, column, decimal, missing) & ~absent
  if isinstance(value, bool) and symbol == "==":
    value = str(value).lower()
    texts = pc.utf8_lower(_texts(column, missing))
    as_number, readable = numbers.parse(column, decimal)
    same = _to_numpy(pc.fill_null(pc.equal(texts, value), False))
    return same | (readable & (as_number == (value == "true")))
  if isinstance(value, str) and (symbol == "==" or not _is_number(value)):
    holds = _OF_TEXTS[symbol](_texts(column, missing), value.strip())
    return _to_numpy(pc.fill_null(holds, False))
  # "10" is more than "9", also where both are written as text.
  found, readable = numbers.parse(_numeric(column), decimal)
  if any(map(_is_number, missing)):
    readable &= ~_absent(column, missing)
  with np.errstate(invalid="ignore"):
    return _SYMBOLS[symbol](found, float(value)) & readable


def time_mask(
  comparison: Comparison,
  times: np.ndarray,
  readable: np.ndarray,
  binding: str = "LogFiles.where",
) -> np.ndarray:
  """bool[n], for which times a comparison with a day or time holds.

  Args:
    comparison: Comparison of the time column.
    times: int64[n], unix milliseconds.
    readable: bool[n], which of them could be read.
    binding: The gin name of the condition, for messages.
  """
  if comparison.symbol in ("in", "not in"):
    found = np.zeros(len(times), bool)
    for value in comparison.value:
      one = Comparison(comparison.column, "==", value)
      found |= time_mask(one, times, readable, binding)
    return found if comparison.symbol == "in" else ~found & readable
  if comparison.value is None:
    return ~readable if comparison.symbol == "==" else readable
  try:
    limit = round(events_lib.milliseconds(comparison.value))
  except (TypeError, ValueError) as error:
    raise InputError(
      f"{binding}: the times of the column {comparison.column!r} are compared "
      f"with {comparison.value!r}; compare them with a day or time such as "
      "'2024-01-31'."
    ) from error
  return _SYMBOLS[comparison.symbol](times, limit) & readable


def _is_number(text: str) -> bool:
  try:
    return math.isfinite(float(text))
  except ValueError:
    return False


def _absent(
  column: pa.Array | pa.ChunkedArray, missing: Sequence[str]
) -> np.ndarray:
  """bool[n], which values are missing."""
  found = values.tidy(column, missing)
  if pa.types.is_floating(found.type):
    return _to_numpy(found.is_null(nan_is_null=True))
  return _to_numpy(found.is_null())


def _texts(
  column: pa.Array | pa.ChunkedArray, missing: Sequence[str]
) -> pa.Array:
  """Values as text, whole numbers without decimals; null if missing."""
  texts = values.ids(column, missing)
  if pa.types.is_boolean(column.type):
    return column.cast(texts.type)
  if pa.types.is_floating(column.type):  # Ids have no fractions.
    finite = pc.is_finite(column)
    written = pc.if_else(finite, column, None).cast(pa.string())
    return pc.coalesce(texts, written.cast(texts.type))
  return texts


def _numeric(column: pa.Array | pa.ChunkedArray) -> pa.Array:
  if pa.types.is_boolean(column.type):
    return column.cast(pa.int8())
  return column


def _to_numpy(array: pa.Array) -> np.ndarray:
  return array.to_numpy(zero_copy_only=False)
