"""Columns that are written once per order, on its first row.

Shopify's and many spreadsheets' exports leave the order's user and time empty
on the order's other rows.
"""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute creates its functions at run time.)

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from calrec_jax.data.logs.columns import values
from calrec_jax.data.logs.json import json_values
from calrec_jax.data.logs.reading import tables


def fill_down(
  blocks: Iterable[tables.Block], columns: Sequence[str], missing: Sequence[str]
) -> Iterator[tables.Block]:
  """Replaces missing values by the value of the row above.

  Args:
    blocks: Blocks of one or more files; nothing is carried into another file.
    columns: Names of the columns.
    missing: Words that mean a missing value.

  Yields:
    The blocks with filled columns.
  """
  file, above = None, {}
  for block in blocks:
    if block.file != file:
      file, above = block.file, {}
    table = block.rows.table
    for name in columns:
      if name in table.column_names and table.num_rows:
        column = _nulls(table[name], missing)
        if name in above:
          column = _joined(above[name], column)
          column = pc.fill_null_forward(column).slice(1)
        else:
          column = pc.fill_null_forward(column)
        above[name] = column.slice(len(column) - 1)
        at = table.column_names.index(name)
        table = table.set_column(at, name, column)
    yield block._replace(rows=block.rows._replace(table=table))


def _nulls(column: pa.ChunkedArray, missing: Sequence[str]) -> pa.Array:
  """A column with nulls where values are missing."""
  found = values.tidy(column, missing)
  if pa.types.is_floating(found.type):
    return pc.if_else(pc.is_nan(found), pa.scalar(None, found.type), found)
  return found


def _joined(above: pa.Array, column: pa.Array) -> pa.Array:
  """A value and the column below it, in a type for both."""
  if pa.types.is_null(column.type):
    column = column.cast(above.type)
  if above.type != column.type:
    return json_values.joined([above, column]).combine_chunks()
  return pa.concat_arrays([above, column])
