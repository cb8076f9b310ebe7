"""How well a text matches the items of a catalogue, each text scored once.

A match is the BM25 of the text with an item, scaled. Of a text that is ranked
by its best items, only those are remembered, with a bound on all others: some
kilobytes instead of a number for every item, so that the matches of the many
texts that a tuned model writes again and again stay in memory.

Tested against a loop in `tests/reference/test_ground_reference.py`.
"""

import threading
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from calrec_jax.recommend.baselines.bm25 import CatalogueIndex
from calrec_jax.recommend.memory import RecentlyUsed

SCALINGS = ("min_max", "max", "none")
_MEBIBYTE = 2**20
_MATCH_BYTES = 8  # An id and a match.
# Below 1 by some units of float32, so that a damped match stays below, too.
_JUST_BELOW = np.float32(1 - 1e-6)


class BestMatches(NamedTuple):
  """The items that a text matches best.

  Attributes:
    ids: int32[n], unique item texts, ascending.
    matches: float32[n], the match of each.
    bound: Upper bound of the match of any other item text.
  """

  ids: np.ndarray
  matches: np.ndarray
  bound: float


class Matcher:
  """Matches texts to the unique item texts of one catalogue.

  Threads may share it.

  Attributes:
    index: Index of the catalogue.
  """

  def __init__(
    self,
    index: CatalogueIndex,
    *,
    scaling: str,
    exact_first: bool,
    cache_mebibytes: int,
  ):
    """Takes the index; several matchers may share one.

    Args:
      index: Index of the catalogue.
      scaling: Name out of `SCALINGS`.
      exact_first: Whether a text that spells an item matches it best of all.
      cache_mebibytes: Memory for matches of repeated texts; one half holds best
        matches, the other whole rows, where those are needed.
    """
    self.index = index
    self._scaling, self._exact_first = scaling, exact_first
    self._budget = cache_mebibytes * _MEBIBYTE // 2
    self._saved = 0  # Best matches of a text, in the memory below.
    self._best: RecentlyUsed[str, BestMatches] = RecentlyUsed(1)
    self._rows: RecentlyUsed[str, np.ndarray] = RecentlyUsed(
      max(1, self._budget // (4 * index.num_texts))
    )
    self._lock = threading.Lock()

  def rows(self, texts: Sequence[str]) -> Float[np.ndarray, "K M"]:
    """Match of each text with each unique item text.

    Scaled to 0..1, a text that fits no item better than another matches none.
    """
    with self._lock:
      rows = self._rows.look_up(
        texts, lambda new: [self._row(text) for text in new]
      )
    shape = (len(rows), self.index.num_texts)
    return np.array(rows, np.float32).reshape(shape)

  def best(self, texts: Sequence[str], count: int) -> list[BestMatches]:
    """The `count` best matches of each text, or a few more or fewer."""
    with self._lock:
      if count > self._saved:
        self._saved = count
        self._best = RecentlyUsed(
          max(1, self._budget // (_MATCH_BYTES * count))
        )
      return self._best.look_up(
        texts, lambda new: [self._best_of(text) for text in new]
      )

  def _row(self, text: str) -> np.ndarray:
    scores = self.index.text_scores(text)
    matches = self._scaled(scores, scores.min(), scores.max())
    if self._exact_first and text in self.index.rows:
      _put_first(matches, self.index.ids[self.index.rows[text]])
    return matches

  def _best_of(self, text: str) -> BestMatches:
    scores = self.index.text_scores(text)
    low, high = scores.min(), scores.max()
    ids, bound = np.arange(len(scores)), -np.inf
    if len(scores) > self._saved:
      position = len(scores) - self._saved - 1
      least = np.partition(scores, position)[position]
      ids = np.flatnonzero(scores > least)
      bound = float(self._scaled(np.array([least]), low, high)[0])
    own = None
    if self._exact_first and text in self.index.rows:
      own = self.index.ids[self.index.rows[text]]
      ids = np.union1d(ids, [own])
    matches = self._scaled(scores[ids], low, high)
    if own is not None:
      _put_first(matches, np.searchsorted(ids, own))
    return BestMatches(ids.astype(np.int32), matches, bound)

  def _scaled(
    self, scores: np.ndarray, low: np.float32, high: np.float32
  ) -> np.ndarray:
    """Scores of a text whose lowest and highest are given, scaled."""
    if self._scaling == "none":
      return scores
    if self._scaling == "min_max":
      scores, high = scores - low, high - low
    return scores / high if high > 0 else np.zeros_like(scores)


def _put_first(matches: np.ndarray, own: int | np.integer) -> None:
  """Makes a text's own item the best match, ahead of what matches as well."""
  best = matches.max(initial=0)
  if best <= 0:
    best = np.float32(1)
  np.minimum(matches, best * _JUST_BELOW, out=matches)
  matches[own] = best
