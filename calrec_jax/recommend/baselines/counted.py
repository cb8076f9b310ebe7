"""The recommenders that count purchases, of what is known at some time.

An evaluation counts what the models were trained on. Whoever answers today
counts all that is known today, which no training has to wait for. Tested by
`tests/unit/recommend/test_counted.py`.
"""

import functools
from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from calrec_jax.data.cache.purchases import Purchases
from calrec_jax.data.records import Catalogue
from calrec_jax.recommend.baselines.baselines import Popularity
from calrec_jax.recommend.baselines.sequential_rules import RuleRanking
from calrec_jax.recommend.protocol import Recommender


class Counted:
  """Popularity, sequential rules, and dense with its prior.

  Attributes:
    split: whose purchases are counted, as a token cache names it.
  """

  def __init__(
    self,
    split: str,
    catalogue: Catalogue,
    read: Callable[[str], Purchases],
    make_dense: Callable[[Float[np.ndarray, " N"]], Recommender],
  ):
    """Takes what is counted; nothing is read before it is asked for.

    Args:
      split: whose purchases are counted.
      catalogue: the items, with what the training split bought.
      read: gives the purchases of a split.
      make_dense: makes dense from recent purchases, see `Purchases.recent`.
    """
    self.split = split
    self._catalogue, self._read, self._make_dense = catalogue, read, make_dense

  @functools.cached_property
  def popularity(self) -> Popularity:
    """What is bought most."""
    if self.split == "train":
      return Popularity(self._catalogue.train_counts)
    return Popularity(self._purchases.counts(len(self._catalogue)))

  @functools.cached_property
  def sequential_rules(self) -> RuleRanking:
    """What is bought after what."""
    return RuleRanking(*self._purchases, len(self._catalogue))

  @functools.cached_property
  def dense(self) -> Recommender:
    """The model's vectors, and what is bought lately."""
    if self.split == "train":
      return self._make_dense(self._catalogue.train_recent)
    return self._make_dense(self._purchases.recent(len(self._catalogue)))

  @functools.cached_property
  def _purchases(self) -> Purchases:
    return self._read(self.split)
