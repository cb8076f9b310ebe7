"""Purchases that name their order, joined with the user and time of the order.

Instacart and most shops' databases store it so: orders (order, user, time),
lines (order, product), products (product, name).
"""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute creates its functions at run time.)

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from calrec_jax.data.logs import problems as problems_lib
from calrec_jax.data.logs import tables, values

_LOOK_UP_ROWS = 1 << 20  # Each look-up indexes all orders again.


class Orders:
  """The orders in memory.

  Attributes:
    columns: Names of the columns that purchases take from their order.
  """

  def __init__(
    self,
    blocks: Iterable[tables.Block],
    id_column: str,
    missing: tuple[str, ...],
    problems: problems_lib.Problems,
  ) -> None:
    """Reads the orders.

    Args:
      blocks: Blocks of the orders' files.
      id_column: Column of the order's id, there and in the purchases.
      missing: Words that mean a missing value.
      problems: Counter of orders without an id or with one that is taken.
    """
    self._id_column, self._missing = id_column, missing
    self._problems = problems
    parts = []
    for block in blocks:
      table = block.rows.table
      ids = values.ids(table[id_column], missing)
      absent = ids.is_null().to_numpy(zero_copy_only=False)
      lines = block.rows.lines
      problems.add_rows("missing_order", block.file, lines[absent])
      at = table.column_names.index(id_column)
      parts.append(table.set_column(at, id_column, ids).filter(ids.is_valid()))
    whole = pa.concat_tables(parts, promote_options="permissive")
    self._table = whole.combine_chunks()
    self._ids = self._table[id_column].combine_chunks()
    self.columns = [name for name in whole.column_names if name != id_column]

  def join(self, blocks: Iterable[tables.Block]) -> Iterator[tables.Block]:
    """Adds the orders' columns to the blocks of purchases.

    Purchases whose order is unknown are counted and left out.
    """
    for several in _gathered(blocks):
      ids = [
        values.ids(block.rows.table[self._id_column], self._missing)
        for block in several
      ]
      found = pc.index_in(pa.concat_arrays(ids), value_set=self._ids)
      start = 0
      for block in several:
        stop = start + len(block.rows.lines)
        yield self._joined(block, found.slice(start, stop - start))
        start = stop

  def _joined(self, block: tables.Block, found: pa.Array) -> tables.Block:
    rows = block.rows
    known = found.is_valid()
    unknown = rows.lines[~known.to_numpy(zero_copy_only=False)]
    self._problems.add_rows("unknown_order", block.file, unknown)
    table, at = rows.table.filter(known), found.drop_null()
    for name in self.columns:
      column = self._table[name].take(at)
      if name in table.column_names:
        table = table.drop_columns([name])
      table = table.append_column(name, column)
    good = known.to_numpy(zero_copy_only=False)
    joined = rows._replace(
      table=table,
      lines=rows.lines[good],
      # They stay among the file's rows.
      malformed=np.concatenate([rows.malformed, unknown]),
    )
    return block._replace(rows=joined)


def _gathered(
  blocks: Iterable[tables.Block],
) -> Iterator[list[tables.Block]]:
  """Blocks in lists of about a million rows."""
  several: list[tables.Block] = []
  for block in blocks:
    several.append(block)
    if sum(len(each.rows.lines) for each in several) >= _LOOK_UP_ROWS:
      yield several
      several = []
  if several:
    yield several
