"""Purchases as columns, and the filters that work on them.

The order of operations is fixed: validate, stable sort by (user, time, input
order), consecutive repeats, iterated k-core. Both filters keep the order, so
that sorting first equals sorting last, and "consecutive" means what it says
in a file that is not in order of time.
"""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions at run time.)

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from calrec_jax.data.logs import problems as problems_lib

DEDUPS = ("none", "consecutive_id", "consecutive_text")


@dataclasses.dataclass(frozen=True, eq=False)
class Items:
  """The items of a source, before anything was made of their text.

  Attributes:
    item_ids: Distinct ids in the source, in the file's order.
    columns: Raw values by column, one per item.
    file: Path of the file they come from.
    lines: int64[N], the line each item starts at.
    available: Names of all columns of the source, for messages.
    num_rows: Number of rows about items in the source, repeated ones included.
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
  """

  users: np.ndarray
  items: np.ndarray
  timestamps: np.ndarray
  user_ids: Sequence[str]
  num_rows: int
  by_time: bool = True

  def __len__(self) -> int:
    return len(self.users)

  def take(self, rows: np.ndarray) -> Events:
    """The events at `rows`, or where the mask `rows` holds, in that order."""
    return dataclasses.replace(
      self,
      users=self.users[rows],
      items=self.items[rows],
      timestamps=self.timestamps[rows],
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
  """Raw columns to events; a row that cannot be one is counted and left out.

  Args:
    users: Ids of the users; null where missing.
    items: Ids of the items; null where missing.
    timestamps: int64[n], milliseconds or positions.
    readable: bool[n], whether the time could be read.
    catalogue: Ids of the known items.
    file: Path of the file, for the locations of bad rows.
    lines: int64[n], the line each row starts at.
    problems: Counter of the bad rows, one kind per row.
    by_time: Whether `timestamps` are times.
    num_rows: Number of rows in the file; None if all are in the columns.

  Returns:
    The good rows in their order.
  """
  no_user = _is_null(users)
  no_item = _is_null(items) & ~no_user
  no_time = ~readable & ~no_user & ~no_item
  codes = _to_numpy(
    pc.fill_null(
      pc.index_in(items, value_set=pa.array(catalogue, items.type)), -1
    )
  )
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
  )


def sort(events: Events) -> Events:
  """Events grouped by user, each user's by time; ties keep the input order."""
  by_time = np.argsort(events.timestamps, kind="stable")
  by_user = np.argsort(events.users[by_time], kind="stable")
  return events.take(by_time[by_user])


def repeats(events: Events, keys: np.ndarray) -> np.ndarray:
  """Whether an event has the key of its user's event just before it.

  Args:
    events: Events, sorted.
    keys: [N], one key per item; equal keys are the same thing.

  Returns:
    bool[E].
  """
  same = np.zeros(len(events), bool)
  bought = keys[events.items]
  same[1:] = (events.users[1:] == events.users[:-1]) & (
    bought[1:] == bought[:-1]
  )
  return same


def k_core(events: Events, min_count: int) -> tuple[Events, int]:
  """Drops users and items with few events until none is left.

  Args:
    events: Events in any order.
    min_count: Number of events below which users and items are dropped.

  Returns:
    The remaining events, in their order, and the number of passes that
    dropped something.
  """
  passes = 0
  while len(events):
    users = np.bincount(events.users)
    items = np.bincount(events.items)
    keep = (users[events.users] >= min_count) & (
      items[events.items] >= min_count
    )
    if keep.all():
      break
    events = events.take(keep)
    passes += 1
  return events, passes


def starts(sorted_groups: np.ndarray) -> np.ndarray:
  """Where each run of equal values begins, and the length of the whole."""
  if not len(sorted_groups):
    return np.zeros(1, np.int64)
  change = np.flatnonzero(np.diff(sorted_groups)) + 1
  return np.concatenate([[0], change, [len(sorted_groups)]]).astype(np.int64)


def _is_null(array: pa.Array) -> np.ndarray:
  return _to_numpy(array.is_null())


def _to_numpy(array: pa.Array) -> np.ndarray:
  return array.to_numpy(zero_copy_only=False)
