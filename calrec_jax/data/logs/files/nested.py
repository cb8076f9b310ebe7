"""Columns inside other columns: `user.id`, `orders[].user.id`, `items[]`.

Each `[]` makes a row of every part of a list. Columns that share a list stay
together; lists beside each other are read in parallel, part by part.
"""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute creates its functions at run time.)

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

EACH = "[]"
_DEPTH = 5

Steps = tuple[str, ...]


def steps(name: str, keys: Iterable[str]) -> Steps:
  """The way to a column: names of fields, and `EACH` for a list's parts.

  Args:
    name: Name of the column in a setting, such as `items[].sku`.
    keys: Names of the top columns; one that has dots of its own wins.
  """
  keys = set(keys)
  if name in keys:
    return (name,)
  known = [
    key for key in keys if name.startswith((f"{key}.", f"{key}{EACH}")) and key
  ]
  first = max(known, key=len, default="")
  found = [first] if first else []
  for part in name[len(first) :].lstrip(".").split("."):
    field, *each = part.split(EACH)
    found += [field] if field else []
    found += [EACH] * len(each)
  return tuple(found) or (name,)


def names_of_type(name: str, kind: pa.DataType) -> list[str]:
  """The name of a column and of what is in it, as settings write them."""
  if pa.types.is_struct(kind):
    return [name] + [
      inner
      for field in kind
      for inner in names_of_type(f"{name}.{field.name}", field.type)
    ]
  if _is_list(kind):
    return [name, *names_of_type(f"{name}{EACH}", kind.value_type)]
  return [name]


def names_of_value(name: str, value: Any, depth: int = _DEPTH) -> list[str]:
  """The same for a JSON value, of which a list's first part is looked at."""
  if isinstance(value, dict) and depth and not _is_sealed(value):
    return [name] + [
      inner
      for key, part in value.items()
      for inner in names_of_value(f"{name}.{key}", part, depth - 1)
    ]
  if isinstance(value, list) and depth:
    first = value[0] if value else None
    return [name, *names_of_value(f"{name}{EACH}", first, depth - 1)]
  return [name]


def _is_sealed(value: Mapping[str, Any]) -> bool:
  return bool(value) and all(key.startswith("$") for key in value)


class Flat(NamedTuple):
  """Columns of rows.

  Attributes:
    columns: Arrays of equal length n by name.
    rows: int64[n], the row of the input that each came from; None if all are
      as before.
    uneven: Rows of the input whose parallel lists differ in length; they are
      in no column.
  """

  columns: dict[str, pa.Array]
  rows: np.ndarray | None
  uneven: np.ndarray


def flatten(
  columns: Mapping[str, pa.Array],
  wanted: Mapping[str, Steps],
  num_rows: int,
) -> Flat:
  """Reads columns inside columns.

  A row without a list, unlike one with an empty list, stays: with nulls.

  Args:
    columns: Top columns, arrays of `num_rows`.
    wanted: Way to each wanted column by its name; one that leads nowhere gives
      nulls.
    num_rows: Number of rows.
  """
  everywhere = np.empty(0, np.int64)
  plain: dict[str, pa.Array] = {}
  lists: dict[Steps, dict[str, Steps]] = {}
  for name, way in wanted.items():
    if EACH in way:
      at = way.index(EACH)
      lists.setdefault(way[:at], {})[name] = way[at + 1 :]
    else:
      plain[name] = _field(columns, way, num_rows)
  if not lists:
    return Flat(plain, None, everywhere)
  arrays = {way: _field(columns, way, num_rows) for way in lists}
  lengths = {way: _lengths(array) for way, array in arrays.items()}
  first = next(iter(lengths.values()))
  even = np.ones(num_rows, bool)
  for other in lengths.values():
    even &= other == first
  kept = np.flatnonzero(even)
  rows = np.repeat(kept, first[kept])
  found: dict[str, pa.Array] = {}
  deeper: list[tuple[dict[str, pa.Array], np.ndarray | None]] = []
  for way, inner in lists.items():
    array = arrays[way] if len(kept) == num_rows else arrays[way].take(kept)
    parts = _parts(array)
    tops, ways = {"": parts}, {}
    for name, rest in inner.items():
      ways[name] = ("", *rest)
    flat = flatten(tops, ways, len(parts))
    deeper.append((flat.columns, flat.rows))
    everywhere = np.union1d(everywhere, rows[flat.uneven])
  if len(deeper) == 1:
    found, inner_rows = deeper[0]
    rows = rows if inner_rows is None else rows[inner_rows]
  else:
    for inner_columns, inner_rows in deeper:
      if inner_rows is not None:  # Lists in parallel lists have no order.
        inner_columns = {name: pa.nulls(len(rows)) for name in inner_columns}
      found |= inner_columns
  found |= {name: array.take(pa.array(rows)) for name, array in plain.items()}
  uneven = np.union1d(np.flatnonzero(~even), everywhere)
  return Flat({name: found[name] for name in wanted}, rows, uneven)


def _field(
  columns: Mapping[str, pa.Array], way: Sequence[str], num_rows: int
) -> pa.Array:
  """The column at the end of a way without lists, or nulls."""
  array = columns.get(way[0])
  if array is None:
    return pa.nulls(num_rows)
  if isinstance(array, pa.ChunkedArray):
    array = _combined(array)
  for name in way[1:]:
    if not pa.types.is_struct(array.type):
      return pa.nulls(num_rows)
    if array.type.get_field_index(name) < 0:
      return pa.nulls(num_rows)
    array = pc.struct_field(array, [name])
  return array


def _combined(array: pa.ChunkedArray) -> pa.Array:
  combined = array.combine_chunks()
  if isinstance(combined, pa.ChunkedArray):  # It has none, or too much text.
    combined = (
      pa.concat_arrays(combined.chunks)
      if combined.num_chunks
      else (pa.array([], array.type))
    )
  return combined


def _is_list(kind: pa.DataType) -> bool:
  return (
    pa.types.is_list(kind)
    or pa.types.is_large_list(kind)
    or pa.types.is_fixed_size_list(kind)
  )


def _lengths(array: pa.Array) -> np.ndarray:
  """int64[n], number of parts; 1 of what is missing or no list."""
  if not _is_list(array.type):
    return np.ones(len(array), np.int64)
  lengths = pc.fill_null(pc.list_value_length(array), 1)
  return lengths.to_numpy(zero_copy_only=False).astype(np.int64)


def _parts(array: pa.Array) -> pa.Array:
  """The parts of all lists; a null for a missing list."""
  if not _is_list(array.type):
    return array
  parts = pc.list_flatten(array)
  if not array.null_count:
    return parts
  lengths = _lengths(array)
  present = np.repeat(array.is_valid().to_numpy(zero_copy_only=False), lengths)
  at = np.cumsum(present) - 1
  return parts.take(pa.array(at, pa.int64(), mask=~present))
