"""Weights of a fusion's members, chosen by what known users bought next.

Which signals a shop has is measured, not assumed: groceries are bought again,
books are not. From equal weights, the change of one weight that raises NDCG@10
of the joined lists most is made, while it exceeds chance: the standard error of
the difference, user by user. So good members stay equal, and what does not help
gets a weight of 0.

The users' next purchases must not have been trained on. Tested against the
fusion itself and the metrics of an evaluation in
`tests/unit/recommend/test_fusion_weights.py`.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import tqdm
from jaxtyping import Bool, Float, Float64, Int

from calrec_jax.metrics import ranking_metrics
from calrec_jax.recommend.fuse.fuse import Fusion, contributions
from calrec_jax.recommend.protocol import Recommender

VERSION = 1  # Raise it when the same lists give other weights.
VALUES = (0.0, 0.125, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)
_CUTOFF = 10
_BATCH_USERS = 256


class Joined(NamedTuple):
  """The lists of all M members for U users, with up to P distinct items each.

  Attributes:
    contributions: What each member gives an item; 0 where it is not listed.
    filled: Whether a position holds an item.
    target: Position of the user's next item; 0 where no member lists it.
    found: Whether each member lists it.
  """

  contributions: Float64[np.ndarray, "U P M"]
  filled: Bool[np.ndarray, "U P"]
  target: Int[np.ndarray, " U"]
  found: Bool[np.ndarray, "U M"]


def choose(
  members: Sequence[Recommender],
  histories: Sequence[np.ndarray],
  targets: Int[np.ndarray, " U"],
  settings: Fusion,
) -> tuple[tuple[float, ...], float]:
  """The weights, and the NDCG@10 that they have on these users.

  Args:
    members: Recommenders that are fused.
    histories: int32[n] catalogue rows of users, one or more, oldest first.
    targets: Catalogue row of the next purchase of each user.
    settings: How lists are joined.
  """
  joined = join(members, histories, targets, settings)
  weights = np.ones(len(members))
  gains = user_ndcg(joined, weights)
  while (step := _best_step(joined, weights, gains)) is not None:
    weights, gains = step
  return tuple(weights.tolist()), float(gains.mean())


def user_ndcg(
  joined: Joined, weights: Float[np.ndarray, " M"]
) -> Float[np.ndarray, " U"]:
  """NDCG@10 of each user's list, joined with these weights."""
  return _gains(joined, joined.contributions @ weights, weights)


def join(
  members: Sequence[Recommender],
  histories: Sequence[np.ndarray],
  targets: Int[np.ndarray, " U"],
  settings: Fusion,
) -> Joined:
  """The lists of every member; see `choose`."""
  users = list(_users(members, histories, targets, settings))
  shape = (len(users), max(len(items) for items, _ in users), len(members))
  joined = Joined(
    np.zeros(shape),
    np.zeros(shape[:2], bool),
    np.zeros(len(users), np.int64),
    np.zeros(shape[::2], bool),
  )
  for user, (items, parts) in enumerate(users):
    joined.contributions[user, : len(items)] = np.nan_to_num(parts)
    joined.filled[user, : len(items)] = True
    [position] = np.nonzero(items == targets[user])
    if len(position):
      joined.target[user] = position[0]
      joined.found[user] = ~np.isnan(parts[position[0]])
  return joined


def _users(
  members: Sequence[Recommender],
  histories: Sequence[np.ndarray],
  targets: Int[np.ndarray, " U"],
  settings: Fusion,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Listed items of each user, contributions [P, M], NaN where not listed."""
  rule = settings.rule
  with tqdm.tqdm(total=len(targets), desc="fused: weights", unit="user") as bar:
    for start in range(0, len(targets), _BATCH_USERS):
      part = histories[start : start + _BATCH_USERS]
      rankings = [
        member.recommend(part, depth=settings.places, rules=(rule,))[rule]
        for member in members
      ]
      for user in range(len(part)):
        lists = [contributions(ranking, user, settings) for ranking in rankings]
        items = np.unique(np.concatenate([rows for rows, _ in lists]))
        parts = np.full((len(items), len(members)), np.nan)
        for member, (rows, values) in enumerate(lists):
          parts[np.searchsorted(items, rows), member] = values
        yield items, parts
      bar.update(len(part))


def _best_step(
  joined: Joined,
  weights: Float[np.ndarray, " M"],
  gains: Float[np.ndarray, " U"],
) -> tuple[np.ndarray, np.ndarray] | None:
  """The best change of one weight, and what users gain; None if none helps."""
  found, best = None, 0.0
  for member in range(len(weights)):
    others = weights.copy()
    others[member] = 0.0
    rest = joined.contributions @ others
    for value in VALUES:
      trial = others.copy()
      trial[member] = value
      reached = _gains(
        joined, rest + value * joined.contributions[..., member], trial
      )
      more = reached - gains
      error = more.std() / np.sqrt(len(more))
      if more.mean() > max(best, error):
        found, best = (trial, reached), more.mean()
  return found


def _gains(
  joined: Joined,
  scores: Float[np.ndarray, "U P"],
  weights: Float[np.ndarray, " M"],
) -> Float[np.ndarray, " U"]:
  """NDCG@10 of joined scores; tied items share their mean rank.

  As in a fusion, sums of float64 are compared in float32, where what should be
  equal is.
  """
  scores = np.where(joined.filled, scores, -1.0).astype(np.float32)
  target = np.take_along_axis(scores, joined.target[:, None], axis=1)
  greater = np.count_nonzero(scores > target, axis=1)
  equal = np.count_nonzero(scores == target, axis=1)
  ranks = greater + (equal + 1) / 2
  listed = (joined.found & (weights > 0)).any(axis=1)
  hit = listed & (ranks <= _CUTOFF)
  return np.where(hit, ranking_metrics.ndcg(ranks), 0.0)
