"""Ranking metrics against loops over the whole catalogue, in float64."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calrec_jax.metrics import ranking_metrics
from calrec_jax.metrics.ranking import Ranking

EXACT = 1e-12  # Both sides are float64; only the order of sums differs.


def ranking_of(scores: np.ndarray, depth: int) -> Ranking:
  """The list of one user by a loop; minus infinity is no candidate."""
  order = sorted(range(len(scores)), key=lambda row: (-scores[row], row))
  order = [row for row in order if scores[row] > -math.inf]
  items = np.full((1, depth), -1, np.int32)
  listed_scores = np.full((1, depth), -np.inf, np.float32)
  listed, beyond = order[:depth], order[depth:]
  items[0, : len(listed)] = listed
  listed_scores[0, : len(listed)] = scores[listed]
  ties = sum(scores[row] == scores[listed[-1]] for row in beyond)
  return Ranking(items, listed_scores, np.array([ties], np.int32))


def full_rank(scores: np.ndarray, target: int) -> float:
  """Expected rank among all candidates: the mean over tied places."""
  if scores[target] == -math.inf:
    return math.inf
  greater = sum(score > scores[target] for score in scores)
  equal = sum(score == scores[target] for score in scores)
  places = [greater + place + 1 for place in range(equal)]
  return sum(places) / len(places)


def metric_loop(name: str, rank: float, horizon: int) -> float:
  if name == "mrr":
    return 1 / rank if rank <= horizon else 0.0
  kind, cutoff = name.split("@")
  if rank > int(cutoff):
    return 0.0
  return 1.0 if kind == "recall" else 1 / math.log2(rank + 1)


@st.composite
def scored_catalogues(draw):
  """Few distinct scores, so that ties cross every boundary."""
  num_items = draw(st.integers(1, 40))
  levels = draw(st.integers(1, 6))
  scores = draw(
    st.lists(
      st.integers(-1, levels), min_size=num_items, max_size=num_items
    ).filter(lambda values: max(values) >= 0)
  )
  array = np.array(scores, np.float64)
  array[array < 0] = -np.inf  # Excluded by the candidate rule.
  return array


@given(scores=scored_catalogues(), horizon=st.integers(1, 8))
@settings(max_examples=200, deadline=None)
def test_a_list_of_twice_the_horizon_ranks_like_the_whole_catalogue(
  scores, horizon
):
  ranking = ranking_of(scores, depth=2 * horizon)
  for target in range(len(scores)):
    expected = full_rank(scores, target)
    expected = expected if expected <= horizon else math.inf
    found = ranking_metrics.expected_ranks(ranking, np.array([target]), horizon)
    assert found[0] == expected


@pytest.mark.parametrize("better", range(11))
def test_unlisted_ties_at_the_boundary_are_exact_misses(better):
  # `better` items lead; the rest tie, also beyond the list. Listed or not,
  # every item of the tie has to get the same verdict, and it is a miss.
  horizon, num_items = 5, 30
  scores = np.zeros(num_items)
  scores[:better] = 1 + np.arange(better)
  ranking = ranking_of(scores, depth=2 * horizon)
  assert ranking.tail_ties[0] > 0 or better == 10
  for target in range(better, num_items):
    assert full_rank(scores, target) > horizon
    found = ranking_metrics.expected_ranks(ranking, np.array([target]), horizon)
    assert found[0] == np.inf


def test_a_list_shorter_than_twice_the_horizon_would_be_wrong():
  # Eight items tie: their expected rank 4.5 is a hit at 5. A list of five
  # places cannot know it of the three that it leaves out.
  scores = np.zeros(8)
  assert full_rank(scores, 7) == 4.5
  with pytest.raises(ValueError, match="depth=10"):
    ranking_metrics.expected_ranks(
      ranking_of(scores, depth=5), np.array([7]), 5
    )
  exact = ranking_metrics.expected_ranks(
    ranking_of(scores, 10), np.array([7]), 5
  )
  assert exact[0] == 4.5


@given(scores=scored_catalogues())
@settings(max_examples=50, deadline=None)
def test_every_metric_equals_its_loop(scores):
  names = ("recall@1", "recall@3", "recall@8", "ndcg@3", "ndcg@8", "mrr")
  horizon = ranking_metrics.horizon_of(names)
  ranking = ranking_of(scores, depth=2 * horizon)
  for target in range(len(scores)):
    ranks = ranking_metrics.expected_ranks(ranking, np.array([target]), horizon)
    values = ranking_metrics.user_values(names, ranks, ranks)[0]
    rank = full_rank(scores, target)
    expected = [metric_loop(name, rank, horizon) for name in names]
    np.testing.assert_allclose(values, expected, rtol=0, atol=EXACT)


@given(
  scores=st.lists(st.integers(0, 2), min_size=2, max_size=6),
  groups=st.lists(st.integers(0, 2), min_size=6, max_size=6),
)
@settings(max_examples=60, deadline=None)
def test_text_rank_is_the_mean_first_of_identical_texts_over_all_orders_of_ties(
  scores, groups
):
  scores = np.array(scores, np.float64)
  groups = groups[: len(scores)]
  first_rows = np.array([groups.index(group) for group in groups], np.int32)
  horizon = len(scores)
  target = len(scores) - 1
  firsts = []
  for order in itertools.permutations(range(len(scores))):
    if any(scores[a] < scores[b] for a, b in itertools.pairwise(order)):
      continue
    firsts.append(
      1
      + min(
        order.index(row)
        for row in order
        if first_rows[row] == first_rows[target]
      )
    )
  found = ranking_metrics.text_ranks(
    ranking_of(scores, depth=2 * horizon),
    np.array([target]),
    first_rows,
    horizon,
  )
  np.testing.assert_allclose(found[0], np.mean(firsts), rtol=0, atol=EXACT)
