"""The leakage check: no document may reveal a target.

It reads the very documents that are written to a dataset, not the plan of the
split, so that a mistake in any step is found. Every event is identified by its
row in the domain's sorted events, so that repeated purchases are distinct.
"""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute creates its functions at run time.)

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from calrec_jax.data import records
from calrec_jax.data.domain import domain as domain_lib
from calrec_jax.data.domain import splits
from calrec_jax.data.logs.columns import id_codes
from calrec_jax.errors import CalrecError

CHECKS = (
  "every document is one user's events, in order, as the log has them",
  "a user has at most one document in a split",
  "no validation or test target is in a training document",
  "no test target is in a validation document",
  "no event of a history is after its target or at it",
  "all training events are before the target of their user",
  "training ends before validation begins, and validation before the test",
)
CHECKS_OF_KINDS = (
  "every event has its kind, and every target is one that may be a target",
)


class LeakageError(CalrecError, RuntimeError):
  """A document reveals a target."""


class Check:
  """The check of one domain, one split at a time, the latest split first.

  Only the targets of later splits stay in memory, not their documents.
  """

  def __init__(self, prepared: domain_lib.Prepared) -> None:
    """Prepares to compare documents with the domain's events."""
    self._prepared = prepared
    self._user_ids = id_codes.strings(prepared.events.user_ids)
    self._later: dict[str, _Targets] = {}
    self._passed: set[str] = set()

  def passed(self) -> list[str]:
    """Descriptions of the checks.

    Raises:
      RuntimeError: If a split has not been checked.
    """
    missing = set(splits.SPLITS) - self._passed
    if missing:
      raise RuntimeError(
        f"{self._prepared.name}: {', '.join(sorted(missing))} not checked for "
        "leakage; add every split before its result is used."
      )
    by_day = self._prepared.boundaries is not None
    checks = CHECKS if by_day else CHECKS[:-1]
    if self._prepared.events.targets is not None:
      checks += CHECKS_OF_KINDS
    return list(checks)

  def add(self, split: str, documents: records.DocumentColumns) -> None:
    """Checks the documents of a split.

    Args:
      split: Name of the split; `test` comes first, then `validation`, `train`.
      documents: All documents of the split.

    Raises:
      LeakageError: If one reveals a target, with the split, user and event.
    """
    columns = _Columns(self._prepared.name, split, documents)
    owners = self._check_documents(columns)
    for later, targets in reversed(self._later.items()):
      columns.refuse(targets.events[columns.events], f"is a {later} target")
      # An event of an earlier split may not lie after its user's target.
      columns.refuse(
        columns.events >= targets.by_user[owners][columns.documents],
        f"is not before its user's {later} target",
      )
    if self._prepared.boundaries is not None:
      may_be_target = self._prepared.events.target_mask()[columns.events]
      _check_days(columns, self._prepared.boundaries, may_be_target)
    if split != "train":
      self._later[split] = _Targets(self._prepared, columns, owners)
    self._passed.add(split)

  def _check_documents(self, columns: _Columns) -> np.ndarray:
    """Compares documents with the log; returns the user of each."""
    log = self._prepared.events
    outside = (columns.events < 0) | (columns.events >= len(log))
    columns.refuse(outside, "is not in the log")
    owners = self._owners(columns)
    # The next check finds the events of users that are not in the log.
    if np.bincount(owners + 1)[1:].max(initial=0) > 1:
      raise LeakageError(
        f"{columns.name} {columns.split}: a user has two documents."
      )
    columns.refuse(
      log.users[columns.events] != owners[columns.documents],
      "belongs to another user",
    )
    columns.refuse(
      (log.items[columns.events] != columns.items)
      | (log.timestamps[columns.events] != columns.times),
      "is not what the log has",
    )
    for own, logged in (
      (columns.kinds, log.kinds),
      (columns.targets, log.targets),
    ):
      if logged is not None:
        columns.refuse(
          logged[columns.events] != own, "is not of the kind that the log has"
        )
    if log.targets is not None:
      columns.refuse(
        columns.is_target & ~log.targets[columns.events],
        "is a target, but not of a kind that may be one",
      )
    back = np.zeros(len(columns.events), bool)
    back[1:] = (columns.documents[1:] == columns.documents[:-1]) & (
      (columns.events[1:] <= columns.events[:-1])
      | (columns.times[1:] < columns.times[:-1])
    )
    columns.refuse(back, "is not after the event before it")
    return owners

  def _owners(self, columns: _Columns) -> np.ndarray:
    """int[D], the user of each document by its id; -1 if there is none."""
    ids = id_codes.strings(columns.user_ids)
    # Most likely the user of the last event; a look-up of each id takes longer.
    ends = np.cumsum(np.bincount(columns.documents, minlength=len(ids)))
    owners = np.zeros(len(ids), int)
    if len(columns.events):
      last = columns.events[np.maximum(ends - 1, 0)]
      owners += self._prepared.events.users[last]
    named = self._user_ids.take(pa.array(owners))
    other = np.flatnonzero(~pc.equal(named, ids).to_numpy(zero_copy_only=False))
    if len(other):
      found = pc.index_in(ids.take(pa.array(other)), value_set=self._user_ids)
      owners[other] = pc.fill_null(found, -1)
    return owners


