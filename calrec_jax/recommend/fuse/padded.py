"""Lists that are always full: what one recommender leaves empty another fills.

Constrained decoding lists what it wrote, a fusion what stood in its members'
first places. Behind the last item of such a list come the next recommender's
items, in its order, without those that are listed already, until all places
are taken or there are no more candidates.

Tested against a loop in `tests/unit/recommend/test_padded.py`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from calrec_jax.errors import InputError
from calrec_jax.metrics.ranking import Ranking
from calrec_jax.recommend import protocol
from calrec_jax.recommend.protocol import Recommender

_TOLD_BY_THE_FIRST = ("validity", "explain", "recommend_curve")


class Padded:
  """Fills up the lists of a recommender from others.

  What the first recommender tells beside its lists is told of it alone; a
  curve is not padded.
  """

  def __init__(
    self, members: Sequence[Recommender], *, name: str | None = None
  ):
    """Takes the recommenders.

    Args:
      members: the one whose lists are filled up, then those they are filled up
        from, in turn. They are only asked for users who need them.
      name: key in the metrics file; by default the first one's.

    Raises:
      InputError: for fewer than two members.
    """
    if len(members) < 2:
      raise InputError("Padding needs two recommenders or more.")
    self._members = list(members)
    self.name = name or members[0].name

  def __getattr__(self, attribute: str) -> Any:
    if attribute in _TOLD_BY_THE_FIRST:
      return getattr(self._members[0], attribute)
    raise AttributeError(attribute)

  def describe(self) -> str:
    """One line for people: what ranks, and what fills up."""
    first, *others = self._members
    names = ", then ".join(member.name for member in others)
    return f"{first.describe()}; short lists filled up by {names}"

  def fingerprint(self) -> dict[str, Any]:
    """What decides the members' answers beside data and settings."""
    return protocol.fingerprints(self._members)

  def recommend(
    self,
    histories: Sequence[np.ndarray],
    *,
    depth: int,
    rules: Sequence[str] = ("not_last",),
  ) -> dict[str, Ranking]:
    """Ranks by the first, then the others; see `protocol.Recommender`."""
    first, *others = self._members
    rankings = dict(first.recommend(histories, depth=depth, rules=rules))
    for member in others:
      for rule in rules:
        rankings[rule] = _filled(rankings[rule], member, histories, rule)
    return rankings


def _filled(
  ranking: Ranking,
  member: Recommender,
  histories: Sequence[np.ndarray],
  rule: str,
) -> Ranking:
  """A ranking with its short lists filled up from a member's."""
  empty = ranking.items == protocol.EMPTY
  short = np.flatnonzero(empty.any(axis=1)).tolist()
  if not short:
    return ranking
  filled = Ranking(*map(np.copy, ranking))
  depth = asked = ranking.items.shape[1]
  while short:
    further = member.recommend(
      [histories[user] for user in short], depth=asked, rules=(rule,)
    )[rule]
    short = [
      user
      for place, user in enumerate(short)
      if not _fill(
        filled, ranking, user, Ranking(*(f[place] for f in further)), depth
      )
    ]
    asked *= 2
  return filled


def _fill(
  filled: Ranking,
  ranking: Ranking,
  user: int,
  further: Ranking,
  depth: int,
) -> bool:
  """Fills up one user's list.

  Args:
    filled: gets it.
    ranking: the lists as they were.
    user: the place in both.
    further: the other recommender's list of this user alone, int32[K],
      float32[K] and a number.
    depth: places of a list.

  Returns:
    Whether the number of ties beyond the list is certain. It is not where the
    other's list ends amid a tie whose rest may hold items that are listed
    already: a longer list of the other's tells.
  """
  listed = ranking.items[user][ranking.items[user] != protocol.EMPTY]
  real = further.items != protocol.EMPTY
  items, scores = further.items[real], further.scores[real]
  new = ~np.isin(items, listed)
  chosen = items[new][: depth - len(listed)]
  if not len(chosen):
    return True
  used = scores[new][: len(chosen)]
  places = slice(len(listed), len(listed) + len(chosen))
  filled.items[user, places] = chosen
  last = ranking.scores[user, len(listed) - 1] if len(listed) else 0.0
  filled.scores[user, places] = _below(np.float32(last), used)
  beyond = np.count_nonzero(scores[new][len(chosen) :] == used[-1])
  goes_on = int(further.tail_ties) if used[-1] == scores[-1] else 0
  filled.tail_ties[user] = beyond + goes_on
  return not goes_on or not len(np.setdiff1d(listed, items))


def _below(last: np.float32, scores: np.ndarray) -> np.ndarray:
  """Scores in the same order and with the same ties, all below `last`.

  Those of two recommenders have no common scale, so only the order is kept:
  each further value is one less, or as much less as float32 can tell.
  """
  steps = np.cumsum(np.diff(scores, prepend=scores[:1]) != 0) + 1
  farthest = np.float32(abs(last) + 2 * len(scores))
  size = np.maximum(np.float32(1), 2 * np.spacing(farthest))
  return last - size * steps.astype(np.float32)
