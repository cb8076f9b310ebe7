"""The newest events of a domain as targets: `Feed.newest`.

A log that is too large for the time there is should be learned from its newest
part; what came before stays history.
Tested by `tests/unit/data/feed/test_newest.py`.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Int

from calrec_jax.data.cache.token_cache import TokenCache


def newest_targets(
  cache: TokenCache,
  split: str,
  possible: Bool[np.ndarray, " E"] | None,
  count: int,
) -> Bool[np.ndarray, " E"] | None:
  """Which events are targets: the newest of those that may be.

  By time, where the log has times; with positions only, those that are fewest
  steps from the end of their user's history.

  Args:
    cache: Token cache of the domain.
    split: Name of the split.
    possible: Events that may be targets; None if all may.
    count: Number of targets, with all that are as new as the oldest of them.

  Returns:
    A mask of the events, or `possible` where no more than that may be targets.
  """
  lengths, offsets = cache.event_lengths(split)
  chosen = np.ones(len(lengths), bool)
  if possible is not None:
    chosen[:] = possible
  chosen[offsets[:-1][np.diff(offsets) > 0]] = False  # Nothing is before them.
  if np.count_nonzero(chosen) <= count:
    return possible
  ages = _ages(cache, split, chosen, offsets)
  oldest = np.partition(ages[chosen], count - 1)[count - 1]
  return chosen & (ages <= oldest)


def _ages(
  cache: TokenCache,
  split: str,
  chosen: Bool[np.ndarray, " E"],
  offsets: Int[np.ndarray, " U"],
) -> Int[np.ndarray, " E"]:
  """A number for each event, the smaller, the newer."""
  times = cache.event_times(split)
  if times is not None and cache.card.get("period"):
    return -times
  after = np.cumsum(chosen[::-1])[::-1]  # Targets from each event on.
  ends = np.append(after, 0)[offsets[1:]]
  return after - np.repeat(ends, np.diff(offsets))
