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
from calrec_jax.data.logs import events
from calrec_jax.errors import InputError
from calrec_jax.storage import lineage

CHECKPOINT = "checkpoint"
_SECOND = 1000  # Cards give times to the second.
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
    return possible & ~_known(times, offsets, possible, trained)


def _known(
  times: np.ndarray, offsets: np.ndarray, possible: np.ndarray, trained: Trained
) -> np.ndarray:
  """bool[E], which events were trained on."""
  before = times < trained.before
  if not trained.held_out:
    return before
  earlier = np.concatenate([[0], np.cumsum(before & possible)])
  counts = np.diff(earlier[offsets])  # Targets before then, by user.
  known = np.where(counts < _EVALUATED, counts, counts - trained.held_out)
  ranks = np.concatenate([[0], np.cumsum(possible)])
  lengths = np.diff(offsets)
  of_user = ranks[:-1] - np.repeat(ranks[offsets[:-1]], lengths)
  return before & (of_user < np.repeat(known, lengths))


def on_or_after(value: str | int) -> Since:
  """The events on or after a day, as ISO 8601 text or unix milliseconds.

  Raises:
    InputError: If the text is no day.
  """
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
