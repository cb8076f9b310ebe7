"""SASRec on a log with other items: known ones stay, new ones have words."""

import types

import numpy as np

from calrec_jax.data.cache import item_ids
from calrec_jax.data.cache.item_ids import FIRST_TOKEN, ItemDomain
from calrec_jax.data.cache.token_cache import TokenCache
from calrec_jax.recommend.dense import new_items
from tests.fixtures import sasrec_toys

VOCABULARY = 10


class Cache(TokenCache):
  """A catalogue in memory, with the tokens of each item's text."""

  num_items = None

  def __init__(self, texts):
    self.name, self.num_items = "shop", len(texts)
    self.catalogue = types.SimpleNamespace(item_ids=tuple(texts))
    lengths = [len(text) for text in texts.values()]
    self.item_tokens = (
      np.concatenate([np.array(text, np.int32) for text in texts.values()]),
      np.concatenate([[0], np.cumsum(lengths)]),
    )


BEFORE = {"a": [1, 2], "b": [3], "c": [4, 5, 6]}
AFTER = {"new": [1, 3], "c": [4, 5, 6], "a": [1, 2]}


def model_of(cache):
  domain = ItemDomain(cache.name, cache.num_items, FIRST_TOKEN, "0")
  texts = item_ids.item_texts(
    [(cache, domain)], rows=128, length=3, vocabulary_size=VOCABULARY
  )
  module, params = sasrec_toys.model(
    texts,
    num_items=cache.num_items,
    text_tokens=3,
    vocabulary_size=VOCABULARY,
  )
  return module, params, domain


def test_items_keep_their_embeddings_and_new_ones_get_words(capsys):
  module, params, domain = model_of(Cache(BEFORE))
  after = Cache(AFTER)
  grown, items, moved = new_items.with_items_of(
    after, np.array([-1, 2, 0]), module, domain, params
  )
  assert (items.items, items.first_token) == (3, FIRST_TOKEN)
  assert "1 of 3 items are new to SASRec" in capsys.readouterr().err
  old, new = (
    np.asarray(model.apply({"params": weights}, method="output_weights"))
    for model, weights in ((module, params), (grown, moved))
  )
  rows = dict(zip(BEFORE, old[FIRST_TOKEN:], strict=False))
  found = dict(zip(AFTER, new[FIRST_TOKEN:], strict=False))
  for known in ("a", "c"):
    np.testing.assert_array_equal(found[known], rows[known])
  own = np.asarray(params["item_embedding"])[FIRST_TOKEN : FIRST_TOKEN + 3]
  words = np.asarray(params["text_embedding"])[[1, 3]].sum(axis=0) / np.sqrt(2)
  np.testing.assert_allclose(found["new"], own.mean(axis=0) + words, rtol=1e-5)
