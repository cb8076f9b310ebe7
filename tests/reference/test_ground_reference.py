"""Quasi-round-robin against a loop over texts and items."""

import concurrent.futures
import dataclasses
import itertools
import math

import numpy as np
import pytest

from calrec_jax.recommend import candidates
from calrec_jax.recommend.baselines import bm25
from calrec_jax.recommend.generate import ground
from calrec_jax.recommend.generate.texts import GeneratedText
from tests.fixtures import recommend_toys as toys

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


@dataclasses.dataclass(frozen=True)
class Written(GeneratedText):
  """A text with its length in tokens."""

  samples: int = 1
  ended: bool = True
  tokens: int = 1


def scores_of(index, texts, log_probs, **settings):
  grounder = ground.Grounder(index, ground.Grounding(**settings))
  return grounder.scores(list(map(Written, texts, log_probs)))


def loop_scores(written, index, settings):
  """Steps 2 to 6 of the method, one text and one item at a time."""
  score, samples = {}, {}
  for one in written:
    value = one.log_prob
    if settings.score == "mean":
      value /= one.tokens
    score[one.text] = max(score.get(one.text, -math.inf), value)
    samples[one.text] = samples.get(one.text, 0) + one.samples
  result = None
  for text in sorted(score, key=lambda t: -score[t])[: settings.top_texts]:
    matches = [float(m) for m in index.scores([text])[0]]
    low, high = min(matches), max(matches)
    if settings.scaling == "none":
      low, high = 0.0, 1.0
    if settings.scaling == "max":
      low = 0.0
    matches = [
      (match - low) / (high - low) if high > low else 0.0 for match in matches
    ]
    if settings.exact_first and text in index.rows:
      best = max(matches) if max(matches) > 0 else 1.0
      own = index.ids == index.ids[index.rows[text]]
      matches = [
        best if mine else min(match, best * (1 - 1e-6))
        for match, mine in zip(matches, own, strict=True)
      ]
    weight = math.exp(settings.epsilon * score[text])
    if settings.duplicates == "count":
      weight *= samples[text]
    damped = [weight * match for match in matches]
    if result is None:
      result = damped
    elif settings.combination == "max":
      result = [max(pair) for pair in zip(result, damped, strict=True)]
    else:
      result = [sum(pair) for pair in zip(result, damped, strict=True)]
  return np.array(result or [0.0] * len(index))


@pytest.mark.parametrize("epsilon", [1 / 5000, 0.1, 0.0])
def test_equals_a_plain_loop(epsilon):
  index = bm25.CatalogueIndex(TEXTS)
  grounder = ground.Grounder(index, ground.Grounding(epsilon=epsilon))
  for _ in range(2):  # The second time from the cache.
    for texts, log_probs in USERS:
      written = list(map(Written, texts, log_probs))
      wanted = loop_scores(written, index, grounder.settings)
      np.testing.assert_allclose(
        grounder.scores(written), wanted, atol=TOLERANCE
      )


def test_best_matches_come_first_in_the_order_of_probability():
  index = bm25.CatalogueIndex(TEXTS)
  texts = [TEXTS[2], TEXTS[5], TEXTS[1]]
  scores = scores_of(index, texts, [-9.0, -2.0, -5.0])
  assert np.argsort(-scores)[:3].tolist() == [5, 1, 2]
  assert scores[5] == pytest.approx(math.exp(-2 / 5000), abs=TOLERANCE)


def test_identical_texts_score_alike_to_the_last_bit():
  index = bm25.CatalogueIndex(TEXTS)
  scores = scores_of(index, ["Title: apple. Brand: Mill"], [-3.0])
  assert scores[0] == scores[3] > 0


