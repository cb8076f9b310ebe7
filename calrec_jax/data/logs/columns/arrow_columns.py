"""Columns of any kind as plain Arrow arrays, and the text in them."""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute creates its functions at run time.)

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from calrec_jax.data.logs.columns import id_codes
from calrec_jax.data.logs.json import json_values

TEXT = pa.large_string()


def array(column: Any, as_text: Callable[[Any], str | None]) -> pa.Array:
  """A column as one array, with dictionaries and views decoded.

  Args:
    column: Arrow array, chunked array, `id_codes.Column`, or Python values.
    as_text: Function of one value, for Python values of several types, which
      become text; None is missing.
  """
  if isinstance(column, id_codes.Column):
    column = column.values
  if not isinstance(column, (pa.Array, pa.ChunkedArray)):
    try:
      column = pa.array(column)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, ValueError):
      column = pa.array(list(map(as_text, column)), TEXT)
  if isinstance(column, pa.ChunkedArray):
    column = column.combine_chunks()
    if isinstance(column, pa.ChunkedArray):  # It has no chunks, or too many.
      column = pa.concat_arrays([pa.array([], column.type), *column.chunks])
  if pa.types.is_run_end_encoded(column.type):
    column = pc.run_end_decode(column)
  if pa.types.is_dictionary(column.type):
    column = column.dictionary.take(column.indices)
  if is_text(column.type):
    return column.cast(TEXT)
  return column.cast(pa.large_binary()) if is_binary(column.type) else column


def is_text(kind: pa.DataType) -> bool:
  """Whether a type holds Unicode text."""
  types = pa.types
  return (
    types.is_string(kind)
    or types.is_large_string(kind)
    or types.is_string_view(kind)
  )


def is_binary(kind: pa.DataType) -> bool:
  """Whether a type holds bytes of any length."""
  types = pa.types
  return (
    types.is_binary(kind)
    or types.is_large_binary(kind)
    or types.is_binary_view(kind)
  )


def is_number(kind: pa.DataType) -> bool:
  """Whether a type holds numbers; booleans are none."""
  types = pa.types
  return (
    types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind)
  )


def decoded(column: pa.Array) -> tuple[pa.Array, np.ndarray]:
  """Bytes as UTF-8 text; null, and True in bool[n], where they are not."""
  broken = np.zeros(len(column), bool)
  try:
    return column.cast(TEXT), broken
  except pa.ArrowInvalid:
    values = column.to_pylist()
    texts = [None if value is None else _utf8(value) for value in values]
    pairs = zip(texts, values, strict=True)
    broken[:] = [text is None and value is not None for text, value in pairs]
    return pa.array(texts, TEXT), broken


_NO_WIDTH = "\ufeff\u200b\u2060"


def trimmed(texts: pa.Array, missing: Sequence[str] = ()) -> pa.Array:
  """Texts without white space around them; null if empty or `missing`.

  Characters without width are white space here: joined files have byte order
  marks within, and pages that texts were copied from have others.
  """
  texts = pc.utf8_trim_whitespace(texts)
  if not pc.all(pc.string_is_ascii(texts)).as_py():
    texts = pc.utf8_trim_whitespace(pc.utf8_trim(texts, _NO_WIDTH))
  words = pa.array(sorted({"", *missing}), TEXT)
  absent = pc.is_in(texts, value_set=words)
  if not absent.true_count:
    return texts
  return pc.if_else(absent, pa.scalar(None, TEXT), texts)


def to_numpy(values: pa.Array) -> np.ndarray:
  """An array without nulls in NumPy."""
  return values.to_numpy(zero_copy_only=False)


def _utf8(value: bytes) -> str | None:
  try:
    return value.decode()
  except UnicodeDecodeError:
    return None


def concatenated(tables: Sequence[pa.Table]) -> pa.Table:
  """Tables as one; a column of several types becomes text.

  Lists and objects become those of a type that holds all. Columns that a table
  lacks are null in its rows.

  Args:
    tables: At least one table.
  """
  names = dict.fromkeys(name for table in tables for name in table.column_names)
  mixed = [name for name in names if len(_types(tables, name)) > 1]
  same = list(tables)
  for name in mixed:
    at = [i for i, table in enumerate(tables) if name in table.column_names]
    columns = _of_one_type([tables[i][name] for i in at])
    for i, column in zip(at, columns, strict=True):
      place = tables[i].column_names.index(name)
      same[i] = same[i].set_column(place, name, column)
  return pa.concat_tables(same, promote_options="default").combine_chunks()


def _of_one_type(columns: list[pa.ChunkedArray]) -> list[pa.ChunkedArray]:
  """Columns of several types as columns of one."""
  if not any(pa.types.is_nested(column.type) for column in columns):
    return list(map(as_text, columns))
  joined, start, found = json_values.joined(columns), 0, []
  for column in columns:
    found.append(joined.slice(start, len(column)))
    start += len(column)
  return found


def _types(tables: Sequence[pa.Table], name: str) -> set[pa.DataType]:
  types = {t.schema.field(name).type for t in tables if name in t.column_names}
  return types - {pa.null()}


def as_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
  """A column of any type as text, whole numbers without decimals."""
  try:
    return column.cast(TEXT)
  except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
    values = [None if v is None else str(v) for v in column.to_pylist()]
    return pa.chunked_array([pa.array(values, TEXT)])
