"""Ranking by what others bought soon after an item that the user has.

Sequential rules count, for two purchases of a user, one over their distance
from the earlier item to the later one (Ludewig and Jannach, "Evaluation of
session-based recommendation algorithms", UMUAI 2018; their baseline SR). Here
rules are also divided by powers of how often both items are bought, so that
popular items are not recommended to everybody, and the query is the whole
history, with most weight on its latest item:

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
from calrec_jax.recommend.protocol import Listed, Recommender, Request


@gin.configurable
@dataclasses.dataclass(frozen=True, kw_only=True)
class SequentialRules:
  """How rules are counted and weighed.

  The defaults were chosen on validation users of three categories of Amazon's
  reviews, see `docs/results/amazon.md`.

  Attributes:
    reach: Largest distance of two purchases of a rule, 1 for neighbours only.
    decay: Weight of each item of a history as a fraction of the one after it.
    shrink: Purchases that are added to those of every item: rules of few
      purchases count less.
    asked: Power of the purchases of the item in the history.
    answered: Power of the purchases of the ranked item: 0 favours popular
      items, 1 the others.
  """

  reach: int = 10
  decay: float = 0.5
  shrink: float = 20.0
  asked: float = 0.5
  answered: float = 0.15

  def __post_init__(self):
    check(
      self,
      reach=at_least(1),
      decay=within("(0, 1]"),
      shrink=above(0),
      asked=at_least(0),
      answered=at_least(0),
    )


class RuleRanking(Recommender):
  """Ranks the consequents of the rules of a user's items, and nothing else."""

  name = "sequential_rules"

  def __init__(
    self,
    items: Int[np.ndarray, " E"],
    offsets: Int[np.ndarray, " U1"],
    num_items: int,
    *,
    settings: SequentialRules | None = None,
  ):
    """Counts the rules.

    Args:
      items: Catalogue rows of all E known purchases, user by user, each
        user's oldest first.
      offsets: Ends of the users: u has `items[offsets[u]:offsets[u + 1]]`.
      num_items: Size of the catalogue, N.
      settings: How rules are counted and weighed.
    """
    self.num_items = num_items
    self.settings = settings or SequentialRules()
    self._rules = _rules(items, offsets, num_items, self.settings)

  def describe(self) -> str:
    """One human-readable line: what ranks, and with which settings."""
    settings = self.settings
    return (
      f"what others bought within {settings.reach} purchases after the user's "
      f"items (decay {settings.decay:g}, {self._rules.nnz:,} rules)"
    )

  def _score(self, request: Request) -> Listed:
    queries = self._queries(request.histories)
    answers = scipy.sparse.csr_array(queries @ self._rules)
    parts = [slice(*ends) for ends in itertools.pairwise(answers.indptr)]
    return Listed(
      [answers.indices[part] for part in parts],
      [answers.data[part] for part in parts],
    )

  def _queries(self, histories: Sequence[np.ndarray]) -> scipy.sparse.csr_array:
    """Weights of each user's items, float64[B, N]; the latest event counts."""
    latest = [
      np.unique(history[::-1], return_index=True) for history in histories
    ]
    ends = np.cumsum([0, *(len(rows) for rows, _ in latest)])
    rows = np.concatenate(
      [np.zeros(0, np.int32), *(rows for rows, _ in latest)]
    )
    ages = np.concatenate([np.zeros(0, int), *(ages for _, ages in latest)])
    return scipy.sparse.csr_array(
      (self.settings.decay ** ages.astype(np.float64), rows, ends),
      shape=(len(histories), self.num_items),
    )


def _rules(
  items: np.ndarray, offsets: np.ndarray, size: int, settings: SequentialRules
) -> scipy.sparse.csr_array:
  """The weight of every rule, float64[N, N], from the row to the column."""
  users = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
  shape = (size, size)
  pairs = scipy.sparse.csr_array(shape)
  for distance in range(1, settings.reach + 1):
    same = users[:-distance] == users[distance:]
    earlier, later = items[:-distance][same], items[distance:][same]
    weights = np.full(len(earlier), 1 / distance)
    pairs += scipy.sparse.coo_array((weights, (earlier, later)), shape).tocsr()
  pairs = pairs.tocoo()
  bought = np.bincount(items, minlength=size) + settings.shrink
  row, column = pairs.coords
  weights = pairs.data / (
    bought[row] ** settings.asked * bought[column] ** settings.answered
  )
  return scipy.sparse.coo_array((weights, (row, column)), shape).tocsr()
