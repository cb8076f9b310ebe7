"""One packed pass equals the plain method: two passes for every prefix.

The reference (`plain_decoder`) sees one prefix at a time, unpacked, and one
item at a time, in NumPy and float64. Gradients are checked without any
automatic differentiation, as central differences along random directions.
"""

import jax
import jax.numpy as jnp
import numpy as np
import plain_decoder
import pytest

from calrec_jax.data.feed.batch import NO_SLOT
from calrec_jax.models import two_tower
from calrec_jax.models.objective import Objective
from calrec_jax.train import accumulation
from tests.fixtures import model_toys

PLAIN = 1e-5  # Float32 against float64, on numbers of size 1.
STEP = 1e-5  # Of central differences: their own error is about 1e-9.
ROW_TOKENS, ROW_SLOTS = 96, 9


def _packed():
  documents = model_toys.documents()
  rows = [documents[:2], [], documents[2:3], documents[3:]]
  return documents, model_toys.pack(rows, ROW_TOKENS, ROW_SLOTS)


@pytest.mark.parametrize("family", model_toys.FAMILIES)
def test_hidden_states(family):
  decoder, params = model_toys.decoder(**model_toys.FAMILIES[family])
  tokens = np.random.default_rng(0).integers(0, model_toys.VOCAB, 23)
  place = jnp.arange(23)[None]
  apply = jax.jit(decoder.apply)
  found = apply({"params": params}, tokens[None], place, place * 0 + 1)[0]
  plain = plain_decoder.float64(params)
  wanted = plain_decoder.hidden(decoder.config, plain, tokens)
  np.testing.assert_allclose(found, wanted, atol=PLAIN, rtol=PLAIN)
  np.testing.assert_allclose(
    decoder.apply({"params": params}, found, method="logits"),
    plain_decoder.logits(decoder.config, plain, wanted),
    atol=PLAIN,
    rtol=PLAIN,
  )


@pytest.mark.parametrize("family", model_toys.FAMILIES)
def test_embeddings_of_every_target(family):
  decoder, params = model_toys.decoder(**model_toys.FAMILIES[family])
  documents, batch = _packed()
  hidden = jax.jit(decoder.apply)(
    {"params": params}, batch.tokens, batch.positions, batch.segment_ids
  )
  towers = two_tower.pool(hidden, batch, user_tokens=decoder.config.user_tokens)
  filled = np.asarray(batch.slot_items) != NO_SLOT
  wanted = plain_decoder.examples(
    decoder.config, plain_decoder.float64(params), model_toys.PROMPT, documents
  )
  assert filled.sum() == len(wanted) >= 10
  for name in ("joint", "user", "item"):
    found = np.asarray(getattr(towers, name))
    np.testing.assert_allclose(
      found[filled],
      [example[name] for example in wanted],
      atol=PLAIN,
      rtol=PLAIN,
    )
    assert not found[~filled].any()


@pytest.mark.parametrize(
  ("family", "settings", "microbatches"),
  [
    pytest.param("llama", {}, 2, marks=pytest.mark.slow),
    pytest.param(
      "llama",
      {"direction": "both", "same_user_negatives": True},
      4,
      marks=pytest.mark.slow,
    ),
    ("gemma", {"direction": "user_to_item", "temperature": 0.1}, 2),
  ],
)
def test_losses_and_gradients(family, settings, microbatches):
  """Of the whole batch, at once and in microbatches."""
  decoder, params = model_toys.decoder(**model_toys.FAMILIES[family])
  documents, batch = _packed()
  objective = Objective(alpha=0.3, beta=0.2, loss_chunk_tokens=7, **settings)

  @jax.jit
  def at_once(params):
    return jax.value_and_grad(
      lambda params: objective(decoder, params, batch), has_aux=True
    )(params)

  @jax.jit
  def in_parts(params):
    return accumulation.value_and_grad(
      objective,
      decoder,
      lambda params: params,
      params,
      batch,
      dropout_rng=jax.random.key(0),  # There is no dropout.
      microbatches=microbatches,
    )

  results = at_once(params), in_parts(params)

  def parts(plain):
    return plain_decoder.losses(
      plain_decoder.examples(
        decoder.config, plain, model_toys.PROMPT, documents
      ),
      temperature=objective.temperature,
      direction=objective.direction,
      same_user_negatives=objective.same_user_negatives,
    )

  def mixed(plain):
    return np.dot([0.5, 0.3, 0.2], parts(plain))

  plain = plain_decoder.float64(params)
  names = ("loss_nig_nats", "loss_tt_nats", "loss_ut_nats")
  for (loss, metrics), _ in results:
    np.testing.assert_allclose(
      [metrics[name].mean() for name in names], parts(plain), atol=PLAIN
    )
    np.testing.assert_allclose(loss, mixed(plain), atol=PLAIN)
  leaves, structure = jax.tree.flatten(plain)
  draw = np.random.default_rng(0)
  gradients = [jax.tree.leaves(gradients) for _, gradients in results]
  for number, leaf in enumerate(leaves):
    direction = draw.normal(size=leaf.shape)
    direction /= np.linalg.norm(direction)
    forward, backward = (
      mixed(structure.unflatten(
        [*leaves[:number], leaves[number] + step * direction,
         *leaves[number + 1 :]]
      ))
      for step in (STEP, -STEP)
    )  # fmt: skip
    slope = (forward - backward) / (2 * STEP)
    for found in gradients:
      found = np.sum(direction * np.asarray(found[number], np.float64))
      np.testing.assert_allclose(found, slope, atol=PLAIN)


@pytest.mark.parametrize("family", model_toys.FAMILIES)
def test_towers_alone_give_the_vectors_of_the_packed_pass(family):
  decoder, params = model_toys.decoder(**model_toys.FAMILIES[family])
  (_, items, _), *_ = model_toys.documents()
  plain = plain_decoder.float64(params)
  prompt = model_toys.PROMPT
  text = [1, *prompt.prefix, *prompt.first]
  for _, tokens in items:
    text += [*tokens, *prompt.next]
  padded = np.array([text + [9] * 5], np.int32)  # The filling is not seen.
  embed_users = jax.jit(two_tower.embed_users, static_argnums=0)
  user = embed_users(
    decoder, params, jnp.asarray(padded), jnp.array([len(text)])
  )
  wanted = plain_decoder.hidden(decoder.config, plain, text)
  wanted = wanted[-(decoder.config.user_tokens or 0) :].mean(0)
  np.testing.assert_allclose(user[0], wanted, atol=PLAIN, rtol=PLAIN)
  segment = [1, *items[0][1]]
  padded = np.array([segment + [9] * 3], np.int32)
  embed_items = jax.jit(
    two_tower.embed_items, static_argnums=0, static_argnames="begins"
  )
  item = embed_items(
    decoder, params, jnp.asarray(padded), jnp.array([len(segment)]), begins=True
  )
  wanted = plain_decoder.hidden(decoder.config, plain, segment)[1:].mean(0)
  np.testing.assert_allclose(item[0], wanted, atol=PLAIN, rtol=PLAIN)
