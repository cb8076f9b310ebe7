"""Any purchase log in CSV, JSON lines or Parquet, with mapped columns."""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute creates its functions at run time.)

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import gin
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from calrec_jax.data.logs import events as events_lib
from calrec_jax.data.logs import id_codes, tables
from calrec_jax.data.logs import problems as problems_lib
from calrec_jax.data.logs import text as text_lib
from calrec_jax.data.logs import times as times_lib
from calrec_jax.data.logs.values import ids
from calrec_jax.errors import InputError, check, one_of, refuse

_REQUIRED: Any = gin.REQUIRED  # Gin rejects it when used.

TIME_UNITS = times_lib.UNITS


@gin.configurable
@dataclasses.dataclass(frozen=True, kw_only=True)
class LogFiles:
  """A log of purchases in one or two files, and the names of its columns.

  Attributes:
    interactions: File of the purchases, one per row.
    items: File of the items, one per row; None if the rows of the purchases
      describe their items.
    folder: Folder of relative paths.
    user_column: Column of the user's id.
    item_column: Column of the item's id in the purchases.
    item_id_column: Column of the item's id in `items`; None is `item_column`.
    time_column: Column of the time; None takes the order of the rows.
    time_unit: Unit of the time: "s" or "ms" since 1970, "iso" for ISO 8601
      (UTC unless it has a zone), "order" for positions. Ignored for Parquet
      columns of times.
    text_columns: Source's column by field column, where they differ:
      `{"title": "product_name"}`.
    delimiter: Character between fields of CSV files; None is a tab for .tsv
      and a comma otherwise.
    encoding: Encoding of text files.
  """

  default_fields: ClassVar[tuple[text_lib.Field, ...]] = text_lib.DEFAULT_FIELDS

  interactions: str = _REQUIRED
  items: str | None = None
  folder: str | None = None
  user_column: str = "user_id"
  item_column: str = "item_id"
  item_id_column: str | None = None
  time_column: str | None = "timestamp"
  time_unit: str = "s"
  text_columns: Mapping[str, str] = dataclasses.field(default_factory=dict)
  delimiter: str | None = None
  encoding: str = "utf-8"

  def __post_init__(self) -> None:
    """Checks the settings."""
    check(self, time_unit=one_of(*TIME_UNITS))
    if self.delimiter is not None and len(self.delimiter) != 1:
      refuse(self, "delimiter", "must be one character.")

  @property
  def by_time(self) -> bool:
    """Whether events carry times rather than positions."""
    return self.time_column is not None and self.time_unit != "order"

  def files(self) -> list[str]:
    """The files that are read."""
    paths = [self.interactions] + ([self.items] if self.items else [])
    folder = os.path.expanduser(self.folder or "")
    return [os.path.join(folder, os.path.expanduser(path)) for path in paths]

  def fingerprint(self) -> dict[str, Any]:
    """Everything the events depend on: the mapping, and the files' hashes."""
    mapping = dataclasses.asdict(self) | {
      "text_columns": dict(self.text_columns)
    }
    for path in ("interactions", "items", "folder"):
      del mapping[path]
    return mapping | {"inputs": [tables.sha256(path) for path in self.files()]}

  def read(
    self, problems: problems_lib.Problems, columns: Sequence[str]
  ) -> tuple[events_lib.Events, events_lib.Items]:
    """Reads the log.

    Args:
      problems: Counter of the rows that cannot be used.
      columns: Names of the requested item columns, as in fields.

    Returns:
      Events in the order of the file, and the items.
    """
    names = {
      column: self.text_columns.get(column, column) for column in columns
    }
    times = [self.time_column] if self.time_column else []
    wanted = [self.user_column, self.item_column, *times]
    interactions, *rest = self.files()
    read = functools.partial(
      tables.read,
      problems=problems,
      delimiter=self.delimiter,
      encoding=self.encoding,
    )
    log = read(interactions, wanted if rest else [*wanted, *names.values()])
    log.require(self.user_column, "LogFiles.user_column")
    log.require(self.item_column, "LogFiles.item_column")
    if rest:
      id_column = self.item_id_column or self.item_column
      table = read(rest[0], [id_column, *names.values()])
      table.require(id_column, "LogFiles.item_id_column")
    else:
      id_column, table = self.item_column, log
    items = _items(table, id_column, names, problems, own_file=bool(rest))
    times, readable = self._times(log)
    events = events_lib.join(
      users=ids(log.columns[self.user_column], ()),
      items=ids(log.columns[self.item_column], ()),
      timestamps=times,
      readable=readable,
      catalogue=items.item_ids,
      file=log.file,
      lines=log.lines,
      problems=problems,
      by_time=self.by_time,
      num_rows=log.num_rows,
    )
    return events, items

  def _times(self, log: tables.Table) -> tuple[np.ndarray, np.ndarray]:
    num_rows = len(log.lines)
    if self.time_column is None:
      return np.arange(num_rows), np.ones(num_rows, bool)
    values = log.require(self.time_column, "LogFiles.time_column")
    unit = "ms" if self.time_column in log.milliseconds else self.time_unit
    times, readable = times_lib.timestamps(values, unit)
    if num_rows and not readable.any():
      raise InputError(
        f"{log.file}:{log.lines[0]}: no time of the column "
        f"{self.time_column!r} can be read as {unit!r}; the first is "
        f"{values[0]!r}. Set LogFiles.time_unit to one of "
        f"{', '.join(TIME_UNITS)}, or LogFiles.time_column."
      )
    return times, readable


