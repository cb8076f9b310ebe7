"""Ranking by what others bought soon after an item that the user has.

Sequential rules count, for two purchases of a user, one over their distance
from the earlier item to the later one (Ludewig and Jannach, "Evaluation of
session-based recommendation algorithms", UMUAI 2018; their baseline SR). Beside
that, rules here are divided by powers of how often both items are bought, so
that what everybody has is not what everybody is told, and are asked by the
whole history, its latest item most:

    score(b) = sum over the user's items a of  decay^age(a) · rule(a, b)
    rule(a, b) = pairs(a, b) / ((n_a + shrink)^asked · (n_b + shrink)^answered)

Nothing is trained: counting a million purchases takes seconds. Tested against a
loop in `tests/unit/recommend/test_sequential_rules.py`.
"""

import dataclasses
import itertools
from collections.abc import Sequence

import gin
import numpy as np
import scipy.sparse
from jaxtyping import Int

from calrec_jax.errors import above, at_least, check, within
from calrec_jax.metrics.ranking import Ranking
from calrec_jax.recommend import protocol


@gin.configurable
@dataclasses.dataclass(frozen=True, kw_only=True)
class SequentialRules:
  """How rules are counted and asked.

  The defaults were chosen on validation users of three categories of Amazon's
  reviews, see `docs/results/amazon.md`.

  Attributes:
    reach: farthest distance of two purchases of a rule, 1 for neighbours only.
    decay: weight of each item of a history as a share of the one after it.
    shrink: purchases that every item is given beside its own: rules of few
      purchases count less.
    asked: power of the purchases of the item that is asked.
    answered: power of the purchases of the item that is ranked: 0 favours what
      is popular, 1 what is not.
  """

  reach: int = 10
  decay: float = 0.5
  shrink: float = 20.0
  asked: float = 0.5
  answered: float = 0.15

  def __post_init__(self):
    """Refuses rules that count nothing."""
    check(
      self,
      reach=at_least(1),
      decay=within("(0, 1]"),
      shrink=above(0),
      asked=at_least(0),
      answered=at_least(0),
    )


class RuleRanking:
  """Ranks what the rules of a user's items lead to, and no other item."""

  def __init__(
    self,
    items: Int[np.ndarray, " E"],
    offsets: Int[np.ndarray, " U1"],
    num_items: int,
    *,
    settings: SequentialRules | None = None,
    name: str = "sequential_rules",
  ):
    """Counts the rules.

    Args:
      items: catalogue rows of all purchases that are known, user by user,
        each user's oldest first.
      offsets: user u has `items[offsets[u]:offsets[u + 1]]`.
      num_items: size of the catalogue, N.
      settings: how.
      name: key in the metrics file.
    """
    self.name = name
    self.settings = settings or SequentialRules()
    self._num_items = num_items
    self._rules = _rules(items, offsets, num_items, self.settings)

  def describe(self) -> str:
    """One line for people: what ranks, and with which settings."""
    settings = self.settings
    return (
      f"what others bought within {settings.reach} purchases after the user's "
      f"items (decay {settings.decay:g}, {self._rules.nnz:,} rules)"
    )

  def recommend(
    self,
    histories: Sequence[np.ndarray],
    *,
    depth: int,
    rules: Sequence[str] = ("not_last",),
  ) -> dict[str, Ranking]:
    """Ranks by the sum of rules; see `protocol.Recommender`."""
    histories = protocol.check_request(histories, depth, rules, self._num_items)
    answers = self._asked(histories) @ self._rules
    parts = [slice(*ends) for ends in itertools.pairwise(answers.indptr)]
    items = [answers.indices[part] for part in parts]
    scores = [answers.data[part] for part in parts]
    return {
      rule: protocol.top_listed(
        items, scores, protocol.exclusions(histories, rule), depth
      )
      for rule in rules
    }

  def _asked(self, histories: Sequence[np.ndarray]) -> scipy.sparse.csr_array:
    """What each user asks: float64[B, N], an item at its latest place."""
    asked = [
      np.unique(history[::-1], return_index=True) for history in histories
    ]
    ends = np.cumsum([0, *(len(rows) for rows, _ in asked)])
    rows = np.concatenate([np.zeros(0, np.int32), *(rows for rows, _ in asked)])
    ages = np.concatenate([np.zeros(0, int), *(ages for _, ages in asked)])
    return scipy.sparse.csr_array(
      (self.settings.decay ** ages.astype(np.float64), rows, ends),
      shape=(len(histories), self._num_items),
    )


def _rules(
  items: np.ndarray,
  offsets: np.ndarray,
  num_items: int,
  settings: SequentialRules,
) -> scipy.sparse.csr_array:
  """The weight of every rule, float64[N, N], from the row to the column."""
  users = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
  shape = (num_items, num_items)
  pairs = scipy.sparse.csr_array(shape)
  for distance in range(1, settings.reach + 1):
    same = users[:-distance] == users[distance:]
    earlier, later = items[:-distance][same], items[distance:][same]
    weights = np.full(len(earlier), 1 / distance)
    pairs += scipy.sparse.coo_array((weights, (earlier, later)), shape).tocsr()
  pairs = pairs.tocoo()
  bought = np.bincount(items, minlength=num_items) + settings.shrink
  row, column = pairs.coords
  weights = pairs.data / (
    bought[row] ** settings.asked * bought[column] ** settings.answered
  )
  return scipy.sparse.coo_array((weights, (row, column)), shape).tocsr()
