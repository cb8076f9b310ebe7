"""Each baseline against a loop, and the claims each makes."""

import collections

import numpy as np
import pytest

from calrec_jax.recommend import candidates, protocol
from calrec_jax.recommend.baselines import baselines, bm25

TEXTS = (
  "Title: Red apple. Price: 1.",
  "Title: Green apple. Price: 2.",
  "Title: Brown bread. Price: 3.",
  "Title: Red apple. Price: 1.",
  "Title: Rye bread. Price: 3.",
)
HISTORIES = [np.array([2, 0, 2, 1]), np.array([3])]


def all_baselines():
  index = bm25.CatalogueIndex(TEXTS)
  return [
    baselines.Popularity(np.array([1, 4, 4, 0, 2])),
    baselines.LastItem(len(TEXTS)),
    baselines.OwnMostFrequent(len(TEXTS)),
    baselines.BM25History(TEXTS, index),
    baselines.BM25History(TEXTS, index, last_items=1),
  ]


@pytest.mark.parametrize("recommender", all_baselines(), ids=lambda r: r.name)
def test_keeps_the_protocol(recommender):
  assert isinstance(recommender, protocol.Recommender)
  assert "\n" not in recommender.describe()
  together = recommender.recommend(HISTORIES, depth=3, rules=candidates.RULES)
  assert set(together) == set(candidates.RULES)
  for user, history in enumerate(HISTORIES):
    alone = recommender.recommend([history], depth=3, rules=candidates.RULES)
    for rule in candidates.RULES:
      for one, many in zip(alone[rule], together[rule], strict=True):
        np.testing.assert_array_equal(one[0], many[user])
      listed = set(alone[rule].items[0])
      assert not listed & set(candidates.exclusions([history], rule)[0]) - {-1}
  with pytest.raises(ValueError, match="row 5"):
    recommender.recommend([np.array([5])], depth=3, rules=["all"])


def test_popularity_answers_users_without_history():
  recommender = baselines.Popularity(np.array([1, 4, 4, 0]))
  ranking = recommender.recommend([np.array([], int)], depth=2)["not_last"]
  assert ranking.items.tolist() == [[1, 2]]
  assert ranking.tail_ties.tolist() == [0]
  for other in all_baselines()[1:]:
    with pytest.raises(ValueError, match="popularity"):
      other.recommend([np.array([], int)], depth=2)


def test_last_item_goes_back_in_time():
  recommender = baselines.LastItem(9)
  history = np.array([4, 7, 4, 1, 8, 1])
  rankings = recommender.recommend([history], depth=6, rules=candidates.RULES)
  assert rankings["all"].items.tolist() == [[1, 8, 4, 7, -1, -1]]
  assert rankings["not_last"].items.tolist() == [[8, 4, 7, -1, -1, -1]]
  assert rankings["not_seen"].items.tolist() == [[-1] * 6]


def test_own_most_frequent_leaves_ties_as_ties():
  recommender = baselines.OwnMostFrequent(9)
  history = np.array([5, 7, 5, 1, 7, 8, 5])
  counts = collections.Counter(history.tolist())
  ranking = recommender.recommend([history], depth=3, rules=["all"])["all"]
  assert ranking.items.tolist() == [[5, 7, 1]]
  assert ranking.scores.tolist() == [[counts[row] for row in (5, 7, 1)]]
  assert ranking.tail_ties.tolist() == [1]  # Item 8, once like item 1.


def test_bm25_gives_identical_texts_the_same_score():
  index = bm25.CatalogueIndex(TEXTS)
  for recommender in (
    baselines.BM25History(TEXTS, index),
    baselines.BM25History(TEXTS, index, last_items=1),
  ):
    ranking = recommender.recommend(HISTORIES, depth=5, rules=["all"])["all"]
    for items, scores in zip(ranking.items, ranking.scores, strict=True):
      of = dict(zip(items.tolist(), scores.tolist(), strict=True))
      assert of[0] == of[3]


def test_bm25_history_reads_all_items_and_last_item_only_one():
  index = bm25.CatalogueIndex(TEXTS)
  of_all = baselines.BM25History(TEXTS, index)
  of_last = baselines.BM25History(TEXTS, index, last_items=1)
  history = np.array([2, 2, 2, 0])
  best_of_all = of_all.recommend([history], depth=1, rules=["all"])["all"]
  best_of_last = of_last.recommend([history], depth=1, rules=["not_last"])
  assert best_of_all.items.tolist() == [[2]]
  assert best_of_last["not_last"].items.tolist() == [[3]]  # Same text.


def test_an_index_of_other_texts_is_refused():
  with pytest.raises(ValueError, match="3 texts"):
    baselines.BM25History(TEXTS[:3], bm25.CatalogueIndex(TEXTS))
