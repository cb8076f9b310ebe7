"""Splits histories into documents that fit a row, by their lengths alone.

A history that fits a row is one document, and every event but the first is a
target. A longer one is split into windows: each later window starts with a few
events of context, followed by the next targets, so that every event but the
user's first is a target in exactly one window.

All users are split at once: with prefix sums of the lengths, the end of every
window is one `searchsorted`.
Tested by `tests/unit/data/feed/test_windows.py`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from calrec_jax.data.feed.tokenization import TokenCosts


class Histories(NamedTuple):
  """Tokens of every event of some users.

  Attributes:
    lengths: int[E], tokens of each event, concatenated by user.
    offsets: int64[n + 1]; user i has `lengths[offsets[i]:offsets[i + 1]]`.
  """

  lengths: np.ndarray
  offsets: np.ndarray

  def take(self, users: np.ndarray) -> Histories:
    """The histories of some users, in the given order."""
    counts = (self.offsets[1:] - self.offsets[:-1])[users]
    offsets = np.concatenate([[0], np.cumsum(counts)])
    shift = np.repeat(self.offsets[:-1][users] - offsets[:-1], counts)
    return Histories(self.lengths[np.arange(offsets[-1]) + shift], offsets)


class Limits(NamedTuple):
  """Limits of a document.

  Attributes:
    row_tokens: Maximum number of tokens, item segments included.
    row_slots: Maximum number of targets.
    max_history: Maximum number of items before the last target, or None.
    context: Maximum number of items that later windows repeat as context. They
      take at most half of the row; there is always one.
    item_segments: Whether each target has a segment of its own.
  """

  row_tokens: int
  row_slots: int
  max_history: int | None
  context: int
  item_segments: bool = True


class Windows(NamedTuple):
  """Documents: items `start:stop` of a history, targets from `first_target`.

  Attributes:
    history: int64[W], index of the history.
    start: int64[W], index of the first item in the history.
    first_target: int64[W], index of the first target.
    stop: int64[W], index after the last item, which is the last target.
    tokens: int64[W], tokens of the document, item segments included.
  """

  history: np.ndarray
  start: np.ndarray
  first_target: np.ndarray
  stop: np.ndarray
  tokens: np.ndarray


def first_misfit(
  histories: Histories, limits: Limits, costs: TokenCosts, *, last_only: bool
) -> tuple[int, int, int] | None:
  """The first target that does not fit a row with one item of history.

  Args:
    histories: Histories of all users.
    limits: Limits of a document.
    costs: Tokens that the prompt adds.
    last_only: Whether only the last event of each user is checked.

  Returns:
    (history, index of the event, tokens needed), or None if all fit.
  """
  lengths, offsets = histories
  copies = 2 if limits.item_segments else 1
  needed = lengths[:-1] + copies * lengths[1:]  # [E - 1], targets from 1 on.
  needed = needed + (costs.opening + costs.between)
  if limits.item_segments:
    needed = needed + costs.begin
  is_target = np.ones(len(lengths) + 1, bool)
  is_target[offsets[:-1]] = False
  if last_only:
    is_target[:] = False
    is_target[offsets[1:][np.diff(offsets) > 1] - 1] = True
  misfit = is_target[1:-1] & (needed > limits.row_tokens)
  if not misfit.any():
    return None
  event = int(np.argmax(misfit)) + 1
  history = int(np.searchsorted(offsets, event, side="right")) - 1
  return history, event - int(offsets[history]), int(needed[event - 1])


def cut_all(
  histories: Histories, limits: Limits, costs: TokenCosts, uniform: np.ndarray
) -> Windows:
  """Documents in which every event but a user's first is a target once.

  Args:
    histories: Histories of some users. Those with one event have no target.
    limits: Limits of a document.
    costs: Tokens that the prompt adds.
    uniform: float64[n] in [0, 1), determines the end of the first window of a
      history that does not fit one row. All later windows follow from it, so a
      new sample in every pass moves all of them.
  """
  sums = _Sums(histories, limits, costs)
  begin, end = histories.offsets[:-1], histories.offsets[1:]
  history = np.flatnonzero(end - begin > 1)
  begin, end = begin[history], end[history]
  start, target = begin, begin + 1
  reach = sums.furthest_stop(start, target, end)
  room = uniform[history] * (reach - target)
  stop = np.where(reach == end, end, target + 1 + room.astype(np.int64))
  found = [(history, start, target, stop)]
  while (more := stop < end).any():
    history, begin, end = history[more], begin[more], end[more]
    target = stop[more]
    start = sums.context_start(target, begin)
    stop = sums.furthest_stop(start, target, end)
    found.append((history, start, target, stop))
  columns = zip(*found, strict=True)
  return sums.windows(*(np.concatenate(column) for column in columns))


def cut_last(
  histories: Histories, limits: Limits, costs: TokenCosts
) -> Windows:
  """One document per user, with the last event as target.

  The oldest items are dropped, whole, until the document fits, but never the
  target.
  """
  sums = _Sums(histories, limits, costs)
  begin, end = histories.offsets[:-1], histories.offsets[1:]
  history = np.flatnonzero(end - begin > 1)
  target = end[history] - 1
  start = sums.earliest_start(target, begin[history])
  return sums.windows(history, start, target, target + 1)


class _Sums:
  """Prefix sums that turn the size of a document into a subtraction.

  A document with items s:e and targets t:e has
  `opening - between + full[e] - tail[s] - head[t]` tokens, where every sum is
  non-decreasing; `head` counts the item segments. Indices count events across
  all histories.
  """

  def __init__(self, histories: Histories, limits: Limits, costs: TokenCosts):
    self._offsets = histories.offsets
    self._limits = limits
    self._opening = costs.opening - costs.between
    total = np.zeros(len(histories.lengths) + 1, np.int64)
    np.cumsum(histories.lengths, out=total[1:])
    position = np.arange(len(total))
    self._tail = total + position * costs.between
    self._head = total + position * costs.begin
    if not limits.item_segments:
      self._head = np.zeros_like(total)
    self._full = self._tail + self._head

  def tokens(self, start, target, stop) -> np.ndarray:
    """Tokens of documents."""
    ends = self._full[stop] - self._tail[start] - self._head[target]
    return self._opening + ends

  def furthest_stop(self, start, target, end) -> np.ndarray:
    """The largest stop for which documents satisfy the limits."""
    room = self._limits.row_tokens - self._opening
    room = room + self._tail[start] + self._head[target]
    stop = np.searchsorted(self._full, room, side="right") - 1
    stop = np.minimum(stop, target + self._limits.row_slots)
    if self._limits.max_history is not None:
      stop = np.minimum(stop, start + self._limits.max_history + 1)
    return np.minimum(stop, end)

  def earliest_start(self, target, begin) -> np.ndarray:
    """The smallest start for which a single target satisfies the limits."""
    excess = self._opening + self._full[target + 1] - self._head[target]
    excess = excess - self._limits.row_tokens
    start = np.searchsorted(self._tail, excess, side="left")
    if self._limits.max_history is not None:
      start = np.maximum(start, target - self._limits.max_history)
    return np.maximum(start, begin)

  def context_start(self, target, begin) -> np.ndarray:
    """Start of a later window that leaves room for its targets."""
    excess = self._opening + self._tail[target] - self._limits.row_tokens // 2
    start = np.searchsorted(self._tail, excess, side="left")
    start = np.maximum(start, target - self._limits.context)
    start = np.minimum(start, target - 1)
    return np.maximum(start, self.earliest_start(target, begin))

  def windows(self, history, start, target, stop) -> Windows:
    """Windows with indices relative to their history."""
    if (start >= target).any() or (stop <= target).any():
      raise ValueError(
        "A target does not fit a row with one item of history; `first_misfit` "
        "finds it."
      )
    first = self._offsets[history]
    tokens = self.tokens(start, target, stop)
    return Windows(history, start - first, target - first, stop - first, tokens)
