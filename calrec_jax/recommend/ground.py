"""From generated texts to catalogue items: CALRec's quasi-round-robin.

Each distinct text k of a user, with log-probability s_k, is matched to every
item i by BM25; the scores of a text are scaled linearly to 0..1 and damped by
its probability, and an item keeps the best that any text gives it:

    r_i = max_k exp(ε s_k) (b_ki - min_i b_ki) / (max_i b_ki - min_i b_ki)

With a small ε the best matches of all texts come first, in the order of their
probability, then the second-best ones: nearly a round robin. Tested against a
loop over texts and items in `tests/reference/test_ground_reference.py`.
"""

import dataclasses
from collections.abc import Sequence

import gin
import numpy as np
from jaxtyping import Float

from calrec_jax.recommend.bm25 import BM25, CatalogueIndex
from calrec_jax.recommend.memory import RecentlyUsed

_MEBIBYTE = 2**20


@gin.configurable
@dataclasses.dataclass(frozen=True, kw_only=True)
class Grounding:
  """How generated texts are matched to items.

  Attributes:
    epsilon: ε above, how much a nat of log-probability counts; the paper's
      value is 1/5000.
    bm25: how words are weighed.
    cache_mebibytes: memory for the matches of texts that come again; a tuned
      model writes the same texts for many users.
  """

  epsilon: float = 1 / 5000
  bm25: BM25 = dataclasses.field(default_factory=BM25)
  cache_mebibytes: int = 256

  def __post_init__(self):
    if self.epsilon < 0:
      raise ValueError(
        f"Grounding.epsilon is {self.epsilon}; below 0 the least likely texts "
        "would come first."
      )
    if self.cache_mebibytes < 1:
      raise ValueError(
        f"Grounding.cache_mebibytes is {self.cache_mebibytes}; give it at "
        "least 1."
      )


class Grounder:
  """Matches generated texts to the items of one catalogue."""

  def __init__(self, index: CatalogueIndex, settings: Grounding | None = None):
    """Takes the index; several recommenders may share one."""
    self.settings = settings or Grounding()
    self.index = index
    budget = self.settings.cache_mebibytes * _MEBIBYTE
    self._matches: RecentlyUsed[str, np.ndarray] = RecentlyUsed(
      max(1, budget // (4 * index.num_columns))
    )

  def matches(self, texts: Sequence[str]) -> Float[np.ndarray, "K M"]:
    """Match of each text with each distinct item text, 0 to 1.

    A text that fits no item better than another matches none.
    """
    rows = self._matches.look_up(texts, self._new_matches)
    shape = (len(rows), self.index.num_columns)
    return np.array(rows, np.float32).reshape(shape)

  def best_row(self, text: str) -> int:
    """The catalogue row a text stands for: its own, else the best match."""
    if text in self.index.rows:
      return self.index.rows[text]
    column = int(np.argmax(self.matches([text])[0]))
    return int(np.argmax(self.index.columns == column))

  def scores(
    self, texts: Sequence[str], log_probs: Float[np.ndarray, " K"]
  ) -> Float[np.ndarray, " N"]:
    """Quasi-round-robin scores of one user for every catalogue row.

    Args:
      texts: what was generated for the user; repeats change nothing.
      log_probs: log-probability of each text, in nats.

    Returns:
      Scores from 0 to 1. Items with the same text have the same score.
    """
    best: dict[str, float] = {}
    for text, log_prob in zip(texts, log_probs, strict=True):
      best[text] = max(best.get(text, -np.inf), float(log_prob))
    if not best:
      return np.zeros(len(self.index), np.float32)
    damping = np.exp(self.settings.epsilon * np.array(list(best.values())))
    damped = damping[:, None] * self.matches(list(best))
    return damped.max(axis=0).astype(np.float32)[self.index.columns]

  def _new_matches(self, texts: list[str]) -> list[np.ndarray]:
    scaled = _scaled(self.index.column_scores(texts))
    return [row.copy() for row in scaled]  # Not views that keep all alive.


def quasi_round_robin(
  texts: Sequence[str],
  log_probs: Float[np.ndarray, " K"],
  index: CatalogueIndex,
  epsilon: float = 1 / 5000,
) -> Float[np.ndarray, " N"]:
  """Scores of every catalogue row for one user's generated texts."""
  grounder = Grounder(index, Grounding(epsilon=epsilon))
  return grounder.scores(texts, log_probs)


def _scaled(scores: Float[np.ndarray, "K M"]) -> Float[np.ndarray, "K M"]:
  """Scales each row linearly to 0..1; a constant row becomes 0."""
  low = scores.min(axis=1, keepdims=True)
  span = scores.max(axis=1, keepdims=True) - low
  return np.where(span > 0, (scores - low) / np.where(span > 0, span, 1), 0)
