"""Ranked lists, the result of every recommender."""

from typing import NamedTuple

import numpy as np


class Ranking(NamedTuple):
  """Ranked lists of B users, of `depth` items each.

  Attributes:
    items: int32[B, depth], catalogue rows, best first; a list with fewer
      candidates is padded with -1.
    scores: float32[B, depth], descending; -inf where `items` is -1. Only
      their order is comparable between recommenders.
    tail_ties: int32[B], number of candidates beyond the list that have exactly
      the score of the last listed one.
  """

  items: np.ndarray
  scores: np.ndarray
  tail_ties: np.ndarray
