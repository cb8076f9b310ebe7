"""BM25 against the bm25s library and against a loop in float64."""

import collections
import math

import bm25s
import numpy as np
import pytest

from calrec_jax.recommend.baselines import bm25

LIBRARY_TOLERANCE = 1e-5  # Both sum the same float32 weights.
LOOP_TOLERANCE = 2e-5  # Float32 weights against float64.


def catalogue(num_items=60, seed=0):
  """Texts of Zipf words, some of them identical, one without a word."""
  draw = np.random.default_rng(seed)
  weight = 1 / np.arange(1, 41)
  texts = [
    " ".join(
      f"W{word}"
      for word in draw.choice(40, draw.integers(3, 12), p=weight / weight.sum())
    )
    for _ in range(num_items)
  ]
  texts[7] = texts[3]
  texts[11] = "..."
  return texts


def queries():
  return [
    "w1 w2 w3",
    "W1 W1 w1 W9",
    "unseen words only",
    "",
    " ".join(f"w{i}" for i in range(40)),
    *catalogue(seed=1)[:5],
  ]


def loop_scores(query, documents, settings):
  """Robertson and Zaragoza's formula, one word and one item at a time."""
  average = sum(map(len, documents)) / len(documents)
  scores = np.zeros(len(documents), np.float64)
  for word in query:
    frequency = sum(word in document for document in documents)
    if not frequency:
      continue
    rest = (len(documents) - frequency + 0.5) / (frequency + 0.5)
    idf = math.log(1 + rest) if settings.method == "lucene" else math.log(rest)
    for row, document in enumerate(documents):
      count = collections.Counter(document)[word]
      length = 1 - settings.b + settings.b * len(document) / average
      scores[row] += idf * count / (count + settings.k1 * length)
  return scores


@pytest.mark.parametrize(("k1", "b"), [(1.5, 0.75), (0.9, 0.4), (2.0, 0.0)])
def test_equals_a_plain_loop(k1, b):
  settings = bm25.BM25(k1=k1, b=b)
  texts = catalogue()
  documents = [settings.words(text) for text in texts]
  found = bm25.CatalogueIndex(texts, settings).scores(queries())
  for query, scores in zip(queries(), found, strict=True):
    wanted = loop_scores(settings.words(query), documents, settings)
    np.testing.assert_allclose(scores, wanted, atol=LOOP_TOLERANCE)


@pytest.mark.parametrize("method", ["lucene", "robertson", "atire"])
def test_equals_the_library(method):
  settings = bm25.BM25(method=method)
  texts = catalogue()
  library = bm25s.BM25(k1=1.5, b=0.75, method=method)
  library.index([settings.words(text) for text in texts], show_progress=False)
  found = bm25.CatalogueIndex(texts, settings).scores(queries())
  for query, scores in zip(queries(), found, strict=True):
    words = [w for w in settings.words(query) if w in library.vocab_dict]
    wanted = library.get_scores(words) if words else np.zeros(len(texts))
    np.testing.assert_allclose(scores, wanted, atol=LIBRARY_TOLERANCE)


def test_identical_texts_score_alike_in_every_batch():
  texts = catalogue()
  index = bm25.CatalogueIndex(texts)
  many = (queries() * 60)[:513]
  together = index.scores(many)
  np.testing.assert_array_equal(together[:, 3], together[:, 7])
  for place in (0, 255, 256, 512):
    alone = index.scores([many[place]])[0]
    np.testing.assert_array_equal(together[place], alone)


def test_single_characters_are_words_by_default():
  index = bm25.CatalogueIndex(["milk 1 gal", "milk 2 gal"])
  first, second = index.scores(["MILK 2"])[0]
  assert second > first
  coarse = bm25.BM25(word_pattern=r"\w\w+")
  first, second = bm25.CatalogueIndex(
    ["milk 1 gal", "milk 2 gal"], coarse
  ).scores(["MILK 2"])[0]
  assert second == first


@pytest.mark.parametrize(
  ("setting", "message"),
  [
    ({"k1": -1.0}, r"BM25\.k1 = -1"),
    ({"b": 2.0}, r"BM25\.b = 2"),
    ({"method": "bm25+"}, r"BM25\.method = 'bm25\+'"),
    ({"word_pattern": "("}, r"BM25\.word_pattern"),
  ],
)
def test_settings_are_checked(setting, message):
  with pytest.raises(ValueError, match=message):
    bm25.BM25(**setting)


def test_texts_without_words_are_refused():
  with pytest.raises(ValueError, match=r"BM25\.word_pattern"):
    bm25.CatalogueIndex(["...", ""])
