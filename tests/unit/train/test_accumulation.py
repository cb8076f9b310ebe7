"""Microbatches give the loss and the gradient of the whole batch.

Against NumPy, and without any automatic differentiation, they are tested in
`tests/reference/test_two_pass_reference.py`.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from calrec_jax.models.decoder import Decoder
from calrec_jax.models.lora import Lora
from calrec_jax.models.next_item import NextItem
from calrec_jax.models.objective import Objective
from calrec_jax.models.row_objective import means
from calrec_jax.models.tuning import EVERYTHING, Tuning
from calrec_jax.runtime import partitioning
from calrec_jax.train import accumulation, optimizers, state, train_step
from tests.fixtures import model_toys, sasrec_toys

pytestmark = pytest.mark.heavy

SAME = 1e-5  # Float32, sums in another order; relative to the largest entry.
OBJECTIVE = Objective(alpha=0.3, beta=0.2, loss_chunk_tokens=16)
LORA = Tuning(trainable=("lora_[ab]$",), frozen_dtype="bfloat16")
KEY = jax.random.key(5)


@functools.cache
def batch():
  """Four rows of very different fill, the third one empty."""
  one, two, three, four, five, six = model_toys.documents()
  return model_toys.pack([[one], [two, three, four], [], [five, six]], 96, 9)


@functools.cache
def model(**changes):
  return model_toys.decoder(layers=1, **changes)


def accumulated(objective, module, microbatches):
  """Loss, metrics and gradients, as a function of parameters and batch."""

  @jax.jit
  def run(params, rows):
    return accumulation.value_and_grad(
      objective,
      module,
      lambda params: params,
      params,
      rows,
      dropout_rng=KEY,
      microbatches=microbatches,
    )

  return run


def differentiated(loss):
  return jax.jit(jax.value_and_grad(loss, has_aux=True))


def difference(found, wanted):
  """The largest one, relative to the largest entry of each array."""
  return max(
    np.abs(np.asarray(left) - np.asarray(right)).max()
    / max(np.abs(np.asarray(right)).max(), 1e-9)
    for left, right in zip(*map(jax.tree.leaves, (found, wanted)), strict=True)
  )


def test_microbatches_take_rows_of_every_device():
  rows = jnp.arange(16)
  parts = accumulation.split(rows, 4)
  # Two devices have rows 0 to 7 and 8 to 15.
  np.testing.assert_array_equal(parts[1], [1, 5, 9, 13])
  np.testing.assert_array_equal(accumulation._join(parts), rows)
  with pytest.raises(ValueError, match=r"MICROBATCHES.*= 5"):
    accumulation.split(rows, 5)


def test_negatives_cross_microbatches():
  module, params = model()
  found = accumulated(OBJECTIVE, module, 2)(params, batch())
  whole = differentiated(lambda p, rows: OBJECTIVE(module, p, rows))
  wanted = whole(params, batch())
  assert difference(found, wanted) < SAME
  # What would be another loss: the mean over microbatches of their own ones.
  parts = accumulation.split(batch(), 2)
  even, odd = (jax.tree.map(lambda leaf, m=m: leaf[m], parts) for m in (0, 1))
  own = [whole(params, part) for part in (even, odd)]
  naive = jax.tree.map(lambda left, right: (left + right) / 2, *own)
  assert difference(naive[1], wanted[1]) > 1e4 * SAME
  # The batch is one that could tell: the parts have other numbers of tokens
  # and slots, and an item is the target of two users in different ones.
  for name in ("loss_nig_nats", "loss_tt_nats"):
    (_, left), (_, right) = own[0][0], own[1][0]
    assert 0 < left[name].weight != right[name].weight > 0
  shared = set(np.ravel(even.slot_items)) & set(np.ravel(odd.slot_items))
  assert shared - {-1}


def apart(objective, module, microbatches):
  """The same loss without passes: each microbatch once, in one derivative."""
  keys = jax.random.split(KEY, microbatches)

  def loss(params, rows):
    parts = [
      objective.of_rows(
        module,
        params,
        jax.tree.map(lambda leaf, m=m: leaf[m::microbatches], rows),
        dropout_rng=keys[m],
      )
      for m in range(microbatches)
    ]
    sums = jax.tree.map(lambda *each: sum(each), *(part for part, _ in parts))
    vectors = jax.tree.map(
      lambda *each: jnp.stack(each, axis=1).reshape(-1, *each[0].shape[1:]),
      *(part for _, part in parts),
    )
    metrics = {**sums, **objective.compare(vectors, rows)}
    return objective.total(means(metrics)), metrics

  return differentiated(loss)


@pytest.mark.slow
def test_both_passes_drop_the_same_units():
  module, params = model(dropout=0.5)
  found = accumulated(OBJECTIVE, module, 2)(params, batch())
  assert difference(found, apart(OBJECTIVE, module, 2)(params, batch())) < SAME
  # Without dropout it is another loss.
  plain = accumulated(OBJECTIVE, model()[0], 2)(params, batch())
  assert difference(found, plain) > 1e3 * SAME


@pytest.mark.parametrize(
  "negatives",
  [pytest.param(count, marks=pytest.mark.slow) for count in (None, 3)],
)
def test_items_of_sasrec_are_drawn_for_each_microbatch(negatives):
  module, params = sasrec_toys.model(dropout=0.3)
  rows = sasrec_toys.pack([[[3, 1, 4], [1, 5]], [], [[9, 2, 6, 5]], [[5, 8]]])
  objective = NextItem(negatives=negatives)
  assert objective.is_stochastic == (negatives is not None)
  found = accumulated(objective, module, 2)(params, rows)
  # A key's bias moves no softmax: its gradient is noise around zero.
  wanted = apart(objective, module, 2)(params, rows)
  for left, right in zip(*map(jax.tree.leaves, (found, wanted)), strict=True):
    np.testing.assert_allclose(left, right, atol=SAME, rtol=SAME)


ALONE = dataclasses.replace(OBJECTIVE, alpha=0.0, beta=0.0)


def test_without_a_contrastive_loss_there_is_one_pass():
  module, params = model()

  def passes(objective):
    jaxpr = jax.make_jaxpr(accumulated(objective, module, 2))(params, batch())
    [jitted] = jaxpr.eqns
    return sum(
      equation.primitive.name == "scan" and equation.params["length"] == 2
      for equation in jitted.params["jaxpr"].eqns
    )

  assert (passes(OBJECTIVE), passes(ALONE)) == (2, 1)


@pytest.mark.slow
def test_microbatches_without_a_contrastive_loss():
  module, params = model()
  found = accumulated(ALONE, module, 2)(params, batch())
  wanted = differentiated(lambda p, rows: ALONE(module, p, rows))
  assert difference(found, wanted(params, batch())) < SAME


@pytest.mark.slow
@pytest.mark.parametrize(
  ("tuning", "optimizer", "changes"),
  [
    # Epsilons above the noise of float32, of which Adam would make a step.
    (EVERYTHING, optimizers.adamw(optimizers.constant(0.1), eps=1e-3), {}),
    (
      LORA,
      optimizers.adafactor(optimizers.constant(0.1), min_factored_size=8),
      {"lora": Lora(rank=3)},
    ),
  ],
  ids=["everything", "lora"],
)
def test_steps_of_any_tuning_and_optimizer(tuning, optimizer, changes):
  module = Decoder(model_toys.config(layers=1, **changes))
  boxed = state.abstract_state(module, optimizer, tuning)
  here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  shardings = jax.tree.map(lambda _: here, partitioning.unbox(boxed))
  start = state.create_state(module, optimizer, shardings, 3, tuning)
  (found, measured), (wanted, expected) = (
    jax.jit(
      train_step.make_train_step(
        module, OBJECTIVE, optimizer, tuning, microbatches
      )
    )(start, batch())
    for microbatches in (4, 1)
  )
  assert measured.keys() == expected.keys()
  assert difference(measured, expected) < SAME
  assert difference(found.params, wanted.params) < SAME
  trained, frozen = tuning.split(found.params)
  before = tuning.split(start.params)
  jax.tree.map(np.testing.assert_array_equal, frozen, before[1])
  assert optax.tree.norm(optax.tree.sub(trained, before[0])) > 0
