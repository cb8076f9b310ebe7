"""Splits histories into documents that fit a row, by their lengths alone.

A history that fits a row is one document, and every event but the first is a
target. A longer one is split into windows: each later window starts with a few
events of context, followed by the next targets, so that every event but the
user's first is a target in exactly one window. Where only some events may be
targets, the others are history: a window reaches from as far back as it has
room to a target.

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
    targets: bool[E], which events may be targets, or None if all may; a user's
      first event never is one.
    kinds: int8[E], kind of each event, or None if there is one kind only.
  """

  lengths: np.ndarray
  offsets: np.ndarray
  targets: np.ndarray | None = None
  kinds: np.ndarray | None = None

  def target_mask(self) -> np.ndarray:
    """bool[E], which events are targets: they have an event before them."""
    mask = np.ones(len(self.lengths), bool)
    if self.targets is not None:
      mask = np.array(self.targets, bool)
    mask[self.offsets[:-1][np.diff(self.offsets) > 0]] = False
    return mask

  def num_targets(self) -> np.ndarray:
    """Number of targets of each user, int64[n]."""
    before = np.concatenate([[0], np.cumsum(self.target_mask())])
    return before[self.offsets[1:]] - before[self.offsets[:-1]]

  def take(self, users: np.ndarray) -> Histories:
    """The histories of some users, in the given order."""
    counts = (self.offsets[1:] - self.offsets[:-1])[users]
    offsets = np.concatenate([[0], np.cumsum(counts)])
    shift = np.repeat(self.offsets[:-1][users] - offsets[:-1], counts)
    events = np.arange(offsets[-1]) + shift
    return Histories(
      self.lengths[events],
      offsets,
      None if self.targets is None else self.targets[events],
      None if self.kinds is None else self.kinds[events],
    )


class Limits(NamedTuple):
  """Limits of a document.

  Attributes:
    row_tokens: Maximum number of tokens, item segments included.
    row_slots: Maximum number of targets.
    max_history: Maximum number of items before the last target, or None.
    context: Maximum number of items that later windows repeat as context. All
      that precedes a window's first target takes at most half of the row, where
      other targets follow; there is always one item.
    item_segments: Whether each target has a segment of its own.
  """

  row_tokens: int
  row_slots: int
  max_history: int | None
  context: int
  item_segments: bool = True


class Windows(NamedTuple):
  """Documents: items `start:stop` of a history, targets from `first_target`.

  Where only some events may be targets, they are those of
  `first_target:stop` that may.

  Attributes:
    history: int64[W], index of the history.
    start: int64[W], index of the first item in the history.
    first_target: int64[W], index of the first target.
    stop: int64[W], index after the last item, which is the last target.
    tokens: int64[W], tokens of the document, item segments included. Where
      the first templates of kinds of event differ in length, at most a few
      more than it has.
    slots: int64[W], number of targets.
  """

  history: np.ndarray
  start: np.ndarray
  first_target: np.ndarray
  stop: np.ndarray
  tokens: np.ndarray
  slots: np.ndarray


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
  lengths, offsets = histories.lengths, histories.offsets
  copies = 2 if limits.item_segments else 1
  needed = lengths[:-1] + copies * lengths[1:]  # [E - 1], targets from 1 on.
  between = costs.between_events(histories.kinds)
  if not isinstance(between, int):
    between = between[:-1] + between[1:] - costs.between
  needed = needed + (costs.opening + between)
  if limits.item_segments:
    needed = needed + costs.begin
  is_target = histories.target_mask()
  if last_only:
    last = _last_targets(histories)
    is_target[:] = False
    is_target[last[last >= 0]] = True
  misfit = is_target[1:] & (needed > limits.row_tokens)
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
    histories: Histories of some users. Those without a target, such as those
      with one event, have no document.
    limits: Limits of a document.
    costs: Tokens that the prompt adds.
    uniform: float64[n] in [0, 1), determines the end of the first window of a
      history that does not fit one row. All later windows follow from it, so a
      new sample in every pass moves all of them.
  """
  sums = _Sums(histories, limits, costs)
  begin, last = histories.offsets[:-1], _last_targets(histories)
  history = np.flatnonzero(last >= 0)
  # What follows the last target is of no use.
  begin, end = begin[history], last[history] + 1
  target = sums.next_target(begin)
  start = sums.context_start(target, begin, seen=begin)
  reach = sums.furthest_stop(start, target, end)
  first, reached, all_of_user = map(sums.targets_before, (target, reach, end))
  room = uniform[history] * (reached - first)
  stop = sums.stop_after(
    np.where(
      reached == all_of_user, all_of_user, first + 1 + room.astype(np.int64)
    )
  )
  start = sums.extended_start(start, target, stop, seen=begin)
  found = [(history, start, target, stop)]
  while (more := stop < end).any():
    history, begin, end = history[more], begin[more], end[more]
    seen = stop[more]
    target = sums.next_target(seen)
    start = sums.context_start(target, begin, seen)
    stop = sums.furthest_stop(start, target, end)
    stop = sums.stop_after(
      np.maximum(sums.targets_before(stop), sums.targets_before(target) + 1)
    )
    start = sums.extended_start(start, target, stop, seen)
    found.append((history, start, target, stop))
  columns = zip(*found, strict=True)
  return sums.windows(*(np.concatenate(column) for column in columns))


def cut_last(
  histories: Histories, limits: Limits, costs: TokenCosts
) -> Windows:
  """One document per user, with the last event that may be one as target.

  The oldest items are dropped, whole, until the document fits, but never the
  target.
  """
  sums = _Sums(histories, limits, costs)
  begin, last = histories.offsets[:-1], _last_targets(histories)
  history = np.flatnonzero(last >= 0)
  target = last[history]
  start = sums.earliest_start(target, begin[history])
  return sums.windows(history, start, target, target + 1)


def _last_targets(histories: Histories) -> np.ndarray:
  """Index of each user's last target among all events, -1 without any."""
  mask = histories.target_mask()
  rows = np.append(np.flatnonzero(mask), -1)
  before = np.concatenate([[0], np.cumsum(mask)])
  ends, begins = before[histories.offsets[1:]], before[histories.offsets[:-1]]
  return np.where(ends > begins, rows[ends - 1], -1)


