"""Rules against a loop over pairs, and what each setting is for."""

import numpy as np
import pytest

from calrec_jax.recommend import candidates, protocol
from calrec_jax.recommend.baselines.sequential_rules import (
  RuleRanking,
  SequentialRules,
)

ITEMS = 12
DEFAULTS = SequentialRules()


def drawn(seed, users=30):
  """Purchases of users, some of one item and some of none."""
  generator = np.random.default_rng(seed)
  return [
    generator.integers(0, ITEMS, size=generator.integers(0, 15))
    for _ in range(users)
  ]


def made(sequences, settings=DEFAULTS, num_items=ITEMS):
  flat = np.concatenate([np.zeros(0, int), *sequences]).astype(np.int32)
  offsets = np.cumsum([0, *map(len, sequences)])
  return RuleRanking(flat, offsets, num_items, settings=settings)


def loop_scores(sequences, history, settings):
  """Scores of all items by the formula, pair by pair."""
  bought = np.zeros(ITEMS)
  pairs = np.zeros((ITEMS, ITEMS))
  for sequence in sequences:
    for place, earlier in enumerate(sequence):
      bought[earlier] += 1
      for distance in range(1, settings.reach + 1):
        if place + distance < len(sequence):
          pairs[earlier, sequence[place + distance]] += 1 / distance
  scores = np.zeros(ITEMS)
  newest = {item: age for age, item in reversed(list(enumerate(history[::-1])))}
  for item, age in newest.items():
    for other in range(ITEMS):
      scores[other] += (
        settings.decay**age
        * pairs[item, other]
        / (bought[item] + settings.shrink) ** settings.asked
        / (bought[other] + settings.shrink) ** settings.answered
      )
  return scores


@pytest.mark.parametrize(
  "settings",
  [
    DEFAULTS,
    SequentialRules(reach=1),
    SequentialRules(reach=40, decay=1.0, shrink=0.5),
    SequentialRules(asked=0.0, answered=1.0),
  ],
)
def test_scores_are_those_of_a_loop(settings):
  sequences = drawn(0)
  histories = [history for history in drawn(1) if len(history)]
  found = made(sequences, settings).recommend(
    histories, depth=ITEMS, rules=candidates.RULES
  )
  for user, history in enumerate(histories):
    scores = loop_scores(sequences, history, settings)
    for rule in candidates.RULES:
      out = set(candidates.exclusions([history], rule)[0]) - {-1}
      expected = {
        item: score
        for item, score in enumerate(scores)
        if score > 0 and item not in out
      }
      ranking = found[rule]
      listed = ranking.items[user][ranking.items[user] >= 0]
      assert set(listed) == set(expected)
      np.testing.assert_allclose(
        ranking.scores[user][: len(listed)],
        [expected[item] for item in listed],
        rtol=1e-6,
      )
      assert (np.diff(ranking.scores[user][: len(listed)]) <= 0).all()


def test_company_changes_nothing():
  recommender = made(drawn(2))
  assert isinstance(recommender, protocol.Recommender)
  assert "\n" not in recommender.describe()
  histories = [np.array([2, 0, 2, 1]), np.array([3]), np.array([11, 5])]
  together = recommender.recommend(histories, depth=4)["not_last"]
  for user, history in enumerate(histories):
    alone = recommender.recommend([history], depth=4)["not_last"]
    for one, many in zip(alone, together, strict=True):
      np.testing.assert_array_equal(one[0], many[user])
  empty = recommender.recommend([], depth=4)["not_last"]
  assert empty.items.shape == (0, 4)
  with pytest.raises(ValueError, match="row 12"):
    recommender.recommend([np.array([12])], depth=3)
  with pytest.raises(ValueError, match="popularity"):
    recommender.recommend([np.zeros(0, int)], depth=3)


def test_rules_do_not_go_from_user_to_user():
  recommender = made([np.array([0, 1]), np.array([2, 3])])
  ranking = recommender.recommend([np.array([1])], depth=3)["not_last"]
  assert (ranking.items == candidates.EMPTY).all()


def test_without_purchases_nothing_is_listed():
  recommender = made([])
  ranking = recommender.recommend([np.array([1])], depth=2)["not_last"]
  assert (ranking.items == candidates.EMPTY).all()


@pytest.mark.parametrize(
  ("setting", "value"),
  [
    ("reach", 0),
    ("decay", 0.0),
    ("decay", 1.1),
    ("shrink", 0.0),
    ("asked", -1.0),
  ],
)
def test_settings_that_mean_nothing_are_refused(setting, value):
  with pytest.raises(ValueError, match=f"SequentialRules.{setting} = {value}"):
    SequentialRules(**{setting: value})
