"""SASRec, its losses and its ranking against plain NumPy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calrec_jax.data.cache.item_ids import FIRST_TOKEN, ItemDomain, ItemTexts
from calrec_jax.models import next_item
from calrec_jax.models.next_item import NextItem
from calrec_jax.recommend import candidates, protocol
from calrec_jax.recommend.dense.sasrec import SASRecRecommender, SASRecSearch
from tests.fixtures import sasrec_toys

# Float32 through two blocks with layer norms, on values of a few units.
HIDDEN_TOLERANCE = 1e-4
LOSS_RTOL = 1e-5
# Standard errors that the mean of many draws may be off.
STANDARD_ERRORS = 5.0
ROWS = [[[3, 1, 4, 1, 5], [9, 2]], [[6, 5, 3, 5, 8, 9, 7]], []]


def plain_hidden(module, params, items):
  """One history at a time, its oldest item first; float64[n, D]."""
  config = module.config
  params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
  n = len(items)
  tokens = FIRST_TOKEN + np.asarray(items)
  x = params["item_embedding"][tokens]
  for place in range(n):
    at = n - 1 - place if config.positions == "from_end" else place
    x[place] += params["position_embedding"][at]
  for number in range(config.blocks):
    block = params[f"block_{number}"]
    query = plain_norm(x, block["attention_norm"], config.norm_eps)
    x = query + plain_attention(config, block, query, x)
    normed = plain_norm(x, block["mlp_norm"], config.norm_eps)
    inner = np.maximum(plain_linear(normed, block["wi"]), 0)
    x = normed + plain_linear(inner, block["wo"])
  return plain_norm(x, params["last_norm"], config.norm_eps)


def plain_attention(config, block, query, x):
  q = plain_linear(query, block["query"])
  k, v = plain_linear(x, block["key"]), plain_linear(x, block["value"])
  size = config.width // config.heads
  output = np.zeros_like(x)
  for head in range(config.heads):
    part = slice(head * size, (head + 1) * size)
    for place in range(len(x)):
      scores = k[: place + 1, part] @ q[place, part] / np.sqrt(size)
      weights = np.exp(scores - scores.max())
      output[place, part] = weights / weights.sum() @ v[: place + 1, part]
  return plain_linear(output, block["out"])


def plain_norm(x, norm, eps):
  centred = x - x.mean(-1, keepdims=True)
  spread = np.sqrt((centred**2).mean(-1, keepdims=True) + eps)
  return centred / spread * norm["scale"] + norm["bias"]


def plain_linear(x, layer):
  return x @ layer["kernel"] + layer["bias"]


def plain_logits(module, params, items):
  """float64[n, N]: of the item after each place."""
  table = np.asarray(params["item_embedding"], np.float64)
  of_items = table[FIRST_TOKEN : FIRST_TOKEN + module.config.num_items]
  return plain_hidden(module, params, items) @ of_items.T


def places():
  """(row, first column, document) of every document of ROWS."""
  for row, documents in enumerate(ROWS):
    start = 0
    for document in documents:
      yield row, start, document
      start += len(document)


@pytest.mark.parametrize("positions", ["from_end", "from_start"])
def test_packed_rows_give_what_each_history_gives_alone(positions):
  module, params = sasrec_toys.model(positions=positions)
  packed = sasrec_toys.hidden(module, params, sasrec_toys.pack(ROWS))
  for row, start, document in places():
    # The last item is only a target.
    expected = plain_hidden(module, params, document[:-1])
    found = packed[row, start : start + len(document) - 1]
    np.testing.assert_allclose(found, expected, atol=HIDDEN_TOLERANCE)


def test_the_full_softmax():
  module, params = sasrec_toys.model()
  batch = sasrec_toys.pack(ROWS)
  loss, metrics = sasrec_toys.loss(
    NextItem(loss_chunk_tokens=3), module, params, batch
  )
  nats, hits = [], []
  for _, _, document in places():
    logits = plain_logits(module, params, document[:-1])
    for scores, label in zip(logits, document[1:], strict=True):
      nats.append(np.log(np.exp(scores - scores[label]).sum()))
      hits.append(scores.argmax() == label)
  np.testing.assert_allclose(loss, np.mean(nats), rtol=LOSS_RTOL)
  assert float(metrics["loss_nig_nats"].weight) == len(nats)
  assert float(metrics["token_accuracy"].total) == np.sum(hits)


def sampled(batch, negatives, log_expected):
  module, params = sasrec_toys.model()
  hidden = jnp.asarray(sasrec_toys.hidden(module, params, batch))
  return sampled_of(hidden, batch, negatives, log_expected)


def sampled_of(hidden, batch, negatives, log_expected):
  _, params = sasrec_toys.model()
  return next_item.sampled_softmax(
    hidden,
    lambda tokens: params["item_embedding"][tokens],
    batch.tokens,
    batch.loss_weights,
    negatives,
    log_expected=log_expected,
  )


def test_the_sampled_softmax():
  module, params = sasrec_toys.model()
  batch = sasrec_toys.pack(ROWS)
  # Repeated draws count twice, the true item among them not at all.
  negatives = np.random.default_rng(0).integers(
    0, sasrec_toys.ITEMS, (len(ROWS), 3, 9)
  )
  nats, _ = sampled(batch, jnp.asarray(FIRST_TOKEN + negatives), np.log(0.4))
  expected = []
  for row, start, document in places():
    logits = plain_logits(module, params, document[:-1])
    for place, label in enumerate(document[1:]):
      scores = logits[place]
      total = np.exp(scores[label])
      # Sixteen places in three groups: six, six and four.
      for item in negatives[row, (start + place) // 6]:
        total += np.exp(scores[item]) / 0.4 if item != label else 0.0
      expected.append(np.log(total) - scores[label])
  np.testing.assert_allclose(nats.total, np.sum(expected), rtol=LOSS_RTOL)


def test_with_every_item_drawn_once_the_sampled_softmax_is_the_full_one():
  module, params = sasrec_toys.model()
  batch = sasrec_toys.pack(ROWS)
  every = FIRST_TOKEN + np.arange(sasrec_toys.ITEMS)
  negatives = jnp.asarray(np.stack([every] * len(ROWS))[:, None])
  nats, hits = sampled(batch, negatives, 0.0)
  _, metrics = sasrec_toys.loss(NextItem(), module, params, batch)
  np.testing.assert_allclose(
    nats.total, metrics["loss_nig_nats"].total, rtol=LOSS_RTOL
  )
  assert float(hits.total) == float(metrics["token_accuracy"].total)


def test_the_corrected_sum_of_the_softmax_is_unbiased():
  # exp(nats) is the sum divided by the true item's part.
  module, params = sasrec_toys.model()
  document, label = [3, 1, 4], 4
  batch = sasrec_toys.pack([[[3, 1, label]]], row_tokens=4)
  only_last = batch._replace(loss_weights=batch.loss_weights.at[0, 0].set(0.0))
  hidden = jnp.asarray(sasrec_toys.hidden(module, params, batch))
  drawn = 4
  draws = next_item.sample_items(
    jax.random.key(3), (4000, 1, 1, drawn), sasrec_toys.ITEMS
  )
  log_expected = float(np.log(drawn / sasrec_toys.ITEMS))

  def nats(chosen):
    return sampled_of(hidden, only_last, chosen, log_expected)[0].total

  sums = np.exp(jax.jit(jax.vmap(nats))(draws))
  scores = plain_logits(module, params, document[:-1])[-1]
  expected = np.exp(scores - scores[label]).sum()
  error = sums.std() / np.sqrt(len(sums))
  assert abs(sums.mean() - expected) < STANDARD_ERRORS * error
  assert error < expected / 10  # Else the line above says little.


@pytest.mark.parametrize("positions", ["from_end", "from_start"])
def test_ranks_as_a_full_sort_does(positions):
  module, params = sasrec_toys.model(positions=positions)
  histories = sasrec_toys.histories(users=5)
  recommender = SASRecRecommender(
    module,
    params,
    ItemDomain("shop", sasrec_toys.ITEMS, FIRST_TOKEN, ""),
    settings=SASRecSearch(user_rows=2, chunk=4),
  )
  rankings = recommender.recommend(histories, depth=4, rules=candidates.RULES)
  scores = np.stack(
    [
      plain_logits(module, params, history[-module.config.max_items :])[-1]
      for history in histories
    ]
  ).astype(np.float32)
  for rule in candidates.RULES:
    expected = protocol.FullScores(scores).cut(
      candidates.exclusions(histories, rule), 4
    )
    np.testing.assert_array_equal(rankings[rule].items, expected.items)
    np.testing.assert_allclose(
      rankings[rule].scores, expected.scores, rtol=1e-4, atol=HIDDEN_TOLERANCE
    )


def test_words_are_added_to_an_item():
  tokens = np.full((128, 3), -1, np.int32)
  tokens[FIRST_TOKEN : FIRST_TOKEN + 3] = [[5, 0, -1], [2, -1, -1], [2, 5, 9]]
  texts = ItemTexts(tokens, vocabulary_size=10)
  module, params = sasrec_toys.model(texts, text_tokens=3)
  own, words = (
    np.asarray(params[name], np.float64)
    for name in ("item_embedding", "text_embedding")
  )
  expected = own[: len(tokens)].copy()
  for row, text in enumerate(tokens):
    written = text[text >= 0]
    if len(written):
      expected[row] += words[written].sum(axis=0) / np.sqrt(len(written))
  table = module.apply({"params": params}, method="output_weights")
  np.testing.assert_allclose(table, expected, rtol=LOSS_RTOL, atol=1e-6)
  asked = jnp.array([[FIRST_TOKEN + 2, FIRST_TOKEN], [0, FIRST_TOKEN + 1]])
  rows = module.apply({"params": params}, asked, method="embed")
  np.testing.assert_array_equal(rows, table[asked])
