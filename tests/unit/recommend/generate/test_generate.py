"""From samples to texts to lists, and that company changes nothing."""

import numpy as np
import pytest

from calrec_jax.recommend import candidates, prompts, protocol
from calrec_jax.recommend.generate import generate, ground, sampling
from calrec_jax.recommend.generate.texts import (
  GeneratedText,
  Spelling,
  distinct_texts,
)
from tests.fixtures import recommend_toys as toys

pytestmark = pytest.mark.heavy

# One padded length, so that one program serves all prompts.
LIMITS = prompts.PromptLimits(max_tokens=96, smallest_length=96)
SAMPLER = sampling.Sampler(samples=5, temperature=3.0, rows=4)


def recommender(**changes):
  model = toys.domain_model(limits=changes.pop("limits", LIMITS))
  return generate.GenerateAndGround(
    model, toys.Vocabulary(), **{"sampler": SAMPLER, **changes}
  )


@pytest.fixture
def written(monkeypatch):
  """Replaces sampling: samples spell items, or what no item says."""
  items = toys.catalogue()
  calls = []

  def fake(decoder, params, tokens, lengths, uniform, **settings):
    calls.append(int((np.asarray(lengths) > 0).sum()))
    shape = uniform.shape
    tokens = np.zeros(shape, np.int32)
    found = sampling.Samples(
      tokens=tokens,
      lengths=np.zeros(shape[:2], np.int32),
      log_probs=np.tile(-np.arange(1.0, 6.0, dtype=np.float32), (shape[0], 1)),
      ended=np.ones(shape[:2], bool),
    )
    spelled = [items.tokens(4), items.tokens(4), items.tokens(3)]
    spelled += [np.array([11, toys.END]), np.array([12, 13, 14])]
    for number, ids in enumerate(spelled):
      found.tokens[:, number, : len(ids)] = ids
      found.lengths[:, number] = len(ids)
    found.ended[:, 4] = False
    return found

  monkeypatch.setattr(generate, "sample", fake)
  return calls


def test_company_and_rows_change_nothing():
  histories = toys.histories()
  together = recommender().write(histories)
  one_by_one = recommender()
  fewer_rows = recommender(
    sampler=sampling.Sampler(samples=5, temperature=3.0, rows=2)
  ).write(histories[::-1])[::-1]
  for history, texts, other in zip(
    histories, together, fewer_rows, strict=True
  ):
    assert one_by_one.write([history]) == [texts]
    assert [text.text for text in other] == [text.text for text in texts]
    assert [text.samples for text in other] == [t.samples for t in texts]
    np.testing.assert_allclose(
      [text.log_prob for text in other],
      [text.log_prob for text in texts],
      rtol=1e-4,
    )
  assert len({texts for texts in together}) > 1


def test_a_new_seed_gives_new_samples():
  histories = toys.histories(2)
  other = sampling.Sampler(samples=5, temperature=3.0, rows=4, seed=1)
  assert recommender().write(histories) == recommender().write(histories)
  assert recommender().write(histories) != recommender(sampler=other).write(
    histories
  )


def test_texts_are_counted_and_explained(written):
  items = toys.catalogue()
  model = recommender()
  model.recommend([np.array([1, 2])], depth=3)
  assert [
    (text["text"], text["log_prob"], text["samples"])
    for text in model.explain(0)
  ] == [
    (items.texts[4], -1.0, 2),
    (items.texts[3], -3.0, 1),
    ("w11", -4.0, 1),
    ("w12 w13 w14", -5.0, 1),
  ]
  assert model.explain(0)[0]["items"] == [4]
  assert model.explain(0)[1]["items"] == [3]
  assert model.validity() == {
    "exact_samples": pytest.approx([3 / 5]),
    "ended_samples": pytest.approx([4 / 5]),
    "distinct_texts": pytest.approx([4 / 5]),
    "distinct_exact_texts": pytest.approx([2 / 4]),
  }


def test_lists_are_those_of_quasi_round_robin(written):
  model = recommender()
  history = np.array([4, 2, 2])
  rankings = model.recommend([history], depth=6, rules=candidates.RULES)
  [texts] = model.write([history])
  scores = ground.Grounder(model._grounder.index).scores(texts)
  wanted = toys.rank_scores(scores[None], [history], 6, candidates.RULES)
  for rule in candidates.RULES:
    for found, right in zip(rankings[rule], wanted[rule], strict=True):
      np.testing.assert_array_equal(found, right)
  assert rankings["all"].items[0, :3].tolist() == [4, 3, 9]  # 9 has 3's text.
  assert rankings["not_seen"].items[0, 0] == 3


def test_a_prompt_is_sampled_once(written):
  model = recommender()
  same, other = np.array([1, 2]), np.array([2, 1])
  model.recommend([same, other, same], depth=2)
  model.recommend([other], depth=4)
  assert written == [2]
  # Rows 3 and 9 read the same, so they are the same prompt.
  model.recommend([np.array([3]), np.array([9])], depth=4)
  assert written == [2, 1]


def test_no_users_get_empty_rankings(written):
  ranking = recommender().recommend([], depth=3, rules=["all"])["all"]
  assert ranking.items.shape == (0, 3)
  assert ranking.tail_ties.shape == (0,)


def test_what_cannot_be_answered_is_refused(written):
  model = recommender()
  assert isinstance(model, protocol.Recommender)
  assert "5 texts a user at temperature 3" in model.describe()
  with pytest.raises(ValueError, match="History 0 is empty"):
    model.recommend([np.array([], int)], depth=3)
  with pytest.raises(ValueError, match="row 24"):
    model.recommend([np.array([24])], depth=3)
  short = recommender(limits=prompts.PromptLimits(max_tokens=6))
  with pytest.raises(ValueError, match=r"PromptLimits\.max_tokens"):
    short.recommend([np.array([1])], depth=3)


def test_a_vocabulary_that_does_not_fit_is_refused():
  with pytest.raises(ValueError, match=r"DecoderConfig\.vocab_size is 48"):
    recommender(vocab_size=49)


def test_an_index_with_other_settings_is_refused():
  index = generate.CatalogueIndex(toys.catalogue().texts)
  other = ground.Grounding(bm25=ground.BM25(k1=0.5))
  with pytest.raises(ValueError, match=r"Grounding\.bm25"):
    recommender(index=index, grounding=other)


def test_a_curve_is_what_runs_with_fewer_samples_give():
  histories = toys.histories(3)
  model = recommender()
  curve = model.recommend_curve(histories, depth=6, rules=("all",))
  assert curve.setting == "samples"
  assert list(curve.rankings) == [1, 2, 4, 5]
  for count, rankings in curve.rankings.items():
    sampler = sampling.Sampler(samples=count, temperature=3.0, rows=4)
    alone = recommender(sampler=sampler).recommend(
      histories, depth=6, rules=("all",)
    )
    np.testing.assert_array_equal(rankings["all"].items, alone["all"].items)


def test_a_text_with_two_spellings_is_one():
  twice = [
    Spelling("green tea", -3.0, (1, 4), 3, True),
    Spelling("green tea", -2.0, (2,), 4, False),
    Spelling("oats", -2.5, (0,), 2, True),
  ]
  assert distinct_texts(twice, 5) == (
    GeneratedText("green tea", -2.0, 3, 4, True),
    GeneratedText("oats", -2.5, 1, 2, True),
  )
  assert distinct_texts(twice, 2) == (
    GeneratedText("oats", -2.5, 1, 2, True),
    GeneratedText("green tea", -3.0, 1, 3, True),
  )
