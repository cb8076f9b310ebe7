"""One update: the objective, its gradient, and the optimizer."""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from calrec_jax.data.batch import NO_SLOT, PADDING_SEGMENT, Batch
from calrec_jax.models.families import Objective
from calrec_jax.state import TrainState
from calrec_jax.tuning import EVERYTHING, Tuning, join
from calrec_jax.weighted_sum import WeightedSum

Metrics = dict[str, WeightedSum]


def make_train_step(
  decoder: nn.Module,
  objective: Objective,
  optimizer: optax.GradientTransformation,
  tuning: Tuning = EVERYTHING,
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
  """The update as a pure function of state and batch, ready for `jax.jit`.

  Args:
    decoder: the model.
    objective: the losses.
    optimizer: of the trained parameters.
    tuning: which parameters are trained; the gradient is taken of them alone,
      and the metric `gradient_norm` is theirs.
  """

  def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
    key = jax.random.wrap_key_data(state.rng)
    # Key 0 made the initial weights.
    dropout_rng = jax.random.fold_in(key, state.step + 1)

    trained, frozen = tuning.split(state.params)

    def loss_of(trained):
      params = join(trained, frozen)
      return objective(decoder, params, batch, dropout_rng=dropout_rng)

    (loss, metrics), gradients = jax.value_and_grad(loss_of, has_aux=True)(
      trained
    )
    updates, opt_state = optimizer.update(gradients, state.opt_state, trained)
    params = join(optax.apply_updates(trained, updates), frozen)
    one = jnp.ones((), jnp.float32)
    metrics = {
      "loss": WeightedSum(loss, one),
      **metrics,
      "gradient_norm": WeightedSum(optax.tree.norm(gradients), one),
      **count(batch),
    }
    return TrainState(state.step + 1, params, opt_state, state.rng), metrics

  return train_step


def make_eval_step(
  decoder: nn.Module, objective: Objective
) -> Callable[..., Metrics]:
  """The objective alone, without dropout, as weighted sums."""

  def eval_step(params, batch: Batch) -> Metrics:
    _, metrics = objective(decoder, params, batch)
    return metrics

  return eval_step


def count(batch: Batch) -> Metrics:
  """What a batch holds.

  Returns:
    `tokens` that are no padding, `examples` (targets with their history), and
    `attended_keys`, the keys that a token sees on average.
  """
  one = jnp.ones((), jnp.float32)
  filled = batch.segment_ids != PADDING_SEGMENT
  tokens = jnp.sum(filled).astype(jnp.float32)
  examples = jnp.sum(batch.slot_items != NO_SLOT).astype(jnp.float32)
  keys = jnp.sum(jnp.where(filled, batch.positions + 1, 0))
  return {
    "tokens": WeightedSum(tokens, one),
    "examples": WeightedSum(examples, one),
    "attended_keys": WeightedSum(keys.astype(jnp.float32), tokens),
  }
