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
from calrec_jax.data.logs.columns import arrow_columns, values
from calrec_jax.data.logs.columns import id_rules as id_rules_lib
from calrec_jax.data.logs.json import json_values
from calrec_jax.data.logs.reading import tables
from calrec_jax.data.logs.rows import event_rows

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
    id_rules: tuple[str, ...] = (),
  ) -> None:
    """Reads the orders.

    Args:
      blocks: Blocks of the orders' files.
      id_column: Column of the order's id, there and in the purchases.
      missing: Words that mean a missing value.
      problems: Counter of orders without an id, or with one that is taken.
      id_rules: Rules that spell ids alike, see `id_rules`.
    """
    self._id_column, self._missing = id_column, missing
    self._problems, self._id_rules = problems, id_rules
    parts, places = [], event_rows.Rows()
    for block in blocks:
      ids, lines = self._ids_of(block), block.rows.lines
      absent = ids.is_null().to_numpy(zero_copy_only=False)
      problems.add_rows("missing_order", block.file, lines[absent])
      table = block.rows.table
      at = table.column_names.index(id_column)
      parts.append(table.set_column(at, id_column, ids).filter(ids.is_valid()))
      kept = block.rows._replace(lines=lines[~absent])
      places.add(block.file, kept)
    places.finish()
    empty = pa.table({id_column: pa.array([], pa.large_string())})
    self._table = arrow_columns.concatenated([*parts, empty])
    self._ids = arrow_columns.array(self._table[id_column], str)
    self.columns = [
      name for name in self._table.column_names if name != id_column
    ]
    places.count(problems, "conflicting_order", self._conflicts())

  def _ids_of(self, block: tables.Block) -> pa.Array:
    found = values.ids(block.rows.table[self._id_column], self._missing)
    return id_rules_lib.normalise(found, self._id_rules)

  def _conflicts(self) -> np.ndarray:
    """bool[n], whether a row says something else of an order than the first."""
    first = pc.index_in(self._ids, value_set=self._ids)
    again = np.flatnonzero(first.to_numpy() != np.arange(len(first)))
    found = np.zeros(len(first), bool)
    if not len(again):
      return found
    first = first.take(pa.array(again))
    for name in self.columns:
      column = arrow_columns.array(self._table[name], json_values.text)
      if pa.types.is_nested(column.type):
        column = pa.array(values.texts(column), pa.large_string())
      one, other = column.take(pa.array(again)), column.take(first)
      same = pc.fill_null(pc.equal(one, other), False)
      same = pc.or_(same, pc.and_(one.is_null(), other.is_null()))
      found[again] |= ~same.to_numpy(zero_copy_only=False)
    return found

  def join(self, blocks: Iterable[tables.Block]) -> Iterator[tables.Block]:
    """Adds the orders' columns to the blocks of purchases.

    Purchases keep columns of their own that orders have, too. Those whose order
    is unknown are counted and left out.
    """
    for several in _gathered(blocks):
      ids = list(map(self._ids_of, several))
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
      if name in table.column_names:
        if name in block.available:
          continue
        table = table.drop_columns([name])
      table = table.append_column(name, self._table[name].take(at))
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