def test_repeats_change_nothing_and_are_scored_once(monkeypatch):
  index = bm25.CatalogueIndex(TEXTS)
  calls = []
  text_scores = index.text_scores
  monkeypatch.setattr(
    index, "text_scores", lambda text: calls.append(text) or text_scores(text)
  )
  grounder = ground.Grounder(index)
  once = grounder.scores([Written("rye bread", -1.0)])
  thrice = grounder.scores([Written("rye bread", -1.0)] * 3)
  np.testing.assert_array_equal(once, thrice)
  assert calls == ["rye bread"]


SWITCHES = [
  {"score": "mean"},
  {"scaling": "max"},
  {"scaling": "none"},
  {"combination": "sum"},
  {"duplicates": "count"},
  {"top_texts": 2},
  {"exact_first": True},
]


def shop(seed, num_items=90):
  """Items of few words, so that many match alike; some have identical text."""
  draw = np.random.default_rng(seed)
  return [
    " ".join(f"w{word}" for word in draw.integers(0, 12, draw.integers(1, 6)))
    for _ in range(num_items)
  ]


def users_of(texts, seed, users=12):
  """Texts that spell items, mix them, or spell nothing."""
  draw = np.random.default_rng(seed)
  found = []
  for _ in range(users):
    chosen = [texts[row] for row in draw.integers(0, len(texts), 5)]
    chosen[1] = " ".join(chosen[1].split()[:1] + chosen[2].split())
    chosen[4] = chosen[0] if draw.random() < 0.5 else "nothing here"
    found.append(
      [
        Written(
          text,
          float(np.float32(-draw.gamma(4.0, 4.0))),
          samples=int(draw.integers(1, 5)),
          tokens=int(draw.integers(1, 9)),
        )
        for text in chosen
      ]
    )
  return [*found, []]


@pytest.mark.parametrize(
  "switch",
  [{}, *SWITCHES, {**SWITCHES[0], **SWITCHES[1], **SWITCHES[4], **SWITCHES[6]}],
  ids=str,
)
@pytest.mark.parametrize("method", ["lucene", "robertson"])
def test_every_switch_equals_a_plain_loop(switch, method, monkeypatch):
  """Also with few matches retained per text, and lists cut from them."""
  monkeypatch.setattr(ground, "_FEWEST_SAVED", 4)
  settings = ground.Grounding(
    epsilon=0.01, bm25=bm25.BM25(method=method), **switch
  )
  texts = shop(1)
  index = bm25.CatalogueIndex(texts, settings.bm25)
  grounder = ground.Grounder(index, settings)
  users = users_of(texts, 2)
  histories = [np.arange(user, user + 3) for user in range(len(users))]
  whole = []
  for written in users:
    scores = grounder.scores(written)
    wanted = loop_scores(written, index, settings)
    largest = max(1.0, np.abs(wanted).max())
    np.testing.assert_allclose(scores, wanted, atol=TOLERANCE * largest)
    whole.append(scores)
  for depth, _ in itertools.product((1, 4, 20, 100), range(2)):
    ranking = toys.rank_texts(
      grounder, users, histories, depth, candidates.RULES
    )
    full = toys.rank_scores(np.array(whole), histories, depth, candidates.RULES)
    for rule in candidates.RULES:
      for one, other in zip(ranking[rule], full[rule], strict=True):
        np.testing.assert_array_equal(one, other)


def test_lists_come_from_the_best_matches_alone(monkeypatch):
  monkeypatch.setattr(ground, "_FEWEST_SAVED", 4)
  draw = np.random.default_rng(0)
  words = [f"w{word}" for word in range(200)]
  texts = [" ".join(draw.choice(words, 6)) for _ in range(300)]
  grounder = ground.Grounder(bm25.CatalogueIndex(texts))
  monkeypatch.setattr(grounder, "_whole", None)  # Not called.
  ranking = toys.rank_texts(
    grounder,
    [[Written(texts[7], -1.0), Written(texts[2], -4.0)]],
    [np.array([5])],
    2,
    ["not_last"],
  )["not_last"]
  assert ranking.items.tolist() == [[7, 2]]


