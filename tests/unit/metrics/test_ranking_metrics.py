"""Metrics of small lists, by hand."""

import numpy as np
import pytest

from calrec_jax.metrics import ranking_metrics
from calrec_jax.metrics.ranking import Ranking


def ranking(items, scores, tail=0):
  return Ranking(
    np.array([items], np.int32),
    np.array([scores], np.float32),
    np.array([tail], np.int32),
  )


def rank(listed, target, horizon):
  return ranking_metrics.expected_ranks(listed, np.array([target]), horizon)[0]


def test_ranks_without_ties():
  listed = ranking([7, 3, 5, 1], [4.0, 3.0, 2.0, 1.0])
  assert [rank(listed, item, 2) for item in (7, 3, 5, 9)] == [
    1,
    2,
    np.inf,
    np.inf,
  ]


def test_ties_get_the_mean_of_their_ranks():
  listed = ranking([7, 3, 5, 1], [4.0, 4.0, 4.0, 1.0])
  assert [rank(listed, item, 2) for item in (7, 3, 5)] == [2, 2, 2]


def test_ties_beyond_the_list_push_the_rank_down():
  without = ranking([7, 3, 5, 1], [4.0, 1.0, 1.0, 1.0])
  beyond = ranking([7, 3, 5, 1], [4.0, 1.0, 1.0, 1.0], tail=4)
  assert rank(without, 3, 2) == np.inf  # 1 + (3 + 1) / 2 = 3.
  assert rank(without, 7, 2) == 1
  assert rank(beyond, 7, 2) == 1
  assert rank(ranking([7, 3], [1.0, 1.0]), 7, 1) == np.inf


def test_a_constant_scorer_gains_nothing_from_the_order_of_rows():
  listed = ranking(range(20), [0.0] * 20, tail=980)
  ranks = ranking_metrics.expected_ranks(
    Ranking(*(np.repeat(field, 20, axis=0) for field in listed)),
    np.arange(20),
    10,
  )
  assert np.isinf(ranks).all()


def test_empty_places_are_no_items():
  listed = ranking([7, -1, -1, -1], [4.0, -np.inf, -np.inf, -np.inf])
  assert rank(listed, 7, 2) == 1
  assert rank(listed, 0, 2) == np.inf
  nothing = ranking([-1] * 4, [-np.inf] * 4)
  assert rank(nothing, 0, 2) == np.inf


def test_values_of_known_ranks():
  names = ("recall@1", "recall@10", "ndcg@10", "mrr", "recall@10_text")
  ranks = np.array([1.0, 1.5, 3.0, 10.5, np.inf])
  text = np.array([1.0, 1.0, 3.0, 2.0, np.inf])
  values = ranking_metrics.user_values(names, ranks, text)
  np.testing.assert_allclose(values[:, 0], [1, 0, 0, 0, 0])
  np.testing.assert_allclose(values[:, 1], [1, 1, 1, 0, 0])
  np.testing.assert_allclose(
    values[:, 2], [1, 1 / np.log2(2.5), 0.5, 0, 0], atol=1e-12
  )
  np.testing.assert_allclose(values[:, 3], [1, 2 / 3, 1 / 3, 2 / 21, 0])
  np.testing.assert_allclose(values[:, 4], [1, 1, 1, 1, 0])


def test_any_item_with_identical_text_is_a_text_hit_but_no_hit():
  first_rows = np.array([0, 1, 0, 3])
  listed = ranking([2, 1, 3, -1], [3.0, 2.0, 1.0, -np.inf])
  target = np.array([0])
  assert ranking_metrics.text_ranks(listed, target, first_rows, 2)[0] == 1
  assert ranking_metrics.expected_ranks(listed, target, 2)[0] == np.inf


def test_identical_texts_tied_on_top_are_the_first_text():
  first_rows = np.array([0, 0, 0, 3])
  listed = ranking([0, 1, 2, 3], [3.0, 3.0, 3.0, 1.0])
  target = np.array([1])
  assert ranking_metrics.text_ranks(listed, target, first_rows, 2)[0] == 1
  assert ranking_metrics.expected_ranks(listed, target, 2)[0] == 2


@pytest.mark.parametrize("name", ["recal@10", "recall@0", "ndcg", "mrr@5", ""])
def test_unknown_metrics_are_named(name):
  with pytest.raises(ValueError, match=r"Protocol\.metrics"):
    ranking_metrics.parse(name, "Protocol.metrics")


def test_the_horizon_is_the_largest_cutoff():
  assert ranking_metrics.horizon_of(ranking_metrics.METRICS) == 50
  assert ranking_metrics.horizon_of(("mrr",)) == 10


def test_the_span_of_a_tie_and_its_chance_of_a_hit():
  ranking = Ranking(
    np.array([[0, 1, 2, 3], [3, 2, 1, 0], [0, 1, 2, 3]], np.int32),
    np.array([[1, 1, 1, 1], [4, 3, 3, 1], [4, 3, 2, 1]], np.float32),
    np.array([9, 0, 2], np.int32),
  )
  first, last = ranking_metrics.tie_spans(ranking, np.array([2, 1, 7]))
  np.testing.assert_array_equal(first, [1, 2, np.inf])
  np.testing.assert_array_equal(last, [13, 3, np.inf])
  for cutoff, chances in ((10, [10 / 13, 1, 0]), (2, [2 / 13, 1 / 2, 0])):
    np.testing.assert_allclose(
      ranking_metrics.hits_at_random(first, last, cutoff), chances
    )
