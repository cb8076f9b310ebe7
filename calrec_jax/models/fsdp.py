"""Products with weights that devices share with the batch.

Fully sharded data parallelism, written out: on the mesh axis `fsdp` a device
holds a part of every weight and its own rows of the batch. It gathers a layer's
weights when they are used, and gives back its share of the sum of gradients.
Left to itself, the TPU compiler sends weights around in a loop of small
products, and sums whole gradients before it cuts them.
Tested on eight CPU devices in `tests/sharded`, and on compiled TPU programs.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from calrec_jax import partitioning


def product(
  rows: jax.Array,
  weights: jax.Array,
  axes: Sequence[str | None],
  dtype: Any,
  *,
  num_inputs: int = 1,
) -> jax.Array:
  """Rows times weights, where devices may share both.

  On a mesh whose batch axes hold several devices everything is written out,
  the axis `tensor` too: what it splits of the weights' outputs stays split,
  and products over what it splits of their inputs are summed. Otherwise it is
  the plain product.

  Args:
    rows: [T, inputs...], ordered by rows of the batch, in `dtype`.
    weights: [inputs..., outputs...] as they are stored; gradients are summed
      in float32.
    axes: logical axes of the weights.
    dtype: in which the weights are gathered and multiplied.
    num_inputs: axes of the weights that are multiplied away.

  Returns:
    [T, outputs...].
  """
  weights = partitioning.constrain(weights, *axes)
  rules = dict(nn.get_logical_axis_rules())
  mesh = jax.sharding.get_abstract_mesh()
  batch_axes = _names(rules.get("activation_batch"))
  parts = math.prod(mesh.shape.get(axis, 1) for axis in batch_axes)
  if parts == 1 or len(rows) % parts:  # One row, when parameters are made.
    return jnp.tensordot(rows, weights.astype(dtype), axes=num_inputs)
  stored = [_names(entry) for entry in partitioning.partition_spec(axes, rules)]
  shared = tuple(
    (dim, names)
    for dim, found in enumerate(stored)
    if (names := tuple(name for name in found if name in batch_axes))
    and math.prod(mesh.shape[name] for name in names) > 1
  )
  held = {name for found in stored for name in found}
  copied = tuple(axis for axis in batch_axes if axis not in held)
  # What is left of the split once the weights are gathered.
  split = [
    tuple(name for name in found if name not in batch_axes) for found in stored
  ]
  summed = tuple(name for found in split[:num_inputs] for name in found)

  def on_device(rows: jax.Array, own: jax.Array) -> jax.Array:
    # A copy of its own on every device: the gradient is summed here, once.
    own = jax.lax.pcast(own, copied, to="varying") if copied else own
    whole = _gathered(own, shared, jnp.dtype(dtype))
    result = jnp.tensordot(rows, whole, axes=num_inputs)
    return jax.lax.psum(result, summed) if summed else result

  return jax.shard_map(
    on_device,
    in_specs=(_spec(batch_axes, *split[:num_inputs]), _spec(*stored)),
    out_specs=_spec(batch_axes, *split[num_inputs:]),
  )(rows, weights)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _gathered(
  own: jax.Array, shared: tuple[tuple[int, tuple[str, ...]], ...], dtype: Any
) -> jax.Array:
  """A device's part of weights, made whole along (dimension, mesh axes)."""
  whole = own.astype(dtype)
  for dim, names in shared:
    whole = jax.lax.all_gather(whole, names, axis=dim, tiled=True)
  return whole


def _gathered_forward(own: jax.Array, shared: Any, dtype: Any) -> Any:
  # The empty array tells the backward pass how the weights are stored.
  return _gathered(own, shared, dtype), jnp.zeros((0,), own.dtype)


def _gathered_backward(
  shared: Any, _: Any, stored: jax.Array, gradient: jax.Array
) -> tuple[jax.Array]:
  part = gradient.astype(jnp.float32)
  for dim, names in reversed(shared):
    # The parts in front: what is scattered then lies together in memory.
    shape = part.shape
    devices = jax.lax.axis_size(names)
    part = part.reshape(*shape[:dim], devices, -1, *shape[dim + 1 :])
    part = jnp.moveaxis(part, dim, 0)
    part = jax.lax.psum_scatter(part, names, scatter_dimension=0, tiled=False)
  return (part.astype(stored.dtype),)


_gathered.defvjp(_gathered_forward, _gathered_backward)


def _names(entry: Any) -> tuple[str, ...]:
  """Mesh axes of an entry of a `PartitionSpec` or of the rules."""
  return (entry,) if isinstance(entry, str) else tuple(entry or ())


def _spec(*axes: tuple[str, ...]) -> PartitionSpec:
  return PartitionSpec(*(names or None for names in axes))
