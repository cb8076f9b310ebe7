"""One list from the lists of several recommenders, by their scores or ranks.

By ranks, reciprocal rank fusion (Cormack, Clarke and Büttcher, SIGIR 2009, with
k = 60), members need not know how sure they are:

    score(i) = sum over members of  weight / (k + rank of i)

By scores (CombSUM; Fox and Shaw, TREC-2, 1994) a member that is sure of its
first item is heard. Each list is brought between 0 at its end and 1 at its
head, so members need not share a scale:

    score(i) = sum over members of  weight * (s_i - end) / (head - end)

Tied items share their mean rank, and a tie that the end of a member's list cuts
through counts for none of its items: the order of rows decides nothing, and
items with the same text keep the same score.

Tested against a loop in `tests/unit/recommend/test_fuse.py`.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import gin
import numpy as np

from calrec_jax.errors import InputError, at_least, check, one_of, refuse
from calrec_jax.metrics.ranking import Ranking
from calrec_jax.recommend import candidates, protocol
from calrec_jax.recommend.fuse.chosen import Chosen
from calrec_jax.recommend.protocol import Recommender


@gin.configurable
@dataclasses.dataclass(frozen=True, kw_only=True)
class Fusion:
  """How lists are fused.

  Attributes:
    members: Names of the recommenders whose lists "fused" joins. The default
      combines the model, sequential rules, repeated purchases and the words of
      the last item; adding "sasrec" is better still.
    by: Quantity that is joined, "scores" or "ranks". Scores need members whose
      scores say how much better an item is, as those of "dense" and "sasrec".
    weights: Weight of each member, in their order; empty for equal ones. None
      chooses them by what validation users bought, see `fusion_weights`; a
      text is the folder of a stage whose chosen weights are used, such as that
      of the model that was fitted before the last events were known.
    users: Most validation users that choose the weights.
    k: Damping of the first ranks; 60 in the paper.
    places: Least length of each member's list; an item beyond it gets nothing
      from that member.
    rule: CANDIDATES, the candidate rule under which weights are chosen.
  """

  members: Sequence[str] = (
    "dense",
    "sequential_rules",
    "own_most_frequent",
    "last_item",
    "bm25_last_item",
  )
  by: str = "scores"
  weights: Sequence[float] | str | None = None
  users: int = 2048
  k: float = 60.0
  places: int = 200
  rule: str = candidates.DEFAULT

  def __post_init__(self):
    check(
      self,
      by=one_of("ranks", "scores"),
      k=at_least(0),
      places=at_least(1),
      users=at_least(1),
      rule=one_of(*candidates.RULES),
    )
    if any(not weight > 0 for weight in self.numbers or ()):
      refuse(self, "weights", "all must be above 0.")
    if isinstance(self.members, str) or len(self.members) < 2:
      refuse(self, "members", "name two recommenders or more.")

  @property
  def numbers(self) -> tuple[float, ...] | None:
    """The weights that are given; None where they are chosen."""
    if self.weights is None or isinstance(self.weights, str):
      return None
    return tuple(self.weights)


class Fused(Recommender):
  """Joins the rankings of other recommenders."""

  name = "fused"

  def __init__(
    self,
    members: Sequence[Recommender],
    *,
    settings: Fusion | None = None,
    chosen: Chosen | None = None,
  ):
    """Takes the recommenders whose lists are joined.

    Args:
      members: Recommenders whose lists are joined.
      settings: How they are joined.
      chosen: Weights where the settings have no numbers; by default equal
        ones.

    Raises:
      InputError: for fewer than two members, as many weights as do not fit, or
        a stage's weights that are not given.
    """
    self.settings = settings or Fusion()
    if len(members) < 2:
      raise InputError("A fusion needs two recommenders or more.")
    if isinstance(self.settings.weights, str) and chosen is None:
      raise InputError(
        f"Fusion.weights names {self.settings.weights!r}, but the weights that "
        "were chosen there are not given."
      )
    weights, self._chosen = self.settings.numbers, None
    if weights is None and chosen is not None:
      weights, self._chosen = chosen.weights, chosen
    weights = weights or (1.0,) * len(members)
    if len(weights) != len(members):
      raise InputError(
        f"Fusion.weights holds {len(weights)} numbers for {len(members)} "
        "recommenders."
      )
    joined = [pair for pair in zip(members, weights, strict=True) if pair[1]]
    self.num_items = members[0].num_items
    self._named = [
      {"name": member.name, "weight": float(weight)}
      for member, weight in zip(members, weights, strict=True)
    ]
    self._members = [member for member, _ in joined]
    self._weights = [weight for _, weight in joined]

  def describe(self) -> str:
    """One human-readable line: what ranks, and with which settings."""
    names = [
      member.name if weight == 1 else f"{weight:g} x {member.name}"
      for member, weight in zip(self._members, self._weights, strict=True)
    ]
    joined = " + ".join(names)
    if self._chosen is not None:
      joined += f"; weights {self._chosen.how}"
    if self.settings.by == "scores":
      return f"scores, each from the end to the head of its list, of {joined}"
    return f"reciprocal ranks (k={self.settings.k:g}) of {joined}"

  def fingerprint(self) -> dict[str, Any]:
    """The identities of the members."""
    return protocol.identities(self._members)

  def details(self) -> dict[str, Any]:
    """The members, and what they bring where that was measured."""
    if self._chosen is None:
      how = "given" if self.settings.numbers else "equal"
      return {"weights": how, "members": self._named}
    found = {"weights": self._chosen.how, "members": self._named}
    measured = self._chosen.measured
    if measured is None:
      return found
    members = [
      {**named, **of_member}
      for named, of_member in zip(
        self._named, measured.of_members(), strict=True
      )
    ]
    chosen_by = {
      "split": "validation",
      "users": measured.users,
      "candidates": self.settings.rule,
      "metric": "ndcg@10",
      "value": measured.value._asdict(),
    }
    return {**found, "members": members, "chosen_by": chosen_by}

  def _rank(self, request: protocol.Request) -> dict[str, Ranking]:
    depth = max(request.depth, self.settings.places)
    rankings = [
      member.recommend(request.histories, depth=depth, rules=request.rules)
      for member in self._members
    ]
    return {
      rule: self._fuse([ranking[rule] for ranking in rankings]).cut(
        excluded, request.depth
      )
      for rule, excluded in request.excluded.items()
    }

  def _fuse(self, rankings: Sequence[Ranking]) -> protocol.Listed:
    items, scores = [], []
    for user in range(len(rankings[0].items)):
      rows, values = [], []
      for ranking, weight in zip(rankings, self._weights, strict=True):
        listed, parts = contributions(ranking, user, self.settings)
        rows.append(listed)
        values.append(weight * parts)
      distinct, index = np.unique(np.concatenate(rows), return_inverse=True)
      summed = np.bincount(index, np.concatenate(values), len(distinct))
      items.append(distinct)
      scores.append(summed.astype(np.float32))
    return protocol.Listed(items, scores)


def contributions(
  ranking: Ranking, user: int, settings: Fusion
) -> tuple[np.ndarray, np.ndarray]:
  """The rows of one list, and the unweighted contribution to each, float64."""
  if settings.by == "scores":
    return scaled_scores(ranking, user)
  listed, ranks = mean_ranks(ranking, user)
  return listed, 1.0 / (settings.k + ranks)


def mean_ranks(ranking: Ranking, user: int) -> tuple[np.ndarray, np.ndarray]:
  """The rows of one list and their ranks from 1, tied ones sharing the mean.

  Items of a tie that continues beyond the list are left out.
  """
  items, scores, _ = _whole_ties(ranking, user)
  _, group, sizes = np.unique(-scores, return_inverse=True, return_counts=True)
  greater = np.cumsum(sizes) - sizes
  return items, (greater + (sizes + 1) / 2)[group]


def scaled_scores(ranking: Ranking, user: int) -> tuple[np.ndarray, np.ndarray]:
  """The rows of one list and their scores, 1 at its head and 0 at its end.

  Items of a tie that continues beyond the list are left out; where all are tied
  they share the head.
  """
  items, scores, end = _whole_ties(ranking, user)
  if not len(items):
    return items, np.zeros(0)
  scores = scores.astype(np.float64)
  reach = scores[0] - end
  if reach == 0:
    return items, np.ones(len(items))
  return items, (scores - end) / reach


def _whole_ties(
  ranking: Ranking, user: int
) -> tuple[np.ndarray, np.ndarray, float]:
  """Items and scores of a list without a tie that its end cuts through.

  The last score is that of the list's end, whether its items are in or not.
  """
  real = ranking.items[user] >= 0
  items, scores = ranking.items[user][real], ranking.scores[user][real]
  end = float(scores[-1]) if len(scores) else 0.0
  if len(items) and ranking.tail_ties[user]:
    inside = scores > end
    items, scores = items[inside], scores[inside]
  return items, scores, end
