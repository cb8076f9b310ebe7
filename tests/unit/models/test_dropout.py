"""Dropout: in training alone, another mask in every layer and every step."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from calrec_jax.models.decoder import Decoder
from calrec_jax.models.objective import Objective
from calrec_jax.train import state as states
from calrec_jax.train import train_step
from tests.fixtures import model_toys

pytestmark = pytest.mark.heavy

RATE = 0.5
SAME = 1e-5  # Float32; remat lets the compiler fuse otherwise.
TOKENS = jnp.arange(8, 24, dtype=jnp.int32).reshape(2, 8)
POSITIONS = jnp.tile(jnp.arange(8), (2, 1))


@functools.cache
def params():
  return model_toys.decoder()[1]


def hidden(params, key=None, **changes):
  return _hidden(Decoder(model_toys.config(**changes)), params, key)


@functools.partial(jax.jit, static_argnums=0)
def _hidden(decoder, params, key):
  rngs = {} if key is None else {"dropout": jax.random.key(key)}
  return decoder.apply(
    {"params": params},
    TOKENS,
    POSITIONS,
    jnp.ones_like(TOKENS),
    deterministic=key is None,
    rngs=rngs,
  )


@pytest.mark.parametrize(
  "remat", [pytest.param("none", marks=pytest.mark.slow), "full"]
)
def test_units_are_dropped_in_training_alone(remat):
  run = functools.partial(hidden, params(), remat=remat, dropout=RATE)
  np.testing.assert_array_equal(run(), hidden(params(), remat=remat))
  np.testing.assert_array_equal(run(key=1), run(key=1))
  assert np.abs(run(key=1) - run()).max() > 0.1
  assert np.abs(run(key=1) - run(key=2)).max() > 0.1


def test_every_layer_has_a_mask_of_its_own():
  # Attention adds nothing, and one layer alone adds its MLP's output to columns
  # that the embedding leaves at zero: what is zero there was dropped.
  def dropped(layer):
    alone = jax.tree.map(lambda leaf: leaf, params())
    table = alone["token_embedder"]["embedding"]
    alone["token_embedder"]["embedding"] = table.at[:, 8:].set(0.0)
    for part, name in (("attention", "out"), ("mlp", "wo")):
      kernel = alone["layers"][part][name]["kernel"]
      other = kernel.at[1 - layer].set(0.0) if part == "mlp" else 0.0 * kernel
      alone["layers"][part][name]["kernel"] = other
    return np.asarray(hidden(alone, key=1, dropout=RATE))[..., 8:] == 0.0

  first, second = dropped(0), dropped(1)
  for mask in (first, second):
    # Of 128 fair coins between 40 and 88 show heads, but for 1 in 50 000.
    assert 40 <= mask.sum() <= 88
  assert 40 <= (first != second).sum() <= 88
  assert not np.array_equal(first[0], first[1])


def test_what_is_computed_again_drops_the_same_units():
  def gradient(remat):
    return jax.jit(
      jax.grad(
        lambda p: jnp.sum(hidden(p, key=1, remat=remat, dropout=RATE) ** 3)
      )
    )(params())

  wanted = gradient("none")
  for found, right in zip(
    jax.tree.leaves(gradient("full")), jax.tree.leaves(wanted), strict=True
  ):
    np.testing.assert_allclose(found, right, atol=SAME * np.abs(right).max())


@pytest.mark.slow
def test_steps_drop_other_units_and_evaluations_none():
  rows = [[document] for document in model_toys.documents(count=3)]
  batch = model_toys.pack(rows, row_tokens=64, row_slots=6)
  dropping, plain = (
    Decoder(model_toys.config(dropout=rate, remat="full"))
    for rate in (RATE, 0.0)
  )
  objective, optimizer = Objective(loss_chunk_tokens=16), optax.sgd(0.1)
  step = jax.jit(train_step.make_train_step(dropping, objective, optimizer))
  state = states.TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params(),
    opt_state=optimizer.init(params()),
    rng=jax.random.key_data(jax.random.key(0)),
  )

  def loss(step_number):
    _, metrics = step(state._replace(step=jnp.int32(step_number)), batch)
    return metrics["loss_nig_nats"].host_mean()

  def evaluated(decoder):
    metrics = jax.jit(train_step.make_eval_step(decoder, objective))(
      params(), batch
    )
    return metrics["loss_nig_nats"].host_mean()

  assert loss(0) == loss(0)
  assert len({loss(0), loss(1), evaluated(plain)}) == 3
  assert evaluated(dropping) == evaluated(plain)
