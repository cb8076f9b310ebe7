"""Recommenders without a model: what every learned one has to beat.

They rank the same candidates under the same rules as the others. Tested
against plain loops in `tests/unit/recommend/test_baselines.py`.
"""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Num

from calrec_jax.metrics.ranking import Ranking
from calrec_jax.recommend import protocol
from calrec_jax.recommend.baselines.bm25 import CatalogueIndex


class Popularity:
  """Everybody gets what is bought most; answers anybody."""

  def __init__(self, counts: Num[np.ndarray, " N"], name: str = "popularity"):
    """Takes the purchases of each catalogue row."""
    self.name = name
    self._counts = np.asarray(counts, np.float32)

  def describe(self) -> str:
    """One line for people: what ranks."""
    return (
      f"what was bought most in {int(self._counts.sum()):,} purchases, the "
      "same list for everybody"
    )

  def recommend(
    self,
    histories: Sequence[np.ndarray],
    *,
    depth: int,
    rules: Sequence[str] = ("not_last",),
  ) -> dict[str, Ranking]:
    """Ranks by purchases; see `protocol.Recommender`."""
    histories = protocol.check_request(
      histories, depth, rules, len(self._counts), empty_allowed=True
    )
    scores = np.broadcast_to(self._counts, (len(histories), len(self._counts)))
    return protocol.rank_scores(scores, histories, depth, rules)


class LastItem:
  """Repeats the user's own items, the latest first, and nothing else."""

  def __init__(self, num_items: int, name: str = "last_item"):
    """Takes the size of the catalogue."""
    self.name = name
    self._num_items = num_items

  def describe(self) -> str:
    """One line for people: what ranks."""
    return "the user's own items, the latest first"

  def recommend(
    self,
    histories: Sequence[np.ndarray],
    *,
    depth: int,
    rules: Sequence[str] = ("not_last",),
  ) -> dict[str, Ranking]:
    """Ranks by recency; see `protocol.Recommender`."""
    histories = protocol.check_request(histories, depth, rules, self._num_items)
    return _rank_own(histories, _recency, depth, rules)


class OwnMostFrequent:
  """Repeats the user's own items, the most frequent first, nothing else."""

  def __init__(self, num_items: int, name: str = "own_most_frequent"):
    """Takes the size of the catalogue."""
    self.name = name
    self._num_items = num_items

  def describe(self) -> str:
    """One line for people: what ranks."""
    return "the user's own items, the most frequent first, ties left as ties"

  def recommend(
    self,
    histories: Sequence[np.ndarray],
    *,
    depth: int,
    rules: Sequence[str] = ("not_last",),
  ) -> dict[str, Ranking]:
    """Ranks by the user's own counts; see `protocol.Recommender`."""
    histories = protocol.check_request(histories, depth, rules, self._num_items)
    return _rank_own(histories, _frequency, depth, rules)


class BM25History:
  """Ranks by the words that an item shares with the user's items."""

  def __init__(
    self,
    texts: Sequence[str],
    index: CatalogueIndex,
    *,
    last_items: int | None = None,
    name: str = "bm25_history",
  ):
    """Takes the catalogue's texts and their index.

    Args:
      texts: item texts by row.
      index: the index of the same texts.
      last_items: how many of the latest items make the query; None for all.
      name: key in the metrics file.

    Raises:
      ValueError: if the index belongs to other texts.
    """
    if len(texts) != len(index):
      raise ValueError(
        f"{len(texts)} texts, but the index holds {len(index)} items."
      )
    if last_items is not None and last_items < 1:
      raise ValueError(f"last_items is {last_items}; take one item or more.")
    self.name = name
    self._texts, self._index, self._last_items = texts, index, last_items

  def describe(self) -> str:
    """One line for people: what ranks, and with which settings."""
    query = {None: "all the user's items", 1: "the user's last item"}.get(
      self._last_items, f"the user's last {self._last_items} items"
    )
    settings = self._index.settings
    return (
      f"BM25 of the words of {query} against the item texts "
      f"({settings.method}, k1={settings.k1}, b={settings.b})"
    )

  def recommend(
    self,
    histories: Sequence[np.ndarray],
    *,
    depth: int,
    rules: Sequence[str] = ("not_last",),
  ) -> dict[str, Ranking]:
    """Ranks by BM25; see `protocol.Recommender`."""
    histories = protocol.check_request(
      histories, depth, rules, len(self._texts)
    )
    kept = self._last_items or max(map(len, histories), default=1)
    queries = [
      " ".join(self._texts[row] for row in history[-kept:])
      for history in histories
    ]
    scores = self._index.scores(queries)
    return protocol.rank_scores(scores, histories, depth, rules)


def bm25_last_item(
  texts: Sequence[str], index: CatalogueIndex, name: str = "bm25_last_item"
) -> BM25History:
  """BM25 with the text of the user's last item as the query."""
  return BM25History(texts, index, last_items=1, name=name)


def _recency(history: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Distinct items with 0 for the last one, -1 for the one before, ..."""
  rows, from_end = np.unique(history[::-1], return_index=True)
  return rows, -np.argsort(np.argsort(from_end)).astype(np.float32)


def _frequency(history: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Distinct items with their counts."""
  rows, counts = np.unique(history, return_counts=True)
  return rows, counts.astype(np.float32)


def _rank_own(
  histories: Sequence[np.ndarray],
  score: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
  depth: int,
  rules: Sequence[str],
) -> dict[str, Ranking]:
  """Ranks each user's own items and lists no other."""
  scored = [score(history) for history in histories]
  items, scores = [rows for rows, _ in scored], [value for _, value in scored]
  return {
    rule: protocol.top_listed(
      items, scores, protocol.exclusions(histories, rule), depth
    )
    for rule in rules
  }
