"""One update: the objective, its gradient, and the optimizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from calrec_jax.data.feed.batch import NO_SLOT, PADDING_SEGMENT, Batch
from calrec_jax.metrics.weighted_sum import WeightedSum
from calrec_jax.models.row_objective import RowObjective
from calrec_jax.models.tuning import EVERYTHING, Tuning, join
from calrec_jax.train import accumulation
from calrec_jax.train.averaging import Averaging
from calrec_jax.train.state import TrainState

Metrics = dict[str, WeightedSum]


def make_train_step(
  decoder: nn.Module,
  objective: RowObjective,
  optimizer: optax.GradientTransformation,
  tuning: Tuning = EVERYTHING,
  microbatches: int = 1,
  averaging: Averaging | None = None,
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
  """The update as a pure function of state and batch, to be jitted.

  Args:
    decoder: Module of the model.
    objective: Losses.
    optimizer: Optimizer of the trained parameters.
    tuning: Choice of trained parameters; only their gradient is computed, whose
      norm is the metric `gradient_norm`.
    microbatches: Number of parts of a batch, computed one after another;
      see `calrec_jax.train.accumulation`.
    averaging: Mean of the parameters that is taken, if any.
  """

  def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
    key = jax.random.wrap_key_data(state.rng)
    # Key 0 sampled the initial weights.
    dropout_rng = jax.random.fold_in(key, state.step + 1)
    trained, frozen = tuning.split(state.params)

    def loss_of(trained: Any) -> tuple[jax.Array, Metrics]:
      params = join(trained, frozen)
      return objective(decoder, params, batch, dropout_rng=dropout_rng)

    if microbatches == 1:
      gradient_of = jax.value_and_grad(loss_of, has_aux=True)
      (loss, metrics), gradients = gradient_of(trained)
    else:
      (loss, metrics), gradients = accumulation.value_and_grad(
        objective,
        decoder,
        lambda trained: join(trained, frozen),
        trained,
        batch,
        dropout_rng=dropout_rng,
        microbatches=microbatches,
      )
    updates, opt_state = optimizer.update(gradients, state.opt_state, trained)
    trained = optax.apply_updates(trained, updates)
    params = join(trained, frozen)
    step, average = state.step + 1, state.average
    if averaging is not None:
      average = averaging.update(average, trained, step)
    one = jnp.ones((), jnp.float32)
    metrics = {
      "loss": WeightedSum(loss, one),
      **metrics,
      "gradient_norm": WeightedSum(optax.tree.norm(gradients), one),
      **count(batch),
    }
    return TrainState(step, params, opt_state, state.rng, average), metrics

  return train_step


def make_eval_step(
  decoder: nn.Module, objective: RowObjective
) -> Callable[..., Metrics]:
  """The objective without dropout, as weighted sums."""

  def eval_step(params, batch: Batch) -> Metrics:
    _, metrics = objective(decoder, params, batch)
    return metrics

  return eval_step


def count(batch: Batch) -> Metrics:
  """Contents of a batch.

  Returns:
    `tokens` that are not padding, `examples` (targets with their history), and
    `attended_keys`, the mean number of keys that a token attends to.
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
