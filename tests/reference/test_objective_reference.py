"""One packed pass equals two plain passes for every prefix.

The plain computation joins the tokens itself, runs one prefix at a time, and
the item tower alone; nothing is packed, padded or masked.
"""

import functools
import math

import jax
import jax.numpy as jnp
import model_toys
import numpy as np
import pytest

from calrec_jax.data import packing
from calrec_jax.data.batch import Batch
from calrec_jax.models import two_tower
from calrec_jax.models.objective import Objective

# Float32; vectors and gradients are compared relative to their largest entry.
LOSS_TOLERANCE = 1e-5
VECTOR_TOLERANCE = 1e-5
GRADIENT_TOLERANCE = 1e-5

OBJECTIVE = Objective(
  alpha=0.3, beta=0.2, temperature=0.4, direction="both", loss_chunk_tokens=16
)
LAYOUT = (model_toys.DOCUMENTS[:2], model_toys.DOCUMENTS[2:])


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
  return model_toys.cache(tmp_path_factory.mktemp("cache"))


@functools.cache
def model():
  return model_toys.decoder(**model_toys.GEMMA)


@functools.cache
def packed_step():
  module, _ = model()

  def run(params, batch):
    (loss, metrics), gradients = jax.value_and_grad(
      lambda params: OBJECTIVE(module, params, batch), has_aux=True
    )(params)
    return loss, metrics, gradients

  return jax.jit(run)


def packed(batch: Batch):
  return packed_step()(model()[1], model_toys.on_device(batch))


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
    items = model_toys.HISTORIES[document.user]
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

  nats, joint, user, item = [], [], [], []
  for example in given:
    tokens = jnp.array([example.history + example.target])
    hidden = forward(params, tokens)
    start = len(example.history)
    scores = hidden[start - 1 : -1] @ params["token_embedder"]["embedding"].T
    chances = jax.nn.log_softmax(scores, axis=-1)
    nats += [-chances[at, token] for at, token in enumerate(example.target)]
    joint.append(hidden[start:].mean(0))
    user.append(hidden[:start].mean(0))
    item.append(forward(params, jnp.array([example.alone]))[1:].mean(0))
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


def test_one_pass_equals_two_passes(cache):
  given = examples(cache, model_toys.DOCUMENTS)
  # Items 2 and 0 are targets of two users each: no negatives of each other.
  items = [example.item for example in given]
  assert len(set(items)) < len(items) == 7
  batch = model_toys.rows(cache, LAYOUT)
  loss, metrics, gradients = packed(batch)

  def total(params):
    losses, vectors = plain(params, given)
    weights = (0.5, 0.3, 0.2)
    mixed = sum(w * part for w, part in zip(weights, losses, strict=True))
    return mixed, (losses, vectors)

  (wanted, (losses, vectors)), wanted_gradients = jax.value_and_grad(
    total, has_aux=True
  )(model()[1])
  for name, part in zip(("nig", "tt", "ut"), losses, strict=True):
    found = metrics[f"loss_{name}_nats"]
    np.testing.assert_allclose(found.mean(), part, rtol=LOSS_TOLERANCE)
  assert metrics["loss_nig_nats"].weight == sum(len(e.target) for e in given)
  assert metrics["loss_tt_nats"].weight == len(given)
  np.testing.assert_allclose(loss, wanted, rtol=LOSS_TOLERANCE)

  batch = model_toys.on_device(batch)
  module, params = model()
  hidden = jax.jit(module.apply)(
    {"params": params}, batch.tokens, batch.positions, batch.segment_ids
  )
  filled = np.asarray(batch.slot_items) >= 0
  pooled = two_tower.pool(hidden, batch)
  for found, part in zip(pooled, vectors, strict=True):
    assert_close(found[filled], part, VECTOR_TOLERANCE)
    assert not np.asarray(found)[~filled].any()
  jax.tree.map(
    functools.partial(assert_close, tolerance=GRADIENT_TOLERANCE),
    gradients,
    wanted_gradients,
  )


def first_fit(cache):
  """Documents where the feed's own packing puts them."""
  lengths = [
    len(model_toys.rows(cache, [[document]]).segment_ids.nonzero()[0])
    for document in model_toys.DOCUMENTS
  ]
  slots = [d.stop - d.first_target for d in model_toys.DOCUMENTS]
  placed = packing.pack(
    np.array(lengths), np.array(slots), row_tokens=96, row_slots=6
  )
  return [
    [model_toys.DOCUMENTS[at] for at in np.flatnonzero(placed.rows == row)]
    for row in range(placed.num_rows)
  ]


def test_layout_changes_nothing(cache):
  """Order, rows, and padding of tokens, slots and rows."""
  wanted = packed(model_toys.rows(cache, LAYOUT))
  one, two, three, four = model_toys.DOCUMENTS
  layouts = {
    "order": ([[four, three], [two, one]], {}),
    "other rows": ([[two, three], [one, four]], {}),
    "first fit": (first_fit(cache), {}),
    "padding": (
      [[one], [], [two], [three, four], []],
      {"row_tokens": 130, "row_slots": 9},
    ),
  }
  for name, (layout, sizes) in layouts.items():
    batch = model_toys.rows(cache, layout, **sizes)
    loss, metrics, gradients = packed(batch)
    np.testing.assert_allclose(
      loss, wanted[0], rtol=LOSS_TOLERANCE, err_msg=name
    )
    for key, value in metrics.items():
      np.testing.assert_allclose(
        value, wanted[1][key], rtol=LOSS_TOLERANCE, err_msg=f"{name} {key}"
      )
    jax.tree.map(
      functools.partial(assert_close, tolerance=GRADIENT_TOLERANCE),
      gradients,
      wanted[2],
    )


def test_what_stands_in_padding_changes_nothing(cache):
  batch = model_toys.rows(cache, LAYOUT)
  wanted = packed(batch)
  empty = batch.segment_ids == 0
  assert empty.any()
  changed = packed(batch._replace(tokens=np.where(empty, 77, batch.tokens)))
  np.testing.assert_array_equal(changed[0], wanted[0])
  jax.tree.map(np.testing.assert_array_equal, changed[2], wanted[2])


def test_an_empty_batch_has_no_loss_and_no_gradient(cache):
  batch = model_toys.rows(cache, [[], []])
  loss, metrics, gradients = packed(batch)
  assert loss == 0
  assert not any(value.weight for value in metrics.values())
  for leaf in jax.tree.leaves(gradients):
    assert not np.asarray(leaf).any()


def test_a_single_target_has_no_negatives(cache):
  layout = [[model_toys.DOCUMENTS[1]], []]
  loss, metrics, gradients = packed(model_toys.rows(cache, layout))
  for name in ("loss_tt_nats", "loss_ut_nats"):
    np.testing.assert_allclose(metrics[name].total, 0, atol=LOSS_TOLERANCE)
  assert math.isfinite(loss)
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
