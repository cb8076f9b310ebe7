"""Chosen weights: what they are measured by, and what they find out."""

import numpy as np
import pytest

from calrec_jax.metrics import ranking_metrics
from calrec_jax.recommend import protocol
from calrec_jax.recommend.fuse import fuse, fusion_weights

ITEMS, USERS = 40, 120


class Drawn(protocol.Recommender):
  """Knows a fraction of the users' next items and samples all else.

  Scores are of few values, so that there are ties; `favourite` is liked by
  everybody.
  """

  num_items = ITEMS

  def __init__(self, name, targets, fraction, seed, favourite=None):
    draw = np.random.default_rng(seed)
    self.name = name
    self.scores = draw.integers(0, 30, (len(targets), ITEMS)).astype(np.float32)
    known = np.flatnonzero(draw.random(len(targets)) < fraction)
    self.scores[known, targets[known]] = 30 + draw.integers(0, 5, len(known))
    if favourite is not None:
      self.scores[:, favourite] = 60
    self.calls = 0

  def describe(self):
    return self.name

  def _score(self, request):
    self.calls += 1
    users = [int(history[0]) for history in request.histories]
    return protocol.FullScores(self.scores[users])


@pytest.fixture(scope="module")
def users():
  """Histories that start with the user's number, which is also an item."""
  draw = np.random.default_rng(0)
  numbers = np.arange(USERS) % ITEMS
  histories = [
    np.array([number, *draw.integers(0, ITEMS, number % 3)], np.int32)
    for number in numbers
  ]
  return histories, (numbers + 7) % ITEMS


def measured(members, users, settings, chosen=None):
  """NDCG@10 as an evaluation takes it of the fusion itself."""
  histories, targets = users
  fused = fuse.Fused(members, settings=settings, chosen=chosen)
  ranking = fused.recommend(histories, depth=20)["not_last"]
  ranks = ranking_metrics.expected_ranks(ranking, targets, 10)
  return ranking_metrics.user_values(("ndcg@10",), ranks, ranks).mean()


@pytest.mark.parametrize("by", ["ranks", "scores"])
@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (0.5, 2.0, 0.125)])
def test_the_measure_is_that_of_an_evaluation(users, by, weights):
  members = [Drawn(str(seed), users[1], 0.5, seed) for seed in range(3)]
  settings = fuse.Fusion(by=by, weights=weights, places=25)
  joined = fusion_weights.join(members, *users, settings)
  value = fusion_weights.user_ndcg(joined, np.array(weights)).mean()
  assert value == pytest.approx(measured(members, users, settings), abs=1e-12)


def test_who_misleads_is_left_out(users):
  good = Drawn("good", users[1], 0.8, 1)
  fair = Drawn("fair", users[1], 0.3, 2)
  wrong = Drawn("wrong", users[1], 0.0, 3, favourite=5)
  members = [wrong, fair, good]
  settings = fuse.Fusion()
  weights, value = fusion_weights.choose(members, *users, settings)
  assert weights[0] == 0
  assert weights[2] >= weights[1]
  equal = fuse.Chosen((1.0, 1.0, 1.0), "")
  assert value > measured(members, users, settings, equal)
  chosen = fuse.Chosen(weights, "")
  reached = measured(members, users, settings, chosen)
  assert value == pytest.approx(reached, abs=1e-12)


@pytest.mark.parametrize("by", ["ranks", "scores"])
def test_no_change_of_one_weight_helps_beyond_chance(users, by):
  members = [
    Drawn("a", users[1], 0.6, 4),
    Drawn("b", users[1], 0.4, 5),
    Drawn("c", users[1], 0.0, 6),
  ]
  settings = fuse.Fusion(by=by)
  weights, value = fusion_weights.choose(members, *users, settings)
  joined = fusion_weights.join(members, *users, settings)
  gains = fusion_weights.user_ndcg(joined, np.array(weights))
  assert gains.mean() == value
  for member in range(3):
    for other in fusion_weights.VALUES:
      trial = np.array(weights)
      trial[member] = other
      more = fusion_weights.user_ndcg(joined, trial) - gains
      assert more.mean() <= more.std() / USERS**0.5


def test_members_that_say_the_same_stay_equal(users):
  members = [Drawn(name, users[1], 0.5, 1) for name in "ab"]
  weights, _ = fusion_weights.choose(members, *users, fuse.Fusion())
  assert weights == (1.0, 1.0)


def test_where_no_member_knows_anything_weights_stay_equal(users):
  wrong = [Drawn(name, users[1], 0.0, 7) for name in "ab"]
  for member in wrong:
    member.scores[np.arange(ITEMS), (np.arange(ITEMS) + 7) % ITEMS] = -1
  weights, value = fusion_weights.choose(wrong, *users, fuse.Fusion(places=10))
  assert (weights, value) == ((1.0, 1.0), 0.0)


def test_a_fusion_leaves_out_who_has_no_weight(users):
  members = [Drawn(name, users[1], 0.5, 8) for name in ("one", "two", "three")]
  chosen = fuse.Chosen((2.0, 0.0, 1.0), "chosen by 120 validation users")
  fused = fuse.Fused(members, chosen=chosen)
  fused.recommend(users[0], depth=5)
  assert [member.calls for member in members] == [1, 0, 1]
  description = fused.describe()
  assert (
    "2 x one + three; weights chosen by 120 validation users" in description
  )


def test_given_weights_are_taken_before_chosen_ones(users):
  members = [Drawn(name, users[1], 0.5, 9) for name in ("one", "two")]
  fused = fuse.Fused(
    members,
    settings=fuse.Fusion(weights=()),
    chosen=fuse.Chosen((3.0, 0.0), "chosen"),
  )
  assert fused.describe().endswith("one + two")
