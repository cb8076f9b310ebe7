"""Training, validation and test documents, as ranges of the sorted events.

A document is a range of one user's events: in `train` the training events, in
`validation` and `test` a history with the target as its last event. Ranges
cannot mix users, and `leakage` checks the rest. Where only some events may be
targets, such as purchases among views, the others are history and never the
last event of an evaluated document.
"""

from __future__ import annotations

import dataclasses
import datetime

import numpy as np

from calrec_jax.data.logs import events as events_lib
from calrec_jax.errors import InputError

SPLITS = ("train", "validation", "test")
METHODS = ("leave_one_out", "global_temporal")


@dataclasses.dataclass(frozen=True, eq=False)
class Documents:
  """Documents of one split; document d is `events[starts[d]:stops[d]]`.

  Attributes:
    users: int32[D], the user of each document.
    starts: int64[D], first event of each.
    stops: int64[D], index after the last event of each.
  """

  users: np.ndarray
  starts: np.ndarray
  stops: np.ndarray

  def __len__(self) -> int:
    return len(self.users)

  def take(self, rows: np.ndarray) -> Documents:
    """The documents at `rows`, in that order."""
    return Documents(self.users[rows], self.starts[rows], self.stops[rows])

  def events(self) -> np.ndarray:
    """Rows of the events of all documents, int64."""
    return ranges(self.starts, self.stops)


@dataclasses.dataclass(frozen=True)
class Boundaries:
  """The first times of validation and of the test, in unix milliseconds."""

  validation_start: int
  test_start: int


def leave_one_out(events: events_lib.Events) -> dict[str, Documents]:
  """Each user's last target is the test, the one before is validation.

  A history is everything before its target, whatever its kind, and training
  ends before the validation target. Users with fewer than three events that may
  be targets are not evaluated; all their sorted events are for training.
  """
  first, stop, users = _users(events)
  rows, earlier = _targets(events)
  last = earlier[stop] - 1  # Index in `rows` of each user's last target.
  evaluated = earlier[stop] - earlier[first] >= 3
  validation = rows[np.where(evaluated, last - 1, 0)]
  test = rows[np.where(evaluated, last, 0)]
  train_stop = np.where(evaluated, validation, stop)
  return {
    "train": Documents(users, first, train_stop),
    "validation": Documents(users, first, validation + 1).take(evaluated),
    "test": Documents(users, first, test + 1).take(evaluated),
  }


def global_temporal(
  events: events_lib.Events, boundaries: Boundaries
) -> dict[str, Documents]:
  """Training before a day, validation before a later day, test from then on.

  The target is each user's first event of the period that may be one. The
  history is everything before it: it ends where the period begins, but for
  events of other kinds, such as views, between that day and the target. A user
  without an event before the target, or without a target in the period, is not
  evaluated in it.

  Args:
    events: Sorted events.
    boundaries: First days of validation and of the test.
  """
  first, stop, users = _users(events)
  times = events.timestamps
  validation, test = (
    _first_at_or_after(events, first, stop, day)
    for day in (boundaries.validation_start, boundaries.test_start)
  )
  rows, earlier = _targets(events)

  def document(at_or_after: np.ndarray, before: int | None) -> Documents:
    target = rows[earlier[at_or_after]]  # Possibly another user's.
    has_target = target < stop
    at = np.where(has_target, target, 0)
    keep = has_target & (target > first)
    if before is not None:
      keep &= times[at] < before
    return Documents(users, first, target + 1).take(keep)

  return {
    "train": Documents(users, first, validation).take(validation > first),
    "validation": document(validation, boundaries.test_start),
    "test": document(test, None),
  }


