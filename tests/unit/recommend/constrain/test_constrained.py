"""Constrained writing and re-ranking as recommenders."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calrec_jax.recommend import candidates, prompts
from calrec_jax.recommend.baselines import baselines
from calrec_jax.recommend.constrain import constrained, rerank
from tests.fixtures import recommend_toys as toys

pytestmark = pytest.mark.heavy

# One padded length, so that one program serves all prompts.
LIMITS = prompts.PromptLimits(max_tokens=96, smallest_length=96)
HYPOTHESES = 4


@functools.cache
def recommender(**changes):
  settings = constrained.Constrained(
    **{"hypotheses": HYPOTHESES, "rows": 4, **changes}
  )
  return constrained.ConstrainedItems(
    toys.domain_model(limits=LIMITS), settings=settings
  )


@functools.cache
def _whole(module):
  @jax.jit
  def log_probs(params, row):
    at = jnp.arange(row.shape[1])[None]
    hidden = module.apply({"params": params}, row, at, jnp.ones_like(row))
    logits = module.apply({"params": params}, hidden, method="logits")
    return jax.nn.log_softmax(logits[0])

  return log_probs


def likelihood(history, item):
  """Log-probability of an item's tokens after a history, and their number."""
  module, params = toys.decoder()
  items = toys.catalogue()
  prompt = prompts.PromptWriter(items, toys.PROMPT, LIMITS).user(history)
  text = items.tokens(item)
  row = np.zeros((1, 112), np.int32)
  row[0, : len(prompt) + len(text)] = [*prompt, *text]
  found = np.asarray(_whole(module)(params, row))
  places = len(prompt) - 1 + np.arange(len(text))
  return float(found[places, text].sum(dtype=np.float64)), len(text)


def test_lists_hold_items_in_the_order_of_their_scores():
  histories = toys.histories(5)
  model = recommender()
  found = model.recommend(histories, depth=6, rules=candidates.RULES)
  written = model.write(histories)
  texts = model._model.texts
  for user, history in enumerate(histories):
    assert len(set(written[user].texts)) == HYPOTHESES
    assert (np.diff(written[user].scores) <= 0).all()
    items, _ = texts.items(written[user].texts)
    assert found["all"].items[user, : len(items)].tolist() == items.tolist()[:6]
    assert history[-1] not in found["not_last"].items[user]
    assert not set(history) & set(found["not_seen"].items[user])
  assert model.validity()["distinct_texts"].tolist() == [1.0] * 5
  texts = model.explain(2)
  assert texts[0]["items"] == [found["all"].items[2, 0]]
  assert texts[0]["text"] == toys.catalogue().texts[texts[0]["items"][0]]


@pytest.mark.parametrize("score", ["sum", "mean"])
def test_scores_are_the_models_own(score):
  [history] = toys.histories(1)
  model = recommender(score=score)
  [written] = model.write([history])
  rows = model._model.texts.first_rows[written.texts]
  wanted = [likelihood(history, row) for row in rows]
  np.testing.assert_allclose(
    written.scores,
    [total / (count if score == "mean" else 1) for total, count in wanted],
    rtol=1e-4,
  )
  assert (np.diff(written.scores) <= 0).all()


@pytest.mark.slow
def test_company_changes_nothing_about_samples():
  histories = toys.histories(6)
  model = recommender(search="samples", temperature=3.0)
  together = model.write(histories)
  other = recommender(search="samples", temperature=3.0, rows=2)
  for history, written in zip(histories, together, strict=True):
    [alone] = other.write([history])
    np.testing.assert_array_equal(alone.texts, written.texts)
    np.testing.assert_array_equal(alone.hypotheses, written.hypotheses)
    np.testing.assert_allclose(alone.scores, written.scores, rtol=1e-4)
    assert written.hypotheses.sum() == HYPOTHESES


def test_candidates_are_ranked_by_likelihood():
  histories = toys.histories(3)
  first = baselines.Popularity(np.arange(24, 0, -1))
  model = rerank.Reranked(
    first,
    toys.domain_model(limits=LIMITS),
    settings=rerank.Reranking(candidates=7, rows=4),
  )
  found = model.recommend(histories, depth=9, rules=candidates.RULES)
  listed = first.recommend(histories, depth=7, rules=candidates.RULES)
  for rule in candidates.RULES:
    for user, history in enumerate(histories):
      items = listed[rule].items[user]
      scores = {item: likelihood(history, item)[0] for item in items}
      wanted = sorted(items, key=lambda item: (-scores[item], item))
      assert found[rule].items[user].tolist() == [*wanted, -1, -1]
      np.testing.assert_allclose(
        found[rule].scores[user, :7],
        [scores[item] for item in wanted],
        rtol=1e-4,
      )


@pytest.mark.parametrize(
  ("setting", "message"),
  [
    ({"search": "beam"}, r"Constrained\.search = 'beam'"),
    ({"score": "total"}, r"Constrained\.score = 'total'"),
    ({"hypotheses": 0}, r"Constrained\.hypotheses"),
    ({"temperature": 0.0}, r"Constrained\.temperature = 0"),
    ({"seed": -1}, r"Constrained\.seed"),
  ],
)
def test_settings_are_checked(setting, message):
  with pytest.raises(ValueError, match=message):
    constrained.Constrained(**setting)


@pytest.mark.parametrize(
  ("setting", "message"),
  [
    ({"candidates": 0}, r"Reranking\.candidates"),
    ({"score": "walk"}, r"Reranking\.score = 'walk'"),
  ],
)
def test_settings_of_reranking_are_checked(setting, message):
  with pytest.raises(ValueError, match=message):
    rerank.Reranking(**setting)
