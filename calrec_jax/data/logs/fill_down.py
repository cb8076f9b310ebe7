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

from calrec_jax.data.logs import tables


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
        column = _nulls(table[name].combine_chunks(), missing)
        if name in above and above[name].type == column.type:
          column = pa.concat_arrays([above[name], column])
          column = pc.fill_null_forward(column).slice(1)
        else:
          column = pc.fill_null_forward(column)
        above[name] = column.slice(len(column) - 1)
        at = table.column_names.index(name)
        table = table.set_column(at, name, column)
    yield block._replace(rows=block.rows._replace(table=table))


def _nulls(column: pa.Array, missing: Sequence[str]) -> pa.Array:
  """Texts with nulls where they are empty or a word for a missing value."""
  kind = column.type
  if isinstance(column, pa.ChunkedArray):
    column = pa.concat_arrays(column.chunks)
  if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
    return column
  trimmed = pc.utf8_trim_whitespace(column)
  words = pa.array(["", *missing], kind)
  absent = pc.is_in(trimmed, value_set=words)
  return pc.if_else(absent, pa.scalar(None, kind), column)
