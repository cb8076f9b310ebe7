"""Ranked lists, the form in which every recommender answers."""

from typing import NamedTuple

import numpy as np


class Ranking(NamedTuple):
  """Ranked lists of B users, `depth` places each.

  Attributes:
    items: int32[B, depth], catalogue rows, best first; -1 fills up a list that
      has fewer candidates than places.
    scores: float32[B, depth], descending; -inf where `items` is -1. Only
      their order is comparable between recommenders.
    tail_ties: int32[B], how many more candidates beyond the list have
      exactly the score of the last listed one.
  """

  items: np.ndarray
  scores: np.ndarray
  tail_ties: np.ndarray
