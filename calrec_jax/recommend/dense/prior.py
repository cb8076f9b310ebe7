"""How often items are bought, as part of the score of two towers.

In-batch negatives come as often as they are bought. What InfoNCE learns from
them is log p(item | user) - log p(item), but for a constant: how much more
likely the item is for this user than for anybody (Bengio and Senecal, 2008, on
the sampled softmax; Yi et al., RecSys 2019, who take the same term off in
training). To rank by p(item | user) the second term is added again.
"""

import numpy as np
from jaxtyping import Float, Int, Num

from calrec_jax.recommend.dense.topk import Rows


class WithPrior:
  """Vectors of items with a term appended to each, for one dot product.

  Users' vectors get a 1 appended, see `queries`.

  Attributes:
    shape: Shape of the vectors, their width one more.
  """

  def __init__(self, vectors: Rows, terms: Float[np.ndarray, " M"]):
    """Takes float32[M, D] in memory or on disk, and what each score gets."""
    self._vectors, self._terms = vectors, terms.astype(np.float32)
    rows, width = vectors.shape
    self.shape = (rows, width + 1)

  def __getitem__(self, rows: slice, /) -> np.ndarray:
    """float32[rows, D + 1]."""
    return np.concatenate(
      [self._vectors[rows], self._terms[rows, None]], axis=1
    )


def queries(users: Float[np.ndarray, "B D"]) -> Float[np.ndarray, "B E"]:
  """Users' vectors as they are compared `WithPrior`."""
  return np.pad(users, ((0, 0), (0, 1)), constant_values=1.0)


def log_popularity(
  counts: Num[np.ndarray, " N"], ids: Int[np.ndarray, " N"]
) -> Float[np.ndarray, " M"]:
  """log(1 + purchases) of each text: the mean over the items that have it.

  Items with the same text share a score, so each is given the likelihood of
  one of them; their sum would put all of them before items that are
  bought more often than any.

  Args:
    counts: Number of purchases of each item in training.
    ids: Id of each item's text.
  """
  mean = np.bincount(ids, weights=counts) / np.bincount(ids)
  return np.log1p(mean).astype(np.float32)
