"""Rows of a log, block by block, to events.

Each block leaves only numbers behind: the codes of its ids, its times, and for
each comparison of a condition whether it holds. So memory grows by some 30
bytes an event, however long the rows are.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from calrec_jax.data.logs import events as events_lib
from calrec_jax.data.logs import problems as problems_lib
from calrec_jax.data.logs.columns import (
  id_codes,
  id_rules,
  numbers,
  time_columns,
  time_notes,
  values,
)
from calrec_jax.data.logs.columns import times as times_lib
from calrec_jax.data.logs.files import row_blocks
from calrec_jax.data.logs.guessing import id_checks, log_checks
from calrec_jax.data.logs.rows import amount_columns, event_rows, where_masks
from calrec_jax.data.logs.rows import where as where_lib
from calrec_jax.errors import InputError

# Ways to write dates that are compared with days without a word.
_PLAIN_DATES = ("ISO 8601", "times of the file's own type")
_SHOWN = 1000  # First times, which show how they could be read.
_DECIDING = 10_000  # First rows, which tell the decimal signs of columns.
_MOST_KINDS = 127  # An int8 numbers them.


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
    decimal: Decimal sign of numbers; None finds that of each column.
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


class Found(NamedTuple):
  """What any thread may read of a block.

  Attributes:
    users: Ids of the users.
    items: Ids of the items.
    times: The times, if it takes no other block to read them.
  """

  users: id_codes.Ids
  items: id_codes.Ids
  times: time_columns.Block | None


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
    self._rows = event_rows.Rows()
    self._users, self._items, self._kinds = (
      event_rows.Ids(),
      event_rows.Ids(),
      event_rows.Ids(),
    )
    self._num_known = None if catalogue is None else len(catalogue)
    if catalogue is not None:
      self._items.reserve(catalogue)
    self._times = times_lib.TimeReader(
      columns.time_unit,
      columns.time_format,
      columns.missing,
      log_checks.quoted(columns.time) if columns.time else "",
    )
    self._first_times: pa.Array = pa.nulls(0)
    self._time_notes: list[problems_lib.Note] = []
    self._order: list[np.ndarray] = []
    # The first blocks wait until enough rows tell the decimal signs.
    self._amounts: amount_columns.AmountColumns | None = None
    self._waiting: list[pa.Table] = []
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
    self._negative: list[np.ndarray] = []

  def read(self, rows: row_blocks.Rows) -> Found:
    """Reads the ids of a block, and its times if it can; any thread may."""
    columns, table = self._columns, rows.table
    return Found(
      self._ids(_column(table, columns.user)),
      self._ids(_column(table, columns.item)),
      self._times.whole(_column(table, columns.time)) if columns.time else None,
    )

  def _ids(self, column: pa.Array) -> id_codes.Ids:
    missing = self._columns.missing
    numbers = values.whole_numbers(column, missing)
    if numbers is not None:  # No rule changes these.
      return numbers
    ids = id_rules.normalise(
      values.ids(column, missing), self._columns.id_rules
    )
    numbers = id_codes.whole_numbers(ids)
    return ids if numbers is None else numbers

  def add(
    self,
    file: str,
    rows: row_blocks.Rows,
    found: Found | None = None,
  ) -> None:
    """Adds a block; values of a column that it lacks are missing.

    Args:
      file: Path of its file, for the locations of bad rows.
      rows: The block.
      found: What `read` says of it, if that has been asked already.
    """
    columns, table = self._columns, rows.table

    def column(name: str) -> pa.Array:
      return _column(table, name)

    for name in (columns.user, columns.item):
      id_checks.note_floats(name, column(name), self._problems)
    self._rows.add(file, rows)
    found = found or self.read(rows)
    self._users.add(found.users)
    self._items.add(found.items)
    if columns.kind:
      self._kinds.add(values.ids(column(columns.kind), columns.missing))
    if columns.time:
      raw = column(columns.time)
      self._times.add(raw, found.times)
      if not len(self._first_times):
        self._first_times = raw.slice(0, _SHOWN)
    numeric = self._numeric()
    if self._amounts is not None:
      self._add_numbers(self._amounts, table)
    elif numeric:
      self._waiting.append(pa.table({name: column(name) for name in numeric}))
      if sum(map(len, self._waiting)) >= _DECIDING:
        self._decide()

  def _numeric(self) -> list[str]:
    """Names of the columns that conditions and the order read."""
    names = [leaf.column for leaf in self._masks]
    if self._columns.order:
      names.append(self._columns.order)
    return list(dict.fromkeys(names))

  def _decide(self) -> amount_columns.AmountColumns:
    """Decides on the decimal signs, and reads the blocks that waited.

    A fixed number of rows decides, so that it does not matter how long the
    blocks are.
    """
    evidence = {}
    for name in self._numeric():
      found, left = numbers.Evidence(), _DECIDING
      for table in self._waiting:
        found = found.merged(numbers.evidence(table[name].slice(0, left)))
        left = max(left - len(table), 0)
      evidence[name] = found
    self._amounts = amounts = amount_columns.AmountColumns(
      evidence, self._columns.decimal, self._columns.missing
    )
    for table in self._waiting:
      self._add_numbers(amounts, table)
    self._waiting = []
    return amounts

  def _add_numbers(
    self, amounts: amount_columns.AmountColumns, table: pa.Table
  ) -> None:
    """Adds what the conditions and the order need of a block."""

    def mask(leaf: where_lib.Comparison) -> np.ndarray:
      column, sign = _column(table, leaf.column), amounts.sign(leaf.column)
      return where_masks.mask(leaf, column, sign, self._columns.missing)

    if name := self._columns.order:
      found, readable = amounts.parse(name, _column(table, name))
      # A row without a number comes after those with one.
      self._order.append(np.where(readable, found, np.inf))
    compared = {leaf.column for leaf in self._masks if leaf.is_of_numbers()}
    for name in sorted(compared):
      amounts.parse(name, _column(table, name))
    for leaf, masks in self._masks.items():
      masks.append(mask(leaf))
    for name, reader in self._dates.items():
      reader.add(_column(table, name))
    if self._columns.where is not None:
      negative = np.zeros(table.num_rows, bool)
      for leaf in self._columns.where.amounts():
        if leaf.column != self._columns.time:
          negative |= mask(leaf)
      self._negative.append(negative)

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
    amounts = self._amounts or self._decide()
    self._users.start()
    self._items.start()
    times, readable = self._finish_times(len(rows))
    users, user_ids = self._users.finish()
    items, item_ids = self._items.finish()
    amounts.note(self._problems)
    masks = {
      leaf: event_rows.joined(parts) for leaf, parts in self._masks.items()
    }
    for leaf, binding in self._time_leaves.items():
      masks[leaf] = where_masks.time_mask(leaf, times, readable, binding)
    self._compare_dates(masks)
    good = self._selected(masks, len(rows))
    self._note_times(times, readable, good)
    for kind, bad in self._bad(users, items, readable):
      rows.count(self._problems, kind, good & bad)
      good &= ~bad
    kinds, kind_names = None, ()
    if columns.kind:
      codes, names = self._kinds.finish()
      self._refuse_many_kinds(names)
      rows.count(self._problems, "missing_kind", good & (codes < 0))
      good &= codes >= 0
      kinds, kind_names = codes, tuple(names.to_pylist())
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
    chosen: Any = slice(None) if good.all() else np.flatnonzero(good)
    self._note_ids(columns.user, users[chosen], user_ids)
    if self._num_known is None:
      self._note_ids(columns.item, items[chosen], item_ids)
    if columns.order:
      order = event_rows.joined(self._order)[chosen]
      chosen = np.flatnonzero(good)[np.argsort(order, kind="stable")]
    idle = np.ones(len(user_ids), bool)
    users, retained = _renumbered(users[chosen], len(user_ids))
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

  def _refuse_many_kinds(self, names: pa.Array) -> None:
    if len(names) > _MOST_KINDS:
      shown = ", ".join(map(repr, names[:4].to_pylist()))
      raise InputError(
        f"LogFiles.event_column = {self._columns.kind!r}: it holds "
        f"{len(names):,} different values, such as {shown}; kinds of event are "
        f"few. Name another column, or None."
      )

  def _note_ids(self, name: str, codes: np.ndarray, ids: pa.Array) -> None:
    missing = self._columns.missing
    id_checks.note(name, codes, ids, missing, self._problems)

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
    if count and not found.readable.any():
      raise InputError(self._unreadable_times())
    self._problems.times = f"{columns.time}: {found.how}"
    self._by_time, self._time_notes = found.by_time, found.notes
    return found.values, found.readable

  def _note_times(
    self, times: np.ndarray, readable: np.ndarray, good: np.ndarray
  ) -> None:
    """Notes on the times, as far as the condition leaves them."""
    name = self._columns.time
    notes = self._time_notes
    if name and self._time_leaves and not good.all():
      quoted = log_checks.quoted(name)
      of_all = time_notes.on_values(times[readable], quoted)
      if of_all and of_all[0] in notes:
        notes = [note for note in notes if note not in of_all]
        notes += time_notes.on_values(times[readable & good], quoted)
    for note in notes:
      self._problems.note(*note)

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
          masks[leaf] = where_masks.time_mask(
            leaf, found.values, found.readable
          )
      if found.how not in _PLAIN_DATES:
        self._problems.note(
          "info",
          f"the column {name!r} is compared with days, and read as {found.how}",
        )

  def _selected(
    self, masks: dict[where_lib.Comparison, np.ndarray], count: int
  ) -> np.ndarray:
    """bool[n], the rows that `where` leaves; the others are counted."""
    good = np.ones(count, bool)
    where = self._columns.where
    if where is None:
      return good
    negative = np.zeros(count, bool)  # If only times are compared.
    if self._negative:
      negative = event_rows.joined(self._negative)
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
        + (self._amounts.excuse() if self._amounts else "")
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
        "unknown_item",
      )
    elif len(known) and not np.any((items >= 0) & (items < len(known))):
      self._problems.note(
        "wrong",
        "no item id of the log is in the catalogue: "
        f"{item_ids[int(codes[0])].as_py()!r} here, {known[0].as_py()!r} there",
        "LogFiles.item_column or LogFiles.item_id_column, if they name others",
      )


def _renumbered(codes: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
  """Codes by first appearance in this order, int32, and the old code of each.

  Rows that were dropped may leave codes that no row has any more.

  Args:
    codes: int32[E], codes below `count`.
    count: Number of codes.
  """
  first = np.full(count, -1, np.int32)
  first[codes[::-1]] = np.arange(len(codes), dtype=np.int32)[::-1]
  old = np.flatnonzero(first >= 0)
  if len(old) == count and np.all(np.diff(first) > 0):  # They are already.
    return codes, old
  old = old[np.argsort(first[old], kind="stable")]
  new = np.empty(len(first), np.int32)
  new[old] = np.arange(len(old), dtype=np.int32)
  return new[codes], old


def _column(table: pa.Table, name: str) -> pa.Array:
  if name not in table.column_names:
    return pa.nulls(table.num_rows, pa.large_string())
  column = table[name]
  return column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