@pytest.mark.parametrize("combination", ["max", "sum"])
def test_what_is_prepared_is_not_matched_again(combination, monkeypatch):
  texts = shop(3)
  grounder = ground.Grounder(
    bm25.CatalogueIndex(texts), ground.Grounding(combination=combination)
  )
  users = users_of(texts, 4)
  grounder.prepare([one.text for written in users for one in written])
  monkeypatch.setattr(grounder.index, "text_scores", None)  # Not called.
  histories = [np.array([0])] * len(users)
  ranking = toys.rank_texts(grounder, users, histories, 100, candidates.RULES)
  assert (ranking["all"].items[:, 0] >= 0).all()


def test_threads_may_share_a_grounder():
  texts = shop(5)
  users = users_of(texts, 6, users=40)
  histories = [np.array([user]) for user in range(len(users))]
  index = bm25.CatalogueIndex(texts)
  wanted = toys.rank_texts(
    ground.Grounder(index), users, histories, 9, ["all"]
  )["all"]
  shared = ground.Grounder(index)
  shared._matcher._budget = 1  # Nothing stays for long.
  with concurrent.futures.ThreadPoolExecutor(4) as pool:
    answers = [
      pool.submit(toys.rank_texts, shared, users, histories, depth, ["all"])
      for depth in (9, 3, 9, 700, 9, 1)
    ]
  for answer in (answers[0], answers[2], answers[4]):
    for one, other in zip(answer.result()["all"], wanted, strict=True):
      np.testing.assert_array_equal(one, other)


def test_an_exact_text_can_be_put_before_what_outscores_it():
  texts = ["apple", "apple apple pie", "apple apple", "bread"]
  for exact_first, best in ((False, 2), (True, 0)):
    settings = ground.Grounding(exact_first=exact_first, bm25=bm25.BM25(b=0.0))
    grounder = ground.Grounder(
      bm25.CatalogueIndex(texts, settings.bm25), settings
    )
    scores = grounder.scores([Written("apple", -3.0)])
    assert scores[best] == scores.max()
    assert np.count_nonzero(scores == scores.max()) == 1 + (best == 2)


def test_settings_that_differ_are_described():
  assert ground.Grounding().describe() == ""
  settings = ground.Grounding(top_texts=3, combination="sum")
  assert settings.describe() == "combination sum, top_texts 3"


def test_a_small_cache_forgets_but_stays_right():
  index = bm25.CatalogueIndex(TEXTS)
  grounder = ground.Grounder(index)
  grounder._matcher._rows.capacity = 2
  texts, log_probs = ["apple", "bread", "milk", "rye"], [-1.0, -2.0, -3.0, -4.0]
  for _ in range(2):
    np.testing.assert_array_equal(
      grounder.scores(list(map(Written, texts, log_probs))),
      scores_of(index, texts, log_probs),
    )
  assert len(grounder._matcher._rows) == 2


def test_a_text_means_its_own_item_or_the_best_match():
  grounder = ground.Grounder(bm25.CatalogueIndex(TEXTS))
  assert grounder.best_row(TEXTS[3]) == 0  # The first with this text.
  assert grounder.best_row("oat drink") == 5


@pytest.mark.parametrize(
  ("setting", "message"),
  [
    ({"epsilon": -0.1}, r"Grounding\.epsilon"),
    ({"score": "median"}, r"Grounding\.score = 'median'"),
    ({"scaling": "softmax"}, r"Grounding\.scaling"),
    ({"combination": "mean"}, r"Grounding\.combination"),
    ({"duplicates": "keep"}, r"Grounding\.duplicates"),
    ({"top_texts": 0}, r"Grounding\.top_texts"),
    ({"cache_mebibytes": 0}, r"Grounding\.cache_mebibytes"),
  ],
)
def test_settings_are_checked(setting, message):
  with pytest.raises(ValueError, match=message):
    ground.Grounding(**setting)
