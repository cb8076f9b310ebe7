"""Weights of a fusion's members, chosen by what known users bought next.

Which signals a shop has is measured, not assumed: groceries are bought again,
books are not. From equal weights, the change of one weight that raises NDCG@10
of the joined lists most is made, while it exceeds chance: the standard error of
the difference, user by user. So good members stay equal, and what does not help
gets a weight of 0.

Where several members mislead in the same way no single change helps. So the
search starts a second time, from the best member alone, and the better of the
two ends is taken: no fusion is worse than its best member. Of few users, whose
best member is partly the luckiest, the second end must be better beyond chance.

The users' next purchases must not have been trained on. Tested by
`tests/unit/recommend/fuse/test_fusion_weights.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from calrec_jax.metrics.intervals import Bootstrap, Interval
from calrec_jax.recommend.fuse.chosen import Measured
from calrec_jax.recommend.fuse.joined import Joined

VERSION = 2  # Raise it when the same lists give other weights.
VALUES = (0.0, 0.125, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)
# Weights chosen by some users of two shops, measured on the others: of 50 users
# the better end cost up to .004 of NDCG@10, from 200 on it gained up to .002.
_FEW_USERS = 200


class _Point(NamedTuple):
  """Weights, and NDCG@10 of each user with them."""

  weights: Float[np.ndarray, " M"]
  gains: Float[np.ndarray, " U"]


def choose(joined: Joined) -> tuple[float, ...]:
  """The weights of the members.

  Args:
    joined: Lists of the members for users whose next purchase is known.
  """
  num_members = joined.num_members
  alone = [_at(joined, weights) for weights in np.eye(num_members)]
  best = max(alone, key=lambda point: point.gains.mean())
  found = _climb(joined, _at(joined, np.ones(num_members)))
  other = _climb(joined, best)
  if joined.num_users >= _FEW_USERS:
    better = other.gains.mean() > found.gains.mean()
  else:
    ends = best, other
    better = any(_improvement(end.gains, found.gains) for end in ends)
  return tuple((other if better else found).weights.tolist())


def measure(joined: Joined, weights: Sequence[float]) -> Measured:
  """What the members of a fusion bring on the users who chose its weights."""
  given = np.asarray(weights, np.float64)
  fused = joined.gains(given)
  alone = [joined.gains(one) for one in np.eye(len(given))]
  without = [
    joined.gains(np.where(np.arange(len(given)) == member, 0.0, given))
    for member in range(len(given))
  ]
  return Measured(
    users=joined.num_users,
    value=_interval(fused),
    alone=tuple(map(_interval, alone)),
    ahead=tuple(_interval(fused - gains) for gains in alone),
    brings=tuple(
      _interval(fused - gains) if weight else None
      for gains, weight in zip(without, given, strict=True)
    ),
  )


def _interval(values: Float[np.ndarray, " U"]) -> Interval:
  # Not as gin configures evaluations: the numbers are saved, as 95%.
  bootstrap = Bootstrap(resamples=2000, confidence=0.95, seed=0)
  return bootstrap.means(values[:, None])[0]


def _at(joined: Joined, weights: Float[np.ndarray, " M"]) -> _Point:
  return _Point(weights, joined.gains(weights))


def _climb(joined: Joined, start: _Point) -> _Point:
  """Where no change of one weight helps beyond chance."""
  found = start
  while (step := _best_step(joined, found)) is not None:
    found = step
  return found


def _best_step(joined: Joined, start: _Point) -> _Point | None:
  """The best change of one weight; None if none helps."""
  found, best = None, 0.0
  for member in range(joined.num_members):
    trials = joined.gains_by_value(start.weights, member, VALUES)
    for value, gains in zip(VALUES, trials, strict=True):
      more = _improvement(gains, start.gains)
      if more > best:
        weights = start.weights.copy()
        weights[member] = value
        found, best = _Point(weights, gains), more
  return found


def _improvement(
  gains: Float[np.ndarray, " U"], before: Float[np.ndarray, " U"]
) -> float:
  """The mean gain where it exceeds its standard error, else 0."""
  more = gains - before
  mean = float(more.mean())
  return mean if mean > more.std() / np.sqrt(len(more)) else 0.0
