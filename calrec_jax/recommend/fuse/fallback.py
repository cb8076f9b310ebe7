"""Lists that are always full: what one recommender leaves empty another fills.

Constrained decoding lists what it wrote, a fusion what was in its members'
first positions. After the last item of such a list come the next recommender's
items, in its order, without those that are listed already, until the list is
full or there are no more candidates.

Tested against a loop in `tests/unit/recommend/test_fallback.py`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from calrec_jax.metrics.ranking import Ranking
from calrec_jax.recommend import protocol
from calrec_jax.recommend.candidates import EMPTY
from calrec_jax.recommend.protocol import Recommender


class WithFallback(Recommender):
  """Fills up the lists of a recommender from others, but not its curve.

  Name, details, validity, explanations and curve are those of the first
  recommender.
  """

  def __init__(self, members: Sequence[Recommender]):
    """Takes the recommenders.

    Args:
      members: Recommender whose lists are filled up, then those that they are
        filled up from, in turn, which only run for users who need them.

    Raises:
      ValueError: for fewer than two members.
    """
    if len(members) < 2:
      raise ValueError("Filling up lists needs two recommenders or more.")
    self._first, *self._others = members
    first = self._first
    self.name, self.num_items = first.name, first.num_items
    self.answers_empty = first.answers_empty

  def describe(self) -> str:
    """One human-readable line: what ranks, and what fills up."""
    names = ", then ".join(member.name for member in self._others)
    return f"{self._first.describe()}; short lists filled up by {names}"

  def fingerprint(self) -> dict[str, Any]:
    """The identities of the members."""
    return protocol.identities([self._first, *self._others])

  def validity(self) -> Mapping[str, float | np.ndarray | None]:
    """See `Recommender`; of the first member."""
    return self._first.validity()

  def details(self) -> Mapping[str, Any]:
    """See `Recommender`; of the first member."""
    return self._first.details()

  def explain(self, position: int) -> list[dict[str, Any]] | None:
    """See `Recommender`; of the first member."""
    return self._first.explain(position)

  def recommend_curve(
    self, histories: Sequence[np.ndarray], **request: Any
  ) -> protocol.Curve | None:
    """See `Recommender`; of the first member."""
    return self._first.recommend_curve(histories, **request)

  def _rank(self, request: protocol.Request) -> dict[str, Ranking]:
    histories = request.histories
    rankings = self._first.recommend(
      histories, depth=request.depth, rules=request.rules
    )
    for member in self._others:
      for rule in request.rules:
        rankings[rule] = _filled(rankings[rule], member, histories, rule)
    return rankings


def _filled(
  ranking: Ranking,
  member: Recommender,
  histories: Sequence[np.ndarray],
  rule: str,
) -> Ranking:
  """A ranking with its short lists filled up from a member's."""
  empty = ranking.items == EMPTY
  short = np.flatnonzero(empty.any(axis=1)).tolist()
  if not short:
    return ranking
  filled = Ranking(*map(np.copy, ranking))
  depth = requested = ranking.items.shape[1]
  while short:
    extra = member.recommend(
      [histories[user] for user in short], depth=requested, rules=(rule,)
    )[rule]
    lists = map(Ranking, *extra)
    short = [
      user
      for user, more in zip(short, lists, strict=True)
      if not _fill(filled, ranking, user, more, depth)
    ]
    requested *= 2
  return filled


def _fill(
  filled: Ranking, ranking: Ranking, user: int, extra: Ranking, depth: int
) -> bool:
  """Fills up one user's list.

  Args:
    filled: Lists to be filled up.
    ranking: The lists as they were.
    user: Index of the user in both.
    extra: The other recommender's list of this user alone, int32[K],
      float32[K] and a number.
    depth: Length of a list.

  Returns:
    Whether the number of ties beyond the list is certain. It is not where the
    other's list ends within a tie, whose remainder may hold items that are
    listed already: a longer list of the other's shows it.
  """
  listed = ranking.items[user][ranking.items[user] != EMPTY]
  real = extra.items != EMPTY
  items, scores = extra.items[real], extra.scores[real]
  new = ~np.isin(items, listed)
  chosen = items[new][: depth - len(listed)]
  if not len(chosen):
    return True
  used = scores[new][: len(chosen)]
  positions = slice(len(listed), len(listed) + len(chosen))
  filled.items[user, positions] = chosen
  last = ranking.scores[user, len(listed) - 1] if len(listed) else 0.0
  filled.scores[user, positions] = _below(np.float32(last), used)
  beyond = np.count_nonzero(scores[new][len(chosen) :] == used[-1])
  unlisted = int(extra.tail_ties) if used[-1] == scores[-1] else 0
  filled.tail_ties[user] = beyond + unlisted
  return not unlisted or not len(np.setdiff1d(listed, items))


def _below(last: np.float32, scores: np.ndarray) -> np.ndarray:
  """Scores in the same order and with the same ties, all below `last`.

  Those of two recommenders have no common scale, so only the order is retained:
  each extra value is one less, or as much less as float32 distinguishes.
  """
  steps = np.cumsum(np.diff(scores, prepend=scores[:1]) != 0) + 1
  farthest = np.float32(abs(last) + 2 * len(scores))
  size = np.maximum(np.float32(1), 2 * np.spacing(farthest))
  return last - size * steps.astype(np.float32)