def _items(
  table: tables.Table,
  id_column: str,
  names: Mapping[str, str],
  problems: problems_lib.Problems,
  *,
  own_file: bool,
) -> events_lib.Items:
  """The distinct items of a table, each with its first description."""
  item_ids = ids(table.columns[id_column], ())
  missing = item_ids.is_null().to_numpy(zero_copy_only=False)
  if own_file:  # Otherwise `events.join` counts the missing id.
    problems.add_rows("missing_item", table.file, table.lines[missing])
  raw = {
    column: table.columns[name]
    for column, name in names.items()
    if name in table.columns
  }
  rows = np.flatnonzero(~missing)
  encoded = item_ids.drop_null().dictionary_encode()  # By first appearance.
  codes = encoded.indices.to_numpy()
  first = np.empty(len(encoded.dictionary), np.int64)
  first[codes[::-1]] = rows[::-1]
  again = first[codes] != rows
  rows, codes = rows[again], codes[again]
  differs = np.zeros(len(rows), bool)
  for values in raw.values():
    differs |= _differs(values, rows, first[codes])
  conflicting = rows[differs]
  if not own_file:  # An item counts once, however often it is bought.
    conflicting = conflicting[np.unique(codes[differs], return_index=True)[1]]
  problems.add_rows("conflicting_item", table.file, table.lines[conflicting])
  return events_lib.Items(
    item_ids=encoded.dictionary.to_pylist(),
    columns={column: _take(values, first) for column, values in raw.items()},
    file=table.file,
    lines=table.lines[first],
    available=table.available,
    num_rows=table.num_rows,
  )


def _take(values: Sequence[Any], rows: np.ndarray) -> list[Any]:
  if isinstance(values, id_codes.Column):
    return values.values.take(pa.array(rows)).to_pylist()
  return [values[row] for row in rows]


def _differs(
  values: Sequence[Any], rows: np.ndarray, others: np.ndarray
) -> np.ndarray:
  """bool[n], whether the values at `rows` differ from those at `others`."""
  if isinstance(values, id_codes.Column):
    one, other = (values.values.take(pa.array(at)) for at in (rows, others))
    return pc.not_equal(one, other).to_numpy(zero_copy_only=False)
  pairs = zip(_take(values, rows), _take(values, others), strict=True)
  return np.array([not _same(one, other) for one, other in pairs], bool)


def _same(one: Any, other: Any) -> bool:
  # A missing number is not equal to itself.
  return one == other or (one != one and other != other)
