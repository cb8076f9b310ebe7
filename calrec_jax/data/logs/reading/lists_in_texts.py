"""Tables of texts whose columns may hold lists, read by `items[]`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from calrec_jax.data.logs import problems as problems_lib
from calrec_jax.data.logs.columns import arrow_columns, text_lists
from calrec_jax.data.logs.files import nested, row_blocks
from calrec_jax.data.logs.reading import log_source

FORMATS = ("csv", "xlsx", "parquet", "orc", "arrow")


class ListsInTexts:
  """A source that makes a row of each part of a list, where one is wanted."""

  def __init__(
    self,
    source: log_source.LogSource,
    path: str,
    problems: problems_lib.Problems,
  ) -> None:
    """Reads nothing yet.

    Args:
      source: Source of texts.
      path: Path of the file, for messages.
      problems: Counter of rows with a text that is no list, or with lists of
        different lengths.
    """
    self._source, self._path, self._problems = source, path, problems
    self._splitters: dict[str, text_lists.Splitter] = {}

  @property
  def available(self) -> tuple[str, ...]:
    """Names of the columns."""
    return self._source.available

  @property
  def num_lines(self) -> int:
    """Number of physical lines that were read so far."""
    return self._source.num_lines

  def describe(self) -> dict[str, Any]:
    """How the file is read."""
    split = {
      name: f"lists, split at {splitter.separator or 'commas or blanks'!r}"
      for name, splitter in self._splitters.items()
    }
    return self._source.describe() | ({"lists": split} if split else {})

  def rows(self, wanted: Sequence[str]) -> Iterator[row_blocks.Rows]:
    """The rows; several of one line where `wanted` names parts of a list."""
    known = self._source.available
    lists = {
      name: name.removesuffix(nested.EACH)
      for name in wanted
      if name not in known and name.removesuffix(nested.EACH) in known
    }
    if not lists:
      yield from self._source.rows(wanted)
      return
    self._splitters = {name: text_lists.Splitter() for name in lists.values()}
    plain = [name for name in wanted if name not in lists]
    names = list(dict.fromkeys([*plain, *lists.values()]))
    ways = {name: (name,) for name in plain}
    ways |= {name: (of, nested.EACH) for name, of in lists.items()}
    for rows in self._source.rows(names):
      yield self._exploded(rows, ways)

  def _exploded(
    self, rows: row_blocks.Rows, ways: dict[str, nested.Steps]
  ) -> row_blocks.Rows:
    columns: dict[str, pa.Array] = {}
    bad = np.zeros(len(rows.lines), bool)
    for name in rows.table.column_names:
      column = rows.table[name]
      if name not in self._splitters:
        columns[name] = _whole(column)
      else:
        texts = arrow_columns.trimmed(_whole(arrow_columns.as_text(column)))
        columns[name] = self._splitters[name].split(texts)
        no_list = columns[name].is_null().to_numpy(zero_copy_only=False)
        bad |= no_list & texts.is_valid().to_numpy(zero_copy_only=False)
    flat = nested.flatten(columns, ways, len(rows.lines))
    bad[flat.uneven] = True
    source = np.arange(len(bad)) if flat.rows is None else flat.rows
    good = ~bad[source]
    malformed = rows.lines[bad]
    self._problems.add_rows("malformed_row", self._path, malformed)
    return rows._replace(
      table=pa.table(flat.columns).filter(pa.array(good)),
      lines=rows.lines[source[good]],
      malformed=np.concatenate([rows.malformed, malformed]),
    )


def _whole(column: pa.ChunkedArray) -> pa.Array:
  return pa.concat_arrays(column.chunks or [pa.array([], column.type)])
