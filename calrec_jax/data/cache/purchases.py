"""The purchases of users, for baselines that count them."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int


class Purchases(NamedTuple):
  """What users bought, one user after another.

  Attributes:
    items: int[E], catalogue rows, each user's oldest first.
    offsets: int[U + 1], user u has `items[offsets[u]:offsets[u + 1]]`.
  """

  items: Int[np.ndarray, " E"]
  offsets: Int[np.ndarray, " U1"]

  def counts(self, num_items: int) -> Int[np.ndarray, " N"]:
    """How often each item was bought."""
    return np.bincount(self.items, minlength=num_items)

  def recent(self, num_items: int) -> Float[np.ndarray, " N"]:
    """How often each item was bought, a user's n-th last time counting 1/n."""
    lengths = np.diff(self.offsets)
    ages = np.repeat(self.offsets[1:], lengths) - np.arange(len(self.items))
    return np.bincount(self.items, 1.0 / ages, num_items)
