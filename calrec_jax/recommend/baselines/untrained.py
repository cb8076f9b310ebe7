"""The recommenders that need no model, by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Int

from calrec_jax.data.records import Purchases
from calrec_jax.recommend.baselines import baselines
from calrec_jax.recommend.baselines.bm25 import CatalogueIndex
from calrec_jax.recommend.baselines.sequential_rules import RuleRanking
from calrec_jax.recommend.protocol import Recommender

BASELINES = (
  "popularity",
  "last_item",
  "own_most_frequent",
  "bm25_history",
  "bm25_last_item",
  "sequential_rules",
)


def untrained(
  name: str,
  texts: Sequence[str],
  *,
  counts: Callable[[], Int[np.ndarray, " N"]],
  events: Callable[[], Purchases],
  index: Callable[[], CatalogueIndex],
) -> Recommender:
  """Makes a recommender of what it needs, and reads nothing else.

  Args:
    name: Name out of `BASELINES`.
    texts: Item texts by catalogue row.
    counts: Gives the purchases of each catalogue row.
    events: Gives all known events, of every kind.
    index: Gives the index of the texts, which several recommenders share.

  Raises:
    KeyError: for an unknown name.
  """
  size = len(texts)
  makers: dict[str, Callable[[], Recommender]] = {
    "popularity": lambda: baselines.Popularity(counts()),
    "last_item": lambda: baselines.LastItem(size),
    "own_most_frequent": lambda: baselines.OwnMostFrequent(size),
    "bm25_history": lambda: baselines.BM25History(texts, index()),
    "bm25_last_item": lambda: baselines.BM25History(
      texts, index(), last_items=1
    ),
    "sequential_rules": lambda: RuleRanking(*events(), size),
  }
  return makers[name]()
