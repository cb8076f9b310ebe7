"""Logical axes of an optimizer's state.

Optax makes the state from parameters that are boxed with their axes, and maps
over the boxes: a moment gets the axes of its parameter. Adafactor's means of
rows and columns have one axis less than those, and get the axes that are
left, so that a mean lies where it is computed and is never gathered.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
from flax import traverse_util


def fit(opt_state: Any, params: Any) -> Any:
  """The state with axes that fit the shapes of its leaves.

  Args:
    opt_state: what the optimizer made of `params`.
    params: nested dictionaries of boxed parameters.

  Returns:
    The state; a leaf that is neither of its parameter's shape nor of that
    shape without one axis is unboxed, which means replicated. Optax leaves
    such ones, of a single number, where a moment is not used.
  """
  owners = traverse_util.flatten_dict(params)

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
    # Of equal axes the mean of rows lacks the last one and that of columns the
    # first one. A wrong guess would cost a gather, not a wrong number.
    is_row = any(getattr(entry, "name", None) == "v_row" for entry in path)
    axis = dropped[-1 if is_row else 0]
    return leaf.replace(names=owner.names[:axis] + owner.names[axis + 1 :])

  return jax.tree_util.tree_map_with_path(fitted, opt_state, is_leaf=_is_box)


def _is_box(leaf: Any) -> bool:
  return isinstance(leaf, nn.LogicallyPartitioned)
