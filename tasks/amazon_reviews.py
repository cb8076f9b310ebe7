"""Amazon's reviews as purchases: user, item and time only."""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute defines its functions at run time.)

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from calrec_jax.data.logs import problems as problems_lib
from calrec_jax.data.logs.columns import id_codes
from calrec_jax.data.logs.json import row_stream
from calrec_tasks import amazon_releases

# As milliseconds this is in 1973, as seconds in the year 5138: no review is
# from either time, so that the magnitude of a number tells its unit.
_MILLISECONDS_FROM = 10**11
_TOO_LATE = 10**14


class Reviews(NamedTuple):
  """The usable reviews, in the file's order.

  Attributes:
    users: int32[n], row of each user in `user_ids`.
    items: int32[n], row of each item in `item_ids`.
    timestamps: int64[n], Unix time in milliseconds.
    lines: int64[n], line of each review in the file.
    user_ids: Ids of the users by first appearance.
    item_ids: Ids of the items by first appearance.
    num_rows: Number of rows in the file.
  """

  users: np.ndarray
  items: np.ndarray
  timestamps: np.ndarray
  lines: np.ndarray
  user_ids: pa.Array
  item_ids: pa.Array
  num_rows: int


def read(
  path: str, release: amazon_releases.Release, problems: problems_lib.Problems
) -> Reviews:
  """Reads a file of reviews.

  Args:
    path: File of JSON lines, plain or gzip, or Parquet.
    release: Release that defines the columns.
    problems: Counter of unusable rows, by kind.
  """
  schema = pa.schema(
    dict.fromkeys(release.user_columns + release.item_columns, pa.string())
    | dict.fromkeys(release.time_columns, pa.int64())
  )
  users, items = id_codes.IdCodes(), id_codes.IdCodes()
  times, lines = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
  num_rows = 0
  for rows in row_stream.read(path, schema, problems):
    num_rows += rows.num_rows
    user = ids(rows.table, release.user_columns)
    item = ids(rows.table, release.item_columns)
    times_of_columns = [rows.table[name] for name in release.time_columns]
    time, readable = _milliseconds(pc.coalesce(*times_of_columns))
    no_user = _is_null(user)
    no_item = _is_null(item) & ~no_user
    no_time = ~readable & ~no_user & ~no_item
    for kind, mask in (
      ("missing_user", no_user),
      ("missing_item", no_item),
      ("bad_timestamp", no_time),
    ):
      problems.add_rows(kind, path, rows.lines[mask])
    good = ~(no_user | no_item | no_time)
    users.add(user.filter(pa.array(good)))
    items.add(item.filter(pa.array(good)))
    times.append(time[good])
    lines.append(rows.lines[good])
  user_codes, user_ids = users.finish()
  item_codes, item_ids = items.finish()
  return Reviews(
    users=user_codes,
    items=item_codes,
    timestamps=np.concatenate(times),
    lines=np.concatenate(lines),
    user_ids=user_ids,
    item_ids=item_ids,
    num_rows=num_rows,
  )


def first_of_each(reviews: Reviews) -> np.ndarray:
  """Which reviews are the first of their user, item and time, bool[n]."""
  order = np.lexsort((reviews.timestamps, reviews.items, reviews.users))
  again = np.ones(max(len(order) - 1, 0), bool)
  for column in (reviews.users, reviews.items, reviews.timestamps):
    ordered = column[order]
    again &= ordered[1:] == ordered[:-1]
  keep = np.ones(len(order), bool)
  keep[order[1:][again]] = False  # The sort is stable: the first one stays.
  return keep


def ids(table: pa.Table, names: Sequence[str]) -> pa.Array:
  """Stripped ids, from the first column with a value."""
  columns = [pc.utf8_trim_whitespace(table[name]) for name in names]
  return first_filled(columns).combine_chunks()


def first_filled(columns: Sequence[pa.ChunkedArray]) -> pa.ChunkedArray:
  """In each row the first text that is not blank, or null."""
  null = pa.scalar(None, pa.string())
  return pc.coalesce(
    *(
      pc.if_else(pc.equal(pc.utf8_trim_whitespace(column), ""), null, column)
      for column in columns
    )
  )


def _milliseconds(values: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
  """Times in milliseconds, int64[n], and which could be read, bool[n]."""
  numbers = pc.fill_null(values, -1).to_numpy()
  readable = (numbers >= 0) & (numbers < _TOO_LATE)
  numbers = np.where(readable, numbers, 0)
  seconds = numbers < _MILLISECONDS_FROM
  return np.where(seconds, numbers * 1000, numbers), readable


def _is_null(array: pa.Array) -> np.ndarray:
  return array.is_null().to_numpy(zero_copy_only=False)
