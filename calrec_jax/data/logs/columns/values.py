"""Arrow columns of any type as ids and as texts."""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute creates its functions at run time.)

from __future__ import annotations

import math
import uuid
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from calrec_jax.data.logs.columns import arrow_columns, clean_text, id_codes
from calrec_jax.data.logs.files.read_options import MISSING

_TEXT = arrow_columns.TEXT
_UUID_BYTES = 16
_FEW = 64  # Values that mostly show what the others are.
# MongoDB's ids and integers as JSON.
_WRAPPED = (
  r'^\{\s*"\$(?:oid|numberLong|numberInt|uuid)"\s*:\s*"?([^"{}]*)"?\s*\}$'
)


def ids(column: Any, missing: Sequence[str] = MISSING) -> pa.LargeStringArray:
  """Ids as text without white space around them; null if missing.

  Whole numbers are written without decimals, whatever their type. Booleans,
  lists, and numbers with a fraction in a column of floats are missing.

  Args:
    column: Arrow column of any type, or Python values.
    missing: Words that mean a missing value, in columns of text.
  """
  if isinstance(column, pa.ChunkedArray):
    return _concatenated([ids(chunk, missing) for chunk in column.chunks])
  if isinstance(column, pa.DictionaryArray):
    return ids(column.dictionary, missing).take(column.indices)
  array = arrow_columns.array(column, _id)
  kind = array.type
  if pa.types.is_struct(kind) and _is_wrapped(kind):
    return ids(pc.struct_field(array, [0]), missing)
  if arrow_columns.is_number(kind):
    return _number_ids(array)
  if pa.types.is_temporal(kind):
    return pa.array(_texts(array), _TEXT)
  if arrow_columns.is_text(kind):
    if _are_numbers(array, missing):  # Nothing to trim, and none is missing.
      return array
    return _unwrapped(arrow_columns.trimmed(array, missing))
  if arrow_columns.is_binary(kind) or _is_fixed(kind):
    return arrow_columns.trimmed(_decoded(array)[0], missing)
  return pa.nulls(len(array), _TEXT)


def whole_numbers(
  column: pa.Array, missing: Sequence[str] = MISSING
) -> np.ndarray | None:
  """int64[n] if a column of text holds nothing else, see `id_codes`."""
  if not arrow_columns.is_text(column.type) or _is_number(missing):
    return None
  return id_codes.whole_numbers(column)


def _is_number(missing: Sequence[str]) -> bool:
  """Whether a word that means missing is a whole number."""
  return any(word.lstrip("+-").isdecimal() for word in missing)


def _are_numbers(texts: pa.Array, missing: Sequence[str]) -> bool:
  """Whether all texts are whole numbers, and no such word means missing."""
  if _is_number(missing):
    return False
  try:
    for part in (texts.slice(0, _FEW), texts):
      part.cast(pa.int64())
  except pa.ArrowInvalid:
    return False
  return True


def broken(column: Any) -> np.ndarray:
  """bool[n], whether bytes are no text in UTF-8; False for other types."""
  if isinstance(column, pa.ChunkedArray):
    masks = [broken(chunk) for chunk in column.chunks]
    return np.concatenate([np.zeros(0, bool), *masks])
  array = arrow_columns.array(column, _id)
  if arrow_columns.is_binary(array.type) or _is_fixed(array.type):
    return _decoded(array)[1]
  return np.zeros(len(array), bool)


def tidy(column: Any, missing: Sequence[str] = MISSING) -> pa.Array:
  """A column with bytes as text and missing values, also in lists, as null."""
  array = arrow_columns.array(column, clean_text.value_text)
  kind = array.type
  if arrow_columns.is_binary(kind) or _is_fixed(kind):
    array = _decoded(array)[0]
  if arrow_columns.is_text(array.type):
    absent = arrow_columns.trimmed(array, missing).is_null()
    return pc.if_else(absent, pa.scalar(None, _TEXT), array)
  if pa.types.is_list(kind) or pa.types.is_large_list(kind):
    lists = pa.ListArray if pa.types.is_list(kind) else pa.LargeListArray
    lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy()
    return lists.from_arrays(
      np.concatenate([[0], np.cumsum(lengths)]).astype(lengths.dtype),
      tidy(array.flatten(), missing),
      mask=array.is_null(),
    )
  return array


def texts(
  column: Any, missing: Sequence[str] = MISSING, *, price: bool = False
) -> list[str]:
  """A clean text for each value of an item's field; empty if missing.

  Args:
    column: Arrow column of any type, or Python values.
    missing: Words that mean a missing value.
    price: Whether whole numbers keep two decimals though all of them are whole.
  """
  if isinstance(column, pa.ChunkedArray) and len(column.chunks) == 1:
    column = column.chunk(0)
  if isinstance(column, pa.DictionaryArray):
    known = texts(column.dictionary, missing, price=price)
    return ["" if i is None else known[i] for i in column.indices.to_pylist()]
  if _in_arrow(column):
    return _texts(tidy(column, missing), price=price)
  values = present(column, missing)
  whole = not price and all(
    value.is_integer() or not math.isfinite(value)
    for value in values
    if isinstance(value, float)
  )
  return [clean_text.value_text(value, whole=whole) for value in values]


