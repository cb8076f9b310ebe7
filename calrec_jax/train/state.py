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

from calrec_jax.models.tuning import EVERYTHING, Tuning, join
from calrec_jax.runtime import partitioning
from calrec_jax.train.averaging import Averaging


class TrainState(NamedTuple):
  """Everything that a training step changes, and its random key.

  Attributes:
    step: int32 scalar, number of updates done.
    params: Parameters of the model, unboxed, trained and frozen.
    opt_state: Optimizer state of the trained parameters, sharded like them.
    rng: uint32 key data; step k samples from `fold_in(rng, k)`.
    average: Mean of the trained parameters over the last steps; None where a
      stage takes none, see `Averaging`.
  """

  step: jax.Array
  params: Any
  opt_state: Any
  rng: jax.Array
  average: Any = None

  @property
  def model(self) -> Any:
    """The parameters that are validated and handed over."""
    if self.average is None:
      return self.params
    return join(self.params, self.average)

  def on_disk(self) -> dict[str, Any]:
    """The tree of a t5x checkpoint: `target` and `state`, plus the key.

    The target is what readers of a model want, `model`. Where that is a mean,
    the parameters that training goes on from are part of the state.
    """
    state = {"step": self.step, "param_states": self.opt_state}
    if self.average is not None:
      state["params"] = _subtree(self.params, self.average)
    return {"target": self.model, "state": state, "rng": self.rng}

  @classmethod
  def from_disk(cls, tree: dict[str, Any]) -> TrainState:
    """The inverse of `on_disk`."""
    state, target = tree["state"], tree["target"]
    params, average = target, None
    if "params" in state:
      params = join(target, state["params"])
      average = _subtree(target, state["params"])
    return cls(
      state["step"], params, state["param_states"], tree["rng"], average
    )


def _initialise(
  decoder: nn.Module,
  optimizer: optax.GradientTransformation,
  tuning: Tuning,
  key_data: jax.Array,
  averaging: Averaging | None,
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
    average=None if averaging is None else trained,
  )


def abstract_state(
  decoder: nn.Module,
  optimizer: optax.GradientTransformation,
  tuning: Tuning = EVERYTHING,
  averaging: Averaging | None = None,
) -> TrainState:
  """Shapes and logical axes of the state; nothing is allocated or computed."""

  def initialise() -> TrainState:
    # The key is created inside: the devices of the mesh may be absent.
    key_data = jax.random.key_data(jax.random.key(0))
    return _initialise(decoder, optimizer, tuning, key_data, averaging)

  return jax.eval_shape(initialise)


def create_state(
  decoder: nn.Module,
  optimizer: optax.GradientTransformation,
  shardings: TrainState,
  seed: int,
  tuning: Tuning = EVERYTHING,
  averaging: Averaging | None = None,
) -> TrainState:
  """A fresh state, every leaf created on its devices.

  Args:
    decoder: Module of the model.
    optimizer: Gradient transformation.
    shardings: `NamedSharding` of every leaf.
    seed: Seed of the initial weights and of dropout.
    tuning: Choice of the trained parameters.
    averaging: Mean of the parameters that is taken, if any.
  """
  key_data = jax.random.key_data(jax.random.key(seed))

  def create(data: jax.Array) -> TrainState:
    return partitioning.unbox(
      _initialise(decoder, optimizer, tuning, data, averaging)
    )

  return jax.jit(create, out_shardings=shardings)(key_data)


def _subtree(tree: Any, part: Any) -> Any:
  """The leaves of nested dictionaries that another tree has, too."""
  leaves = traverse_util.flatten_dict(tree)
  return traverse_util.unflatten_dict(
    {path: leaves[path] for path in traverse_util.flatten_dict(part)}
  )


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
