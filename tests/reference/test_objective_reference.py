"""One packed pass equals two plain passes for every prefix.

The plain computation joins the tokens itself, runs one prefix at a time, and
the item tower alone; nothing is packed, padded or masked. The packed one is
made by the feed's own packing and writer, a window of a long history included.
Gradients are checked by `test_two_pass_reference`.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calrec_jax.data.feed import packing
from calrec_jax.models import two_tower
from calrec_jax.models.objective import Objective
from tests.fixtures import document_toys

# Float32; vectors are compared relative to their largest entry.
LOSS_TOLERANCE = 1e-5
VECTOR_TOLERANCE = 1e-5

OBJECTIVE = Objective(
  alpha=0.3, beta=0.2, temperature=0.4, direction="both", loss_chunk_tokens=16
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
  return document_toys.cache(tmp_path_factory.mktemp("cache"))


@functools.cache
def model():
  return document_toys.decoder()


@jax.jit
def one_pass(params, batch):
  """Losses and pooled vectors of a packed batch."""
  module, _ = model()
  loss, metrics = OBJECTIVE(module, params, batch)
  hidden = module.apply(
    {"params": params}, batch.tokens, batch.positions, batch.segment_ids
  )
  return loss, metrics, two_tower.pool(hidden, batch)


class Example:
  """One prefix of a history with its target."""

  def __init__(self, cache, user, items):
    tokens = [cache.catalogue.tokens(item).tolist() for item in items]
    prompt = cache.prompt
    self.user, self.item = user, items[-1]
    self.history = [prompt.begin, *prompt.prefix, *prompt.first]
    for item in tokens[:-1]:
      self.history += [*item, *prompt.next]
    self.target = tokens[-1]
    self.alone = [prompt.begin, *self.target]


def examples(cache, documents):
  """In the order of slots: by document, then by target."""
  found = []
  for document in documents:
    items = document_toys.HISTORIES[document.user]
    for target in range(document.first_target, document.stop):
      prefix = items[document.start : target + 1]
      found.append(Example(cache, document.user, prefix))
  return found


def plain(params, given):
  """Losses and vectors, one forward pass after the other."""
  module, _ = model()

  @jax.jit
  def forward(params, tokens):
    at = jnp.arange(tokens.shape[1])[None]
    return module.apply({"params": params}, tokens, at, at * 0 + 1)[0]

  passes = [
    (
      forward(params, jnp.array([example.history + example.target])),
      forward(params, jnp.array([example.alone])),
    )
    for example in given
  ]
  embedding = params["token_embedder"]["embedding"]
  return jax.jit(functools.partial(plain_losses, given))(embedding, passes)


def plain_losses(given, embedding, passes):
  nats, joint, user, item = [], [], [], []
  for example, (hidden, alone) in zip(given, passes, strict=True):
    start = len(example.history)
    scores = hidden[start - 1 : -1] @ embedding.T
    chances = jax.nn.log_softmax(scores, axis=-1)
    nats += [-chances[at, token] for at, token in enumerate(example.target)]
    joint.append(hidden[start:].mean(0))
    user.append(hidden[:start].mean(0))
    item.append(alone[1:].mean(0))
  losses = (
    sum(nats) / len(nats),
    contrast(joint, item, given),
    contrast(user, item, given),
  )
  return losses, tuple(map(jnp.stack, (joint, user, item)))


def contrast(queries, items, given):
  """InfoNCE in both directions; see `Objective`."""
  unit = [v / jnp.sqrt(jnp.sum(v * v)) for v in queries]
  others = [v / jnp.sqrt(jnp.sum(v * v)) for v in items]
  similarity = jnp.stack(unit) @ jnp.stack(others).T / OBJECTIVE.temperature
  terms = []
  for own, example in enumerate(given):
    compared = [
      slot
      for slot, other in enumerate(given)
      if slot == own
      or (other.item != example.item and other.user != example.user)
    ]
    assert len(compared) > 2
    terms += [
      jnp.log(sum(jnp.exp(similarity[slot, own]) for slot in compared))
      - similarity[own, own],
      jnp.log(sum(jnp.exp(similarity[own, slot]) for slot in compared))
      - similarity[own, own],
    ]
  return sum(terms) / len(terms)


def assert_close(found, wanted, tolerance):
  largest = np.abs(np.asarray(wanted)).max()
  np.testing.assert_allclose(found, wanted, atol=tolerance * largest, rtol=0)


def first_fit(cache):
  """Documents where the feed's own packing puts them."""
  lengths = [
    len(document_toys.rows(cache, [[document]]).segment_ids.nonzero()[0])
    for document in document_toys.DOCUMENTS
  ]
  slots = [d.stop - d.first_target for d in document_toys.DOCUMENTS]
  rows, num_rows = packing.pack(
    np.array(lengths), np.array(slots), row_tokens=96, row_slots=6
  )
  return [
    [document_toys.DOCUMENTS[at] for at in np.flatnonzero(rows == row)]
    for row in range(num_rows)
  ]


def test_one_pass_equals_two_passes(cache):
  layout = first_fit(cache)
  assert max(map(len, layout)) > 1  # Some row is shared.
  given = examples(cache, [doc for documents in layout for doc in documents])
  # Items 2 and 0 are targets of two users each: no negatives of each other.
  items = [example.item for example in given]
  assert len(set(items)) < len(items) == 7
  batch = document_toys.on_device(document_toys.rows(cache, layout))
  loss, metrics, pooled = one_pass(model()[1], batch)
  losses, vectors = plain(model()[1], given)
  weights = (0.5, 0.3, 0.2)
  wanted = sum(w * part for w, part in zip(weights, losses, strict=True))
  for name, part in zip(("nig", "tt", "ut"), losses, strict=True):
    found = metrics[f"loss_{name}_nats"]
    np.testing.assert_allclose(found.mean(), part, rtol=LOSS_TOLERANCE)
  assert metrics["loss_nig_nats"].weight == sum(len(e.target) for e in given)
  assert metrics["loss_tt_nats"].weight == len(given)
  np.testing.assert_allclose(loss, wanted, rtol=LOSS_TOLERANCE)
  filled = np.asarray(batch.slot_items) >= 0
  for found, part in zip(pooled, vectors, strict=True):
    assert_close(found[filled], part, VECTOR_TOLERANCE)
    assert not np.asarray(found)[~filled].any()
