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
import pyarrow.compute as pc

from calrec_jax.data.logs import problems as problems_lib

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
  """

  item_ids: Sequence[str]
  columns: dict[str, Sequence[Any]]
  file: str
  lines: np.ndarray
  available: tuple[str, ...] = ()
  num_rows: int = 0


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
    return dataclasses.replace(
      self,
      users=self.users[rows],
      items=self.items[rows],
      timestamps=self.timestamps[rows],
      kinds=None if self.kinds is None else self.kinds[rows],
      targets=None if self.targets is None else self.targets[rows],
    )


def join(
  *,
  users: pa.StringArray,
  items: pa.StringArray,
  timestamps: np.ndarray,
  readable: np.ndarray,
  catalogue: Sequence[str],
  file: str,
  lines: np.ndarray,
  problems: problems_lib.Problems,
  by_time: bool = True,
  num_rows: int | None = None,
) -> Events:
  """Raw columns to events; rows that cannot be one are counted and skipped.

  Args:
    users: Ids of the users; null where missing.
    items: Ids of the items; null where missing.
    timestamps: int64[n], milliseconds or positions.
    readable: bool[n], whether the time could be read.
    catalogue: Ids of the known items.
    file: Path of the file, for the locations of bad rows.
    lines: int64[n], the line where each row starts.
    problems: Counter of the bad rows, one kind per row.
    by_time: Whether `timestamps` are times.
    num_rows: Number of rows in the file; None if all are in the columns.

  Returns:
    The good rows, in order.
  """
  no_user = _to_numpy(users.is_null())
  no_item = _to_numpy(items.is_null()) & ~no_user
  no_time = ~readable & ~no_user & ~no_item
  known = pc.index_in(items, value_set=pa.array(catalogue, items.type))
  codes = _to_numpy(pc.fill_null(known, -1))
  good = ~(no_user | no_item | no_time)
  unknown = good & (codes < 0)
  for kind, mask in (
    ("missing_user", no_user),
    ("missing_item", no_item),
    ("bad_timestamp", no_time),
    ("unknown_item", unknown),
  ):
    problems.add_rows(kind, file, lines[mask])
  good &= ~unknown
  encoded = users.filter(pa.array(good)).dictionary_encode()
  return Events(
    users=_to_numpy(encoded.indices).astype(np.int32),
    items=codes[good].astype(np.int32),
    timestamps=timestamps[good],
    user_ids=encoded.dictionary.to_pylist(),
    num_rows=len(users) if num_rows is None else num_rows,
    by_time=by_time,
    idle_users=idle_users(users, good, encoded.dictionary),
  )


def idle_users(
  users: pa.StringArray, good: np.ndarray, active: pa.StringArray
) -> list[str]:
  """Ids of users none of whose rows is an event, by first appearance.

  Args:
    users: Id in each of n rows; null where missing.
    good: bool[n], which rows are events.
    active: Ids of the users with an event.
  """
  if good.all():
    return []
  others = users.filter(pa.array(~good)).drop_null().unique()
  idle = pc.invert(pc.is_in(others, value_set=active))
  return others.filter(idle).to_pylist()


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
  by_time = np.argsort(events.timestamps, kind="stable")
  by_user = np.argsort(events.users[by_time], kind="stable")
  return events.take(by_time[by_user])


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
