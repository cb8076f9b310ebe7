"""The training state: created sharded, named as t5x names it on disk.

Left out of the shape checks on purpose: pytree records pass through
`tree.map` with leaves that are no arrays.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from calrec_jax.models.tuning import EVERYTHING, Tuning
from calrec_jax.runtime import partitioning
from calrec_jax.train import optimizer_axes


class TrainState(NamedTuple):
  """Everything a training step changes, and the key it draws from.

  Attributes:
    step: int32 scalar, updates done.
    params: the model's parameters, unboxed, trained and frozen ones.
    opt_state: the optimizer's state of the trained ones, sharded like them.
    rng: uint32 key data; step k draws from `fold_in(rng, k)`.
  """

  step: jax.Array
  params: Any
  opt_state: Any
  rng: jax.Array

  def on_disk(self) -> dict[str, Any]:
    """The tree of a t5x checkpoint: `target` and `state`, plus the key."""
    return {
      "target": self.params,
      "state": {"step": self.step, "param_states": self.opt_state},
      "rng": self.rng,
    }

  @classmethod
  def from_disk(cls, tree: dict[str, Any]) -> TrainState:
    """The inverse of `on_disk`."""
    return cls(
      step=tree["state"]["step"],
      params=tree["target"],
      opt_state=tree["state"]["param_states"],
      rng=tree["rng"],
    )


def _initialise(
  decoder: nn.Module,
  optimizer: optax.GradientTransformation,
  tuning: Tuning,
  key_data: jax.Array,
) -> TrainState:
  """A fresh state whose leaves still carry their logical axes."""
  tokens = jnp.zeros((1, 1), jnp.int32)
  key = jax.random.wrap_key_data(key_data)
  # Segment 1: a segment of padding would leave attention nothing to see.
  variables = decoder.init(
    jax.random.fold_in(key, 0), tokens, tokens, tokens + 1
  )
  params = variables["params"]
  trained, _ = tuning.split(params)
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=tuning.store(params),
    opt_state=optimizer_axes.fit(optimizer.init(trained), trained),
    rng=key_data,
  )


def abstract_state(
  decoder: nn.Module,
  optimizer: optax.GradientTransformation,
  tuning: Tuning = EVERYTHING,
) -> TrainState:
  """Shapes and logical axes of the state; nothing is allocated or computed."""

  def initialise() -> TrainState:
    # The key is made in here: the devices of the mesh need not be at hand.
    key_data = jax.random.key_data(jax.random.key(0))
    return _initialise(decoder, optimizer, tuning, key_data)

  return jax.eval_shape(initialise)


def create_state(
  decoder: nn.Module,
  optimizer: optax.GradientTransformation,
  shardings: TrainState,
  seed: int,
  tuning: Tuning = EVERYTHING,
) -> TrainState:
  """A fresh state, every leaf created where it will live.

  Args:
    decoder: the model.
    optimizer: the gradient transformation.
    shardings: a `TrainState` of `NamedSharding`.
    seed: of the initial weights and of dropout.
    tuning: which parameters are trained.
  """
  key_data = jax.random.key_data(jax.random.key(seed))

  def create(data: jax.Array) -> TrainState:
    return partitioning.unbox(_initialise(decoder, optimizer, tuning, data))

  return jax.jit(create, out_shardings=shardings)(key_data)
