"""What the losses must not depend on, and what they must ignore."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calrec_jax.data.feed.batch import Batch
from calrec_jax.models import contrastive, next_token, two_tower
from calrec_jax.models.objective import Objective
from tests.fixtures import model_toys

pytestmark = pytest.mark.heavy

SAME = 1e-5  # Float32, sums in another order.
OBJECTIVE = Objective(alpha=0.3, beta=0.2, loss_chunk_tokens=16)


@functools.cache
def _model():
  return model_toys.decoder(**model_toys.LLAMA)


@functools.cache
def _compiled(objective):
  decoder, _ = _model()

  @jax.jit
  def run(params, batch):
    return jax.value_and_grad(
      lambda params: objective(decoder, params, batch), has_aux=True
    )(params)

  return run


def _run(batch, objective=OBJECTIVE):
  (loss, metrics), gradients = _compiled(objective)(_model()[1], batch)
  return loss, metrics, gradients


def _assert_same(found, wanted):
  for left, right in zip(*map(jax.tree.leaves, (found, wanted)), strict=True):
    np.testing.assert_allclose(left, right, atol=SAME, rtol=SAME)


@functools.cache
def _documents():
  return tuple(model_toys.documents())


@functools.cache
def _plain():
  documents = _documents()
  return _run(model_toys.pack([documents[:3], documents[3:]], 128, 12))


@pytest.mark.parametrize(
  ("rows", "tokens", "slots"),
  [
    pytest.param("more padding", 200, 20, marks=pytest.mark.slow),
    ("other order", 128, 12),
    ("a row for each", 64, 4),
    ("empty rows", 128, 12),
  ],
)
def test_packing_does_not_matter(rows, tokens, slots):
  documents = _documents()
  layout = {
    "more padding": [documents[:3], documents[3:]],
    "other order": [documents[:2:-1], documents[2::-1]],
    "a row for each": [[document] for document in documents],
    "empty rows": [[], documents[:3], [], documents[3:], []],
  }[rows]
  _assert_same(_run(model_toys.pack(layout, tokens, slots)), _plain())


@pytest.mark.parametrize("chunk", [5, 1000])
def test_chunks_of_the_loss_do_not_matter(chunk):
  objective = dataclasses.replace(OBJECTIVE, loss_chunk_tokens=chunk)
  documents = _documents()
  batch = model_toys.pack([documents[:3], documents[3:]], 128, 12)
  _assert_same(_run(batch, objective), _plain())


def test_tokens_of_padding_do_not_matter():
  documents = _documents()
  batch = model_toys.pack([[document] for document in documents], 64, 4)
  noise = jnp.where(batch.segment_ids == 0, 11, batch.tokens)
  assert (noise != batch.tokens).any()
  _assert_same(_run(batch._replace(tokens=noise)), _run(batch))


def test_a_batch_without_documents_gives_zero_and_finite_gradients():
  batch = jax.tree.map(jnp.asarray, Batch.empty(6, 64, 4))
  loss, metrics, gradients = _run(batch)
  assert loss == 0
  assert all(part.weight == 0 for part in metrics.values())
  for leaf in jax.tree.leaves(gradients):
    assert not np.asarray(leaf).any()


def test_without_the_language_model_its_loss_is_measured_only():
  documents = _documents()
  batch = model_toys.pack([documents[:3], documents[3:]], 128, 12)
  # Sums of floating point that are one: no weight of 5e-17 is left.
  mixed = Objective(alpha=0.3, beta=0.7, loss_chunk_tokens=16)
  assert mixed.language_weight == 0
  decoder, params = _model()

  @jax.jit
  @jax.value_and_grad
  def contrastive_only(params):
    _, vectors = mixed.of_rows(decoder, params, batch)
    losses = mixed.compare(vectors, batch)
    tt, ut = (losses[name].mean() for name in ("loss_tt_nats", "loss_ut_nats"))
    return 0.3 * tt + 0.7 * ut

  loss, metrics, gradients = _run(batch, mixed)
  _assert_same((loss, gradients), contrastive_only(params))
  assert metrics["loss_nig_nats"].mean() > 0
  _assert_same(
    metrics["loss_nig_nats"].mean(), _plain()[1]["loss_nig_nats"].mean()
  )


def test_loss_is_shifted_and_predicts_the_next_token():
  """A model that is sure of the next token has no loss; a copier has much."""
  (_, items, _), *_ = _documents()
  batch = model_toys.pack([[(0, items, 1)]], 64, 8)
  # States are one-hot, so the model is as wide as the vocabulary.
  wide, _ = model_toys.decoder(width=model_toys.VOCAB)
  eye = {"token_embedder": {"embedding": 30.0 * jnp.eye(model_toys.VOCAB)}}

  @jax.jit
  def nats(tokens):
    hidden = jax.nn.one_hot(tokens, model_toys.VOCAB)
    return next_token.next_token_loss(
      wide, eye, hidden, batch.tokens, batch.loss_weights, chunk_tokens=8
    )

  ahead = jnp.roll(batch.tokens, -1, axis=1)
  loss, hits = nats(ahead)
  assert loss.mean() < SAME
  assert hits.mean() == 1
  assert loss.weight == sum(len(tokens) for _, tokens in items[1:])
  copied, _ = nats(batch.tokens)
  assert copied.mean() > 10


def test_padding_is_not_pooled():
  documents = _documents()
  batch = model_toys.pack([documents[:3]], 128, 12)
  hidden = jax.random.normal(jax.random.key(0), (1, 128, 16))
  loud = jnp.where(batch.segment_ids[..., None] == 0, 1e6, hidden)
  _assert_same(two_tower.pool(loud, batch), two_tower.pool(hidden, batch))


def test_same_item_of_another_user_is_no_negative():
  items = jnp.array([4, 7, 4, -1, 9])
  users = jnp.array([0, 1, 2, -1, 1])
  found = contrastive.negatives(items, users, same_user=False)
  wanted = [
    [0, 1, 0, 0, 1],
    [1, 0, 1, 0, 0],
    [0, 1, 0, 0, 1],
    [0, 0, 0, 0, 0],
    [1, 0, 1, 0, 0],
  ]
  np.testing.assert_array_equal(found, np.array(wanted, bool))
  assert contrastive.negatives(items, users, same_user=True)[1, 4]
  # Two slots with one item: nothing to tell apart, so nothing to lose.
  vectors = jax.random.normal(jax.random.key(0), (2, 2, 8))
  loss, hits = contrastive.contrastive_loss(
    *vectors,
    jnp.ones(2, bool),
    contrastive.negatives(
      jnp.array([4, 4]), jnp.array([0, 1]), same_user=False
    ),
    temperature=0.1,
    direction="both",
  )
  assert abs(loss.total) < SAME
  assert hits.mean() == 1


def test_an_own_pair_that_is_far_below_the_others_has_a_finite_loss():
  vectors = jnp.eye(3)
  loss, hits = contrastive.contrastive_loss(
    vectors,
    -vectors,
    jnp.ones(3, bool),
    ~jnp.eye(3, dtype=bool),
    temperature=1e-3,
    direction="item_to_user",
  )
  assert loss.mean() == pytest.approx(1000 + np.log(2), rel=1e-4)
  assert hits.mean() == 0


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"temperature": 0.0}, "Objective.temperature"),
    ({"alpha": 0.9, "beta": 0.2}, "Objective.alpha"),
    ({"direction": "up"}, "Objective.direction = 'up'"),
    ({"loss_chunk_tokens": 0}, "Objective.loss_chunk_tokens"),
  ],
)
def test_settings_that_are_no_mixture(changes, message):
  with pytest.raises(ValueError, match=message):
    Objective(**changes)
