"""Quasi-round-robin against a loop over texts and items."""

import math

import numpy as np
import pytest

from calrec_jax.recommend import bm25, ground

TOLERANCE = 1e-6  # Scores up to 1 in float32.

TEXTS = [
  "Title: Red apple. Brand: Orchard. Price: 1.",
  "Title: Green apple. Brand: Orchard. Price: 2.",
  "Title: Brown bread. Brand: Mill. Price: 3.",
  "Title: Red apple. Brand: Orchard. Price: 1.",
  "Title: Rye bread. Brand: Unknown. Price: 3.",
  "Title: Oat milk. Brand: Mill. Price: 2.",
]
USERS = [
  (["Title: Red apple", TEXTS[2], "Title: Red apple"], [-4.0, -3.0, -4.0]),
  ([TEXTS[4]], [-0.5]),
  (["zzz", "Title: milk. Price: 2."], [-1.0, -40.0]),
  ([], []),
]


def loop_scores(texts, log_probs, index, epsilon):
  """Steps 2 to 6 of the method, one text and one item at a time."""
  seen, scores = set(), [0.0] * len(TEXTS)
  for place in sorted(range(len(texts)), key=lambda k: -log_probs[k]):
    if texts[place] in seen:
      continue
    seen.add(texts[place])
    matches = index.scores([texts[place]])[0].astype(np.float64)
    low, high = min(matches), max(matches)
    for item in range(len(TEXTS)):
      scaled = (matches[item] - low) / (high - low) if high > low else 0.0
      damped = math.exp(epsilon * log_probs[place]) * scaled
      scores[item] = max(scores[item], damped)
  return scores


@pytest.mark.parametrize("epsilon", [1 / 5000, 0.1, 0.0])
def test_equals_a_plain_loop(epsilon):
  index = bm25.CatalogueIndex(TEXTS)
  grounder = ground.Grounder(index, ground.Grounding(epsilon=epsilon))
  for _ in range(2):  # The second time from the cache.
    for texts, log_probs in USERS:
      wanted = loop_scores(texts, log_probs, index, epsilon)
      given = np.array(log_probs, np.float32)
      np.testing.assert_allclose(
        grounder.scores(texts, given), wanted, atol=TOLERANCE
      )
      np.testing.assert_allclose(
        ground.quasi_round_robin(texts, given, index, epsilon),
        wanted,
        atol=TOLERANCE,
      )


def test_best_matches_come_first_in_the_order_of_probability():
  index = bm25.CatalogueIndex(TEXTS)
  texts = [TEXTS[2], TEXTS[5], TEXTS[1]]
  scores = ground.quasi_round_robin(
    texts, np.array([-9.0, -2.0, -5.0], np.float32), index
  )
  assert np.argsort(-scores)[:3].tolist() == [5, 1, 2]
  assert scores[5] == pytest.approx(math.exp(-2 / 5000), abs=TOLERANCE)


def test_twins_score_alike_to_the_last_bit():
  index = bm25.CatalogueIndex(TEXTS)
  scores = ground.quasi_round_robin(
    ["Title: apple. Brand: Mill"], np.array([-3.0], np.float32), index
  )
  assert scores[0] == scores[3] > 0


def test_repeats_change_nothing_and_are_scored_once(monkeypatch):
  index = bm25.CatalogueIndex(TEXTS)
  asked = []
  column_scores = index.column_scores
  monkeypatch.setattr(
    index,
    "column_scores",
    lambda texts: asked.extend(texts) or column_scores(texts),
  )
  grounder = ground.Grounder(index)
  once = grounder.scores(["rye bread"], np.array([-1.0], np.float32))
  thrice = grounder.scores(
    ["rye bread"] * 3, np.array([-1.0, -1.0, -1.0], np.float32)
  )
  np.testing.assert_array_equal(once, thrice)
  assert asked == ["rye bread"]


def test_a_small_cache_forgets_but_stays_right():
  index = bm25.CatalogueIndex(TEXTS)
  grounder = ground.Grounder(index)
  grounder._matches.capacity = 2
  texts = ["apple", "bread", "milk", "rye"]
  log_probs = np.array([-1.0, -2.0, -3.0, -4.0], np.float32)
  for _ in range(2):
    np.testing.assert_array_equal(
      grounder.scores(texts, log_probs),
      ground.quasi_round_robin(texts, log_probs, index),
    )
  assert len(grounder._matches) == 2


def test_a_text_stands_for_its_own_item_or_the_best_match():
  grounder = ground.Grounder(bm25.CatalogueIndex(TEXTS))
  assert grounder.best_row(TEXTS[3]) == 0  # The first of the twins.
  assert grounder.best_row("oat drink") == 5


@pytest.mark.parametrize(
  ("setting", "message"),
  [
    ({"epsilon": -0.1}, r"Grounding\.epsilon"),
    ({"cache_mebibytes": 0}, r"Grounding\.cache_mebibytes"),
  ],
)
def test_settings_are_checked(setting, message):
  with pytest.raises(ValueError, match=message):
    ground.Grounding(**setting)
