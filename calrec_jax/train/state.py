"""The training state: created sharded, with t5x's names on disk.

Tests do not check its shape annotations: pytree records pass through `tree.map`
with leaves that are not arrays.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import traverse_util

from calrec_jax.models.tuning import EVERYTHING, Tuning
from calrec_jax.runtime import partitioning


class TrainState(NamedTuple):
  """Everything that a training step changes, and its random key.

  Attributes:
    step: int32 scalar, number of updates done.
    params: Parameters of the model, unboxed, trained and frozen.
    opt_state: Optimizer state of the trained parameters, sharded like them.
    rng: uint32 key data; step k samples from `fold_in(rng, k)`.
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
    state = tree["state"]
    return cls(
      state["step"], tree["target"], state["param_states"], tree["rng"]
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
  # Segment 1: padding would leave nothing to attend to.
  variables = decoder.init(
    jax.random.fold_in(key, 0), tokens, tokens, tokens + 1
  )
  params = variables["params"]
  trained, _ = tuning.split(params)
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=tuning.store(params),
    opt_state=fit_axes(optimizer.init(trained), trained),
    rng=key_data,
  )


def abstract_state(
  decoder: nn.Module,
  optimizer: optax.GradientTransformation,
  tuning: Tuning = EVERYTHING,
) -> TrainState:
  """Shapes and logical axes of the state; nothing is allocated or computed."""

  def initialise() -> TrainState:
    # The key is created inside: the devices of the mesh may be absent.
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
  """A fresh state, every leaf created on its devices.

  Args:
    decoder: Module of the model.
    optimizer: Gradient transformation.
    shardings: `NamedSharding` of every leaf.
    seed: Seed of the initial weights and of dropout.
    tuning: Choice of the trained parameters.
  """
  key_data = jax.random.key_data(jax.random.key(seed))

  def create(data: jax.Array) -> TrainState:
    return partitioning.unbox(_initialise(decoder, optimizer, tuning, data))

  return jax.jit(create, out_shardings=shardings)(key_data)


def fit_axes(opt_state: Any, params: Any) -> Any:
  """An optimizer's state with logical axes that fit the shapes of its leaves.

  Optax initialises the state from parameters that are boxed with their axes,
  and maps over the boxes: a moment gets the axes of its parameter. Adafactor's
  means of rows and columns have one axis less, and get the remaining axes, so
  that a mean stays where it is computed and is never gathered.

  Args:
    opt_state: State that the optimizer initialised from `params`.
    params: Nested dictionaries of boxed parameters.

  Returns:
    The state. A leaf that has neither its parameter's shape nor that shape
    without one axis is unboxed, which means replicated: Optax has such leaves,
    of a single element, for unused moments.
  """
  owners: dict[Any, Any] = traverse_util.flatten_dict(params)

  def fitted(path: Any, leaf: Any) -> Any:
    if not _is_box(leaf):
      return leaf
    keys = tuple(getattr(entry, "key", None) for entry in path)
    owner = next(
      owners[keys[start:]]
      for start in range(len(keys))
      if keys[start:] in owners
    )
    shape, whole = leaf.value.shape, owner.value.shape
    if shape == whole:
      return leaf
    dropped = [
      axis
      for axis in range(len(whole))
      if whole[:axis] + whole[axis + 1 :] == shape
    ]
    if not dropped:
      return leaf.value
    # Of equal axes the mean of rows drops the last one and that of columns the
    # first one. A wrong guess would cost a gather, not a wrong result.
    is_row = any(getattr(entry, "name", None) == "v_row" for entry in path)
    axis = dropped[-1 if is_row else 0]
    return leaf.replace(names=owner.names[:axis] + owner.names[axis + 1 :])

  return jax.tree_util.tree_map_with_path(fitted, opt_state, is_leaf=_is_box)


def _is_box(leaf: Any) -> bool:
  return isinstance(leaf, nn.LogicallyPartitioned)
