"""Count-based baselines of the purchases that are known at some time.

An evaluation counts what the models were trained on; inference counts all that
is known today, which needs no training. Tested by
`tests/unit/recommend/baselines/test_count_based.py`.
"""

import functools
from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from calrec_jax.data.records import Catalogue, Purchases
from calrec_jax.recommend.baselines.baselines import Popularity
from calrec_jax.recommend.baselines.sequential_rules import RuleRanking
from calrec_jax.recommend.protocol import Recommender


class CountBased:
  """Popularity, sequential rules, and dense with its prior.

  Attributes:
    split: Split whose purchases are counted, as a token cache names it.
  """

  def __init__(
    self,
    split: str,
    catalogue: Catalogue,
    read: Callable[[str], Purchases],
    make_dense: Callable[[Float[np.ndarray, " N"]], Recommender],
  ):
    """Takes what is counted; nothing is read before it is needed.

    Args:
      split: Split whose purchases are counted.
      catalogue: Items, with what the training split bought.
      read: Gives the purchases of a split.
      make_dense: Makes dense from recent purchases, see `Purchases.recent`.
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
