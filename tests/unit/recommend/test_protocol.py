"""Lists against full sorts, and what a request may not hold."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calrec_jax.data.records import EventItems
from calrec_jax.recommend import candidates, protocol


def full_sort(scores, excluded, depth):
  """The list and its tail ties from a plain sort of all candidates."""
  rows = [
    row
    for row in range(len(scores))
    if row not in excluded and scores[row] > -np.inf
  ]
  rows.sort(key=lambda row: (-scores[row], row))
  listed = rows[:depth]
  ties = sum(scores[row] == scores[listed[-1]] for row in rows[depth:])
  padding = [-1] * (depth - len(listed))
  return listed + padding, ties if listed else 0


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_full_scores_are_cut_as_by_a_full_sort(data):
  users = data.draw(st.integers(1, 4))
  items = data.draw(st.integers(1, 12))
  depth = data.draw(st.integers(1, 14))
  value = st.sampled_from([-np.inf, -1.0, -0.0, 0.0, 0.5, 2.0])
  scores = np.array(
    data.draw(
      st.lists(
        st.lists(value, min_size=items, max_size=items),
        min_size=users,
        max_size=users,
      )
    ),
    np.float32,
  )
  histories = [
    np.array(data.draw(st.lists(st.integers(0, items - 1), max_size=5)), int)
    for _ in range(users)
  ]
  for rule in candidates.RULES:
    excluded = candidates.exclusions(histories, rule)
    ranking = protocol.FullScores(scores).cut(excluded, depth)
    for user in range(users):
      wanted, ties = full_sort(scores[user], set(excluded[user]), depth)
      assert ranking.items[user].tolist() == wanted
      assert ranking.tail_ties[user] == ties
      real = ranking.items[user] >= 0
      np.testing.assert_array_equal(
        ranking.scores[user][real], scores[user][ranking.items[user][real]]
      )
      assert np.all(ranking.scores[user][~real] == -np.inf)


def test_what_is_listed_is_all_that_is_ranked():
  listed = protocol.Listed(
    [np.array([7, 2, 5]), np.array([], int)],
    [np.array([1.0, 3.0, 3.0], np.float32), np.array([], np.float32)],
  )
  ranking = listed.cut(np.array([[2], [-1]], np.int32), 2)
  assert ranking.items.tolist() == [[5, 7], [-1, -1]]
  assert ranking.tail_ties.tolist() == [0, 0]


def test_rules_exclude_the_last_or_all_own_items():
  histories = [np.array([3, 1, 3, 2]), np.array([5]), np.array([], int)]
  assert candidates.exclusions(histories, "all").shape == (3, 0)
  assert candidates.exclusions(histories, "not_last").tolist() == [
    [2],
    [5],
    [-1],
  ]
  assert candidates.exclusions(histories, "not_seen").tolist() == [
    [1, 2, 3],
    [5, -1, -1],
    [-1, -1, -1],
  ]


def test_a_score_that_is_no_number_is_refused():
  scores = np.array([[0.0, np.nan]], np.float32)
  with pytest.raises(ValueError, match="NaN"):
    protocol.FullScores(scores).cut(np.full((1, 0), -1, np.int32), 1)


@pytest.mark.parametrize(
  ("histories", "depth", "rules", "message"),
  [
    ([np.array([0]), np.array([4])], 1, ["all"], r"History 1 holds row 4"),
    ([np.array([-1])], 1, ["all"], r"History 0 holds row -1"),
    ([np.array([], int)], 1, ["all"], r"History 0 is empty"),
    ([np.array([0.5])], 1, ["all"], r"History 0 is float64"),
    ([np.array([0])], 1, ["no_last"], r"'no_last'.*not_last"),
    ([np.array([0])], 0, ["all"], r"depth is 0"),
  ],
)
def test_bad_requests_name_the_place(histories, depth, rules, message):
  with pytest.raises(ValueError, match=message):
    protocol.check_request(histories, depth, rules, num_items=4)


def test_an_item_viewed_last_is_a_candidate_and_one_bought_last_is_not():
  histories = [
    EventItems(np.array([3, 2]), np.array(kinds, np.int8), np.array(settled))
    for kinds, settled in (
      ([1, 0], [True, False]),  # Bought 3, viewed 2.
      ([0, 1], [False, True]),  # Viewed 3, bought 2.
    )
  ]
  histories.append(np.array([3, 2]))
  assert candidates.exclusions(histories, "not_last").tolist() == [
    *([-1], [2], [2]),
  ]
  seen = candidates.exclusions(histories, "not_seen")
  assert seen.tolist() == [[2, 3]] * 3
  request = protocol.check_request(histories, 1, ["not_last"], 4)
  assert request.excluded["not_last"].tolist() == [[-1], [2], [2]]
  assert request.histories[0].kinds.tolist() == [1, 0]