class _Sums:
  """Prefix sums that turn the size of a document into a subtraction.

  A document with items s:e and targets from t on has
  `opening - between + full[e] - tail[s] - head[t]` tokens, where every sum is
  non-decreasing; `head` counts the item segments of targets. Indices count
  events across all histories.
  """

  def __init__(self, histories: Histories, limits: Limits, costs: TokenCosts):
    self._offsets = histories.offsets
    self._limits = limits
    self._opening = costs.opening - costs.between
    mask = histories.target_mask()
    self._targets = np.append(np.flatnonzero(mask), len(mask))
    self._targets_before = np.zeros(len(mask) + 1, np.int64)
    np.cumsum(mask, out=self._targets_before[1:])
    total = np.zeros(len(mask) + 1, np.int64)
    between = costs.between_events(histories.kinds)
    np.cumsum(histories.lengths + between, out=total[1:])
    self._tail = total
    self._head = np.zeros_like(total)
    if limits.item_segments:
      segments = np.where(mask, histories.lengths + costs.begin, 0)
      np.cumsum(segments, out=self._head[1:])
    self._full = self._tail + self._head

  def tokens(self, start, target, stop) -> np.ndarray:
    """Tokens of documents."""
    ends = self._full[stop] - self._tail[start] - self._head[target]
    return self._opening + ends

  def targets_before(self, event) -> np.ndarray:
    """Number of targets before events, those of earlier users included."""
    return self._targets_before[event]

  def next_target(self, event) -> np.ndarray:
    """The first target at or after events."""
    return self._targets[self._targets_before[event]]

  def stop_after(self, number) -> np.ndarray:
    """The index after the target that is the `number`-th of all, from 1."""
    return self._targets[number - 1] + 1

  def furthest_stop(self, start, target, end) -> np.ndarray:
    """The largest stop for which documents satisfy the limits."""
    room = self._limits.row_tokens - self._opening
    room = room + self._tail[start] + self._head[target]
    stop = np.searchsorted(self._full, room, side="right") - 1
    slots = self._targets_before[target] + self._limits.row_slots
    last = len(self._targets) - 1
    stop = np.minimum(stop, self._targets[np.minimum(slots, last)])
    if self._limits.max_history is not None:
      stop = np.minimum(stop, start + self._limits.max_history + 1)
    return np.minimum(stop, end)

  def earliest_start(self, target, begin) -> np.ndarray:
    """The smallest start for which a single target satisfies the limits."""
    return np.maximum(self._start_of(target, target + 1), begin)

  def extended_start(self, start, target, stop, seen) -> np.ndarray:
    """An earlier start, where a document has room for events not seen yet."""
    earliest = np.maximum(self._start_of(target, stop), seen)
    return np.minimum(start, earliest)

  def _start_of(self, target, stop) -> np.ndarray:
    """The smallest start for which a document satisfies the limits."""
    excess = self._opening + self._full[stop] - self._head[target]
    excess = excess - self._limits.row_tokens
    start = np.searchsorted(self._tail, excess, side="left")
    if self._limits.max_history is not None:
      start = np.maximum(start, stop - 1 - self._limits.max_history)
    return start

  def context_start(self, target, begin, seen) -> np.ndarray:
    """Start of a window that leaves room for its targets.

    Args:
      target: First target of each window.
      begin: First event of its user.
      seen: Index after the last target of the window before, or `begin`;
        events before it are repeated as context.
    """
    excess = self._opening + self._tail[target] - self._limits.row_tokens // 2
    start = np.searchsorted(self._tail, excess, side="left")
    start = np.maximum(start, seen - self._limits.context)
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
    slots = self._targets_before[stop] - self._targets_before[target]
    return Windows(
      history, start - first, target - first, stop - first, tokens, slots
    )
