"""Recommenders without a model: what every learned one has to beat.

They rank the same candidates under the same rules as the others. Tested
against plain loops in `tests/unit/recommend/test_baselines.py`.
"""

import abc
from collections.abc import Sequence

import numpy as np
from jaxtyping import Num

from calrec_jax.recommend import protocol
from calrec_jax.recommend.baselines.bm25 import CatalogueIndex
from calrec_jax.recommend.protocol import FullScores, Listed, Recommender


class Popularity(Recommender):
  """Everybody gets what is bought most; answers anybody."""

  name = "popularity"
  answers_empty = True

  def __init__(self, counts: Num[np.ndarray, " N"]):
    """Takes the purchases of each catalogue row."""
    self.num_items = len(counts)
    self._counts = np.asarray(counts, np.float32)

  def describe(self) -> str:
    """One human-readable line: what ranks."""
    return (
      f"what was bought most in {int(self._counts.sum()):,} purchases, the "
      "same list for everybody"
    )

  def _score(self, request: protocol.Request) -> FullScores:
    shape = (len(request.histories), self.num_items)
    return FullScores(np.broadcast_to(self._counts, shape))


class _OwnItems(Recommender):
  """Repeats the user's own items, and nothing else."""

  def __init__(self, num_items: int):
    """Takes the size of the catalogue."""
    self.num_items = num_items

  def _score(self, request: protocol.Request) -> Listed:
    scored = [self._own_scores(history) for history in request.histories]
    return Listed(
      [rows for rows, _ in scored], [scores for _, scores in scored]
    )

  @abc.abstractmethod
  def _own_scores(self, history: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct items of a history, and their scores."""


class LastItem(_OwnItems):
  """Repeats the user's own items, the latest first, and nothing else."""

  name = "last_item"

  def describe(self) -> str:
    """One human-readable line: what ranks."""
    return "the user's own items, the latest first"

  def _own_scores(self, history: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    # 0 for the last item, -1 for the one before, ...
    rows, from_end = np.unique(history[::-1], return_index=True)
    return rows, -np.argsort(np.argsort(from_end)).astype(np.float32)


class OwnMostFrequent(_OwnItems):
  """Repeats the user's own items, the most frequent first, nothing else."""

  name = "own_most_frequent"

  def describe(self) -> str:
    """One human-readable line: what ranks."""
    return "the user's own items, the most frequent first, ties left as ties"

  def _own_scores(self, history: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    rows, counts = np.unique(history, return_counts=True)
    return rows, counts.astype(np.float32)


class BM25History(Recommender):
  """Ranks by the words that an item shares with the user's items."""

  def __init__(
    self,
    texts: Sequence[str],
    index: CatalogueIndex,
    *,
    last_items: int | None = None,
  ):
    """Takes the catalogue's texts and their index.

    Args:
      texts: Item texts by row.
      index: Index of the same texts.
      last_items: Number of the latest items that make the query; None for all.

    """
    if len(texts) != len(index):
      raise ValueError(
        f"{len(texts)} texts, but the index holds {len(index)} items."
      )
    if last_items is not None and last_items < 1:
      raise ValueError(f"last_items is {last_items}; take one item or more.")
    self.name = "bm25_last_item" if last_items == 1 else "bm25_history"
    self.num_items = len(texts)
    self._texts, self._index, self._last_items = texts, index, last_items

  def describe(self) -> str:
    """One human-readable line: what ranks, and with which settings."""
    query = {None: "all the user's items", 1: "the user's last item"}.get(
      self._last_items, f"the user's last {self._last_items} items"
    )
    settings = self._index.settings
    return (
      f"BM25 of the words of {query} against the item texts "
      f"({settings.method}, k1={settings.k1}, b={settings.b})"
    )

  def _score(self, request: protocol.Request) -> FullScores:
    read = self._last_items or max(map(len, request.histories), default=1)
    queries = [
      " ".join(self._texts[int(row)] for row in history[-read:])
      for history in request.histories
    ]
    return FullScores(self._index.scores(queries))
