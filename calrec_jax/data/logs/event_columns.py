"""Rows of a log, block by block, to events.

Each block leaves only numbers behind: the codes of its ids, its times, and for
each comparison of a condition whether it holds. So memory grows by some 30
bytes an event, however long the rows are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa

from calrec_jax.data.logs import events as events_lib
from calrec_jax.data.logs import (
  id_codes,
  id_rules,
  json_blocks,
  log_checks,
  numbers,
  values,
)
from calrec_jax.data.logs import problems as problems_lib
from calrec_jax.data.logs import times as times_lib
from calrec_jax.data.logs import where as where_lib
from calrec_jax.errors import InputError

# Ways to write dates that are compared with days without a word.
_PLAIN_DATES = ("ISO 8601", "times of the file's own type")
_MOST_KINDS = 127  # Each is a byte.
_SHOWN = 1000  # First times, which show how they could be read.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Columns:
  """Where the values of events stand, and how they are written.

  Attributes:
    user: Column of the user's id.
    item: Column of the item's id.
    time: Column of the time; None takes the order of the rows.
    time_unit: Unit of the time, see `times`; None detects it.
    time_format: Pattern of the time, or None.
    order: Column of numbers that order events of the same time, or None.
    kind: Column of the kind of event, or None.
    where: Condition that rows must satisfy to be events, or None.
    targets: Condition that events must satisfy to be targets, or None.
    decimal: Decimal sign of numbers; None decides it by the first block.
    missing: Words that mean a missing value.
    id_rules: Rules that spell ids alike, see `id_rules`.
  """

  user: str
  item: str
  time: str | None
  time_unit: str | None = None
  time_format: str | None = None
  order: str | None = None
  kind: str | None = None
  where: where_lib.Where | None = None
  targets: where_lib.Where | None = None
  decimal: str | None = None
  missing: tuple[str, ...] = ()
  id_rules: tuple[str, ...] = ()

  def conditions(self) -> list[where_lib.Where]:
    """The conditions that are set."""
    return [each for each in (self.where, self.targets) if each is not None]

  def wanted(self) -> list[str]:
    """Names of all columns that are read."""
    names = [self.user, self.item, self.time, self.order, self.kind]
    for condition in self.conditions():
      names += condition.columns()
    return list(dict.fromkeys(name for name in names if name))


class EventColumns:
  """Collects the rows of a log, and makes events of them."""

  def __init__(
    self,
    columns: Columns,
    problems: problems_lib.Problems,
    catalogue: pa.Array | None = None,
  ) -> None:
    """Starts without rows.

    Args:
      columns: Where the values stand.
      problems: Counter of the rows that cannot be events.
      catalogue: Ids of the known items; None if the rows describe their items,
        which then are known by being there.
    """
    self._columns, self._problems = columns, problems
    self._rows = _Rows()
    self._users, self._items, self._kinds = _Ids(), _Ids(), _Ids()
    self._num_known = None if catalogue is None else len(catalogue)
    if catalogue is not None:
      self._items.reserve(catalogue)
    self._times = times_lib.TimeReader(
      columns.time_unit, columns.time_format, columns.missing
    )
    self._first_times: pa.Array = pa.nulls(0)
    self._order: list[np.ndarray] = []
    self._decimals: dict[str, str] = {}
    leaves = [leaf for c in columns.conditions() for leaf in c.comparisons()]
    self._masks: dict[where_lib.Comparison, list[np.ndarray]] = {
      leaf: [] for leaf in leaves if leaf.column != columns.time
    }
    # Each with the name of its condition.
    self._time_leaves = {
      leaf: condition.binding
      for condition in columns.conditions()
      for leaf in condition.comparisons()
      if leaf.column == columns.time
    }
    # Columns that are compared with days, which may be written otherwise.
    self._dates = {
      leaf.column: times_lib.TimeReader(missing=columns.missing)
      for leaf in self._masks
      if where_lib.is_day(leaf)
    }
    # Where a column that is compared with numbers holds something else.
    self._no_numbers: dict[str, list[np.ndarray]] = {
      leaf.column: [] for leaf in self._masks if where_lib.is_numeric(leaf)
    }
    self._first_texts: dict[str, Any] = {}
    self._negative: list[np.ndarray] = []

  def add(self, file: str, rows: json_blocks.Rows) -> None:
    """Adds a block; values of a column that it lacks are missing.

    Args:
      file: Path of its file, for the locations of bad rows.
      rows: The block.
    """
    columns, table = self._columns, rows.table

    def column(name: str) -> pa.Array:
      return _column(table, name)

    def ids(name: str) -> pa.Array:
      found = values.ids(column(name), columns.missing)
      return id_rules.normalise(found, columns.id_rules)

    self._rows.add(file, rows)
    self._users.add(ids(columns.user))
    self._items.add(ids(columns.item))
    if columns.kind:
      self._kinds.add(values.ids(column(columns.kind), columns.missing))
    if columns.time:
      raw = column(columns.time)
      self._times.add(raw)
      if not len(self._first_times):
        self._first_times = raw.slice(0, _SHOWN)
    if columns.order:
      self._order.append(self._numbers(columns.order, column))
    self._add_masks(table)

  def _add_masks(self, table: pa.Table) -> None:
    """Adds for which rows of a block the comparisons hold."""
    for leaf, masks in self._masks.items():
      masks.append(self._mask(leaf, _column(table, leaf.column)))
    for name, reader in self._dates.items():
      reader.add(_column(table, name))
    for name, parts in self._no_numbers.items():
      column = _column(table, name)
      sign = self._decimal(name, column)
      bad = where_lib.unreadable(column, sign, self._columns.missing)
      parts.append(bad)
      if bad.any():
        first = column[int(np.argmax(bad))].as_py()
        self._first_texts.setdefault(name, first)
    if self._columns.where is not None:
      negative = np.zeros(table.num_rows, bool)
      for leaf in self._columns.where.amounts():
        if leaf.column != self._columns.time:
          negative |= self._mask(leaf, _column(table, leaf.column))
      self._negative.append(negative)

  def _decimal(self, name: str, column: pa.Array) -> str:
    """The decimal sign of a column, decided by its first block."""
    if name not in self._decimals:
      sign = self._columns.decimal or numbers.style(column) or "."
      self._decimals[name] = sign
    return self._decimals[name]

  def _mask(self, leaf: where_lib.Comparison, column: pa.Array) -> np.ndarray:
    sign = self._decimal(leaf.column, column)
    return where_lib.mask(leaf, column, sign, self._columns.missing)

  def _numbers(
    self, name: str, column: Callable[[str], pa.Array]
  ) -> np.ndarray:
    """float64[n]; a row without a number comes after those with one."""
    raw = column(name)
    found, readable = numbers.parse(raw, self._decimal(name, raw))
    return np.where(readable, found, np.inf)

  def finish(self) -> events_lib.Events:
    """Makes the events, in the order of the rows.

    Returns:
      The events; their items are rows of the catalogue, or numbered by their
      first appearance.

    Raises:
      InputError: If no time of the log can be read.
    """
    columns, rows = self._columns, self._rows
    rows.finish()
    self._users.start()
    self._items.start()
    times, readable = self._finish_times(len(rows))
    users, user_ids = self._users.finish()
    items, item_ids = self._items.finish()
    masks = {leaf: _joined(parts) for leaf, parts in self._masks.items()}
    for leaf, binding in self._time_leaves.items():
      masks[leaf] = where_lib.time_mask(leaf, times, readable, binding)
    self._compare_dates(masks)
    self._note_no_numbers()
    good = self._selected(masks, len(rows))
    for kind, bad in self._bad(users, items, readable):
      rows.count(self._problems, kind, good & bad)
      good &= ~bad
    kinds, kind_names = None, ()
    if columns.kind:
      codes, names = self._kinds.finish()
      rows.count(self._problems, "missing_kind", good & (codes < 0))
      good &= codes >= 0
      kinds, kind_names = codes, tuple(names.to_pylist())
      if len(kind_names) > _MOST_KINDS:
        raise InputError(
          f"LogFiles.event_column = {columns.kind!r} has {len(kind_names):,} "
          f"values, such as {kind_names[0]!r}; kinds of event are at most "
          f"{_MOST_KINDS}. Name the column that tells views from purchases."
        )
      if columns.targets is None and len(kind_names) > 1:
        counts = np.bincount(codes[good], minlength=len(kind_names))
        order = np.argsort(-counts, kind="stable").tolist()
        purchases = log_checks.purchase_condition(
          columns.kind, [(kind_names[n], int(counts[n])) for n in order]
        )
        self._problems.note(
          "suspect",
          f"all kinds of {columns.kind} may be targets: "
          f"{', '.join(kind_names[:4])}",
          f"LogFiles.target_where = {purchases!r}",
        )
    if self._num_known is not None:
      self._note_spelling(items, item_ids, good & (items >= self._num_known))
      unknown = good & (items >= self._num_known)
      rows.count(self._problems, "unknown_item", unknown)
      good &= ~unknown
    chosen = np.flatnonzero(good)
    if columns.order:
      chosen = chosen[np.argsort(_joined(self._order)[chosen], kind="stable")]
    idle = np.zeros(len(user_ids), bool)
    idle[users[users >= 0]] = True
    users, retained = _renumbered(users[chosen])
    idle[retained] = False
    events = events_lib.Events(
      users=users,
      items=items[chosen],
      timestamps=times[chosen],
      user_ids=id_codes.Column(user_ids.take(pa.array(retained))),
      num_rows=rows.num_rows,
      by_time=self._by_time,
      idle_users=user_ids.filter(pa.array(idle)).to_pylist(),
    )
    if kinds is not None:
      events = dataclasses.replace(
        events, kinds=kinds[chosen].astype(np.int8), kind_names=kind_names
      )
    if columns.targets is not None:
      targets = columns.targets.holds(masks, len(rows))
      events = dataclasses.replace(events, targets=targets[chosen])
    return events

  def _bad(
    self, users: np.ndarray, items: np.ndarray, readable: np.ndarray
  ) -> list[tuple[str, np.ndarray]]:
    """The kinds of bad row with bool[n], the first of a row counts."""
    return [
      ("missing_user", users < 0),
      ("missing_item", items < 0),
      ("bad_timestamp", ~readable),
    ]

  def _finish_times(self, count: int) -> tuple[np.ndarray, np.ndarray]:
    """int64[n] milliseconds or positions, and bool[n] whether readable."""
    columns = self._columns
    self._by_time = columns.time is not None
    if columns.time is None:
      return np.arange(count), np.ones(count, bool)
    found = self._times.finish()
    for severity, message, remedy in found.notes:
      self._problems.note(severity, message, remedy)
    if count and not found.readable.any():
      raise InputError(self._unreadable_times())
    self._problems.times = f"{columns.time}: {found.how}"
    self._by_time = found.by_time
    return found.values, found.readable

  def _unreadable_times(self) -> str:
    """Says that no time can be read, and how they could be."""
    columns = self._columns
    where = f"{self._rows.location(0)}: no time of the column {columns.time!r}"
    first = repr(self._first_times[0].as_py())
    bound = columns.time_format or columns.time_unit
    if bound is not None:
      trial = times_lib.TimeReader(missing=columns.missing)
      trial.add(self._first_times)
      found = trial.finish()
      if found.readable.any():
        name = "time_format" if columns.time_format else "time_unit"
        return (
          f"{where} can be read as LogFiles.{name} = {bound!r}; the first is "
          f"{first}. They can be read as {found.how}: set {found.binding}, or "
          f"remove LogFiles.{name}."
        )
    return (
      f"{where} can be read as {bound or 'a time'}; the first is {first}. Set "
      "LogFiles.time_format to their pattern, such as '%d.%m.%Y %H:%M', "
      f"LogFiles.time_unit to one of {', '.join(times_lib.UNITS)}, or "
      "LogFiles.time_column to another column or to None."
    )

  def _compare_dates(
    self, masks: dict[where_lib.Comparison, np.ndarray]
  ) -> None:
    """Compares dates with days as times, however the column writes them."""
    for name, reader in self._dates.items():
      found = reader.finish()
      if not found.readable.any():
        continue  # Texts that are compared as texts.
      for leaf in masks:
        if leaf.column == name and where_lib.is_day(leaf):
          masks[leaf] = where_lib.time_mask(leaf, found.values, found.readable)
      if found.how not in _PLAIN_DATES:
        self._problems.note(
          "info",
          f"the column {name!r} is compared with days, and read as {found.how}",
        )

  def _note_no_numbers(self) -> None:
    """Says where a column that is compared with numbers has other values."""
    for name, parts in self._no_numbers.items():
      bad = _joined(parts)
      if bad.any():
        first = self._rows.location(int(np.argmax(bad)))
        self._problems.note(
          "suspect",
          f"{np.count_nonzero(bad):,} values of {name!r} are no numbers, the "
          f"first is {self._first_texts[name]!r} at {first}; no comparison "
          "with a number holds for them",
        )

  def _selected(
    self, masks: dict[where_lib.Comparison, np.ndarray], count: int
  ) -> np.ndarray:
    """bool[n], the rows that `where` leaves; the others are counted."""
    good = np.ones(count, bool)
    where = self._columns.where
    if where is None:
      return good
    negative = _joined(self._negative)
    for clause in where.clauses:
      fails = good & ~clause.holds(masks, count)
      returned = int(np.count_nonzero(fails & negative))
      self._problems.exclude(f"{clause.text}, negative: a return", returned)
      excluded = int(np.count_nonzero(fails)) - returned
      self._problems.exclude(clause.text, excluded)
      good &= ~fails
    if count and not good.any():
      counts = ", ".join(
        f"{text} ({rows:,})" for text, rows in self._problems.excluded.items()
      )
      raise InputError(
        f"{where.binding} leaves none of {count:,} rows. Left out by {counts}."
        + "".join(f" Note: {note.message}." for note in self._problems.notes())
      )
    return good

  def _note_spelling(
    self, items: np.ndarray, item_ids: pa.Array, unknown: np.ndarray
  ) -> None:
    """A note if unknown ids would be known in another spelling."""
    codes = np.unique(items[unknown])
    if not len(codes):
      return
    known = item_ids.slice(0, self._num_known)
    found = id_rules.spelling(item_ids.take(pa.array(codes)), known)
    if found is not None:
      here, there = found.example
      self._problems.note(
        "wrong",
        f"{found.matched:,} of {found.unknown:,} unknown item ids are in the "
        f"catalogue in another spelling: {here!r} here, {there!r} there",
        found.binding,
      )


class _Rows:
  """The file and line of every row."""

  def __init__(self) -> None:
    self._files: list[str] = []
    self._lines: list[np.ndarray] = []
    self.num_rows = 0

  def add(self, file: str, rows: json_blocks.Rows) -> None:
    self._files.append(file)
    self._lines.append(rows.lines)
    self.num_rows += rows.num_rows

  def finish(self) -> None:
    self._starts = np.cumsum([0, *map(len, self._lines)])

  def __len__(self) -> int:
    return int(self._starts[-1])

  def location(self, row: int) -> str:
    block = int(np.searchsorted(self._starts, row, "right")) - 1
    line = int(self._lines[block][row - self._starts[block]])
    return problems_lib.location(self._files[block], line)

  def count(
    self, problems: problems_lib.Problems, kind: str, bad: np.ndarray
  ) -> None:
    if bad.any():
      first = self.location(int(np.argmax(bad)))
      problems.add(kind, first, int(np.count_nonzero(bad)))


class _Ids:
  """Ids of all blocks as codes by first appearance, -1 where missing."""

  def __init__(self) -> None:
    self._codes = id_codes.IdCodes()
    self._reserved = 0
    self._missing: list[np.ndarray] = []

  def reserve(self, ids: pa.Array) -> None:
    """Gives distinct ids the first codes."""
    self._codes.add(ids)
    self._reserved = len(ids)

  def add(self, ids: pa.Array) -> None:
    self._missing.append(ids.is_null().to_numpy(zero_copy_only=False))
    self._codes.add(ids.drop_null())

  def start(self) -> None:
    self._codes.start()

  def finish(self) -> tuple[np.ndarray, pa.LargeStringArray]:
    """int32[n] codes, and the ids by code."""
    found, ids = self._codes.finish()
    missing = _joined(self._missing)
    codes = np.full(len(missing), -1, np.int32)
    codes[~missing] = found[self._reserved :]
    return codes, ids


def _renumbered(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Codes by first appearance in this order, int32, and the old code of each.

  Rows that were dropped may leave codes that no row has any more.
  """
  first = np.full(int(codes.max(initial=-1)) + 1, -1, np.int64)
  first[codes[::-1]] = np.arange(len(codes))[::-1]
  old = np.flatnonzero(first >= 0)
  old = old[np.argsort(first[old], kind="stable")]
  new = np.empty(len(first), np.int32)
  new[old] = np.arange(len(old), dtype=np.int32)
  return new[codes], old


def _column(table: pa.Table, name: str) -> pa.Array:
  if name not in table.column_names:
    return pa.nulls(table.num_rows, pa.large_string())
  column = table[name]
  return column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)


def _joined(parts: list[np.ndarray]) -> np.ndarray:
  return np.concatenate(parts) if parts else np.empty(0, bool)