def boundaries(
  events: events_lib.Events,
  *,
  validation_start: str | int | None,
  test_start: str | int | None,
  validation_fraction: float,
  test_fraction: float,
) -> Boundaries:
  """The days of a global temporal split, given or by fractions of all events.

  Args:
    events: Events of the log.
    validation_start: First day of validation as ISO 8601 text or unix
      milliseconds; None finds it by the fraction.
    test_start: First day of the test, likewise.
    validation_fraction: Fraction of the events that may be targets between
      the two days.
    test_fraction: Fraction of them from the second day on.

  Raises:
    InputError: If the log has positions instead of times, or the days are out
      of order.
  """
  if not events.by_time:
    raise InputError(
      "Domain.split = 'global_temporal' needs times, but the log holds "
      "positions only (LogFiles.time_unit or LogFiles.time_column). Use "
      "Domain.split = 'leave_one_out'."
    )
  for name, fraction in (
    ("validation_fraction", validation_fraction),
    ("test_fraction", test_fraction),
  ):
    if not 0 < fraction < 0.5:
      raise InputError(f"Domain.{name} is {fraction}; it must be in (0, 0.5).")
  times = np.sort(events.timestamps[events.target_mask()])

  def start(given: str | int | None, name: str, fraction: float) -> int:
    if given is not None:
      return _milliseconds(given, name)
    return int(times[int(len(times) * (1 - fraction))])

  both = validation_fraction + test_fraction
  result = Boundaries(
    start(validation_start, "validation_start", both),
    start(test_start, "test_start", test_fraction),
  )
  if not times[0] < result.validation_start < result.test_start <= times[-1]:
    raise InputError(
      "Domain.validation_start and Domain.test_start must lie in this order "
      f"within the log: first event {day(int(times[0]))}, validation "
      f"{day(result.validation_start)}, test {day(result.test_start)}, last "
      f"event {day(int(times[-1]))}."
    )
  return result


def ranges(starts: np.ndarray, stops: np.ndarray) -> np.ndarray:
  """The integers from each start up to its stop, concatenated."""
  lengths = stops - starts
  before = np.cumsum(lengths) - lengths
  return np.arange(lengths.sum()) + np.repeat(starts - before, lengths)


def keep_last(
  documents: Documents, max_history: int | None, *, target: bool
) -> Documents:
  """Drops the oldest events beyond `max_history`, not counting the target."""
  if max_history is None:
    return documents
  limit = max_history + (1 if target else 0)
  return dataclasses.replace(
    documents, starts=np.maximum(documents.starts, documents.stops - limit)
  )


def day(milliseconds: int) -> str:
  """A time as ISO 8601 text in UTC."""
  try:
    time = datetime.datetime.fromtimestamp(milliseconds / 1000, datetime.UTC)
  except (ValueError, OverflowError, OSError):
    return f"{milliseconds} ms"
  return time.isoformat(timespec="seconds").removesuffix("+00:00")


def _milliseconds(value: str | int, name: str) -> int:
  if isinstance(value, int):
    return value
  try:
    return round(events_lib.milliseconds(value))
  except (TypeError, ValueError) as error:
    raise InputError(
      f"Domain.{name} is {value!r}; it must be ISO 8601 text such as "
      "'2017-11-01', or unix milliseconds."
    ) from error


def _users(
  events: events_lib.Events,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """First event, index after the last event, and row of every user."""
  offsets = events_lib.starts(events.users)
  return offsets[:-1], offsets[1:], events.users[offsets[:-1]]


def _targets(
  events: events_lib.Events,
) -> tuple[np.ndarray, np.ndarray]:
  """Rows that may be targets, and how many of them precede each row.

  Returns:
    int64[T + 1], the rows and the number of all events; int64[E + 1].
  """
  if events.targets is None:
    every = np.arange(len(events) + 1)
    return every, every
  mask = events.targets
  rows = np.append(np.flatnonzero(mask), len(events))
  return rows, np.concatenate([[0], np.cumsum(mask)])


def _first_at_or_after(
  events: events_lib.Events, first: np.ndarray, stop: np.ndarray, time: int
) -> np.ndarray:
  """Each user's first event at or after a time; its `stop` if there is none."""
  earlier = np.concatenate([[0], np.cumsum(events.timestamps < time)])
  return first + earlier[stop] - earlier[first]
