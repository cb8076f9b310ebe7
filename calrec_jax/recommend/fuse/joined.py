"""The lists of a fusion's members for users whose next purchase is known.

Only what decides NDCG@10 is held: of users whose next item may be among the
first ten, the items that may come before it. So hundreds of weights are tried
while a model ranks for a few users. Tested against the fusion itself in
`tests/unit/recommend/fuse/test_joined.py`.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import tqdm
from jaxtyping import Bool, Float, Float64, Int

from calrec_jax.metrics import ranking_metrics
from calrec_jax.recommend.fuse.fuse import Fusion, contributions
from calrec_jax.recommend.protocol import Recommender

_CUTOFF = 10
_BATCH_USERS = 256
# Items this near may tie in float32; a fraction of the greatest contribution.
_NEAR = 1e-4
_CHUNK = 1 << 14  # Items whose scores are computed at once, in the cache.


@dataclasses.dataclass(frozen=True, eq=False)
class Joined:
  """The lists of M members for U users; with any weights F may gain something.

  The N items that may come before their next items lie one user after the
  other, each user's behind the next item itself.

  Attributes:
    num_users: Number of users, U.
    users: Index of each of the F users.
    starts: Where the items of each of them start.
    contributions: What each member gives an item; 0 where it is not listed.
    listed: Whether each member lists it.
  """

  num_users: int
  users: Int[np.ndarray, " F"]
  starts: Int[np.ndarray, " F"]
  contributions: Float64[np.ndarray, "M N"]
  listed: Bool[np.ndarray, "M N"]

  @property
  def num_members(self) -> int:
    """Number of members, M."""
    return len(self.contributions)

  def gains(self, weights: Float[np.ndarray, " M"]) -> Float[np.ndarray, " U"]:
    """NDCG@10 of each user's list, joined with these weights."""
    return self.gains_by_value(weights, 0, weights[:1])[0]

  def gains_by_value(
    self,
    weights: Float[np.ndarray, " M"],
    member: int,
    values: Sequence[float] | Float[np.ndarray, " V"],
  ) -> Float[np.ndarray, "V U"]:
    """The same for each value of one member's weight.

    Args:
      weights: Weight of each member; that of `member` is not used.
      member: Index of the member.
      values: Weights of this member.
    """
    gains = np.zeros((len(values), self.num_users))
    others = [
      index for index in np.flatnonzero(weights).tolist() if index != member
    ]
    for first, last in self._chunks:
      bounds = np.append(self.starts, self.contributions.shape[1])
      rows = slice(bounds[first], bounds[last])
      starts = self.starts[first:last] - bounds[first]
      sizes = np.diff(bounds[first : last + 1])
      rest = np.zeros(rows.stop - rows.start)
      listed = np.zeros(len(rest), bool)
      for index in others:
        rest += weights[index] * self.contributions[index, rows]
        listed |= self.listed[index, rows]
      own = self.contributions[member, rows]
      for place, value in enumerate(values):
        heard = listed | self.listed[member, rows] if value > 0 else listed
        found = _gains(rest + value * own, heard, starts, sizes)
        gains[place, self.users[first:last]] = found
    return gains

  @functools.cached_property
  def _chunks(self) -> list[tuple[int, int]]:
    """Ranges of users with about `_CHUNK` items each."""
    part = self.starts // _CHUNK
    firsts = np.flatnonzero(np.diff(part, prepend=-1)).tolist()
    return list(itertools.pairwise([*firsts, len(part)]))


def join(
  members: Sequence[Recommender],
  histories: Sequence[np.ndarray],
  targets: Int[np.ndarray, " U"],
  settings: Fusion,
) -> Joined:
  """Asks every member for its lists.

  Args:
    members: Recommenders that are fused.
    histories: int32[n] catalogue rows of users, one or more, oldest first.
    targets: Catalogue row of the next purchase of each user.
    settings: How lists are joined.
  """
  users, parts = [], [np.zeros((len(members), 0))]
  for user, (items, given) in enumerate(_users(members, histories, settings)):
    position = np.searchsorted(items, targets[user])
    if position == len(items) or items[position] != targets[user]:
      continue
    rivals = _rivals(given, int(position))
    if rivals is not None:
      users.append(user)
      parts.append(rivals)
  sizes = [part.shape[1] for part in parts[1:]]
  given = np.concatenate(parts, axis=1)
  return Joined(
    num_users=len(targets),
    users=np.array(users, np.int64),
    starts=np.cumsum(sizes, dtype=np.int64) - np.array(sizes, np.int64),
    contributions=np.nan_to_num(given),
    listed=~np.isnan(given),
  )


def _rivals(given: np.ndarray, position: int) -> np.ndarray | None:
  """Contributions of the item at a position, then of those it may lose to.

  Whatever the weights are, an item clearly below it in every list that names
  that item is below it, and one clearly above it in every list that names the
  item at the position is above it. None where ten are above it.
  """
  target = given[:, position : position + 1]
  margin = _NEAR * np.nanmax(given)
  with np.errstate(invalid="ignore"):  # Not listed is neither below nor above.
    below = given < target - margin
    above = given > target + margin
  if (above | np.isnan(target)).all(axis=0).sum() >= _CUTOFF:
    return None
  rival = (~below & ~np.isnan(given)).any(axis=0)
  rival[position] = False
  return np.concatenate([target, given[:, rival]], axis=1)


def _users(
  members: Sequence[Recommender],
  histories: Sequence[np.ndarray],
  settings: Fusion,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Listed items of each user, contributions [M, P], NaN where not listed."""
  rule = settings.rule
  with tqdm.tqdm(
    total=len(histories), desc="fused: weights", unit="user"
  ) as bar:
    for start in range(0, len(histories), _BATCH_USERS):
      part = histories[start : start + _BATCH_USERS]
      rankings = [
        member.recommend(part, depth=settings.places, rules=(rule,))[rule]
        for member in members
      ]
      for user in range(len(part)):
        lists = [contributions(ranking, user, settings) for ranking in rankings]
        items = np.unique(np.concatenate([rows for rows, _ in lists]))
        parts = np.full((len(members), len(items)), np.nan)
        for member, (rows, values) in enumerate(lists):
          parts[member, np.searchsorted(items, rows)] = values
        yield items, parts
      bar.update(len(part))


def _gains(
  scores: Float[np.ndarray, " P"],
  heard: Bool[np.ndarray, " P"],
  starts: Int[np.ndarray, " F"],
  sizes: Int[np.ndarray, " F"],
) -> Float[np.ndarray, " F"]:
  """NDCG@10 of each user's first item; tied ones share their mean rank.

  As in a fusion, sums of float64 are compared in float32, where what should be
  equal is; an item that only members without a weight list is in no list.

  Args:
    scores: Joined scores of all items.
    heard: Whether a member with a weight lists the item.
    starts: Where each user's items start.
    sizes: Number of each user's items.
  """
  rounded = scores.astype(np.float32)
  rounded[~heard] = -1.0
  first = np.repeat(rounded[starts], sizes)
  above = (rounded > first).view(np.int8)
  above += rounded >= first  # Twice where greater, once where equal.
  ranks = (np.add.reduceat(above, starts, dtype=np.int32) + 1) / 2
  hit = heard[starts] & (ranks <= _CUTOFF)
  return np.where(hit, ranking_metrics.ndcg(ranks), 0.0)
