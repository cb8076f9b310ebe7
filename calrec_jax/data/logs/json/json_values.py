"""JSON values to Arrow columns, whatever mixture of types they have.

Nothing is rounded: whole numbers beyond 64 bits, or beside fractions that
would round them, become text.
"""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

EXACT = 2**53  # A float holds whole numbers up to here.
_SEALED = {
  "$oid": str,
  "$numberInt": int,
  "$numberLong": int,
  "$numberDouble": float,
  "$numberDecimal": str,
  "$uuid": str,
}


def plain(value: Any) -> Any:
  """A value without the wrappers of MongoDB's extended JSON."""
  if isinstance(value, list):
    return [plain(part) for part in value]
  if not isinstance(value, dict):
    return value
  if len(value) == 1:
    (key, part), *_ = value.items()
    if key == "$date":
      return _date(plain(part))
    if key in _SEALED and isinstance(part, (str, int, float)):
      try:
        return _SEALED[key](part)
      except (ValueError, OverflowError):
        return part
  return {key: plain(part) for key, part in value.items()}


def _date(value: Any) -> Any:
  """A `$date`, milliseconds or ISO 8601, as a time; else as it is."""
  try:
    if isinstance(value, str):
      time = datetime.datetime.fromisoformat(value)
      return time.replace(tzinfo=time.tzinfo or datetime.UTC)
    start = datetime.datetime.fromtimestamp(0, datetime.UTC)
    return start + datetime.timedelta(milliseconds=value)
  except (TypeError, ValueError, OverflowError):
    return value


def column(values: Sequence[Any]) -> pa.Array:
  """An Arrow array of JSON values, or of dates and times.

  Values of one type have it. Mixed numbers and texts are text, a value among
  lists is a list of one, and an object among other values is its JSON.
  """
  try:
    array = pa.array(values)
    if not pa.types.is_floating(array.type) or _is_exact(values):
      return array
  except (pa.ArrowException, OverflowError, TypeError, ValueError):
    pass
  if any(isinstance(value, list) for value in values):
    return _lists(values)
  present = [value for value in values if value is not None]
  if all(isinstance(value, dict) for value in present):
    return _structs(values, present)
  return pa.array(list(map(text, values)), pa.string())


def _is_exact(values: Sequence[Any]) -> bool:
  return all(
    not isinstance(value, int) or abs(value) <= EXACT for value in values
  )


def _lists(values: Sequence[Any]) -> pa.Array:
  lists = [
    value if isinstance(value, list) or value is None else [value]
    for value in values
  ]
  lengths = [len(value or ()) for value in lists]
  parts = column([part for value in lists if value for part in value])
  offsets = np.concatenate([[0], np.cumsum(lengths)])
  missing = np.array([value is None for value in lists], bool)
  return pa.ListArray.from_arrays(
    pa.array(offsets, pa.int32()), parts, mask=pa.array(missing)
  )


def _structs(values: Sequence[Any], present: Sequence[Any]) -> pa.Array:
  keys = list(dict.fromkeys(key for value in present for key in value))
  missing = pa.array([value is None for value in values], pa.bool_())
  if not keys:
    return pa.array(values, pa.struct([]))
  return pa.StructArray.from_arrays(
    [column([(value or {}).get(key) for value in values]) for key in keys],
    names=keys,
    mask=missing,
  )


def text(value: Any) -> str | None:
  """A value as text; None where it is missing."""
  if value is None or isinstance(value, str):
    return value
  if isinstance(value, bool):
    return "true" if value else "false"
  if isinstance(value, float):
    if math.isnan(value):
      return None
    whole = math.isfinite(value) and value.is_integer()
    return str(int(value)) if whole else repr(value)
  if isinstance(value, dict | list):
    return json.dumps(value, ensure_ascii=False, default=str)
  return str(value)


def joined(arrays: Sequence[pa.Array | pa.ChunkedArray]) -> pa.ChunkedArray:
  """Arrays one after another, in a type that holds the values of all."""
  if len({array.type for array in arrays}) == 1:
    chunks = [
      chunk
      for array in arrays
      for chunk in (
        array.chunks if isinstance(array, pa.ChunkedArray) else [array]
      )
    ]
    return pa.chunked_array(chunks, arrays[0].type)
  values = [value for array in arrays for value in array.to_pylist()]
  return pa.chunked_array([column(values)])
