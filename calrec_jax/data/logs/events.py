"""Purchases as columns, and the filters that work on them.

The order of operations is fixed: validate, stable sort by (user, time, input
order), consecutive repeats, iterated k-core. Both filters preserve the order,
and "consecutive" refers to time even if the file is not sorted by time.
"""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute creates its functions at run time.)

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from scipy import sparse

DEDUPS = ("none", "consecutive_id", "consecutive_text")


@dataclasses.dataclass(frozen=True, eq=False)
class Items:
  """The items of a source, with their raw values.

  Attributes:
    item_ids: Distinct ids in the source, in the file's order.
    columns: Raw values by column, one per item.
    file: Path of their file.
    lines: int64[N], the line where each item starts.
    available: Names of all columns of the source, for messages.
    num_rows: Number of item rows in the source, repeated ones included.
    decimal: Decimal sign of prices; None decides it by the column.
    missing: Words that mean a missing value.
  """

  item_ids: Sequence[str]
  columns: dict[str, Sequence[Any]]
  file: str
  lines: np.ndarray
  available: tuple[str, ...] = ()
  num_rows: int = 0
  decimal: str | None = None
  missing: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, eq=False)
class Events:
  """Purchases as columns.

  Attributes:
    users: int32[E], rows of `user_ids`.
    items: int32[E], rows of the items.
    timestamps: int64[E], unix milliseconds, or positions.
    user_ids: Ids of the users in the source.
    num_rows: Number of rows in the source, bad ones included.
    by_time: Whether `timestamps` are times rather than positions.
    kinds: int8[E], rows of `kind_names`; None if all events are of one kind.
    kind_names: Names of the kinds of event, such as `("view", "purchase")`.
    targets: bool[E], which events may be targets (`LogFiles.target_where`);
      None if all may.
    idle_users: Ids of the users of the source none of whose rows is an event.
  """

  users: np.ndarray
  items: np.ndarray
  timestamps: np.ndarray
  user_ids: Sequence[str]
  num_rows: int
  by_time: bool = True
  kinds: np.ndarray | None = None
  kind_names: tuple[str, ...] = ()
  targets: np.ndarray | None = None
  idle_users: Sequence[str] = ()

  def __len__(self) -> int:
    return len(self.users)

  def target_mask(self) -> np.ndarray:
    """bool[E], which events may be targets."""
    if self.targets is None:
      return np.ones(len(self), bool)
    return self.targets

  def take(self, rows: np.ndarray) -> Events:
    """The events at `rows`, indices or a mask, in that order."""
    if rows.dtype == bool and rows.all():
      return self
    return dataclasses.replace(
      self,
      users=self.users[rows],
      items=self.items[rows],
      timestamps=self.timestamps[rows],
      kinds=None if self.kinds is None else self.kinds[rows],
      targets=None if self.targets is None else self.targets[rows],
    )


def milliseconds(text: str) -> float:
  """Unix milliseconds of an ISO 8601 text, in UTC unless it has a zone.

  Raises:
    ValueError: If it is not ISO 8601.
  """
  time = datetime.datetime.fromisoformat(text)
  zone = time.tzinfo or datetime.UTC
  return time.replace(tzinfo=zone).timestamp() * 1000


def sort(events: Events) -> Events:
  """Events grouped by user, each user's by time; ties keep the input order."""
  times = events.timestamps
  if np.all(times[1:] >= times[:-1]):
    return events.take(_by_code(events.users))
  by_time = np.argsort(times, kind="stable")
  return events.take(by_time[_by_code(events.users[by_time])])


def _by_code(codes: np.ndarray) -> np.ndarray:
  """int[n], the stable order of codes that are dense: no comparisons needed.

  A sparse matrix with one entry a column, turned to rows, is a counting sort.
  """
  bounds = np.arange(len(codes) + 1)
  entries = np.ones(len(codes), np.int8)
  shape = (int(codes.max(initial=-1)) + 1, len(codes))
  return sparse.csc_array((entries, codes, bounds), shape).tocsr().indices


def distinct(codes: np.ndarray) -> int:
  """Number of different codes, int[n]."""
  seen = np.zeros(int(codes.max(initial=-1)) + 1, bool)
  seen[codes] = True
  return int(np.count_nonzero(seen))


def repeats(
  events: Events, values: np.ndarray, *, same_kind: bool = False
) -> np.ndarray:
  """bool[E], whether an event has the value of its user's previous event.

  Args:
    events: Sorted events.
    values: [E], one value per event, such as its item or time.
    same_kind: Whether both must be of one kind, and both targets or neither:
      a purchase does not repeat the view before it.
  """
  same = np.zeros(len(events), bool)
  columns = [events.users, values]
  if same_kind:
    columns += [c for c in (events.kinds, events.targets) if c is not None]
  same[1:] = np.logical_and.reduce([c[1:] == c[:-1] for c in columns])
  return same


def duplicates(events: Events) -> np.ndarray:
  """bool[E], whether an event is a second one of its user, item and time.

  Also of its kind, where there are several, and both targets or neither. Such
  events come from exports that overlap; the first one is the event.

  Args:
    events: Sorted events.
  """
  again = np.zeros(len(events), bool)
  tied = np.zeros(len(events), bool)
  tied[1:] = repeats(events, events.timestamps)[1:]
  tied[:-1] |= tied[1:]
  rows = np.flatnonzero(tied)
  columns = [rows, events.items[rows]]  # The last is the first key.
  for column in (events.kinds, events.targets):
    if column is not None:
      columns.insert(1, column[rows])
  columns += [events.timestamps[rows], events.users[rows]]
  order = np.lexsort(columns)
  same = np.logical_and.reduce(
    [column[order][1:] == column[order][:-1] for column in columns[1:]]
  )
  again[rows[order[1:][same]]] = True
  return again


def k_core(events: Events, min_count: int) -> tuple[Events, int]:
  """Drops users and items with few events, repeatedly, until none is left.

  Events of every kind count. Where only some may be targets, a user without
  any is dropped too: there is nothing to learn or to evaluate. An item that
  nobody bought stays if it was seen often enough, as history and as a
  candidate.

  Args:
    events: Events in any order.
    min_count: Number of events below which users and items are dropped.

  Returns:
    The remaining events, in order, and the number of passes that dropped any.
  """
  passes = 0
  while len(events):
    users = np.bincount(events.users)
    items = np.bincount(events.items)
    keep = (users[events.users] >= min_count) & (
      items[events.items] >= min_count
    )
    if events.targets is not None:
      bought = np.bincount(events.users, events.targets)
      keep &= bought[events.users] > 0
    if keep.all():
      break
    events = events.take(keep)
    passes += 1
  return events, passes


def starts(sorted_groups: np.ndarray) -> np.ndarray:
  """int64[R + 1]: start of each run of equal values, and the total length."""
  if not len(sorted_groups):
    return np.zeros(1, np.int64)
  change = np.flatnonzero(np.diff(sorted_groups)) + 1
  return np.concatenate([[0], change, [len(sorted_groups)]]).astype(np.int64)


def _to_numpy(array: pa.Array) -> np.ndarray:
  return array.to_numpy(zero_copy_only=False)