def present(column: Any, missing: Sequence[str] = MISSING) -> list[Any]:
  """The values of a column in Python; None for missing ones."""
  if _in_arrow(column):
    return tidy(column, missing).to_pylist()
  absent = {*missing}
  return [
    None if isinstance(value, str) and value.strip() in absent else value
    for value in column
  ]


def _in_arrow(column: Any) -> bool:
  return isinstance(column, (pa.Array, pa.ChunkedArray, id_codes.Column))


def _texts(array: pa.Array, *, price: bool = False) -> list[str]:
  """Texts of a tidy array."""
  kind = array.type
  if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
    return _number_texts(array, price=price)
  if pa.types.is_nested(kind):
    values = array.to_pylist(maps_as_pydicts="lossy")
  elif pa.types.is_timestamp(kind):
    # Python has no nanoseconds, and no times beyond the year 9999.
    values = array.cast(pa.timestamp("us", kind.tz), safe=False).to_pylist()
  else:
    values = array.to_pylist()
  return list(map(clean_text.value_text, values))


def _number_texts(array: pa.Array, *, price: bool) -> list[str]:
  numbers = array.cast(pa.float64(), safe=False)
  numbers = numbers.to_numpy(zero_copy_only=False)
  finite = np.isfinite(numbers)
  whole = np.array_equal(numbers[finite], np.floor(numbers[finite]))
  if pa.types.is_decimal(array.type):
    if whole and not price:
      return pc.fill_null(_decimal_texts(array), "").to_pylist()
    values = array.to_pylist()
    return ["" if value is None else f"{value:f}" for value in values]
  form = ".0f" if whole and not price else ".2f"
  return [
    format(number, form) if good else ""
    for number, good in zip(numbers.tolist(), finite.tolist(), strict=True)
  ]


def _concatenated(arrays: list[pa.Array]) -> pa.LargeStringArray:
  if len(arrays) == 1:
    return arrays[0]
  return pa.concat_arrays([pa.array([], _TEXT), *arrays])


def _is_fixed(kind: pa.DataType) -> bool:
  """Whether a type holds bytes of a fixed length, such as UUIDs."""
  storage = (
    kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind
  )
  return pa.types.is_fixed_size_binary(storage)


def _decoded(array: pa.Array) -> tuple[pa.Array, np.ndarray]:
  """Bytes as text, and bool[n]: which are none. 16 bytes may be a UUID."""
  if isinstance(array, pa.ExtensionArray):
    array = array.storage
  if array.type != pa.binary(_UUID_BYTES):
    return arrow_columns.decoded(array.cast(pa.large_binary()))
  values = [None if v is None else _uuid(v) for v in array.to_pylist()]
  return pa.array(values, _TEXT), np.zeros(len(values), bool)


def _uuid(value: bytes) -> str:
  # The ninth byte of a UUID is no ASCII.
  if value.isascii() and value.decode().isprintable():
    return value.decode()
  return str(uuid.UUID(bytes=value))


def _unwrapped(texts_: pa.Array) -> pa.Array:
  """MongoDB's ids without the JSON around them."""
  if not pc.any(pc.starts_with(texts_, '{"$')).as_py():
    return texts_
  return pc.replace_substring_regex(texts_, _WRAPPED, r"\1")


def _is_wrapped(kind: pa.StructType) -> bool:
  """Whether a type is an id of MongoDB's as JSON, `{"$oid": "5f5e…"}`."""
  return kind.num_fields == 1 and kind.field(0).name.startswith("$")


def _number_ids(array: pa.Array) -> pa.Array:
  if pa.types.is_integer(array.type):
    return array.cast(_TEXT)
  if pa.types.is_decimal(array.type):
    return _decimal_texts(array)
  numbers = array.cast(pa.float64()).to_numpy(zero_copy_only=False)
  with np.errstate(invalid="ignore"):
    whole = numbers == np.floor(numbers)
    small = whole & (np.abs(numbers) < 2**63)
  if np.any(whole & ~small):
    return pa.array(list(map(_id, numbers.tolist())), _TEXT)
  integers = np.where(small, numbers, 0).astype(np.int64)
  return pa.array(integers, mask=~small).cast(_TEXT)


def _decimal_texts(array: pa.Array) -> pa.Array:
  """Decimals without zeros at their end."""
  if array.type.scale <= 0:
    values = array.to_pylist()
    return pa.array([None if v is None else f"{v:f}" for v in values], _TEXT)
  written = array.cast(pa.string()).cast(_TEXT)
  if pc.any(pc.match_substring(written, "E")).as_py():
    written = pa.array(
      [None if v is None else f"{v:f}" for v in array.to_pylist()], _TEXT
    )
  return pc.replace_substring_regex(written, r"\.?0*$", "")


def _id(value: Any) -> str | None:
  """A Python value as an id."""
  if isinstance(value, str):
    return value
  if isinstance(value, float):
    # Integers become floats if a column also has missing values.
    return str(int(value)) if value.is_integer() else None
  if isinstance(value, int) and not isinstance(value, bool):
    return str(value)
  return None