def check(
  prepared: domain_lib.Prepared,
  documents: Mapping[str, records.DocumentColumns],
) -> list[str]:
  """Checks all documents of a domain, by split; see `Check`."""
  checking = Check(prepared)
  for split in reversed(splits.SPLITS):
    checking.add(split, documents[split])
  return checking.passed()


class _Columns:
  """The documents of one split, with the document of each event."""

  def __init__(self, name: str, split: str, documents: records.DocumentColumns):
    self.name, self.split = name, split
    self.user_ids = documents.user_ids
    self.events, self.items = documents.events, documents.items
    self.times = documents.timestamps
    self.kinds, self.targets = documents.kinds, documents.targets
    lengths = np.diff(documents.offsets)
    self.documents = np.repeat(np.arange(len(documents)), lengths)
    sizes = {len(c) for c in (self.events, self.items, self.times)}
    if sizes != {len(self.documents)}:
      raise LeakageError(f"{name} {split}: columns of different lengths.")
    self.is_target = np.zeros(len(self.events), bool)
    if split != "train":
      self.is_target[documents.offsets[1:][lengths > 0] - 1] = True

  def refuse(self, bad: np.ndarray, what: str) -> None:
    """Raises `LeakageError` for the first event of a mask."""
    if bad.any():
      row = int(np.argmax(bad))
      raise LeakageError(
        f"{self.name} {self.split}: event {self.events[row]} of user "
        f"{self.user_ids[self.documents[row]]!r} {what} "
        f"({int(np.sum(bad))} events in all)."
      )


class _Targets:
  """The targets of a split.

  Attributes:
    events: bool[E], whether an event of the log is a target.
    by_user: int64[U], the target of each user; larger than all if none.
  """

  def __init__(
    self, prepared: domain_lib.Prepared, columns: _Columns, owners: np.ndarray
  ):
    rows = columns.events[columns.is_target]
    self.events = np.zeros(len(prepared.events), bool)
    self.events[rows] = True
    self.by_user = np.full(
      len(prepared.events.user_ids), np.iinfo(np.int64).max
    )
    self.by_user[owners[columns.documents[columns.is_target]]] = rows


def _check_days(
  columns: _Columns, days: splits.Boundaries, may_be_target: np.ndarray
) -> None:
  """Checks that a split stays within its period.

  Args:
    columns: Documents of the split.
    days: First days of validation and of the test.
    may_be_target: bool[E], events that may be targets: in a history they must
      precede the period. Others, such as views, may lie between the day when
      it begins and the target.
  """
  if columns.split == "train":
    columns.refuse(
      columns.times >= days.validation_start,
      "is trained on after validation began",
    )
    return
  low, high = days.test_start, np.inf
  if columns.split == "validation":
    low, high = days.validation_start, days.test_start
  began = columns.times >= low
  outside = columns.is_target & (~began | (columns.times >= high))
  columns.refuse(outside, f"is a target outside the {columns.split} period")
  after = ~columns.is_target & began & may_be_target
  columns.refuse(after, f"is in a history after {columns.split} began")
