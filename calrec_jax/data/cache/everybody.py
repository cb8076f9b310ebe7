"""Everybody in a log and all their events, for `calrec infer`.

A cache's splits hold the documents of the k-core, and those of a temporal split
end with a user's first event of a period. An answer for today needs more: the
newest events of all users, also of those whom the splits leave out. They are in
one more file of the cache's folder, `everybody.parquet`, which is not in the
manifest: it is written with the cache, or when it is missing, and changes
neither the files nor the fingerprint of a cache that is there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from calrec_jax.data import records
from calrec_jax.data.cache.files import MARKS, DocumentRecord
from calrec_jax.data.domain import domain as domain_lib
from calrec_jax.data.logs.columns import id_codes
from calrec_jax.storage import atomic

NAME = "everybody"
"""The "split" of a `TokenCache` with all events of all users."""
FILE = f"{NAME}.parquet"
_SCHEMA = 1
_ABOUT = b"calrec_jax"


@dataclasses.dataclass(frozen=True, eq=False)
class Everybody:
  """All users of a log, with their events on items of the catalogue.

  Attributes:
    user_ids: Ids of U users in the source, in its order.
    offsets: int64[U + 1]; user u has the events `offsets[u]:offsets[u + 1]`.
    items: int32[E], catalogue rows, each user's oldest first.
    timestamps: int64[E], unix milliseconds or positions.
    kinds: int8[E], codes of `records.EventKinds`, or None.
    targets: bool[E], which events may be targets, or None if all may.
    other_events: int64[U], events on items outside the catalogue.
    core_events: int64[U], events that the k-core retains.
    min_count: Smallest number of events of a user in the k-core.
    max_history: Maximum number of newest events of a history, or None.
  """

  user_ids: list[str]
  offsets: np.ndarray
  items: np.ndarray
  timestamps: np.ndarray
  kinds: np.ndarray | None
  targets: np.ndarray | None
  other_events: np.ndarray
  core_events: np.ndarray
  min_count: int
  max_history: int | None

  def __len__(self) -> int:
    return len(self.user_ids)

  @functools.cached_property
  def rows(self) -> dict[str, int]:
    """The row of each user."""
    return {user_id: row for row, user_id in enumerate(self.user_ids)}

  def document(self, user: int) -> DocumentRecord:
    """The newest events of a user, as many as in the longest document."""
    start, stop = int(self.offsets[user]), int(self.offsets[user + 1])
    if self.max_history is not None:
      start = max(start, stop - self.max_history - 1)
    kinds, targets = (
      None if column is None else column[start:stop]
      for column in (self.kinds, self.targets)
    )
    return DocumentRecord(
      self.user_ids[user],
      self.items[start:stop],
      self.timestamps[start:stop],
      kinds,
      targets,
    )

  def purchases(self, *, every_kind: bool = False) -> records.Purchases:
    """All events that may be targets, user by user.

    Args:
      every_kind: Whether other events, such as views, are included.
    """
    if every_kind or self.targets is None:
      return records.Purchases(self.items, self.offsets)
    before = np.concatenate([[0], np.cumsum(self.targets)])
    return records.Purchases(self.items[self.targets], before[self.offsets])

  @functools.cached_property
  def sha256(self) -> str:
    """Hash of the events and of whose they are."""
    digest = hashlib.sha256()
    for user_id in self.user_ids:
      digest.update(f"{user_id}\0".encode())
    for column in (self.offsets, self.items, self.kinds, self.targets):
      if column is not None:
        digest.update(np.ascontiguousarray(column).tobytes())
    return digest.hexdigest()


def collect(
  domain: domain_lib.Domain, prepared: domain_lib.Prepared
) -> Everybody:
  """Everybody in a prepared domain."""
  events = prepared.everybody
  known = events.items >= 0
  num_users = len(events.user_ids)
  idle = list(events.idle_users)

  def count(users: np.ndarray) -> np.ndarray:
    counts = np.bincount(users, minlength=num_users)
    return np.concatenate([counts, np.zeros(len(idle), np.int64)])

  events = events.take(known)
  return Everybody(
    user_ids=[*id_codes.strings(events.user_ids).to_pylist(), *idle],
    offsets=np.concatenate([[0], np.cumsum(count(events.users))]),
    items=events.items.astype(np.int32),  # Sorted by user.
    timestamps=events.timestamps.astype(np.int64),
    kinds=None if events.kinds is None else events.kinds.astype(np.int8),
    targets=events.targets,
    other_events=count(prepared.everybody.users[~known]),
    core_events=count(prepared.events.users),
    min_count=domain.min_count,
    max_history=domain.max_history,
  )


def write(
  folder: str | os.PathLike[str], everybody: Everybody, fingerprint: str
) -> None:
  """Writes the file into a cache's folder, atomically.

  Args:
    folder: Folder of the cache.
    everybody: Content of the file.
    fingerprint: Fingerprint of the cache, whose catalogue rows these are.
  """
  offsets = pa.array(everybody.offsets, pa.int64())

  def lists(values: np.ndarray) -> pa.Array:
    return pa.LargeListArray.from_arrays(offsets, pa.array(values))

  columns = {
    "user_id": pa.array(everybody.user_ids, pa.large_string()),
    "items": lists(everybody.items),
    "timestamps": lists(everybody.timestamps),
    "other_events": pa.array(everybody.other_events),
    "core_events": pa.array(everybody.core_events),
  }
  for mark in MARKS:
    if (marks := getattr(everybody, mark)) is not None:
      columns[mark] = lists(marks)
  about = {
    "schema": _SCHEMA,
    "fingerprint": fingerprint,
    "min_count": everybody.min_count,
    "max_history": everybody.max_history,
  }
  table = pa.table(columns).replace_schema_metadata(
    {_ABOUT: json.dumps(about).encode()}
  )
  with atomic.replacing(pathlib.Path(folder) / FILE) as part:
    pq.write_table(table, part, compression="zstd", write_page_checksum=True)


def read(folder: str | os.PathLike[str], fingerprint: str) -> Everybody | None:
  """Reads the file; None if there is none that belongs to the cache.

  Args:
    folder: Folder of the cache.
    fingerprint: Fingerprint of the cache.
  """
  path = pathlib.Path(folder) / FILE
  with _unusable_is_missing():
    table = pq.read_table(path, page_checksum_verification=True)
    about = json.loads((table.schema.metadata or {})[_ABOUT])
    if (about["schema"], about["fingerprint"]) != (_SCHEMA, fingerprint):
      return None
    whole = {name: table[name].combine_chunks() for name in table.column_names}

    def values(name: str) -> np.ndarray:
      return whole[name].flatten().to_numpy(zero_copy_only=False)

    return Everybody(
      user_ids=whole["user_id"].to_pylist(),
      offsets=np.concatenate([[0], np.cumsum(_lengths(whole["items"]))]).astype(
        np.int64
      ),
      items=values("items"),
      timestamps=values("timestamps"),
      **{mark: values(mark) if mark in whole else None for mark in MARKS},
      other_events=whole["other_events"].to_numpy(),
      core_events=whole["core_events"].to_numpy(),
      min_count=about["min_count"],
      max_history=about["max_history"],
    )
  return None


def _lengths(lists: pa.Array) -> np.ndarray:
  return lists.value_lengths().to_numpy(zero_copy_only=False)


@contextlib.contextmanager
def _unusable_is_missing() -> Iterator[None]:
  """A file that is missing, truncated or of another version."""
  with contextlib.suppress(OSError, pa.ArrowException, KeyError, ValueError):
    yield
