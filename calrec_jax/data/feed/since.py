"""Which events are new to a model that trains on: `Feed.since`.

A model of yesterday was trained on the log of yesterday. Trained further on the
log of today, only what is new is a target; all before it is history. New is
what lies on or after a day, or what the checkpoint was not trained on: events
after the newest one of its log, and those that its split had held out.
Tested by `tests/unit/data/feed/test_since.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from calrec_jax.data.cache.token_cache import TokenCache
from calrec_jax.data.domain import splits
from calrec_jax.data.logs import events
from calrec_jax.errors import InputError
from calrec_jax.storage import lineage

CHECKPOINT = "checkpoint"
_SECOND = 1000  # Cards give times to the second.
# Numbers in between are days such as 20240501, or unix seconds.
_NO_MILLISECONDS = (10**7, 10**11)
# Fewest events of a user who is evaluated by `leave_one_out`.
_EVALUATED = 3


@dataclasses.dataclass(frozen=True)
class Trained:
  """The events that a model was trained on.

  Attributes:
    before: Unix milliseconds; events on or after them are new.
    held_out: Number of each user's last possible targets before then that are
      new too, if the user has three or more.
  """

  before: int
  held_out: int = 0


@dataclasses.dataclass(frozen=True)
class Since:
  """What is new to a model, by domain.

  Attributes:
    trained: What it was trained on, by name of the domain. Another domain is
      all new.
    everywhere: The same for every domain, instead.
  """

  trained: Mapping[str, Trained] = dataclasses.field(default_factory=dict)
  everywhere: Trained | None = None

  def of(self, name: str) -> Trained | None:
    """What the model was trained on in a domain; None if in nothing."""
    return self.everywhere or self.trained.get(name)

  def new_events(
    self, cache: TokenCache, split: str, possible: np.ndarray | None
  ) -> np.ndarray | None:
    """Which events of a split are new targets.

    Args:
      cache: Token cache of the domain.
      split: Name of the split.
      possible: bool[E], which events may be targets; None if all may.

    Returns:
      bool[E], or `possible` where all is new.

    Raises:
      InputError: If the events have no times.
    """
    trained = self.of(cache.name)
    if trained is None:
      return possible
    _, offsets = cache.event_lengths(split)
    times = cache.event_times(split)
    if times is None or not cache.card.get("period"):
      raise InputError(
        f"Feed.since needs times, but the log of {cache.name} has positions "
        "only. Bind it to None."
      )
    if possible is None:
      possible = np.ones(len(times), bool)
    later = np.zeros(len(offsets) - 1, np.int64)
    if trained.held_out and not _temporal(cache.card["period"]):
      later = _held_out_now(cache, split, trained.before)
    return possible & ~_known(times, offsets, possible, trained, later)


def _temporal(period: Mapping[str, Any]) -> bool:
  """Whether a split is global temporal, by the period on its card."""
  return "validation_start" in period


def _held_out_now(cache: TokenCache, split: str, before: int) -> np.ndarray:
  """Number of events before a time that the log of today holds out, by user.

  They follow the user's events in `split`, which does not show them.

  Args:
    cache: Token cache of a domain with a leave-one-out split.
    split: Split that is trained on.
    before: Unix milliseconds.

  Returns:
    int64[n], for each user of the split.
  """
  number = 2 if split == "train" else 1
  _, offsets = cache.event_lengths("test")
  times, possible = (
    cache.event_times("test"),
    cache.event_marks("test", "targets"),
  )
  assert times is not None
  found = {}
  for row, user in enumerate(cache.user_ids("test")):
    at = np.arange(offsets[row], offsets[row + 1])
    if possible is not None:
      at = at[possible[at]]
    found[user] = np.count_nonzero(times[at[-number:]] < before)
  users = cache.user_ids(split)
  return np.array([found.get(user, 0) for user in users], np.int64)


def _known(
  times: np.ndarray,
  offsets: np.ndarray,
  possible: np.ndarray,
  trained: Trained,
  later: np.ndarray,
) -> np.ndarray:
  """bool[E], which events were trained on.

  Args:
    times: int64[E], time of each event.
    offsets: int64[n + 1], offsets of users.
    possible: bool[E], which events may be targets.
    trained: What was trained on.
    later: int64[n], number of possible targets of each user that follow these
      events and are before `trained.before` too.
  """
  before = times < trained.before
  if not trained.held_out:
    return before
  earlier = np.concatenate([[0], np.cumsum(before & possible)])
  counts = np.diff(earlier[offsets])  # Targets before then, by user.
  held_out = np.where(counts + later < _EVALUATED, 0, trained.held_out)
  known = counts - np.maximum(held_out - later, 0)
  ranks = np.concatenate([[0], np.cumsum(possible)])
  lengths = np.diff(offsets)
  of_user = ranks[:-1] - np.repeat(ranks[offsets[:-1]], lengths)
  return before & (of_user < np.repeat(known, lengths))


def on_or_after(value: str | int) -> Since:
  """The events on or after a day, as ISO 8601 text or unix milliseconds.

  Raises:
    InputError: If the text is no day.
  """
  low, high = _NO_MILLISECONDS
  if not isinstance(value, str) and low <= value < high:
    raise InputError(
      f"Feed.since = {value}: as unix milliseconds that is "
      f"{splits.day(value)}. Write a day as text, such as '2024-05-01'."
    )
  if isinstance(value, str):
    try:
      value = round(events.milliseconds(value))
    except ValueError as error:
      raise InputError(
        f"Feed.since = {value!r}: must be ISO 8601 text such as '2024-05-01', "
        f"unix milliseconds, {CHECKPOINT!r} or None."
      ) from error
  return Since(everywhere=Trained(value))


def after(record: Mapping[str, Any]) -> Since:
  """What is new to a checkpoint.

  Args:
    record: Lineage of the checkpoint, with the cards of its domains.

  Raises:
    InputError: If it does not say what it was trained on.
  """
  split = lineage.trained_split(record)
  trained = {
    name: _of_card(card, split)
    for name, card in record.get("cards", {}).items()
    if card.get("period")
  }
  if not trained:
    raise InputError(
      f"Feed.since = {CHECKPOINT!r}, but the checkpoint does not say of which "
      "time the events are that it was trained on. Bind a day, such as "
      "'2024-05-01'."
    )
  return Since(trained)


def _of_card(card: Mapping[str, Any], split: str) -> Trained:
  period = card["period"]
  ends = {"train": "validation_start", "validation": "test_start"}
  if ends[split] in period:  # Of a global temporal split.
    return Trained(_milliseconds(period[ends[split]]))
  # All but each user's last two are trained on, or the last after a final fit.
  held_out = {"train": 2, "validation": 1}[split]
  return Trained(_milliseconds(period["last"]) + _SECOND, held_out)


def _milliseconds(text: str) -> int:
  return round(events.milliseconds(text))
