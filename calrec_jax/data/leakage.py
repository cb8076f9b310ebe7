"""The leakage check: nothing that is to be predicted may have been seen.

It reads the documents as their SeqIO task yields them, not as the split
planned them, so that a mistake anywhere on the way is found. Every event has
a number, its row in the domain's sorted events, which no repeated purchase
can disguise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from calrec_jax.data import domain as domain_lib

CHECKS = (
  "every document is one user's events, in order, as the log has them",
  "a user has at most one document in a split",
  "no validation or test target is in a training document",
  "no test target is in a validation document",
  "no event of a history is after its target or at it",
  "all training events are before the target of their user",
  "training ends before validation begins, and validation before the test",
)


class LeakageError(RuntimeError):
  """A document shows what is to be predicted."""


class Document(Protocol):
  """What the check needs of a document."""

  user_id: str
  items: np.ndarray
  timestamps: np.ndarray
  events: np.ndarray


def check(
  prepared: domain_lib.Prepared, documents: Mapping[str, Sequence[Document]]
) -> list[str]:
  """Checks all documents of a domain.

  Args:
    prepared: the domain's events, to compare the documents with.
    documents: what the task yields, by split.

  Returns:
    What was checked, in words.

  Raises:
    LeakageError: naming the split, the user and the event.
  """
  found = {
    split: _Columns(prepared.name, split, part)
    for split, part in documents.items()
  }
  for columns in found.values():
    _check_documents(prepared, columns)
  _check_targets(found)
  if prepared.boundaries is None:
    return list(CHECKS[:-1])
  validation, test = (
    prepared.boundaries.validation_start,
    prepared.boundaries.test_start,
  )
  found["train"].refuse(
    found["train"].times >= validation, "is trained on after validation began"
  )
  for split, low, high in (
    ("validation", validation, test),
    ("test", test, None),
  ):
    columns = found[split]
    outside = columns.is_target & (columns.times < low)
    if high is not None:
      outside |= columns.is_target & (columns.times >= high)
    columns.refuse(outside, f"is a target outside the {split} period")
    columns.refuse(
      ~columns.is_target & (columns.times >= low),
      f"is in a history after {split} began",
    )
  return list(CHECKS)


class _Columns:
  """The documents of one split as columns, one row an event."""

  def __init__(self, name: str, split: str, documents: Sequence[Document]):
    self.name, self.split = name, split
    self.user_ids = [document.user_id for document in documents]
    lengths = np.array([len(d.events) for d in documents], np.int64)
    self.stops = np.cumsum(lengths)
    self.documents = np.repeat(np.arange(len(documents)), lengths)
    self.events = _join([d.events for d in documents], np.int64)
    self.items = _join([d.items for d in documents], np.int32)
    self.times = _join([d.timestamps for d in documents], np.int64)
    if not len(self.events) == len(self.items) == len(self.times):
      raise LeakageError(f"{name} {split}: columns of different lengths.")
    self.is_target = np.zeros(len(self.events), bool)
    if split != "train":
      self.is_target[self.stops[lengths > 0] - 1] = True

  def refuse(self, bad: np.ndarray, what: str) -> None:
    """Raises for the first event of the mask."""
    if bad.any():
      row = int(np.argmax(bad))
      raise LeakageError(
        f"{self.name} {self.split}: event {self.events[row]} of user "
        f"{self.user_ids[self.documents[row]]!r} {what} "
        f"({int(np.sum(bad))} events in all)."
      )


def _join(arrays: Sequence[np.ndarray], dtype: type) -> np.ndarray:
  return np.concatenate([np.zeros(0, dtype), *arrays])


def _check_documents(prepared: domain_lib.Prepared, columns: _Columns) -> None:
  log = prepared.events
  outside = (columns.events < 0) | (columns.events >= len(log))
  columns.refuse(outside, "is not in the log")
  if len(set(columns.user_ids)) != len(columns.user_ids):
    raise LeakageError(
      f"{columns.name} {columns.split}: a user has two documents."
    )
  rows = {user_id: row for row, user_id in enumerate(log.user_ids)}
  owners = np.array([rows.get(u, -1) for u in columns.user_ids], np.int64)
  columns.refuse(
    log.users[columns.events] != owners[columns.documents],
    "belongs to another user",
  )
  columns.refuse(
    (log.items[columns.events] != columns.items)
    | (log.timestamps[columns.events] != columns.times),
    "is not what the log has",
  )
  back = np.zeros(len(columns.events), bool)
  back[1:] = (columns.documents[1:] == columns.documents[:-1]) & (
    (columns.events[1:] <= columns.events[:-1])
    | (columns.times[1:] < columns.times[:-1])
  )
  columns.refuse(back, "is not after the event before it")


def _check_targets(found: Mapping[str, _Columns]) -> None:
  targets = {
    split: columns.events[columns.is_target] for split, columns in found.items()
  }
  pairs = (("train", "validation"), ("train", "test"), ("validation", "test"))
  for split, later in pairs:
    columns = found[split]
    columns.refuse(
      np.isin(columns.events, targets[later]), f"is a {later} target"
    )
    # A training or validation event may not lie after its user's target.
    target_of = dict(zip(found[later].user_ids, targets[later], strict=True))
    none = np.iinfo(np.int64).max
    limits = np.array(
      [target_of.get(user, none) for user in columns.user_ids], np.int64
    )
    columns.refuse(
      columns.events >= limits[columns.documents],
      f"is not before its user's {later} target",
    )
