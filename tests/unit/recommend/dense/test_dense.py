"""The dense recommender against cosines of separately computed vectors."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calrec_jax.models import two_tower
from calrec_jax.recommend import candidates, prompts, protocol
from calrec_jax.recommend.dense import dense
from tests.fixtures import recommend_toys as toys

pytestmark = pytest.mark.heavy

SCORE_TOLERANCE = 1e-5
LIMITS = prompts.PromptLimits(max_tokens=96, smallest_length=96)


def recommender(catalogue=None, temperature=None, **settings):
  return dense.Dense(
    toys.domain_model(items=catalogue, temperature=temperature, limits=LIMITS),
    settings=dense.DenseSearch(user_rows=4, item_rows=8, **settings),
  )


def plain_cosines(histories):
  """float64[B, N]: one vector at a time, without padding."""
  module, params = toys.decoder()
  writer = prompts.PromptWriter(toys.catalogue(), toys.PROMPT, LIMITS)

  def vectors(rows, **tower):
    length = max(map(len, rows))
    tokens = jnp.array([np.pad(r, (0, length - len(r))) for r in rows])
    lengths = jnp.array([len(row) for row in rows])
    embed = two_tower.embed_items if tower else two_tower.embed_users
    embed = jax.jit(functools.partial(embed, module, **tower))
    found = np.asarray(embed(params, tokens, lengths), np.float64)
    return found / np.linalg.norm(found, axis=1, keepdims=True)

  users = vectors([writer.user(history) for history in histories])
  items = vectors([writer.item(row) for row in range(24)], begins=True)
  return users @ items.T


def test_scores_are_cosines_and_lists_are_complete():
  histories = toys.histories()
  model = recommender(chunk=8)
  assert isinstance(model, protocol.Recommender)
  assert "22 item texts" in model.describe()
  wanted = plain_cosines(histories)
  rankings = model.recommend(histories, depth=24, rules=candidates.RULES)
  for rule, ranking in rankings.items():
    excluded = candidates.exclusions(histories, rule)
    for user in range(len(histories)):
      listed = ranking.items[user][ranking.items[user] >= 0]
      left = set(range(24)) - set(excluded[user].tolist())
      assert set(listed.tolist()) == left
      scores = ranking.scores[user, : len(listed)]
      np.testing.assert_allclose(
        scores, wanted[user, listed], atol=SCORE_TOLERANCE
      )
      assert np.all(np.diff(scores) <= 0)


def test_the_prior_is_added_to_the_cosines():
  histories = toys.histories()
  counts = np.arange(24) ** 2
  catalogue = dataclasses.replace(toys.catalogue(), train_recent=counts)
  together = counts.astype(float)
  for same_text in ([3, 9], [5, 6]):
    together[same_text] = counts[same_text].mean()
  wanted = plain_cosines(histories) + 0.5 * 0.2 * np.log1p(together)
  model = recommender(catalogue, temperature=0.2, prior=0.5, chunk=8)
  assert "0.5 times their log popularity added" in model.describe()
  found = model.recommend(histories, depth=24, rules=["all"])["all"]
  for user in range(len(histories)):
    np.testing.assert_allclose(
      found.scores[user],
      wanted[user, found.items[user]],
      atol=SCORE_TOLERANCE,
    )
    assert np.all(np.diff(found.scores[user]) <= 0)


def test_without_a_prior_only_the_cosines_count():
  counts = np.arange(24) ** 2
  catalogue = dataclasses.replace(toys.catalogue(), train_recent=counts)
  histories = toys.histories()
  wanted = recommender().recommend(histories, depth=9, rules=["all"])["all"]
  for model in (
    recommender(catalogue, temperature=0.2, prior=0.0),
    recommender(catalogue),
  ):
    found = model.recommend(histories, depth=9, rules=["all"])["all"]
    np.testing.assert_array_equal(found.items, wanted.items)
    assert "popularity" not in model.describe()


def test_identical_texts_score_alike_to_the_last_bit_and_count_as_ties():
  model = recommender()
  histories = toys.histories()
  whole = model.recommend(histories, depth=24, rules=["all"])["all"]
  for items, scores in zip(whole.items, whole.scores, strict=True):
    of = dict(zip(items.tolist(), scores.tolist(), strict=True))
    assert of[3] == of[9]
    assert of[5] == of[6]
  # Cut every list just after the first of items 3 and 9.
  for user, items in enumerate(whole.items):
    depth = int(np.flatnonzero(items == 3)[0]) + 1
    cut = model.recommend([histories[user]], depth=depth, rules=["all"])["all"]
    assert cut.tail_ties.tolist() == [1]
    without = np.array([*histories[user], 9])
    cut = model.recommend([without], depth=depth, rules=["not_last"])
    at = np.flatnonzero(cut["not_last"].items[0] == 3)
    if len(at) and at[0] == depth - 1:
      assert cut["not_last"].tail_ties.tolist() == [0]


def test_company_changes_nothing():
  model, histories = recommender(), toys.histories()
  together = model.recommend(histories, depth=5, rules=candidates.RULES)
  for user, history in enumerate(histories):
    alone = model.recommend([history], depth=5, rules=candidates.RULES)
    for rule in candidates.RULES:
      for one, many in zip(alone[rule], together[rule], strict=True):
        np.testing.assert_array_equal(one[0], many[user])


def test_no_users_get_empty_rankings():
  ranking = recommender().recommend([], depth=3, rules=["all"])["all"]
  assert ranking.items.shape == (0, 3)


def test_what_cannot_be_answered_is_refused():
  model = recommender()
  with pytest.raises(ValueError, match="History 0 is empty"):
    model.recommend([np.array([], int)], depth=3)
  with pytest.raises(ValueError, match="row 24"):
    model.recommend([np.array([24])], depth=3)


def test_an_approximate_search_says_so():
  model = recommender(approx=True, recall_target=0.9)
  assert "recall target 0.9" in model.describe()
  histories = toys.histories()
  found = model.recommend(histories, depth=5, rules=["all"])["all"]
  wanted = recommender().recommend(histories, depth=5, rules=["all"])["all"]
  # On a CPU nothing is missed.
  np.testing.assert_array_equal(found.items, wanted.items)


@pytest.mark.parametrize(
  ("name", "value"),
  [
    ("user_rows", 0),
    ("item_rows", 0),
    ("chunk", 0),
    ("block", 0),
    ("recall_target", 1.0),
    ("prior", -1.0),
  ],
)
def test_settings_are_checked(name, value):
  with pytest.raises(ValueError, match=rf"DenseSearch\.{name} = {value}"):
    dense.DenseSearch(**{name: value})
