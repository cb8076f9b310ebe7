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
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from calrec_jax import partitioning


def product(
  multiply: Callable[[jax.Array, jax.Array], jax.Array],
  weights: jax.Array,
  axes: Sequence[str | None],
  rows: jax.Array,
  dtype: Any,
) -> jax.Array:
  """A product of weights with rows, where devices may share both.

  Weights are gathered whole but for what is split over `tensor`. Without an
  active mesh, or where no axis splits the batch, it is the product alone.

  Args:
    multiply: weights and rows [T, ...], whose result has the rows' axis T.
    weights: as they are stored; gradients are summed in float32.
    axes: their logical axes.
    rows: [T, ...], ordered by rows of the batch.
    dtype: in which the weights are gathered and multiplied.
  """
  rules = dict(nn.get_logical_axis_rules())
  mesh = jax.sharding.get_abstract_mesh()
  if not rules or mesh.empty:
    return multiply(weights.astype(dtype), rows)
  batch_axes = _names(rules["activation_batch"])
  parts = math.prod(mesh.shape[axis] for axis in batch_axes)
  if parts == 1 or len(rows) % parts:  # One row, when parameters are made.
    return multiply(partitioning.constrain(weights, *axes).astype(dtype), rows)
  stored = [
    tuple(name for name in _names(entry) if name in batch_axes) or None
    for entry in partitioning.partition_spec(axes, rules)
  ]
  shared = tuple((dim, names) for dim, names in enumerate(stored) if names)
  split = {name for _, names in shared for name in names}
  copied = tuple(axis for axis in batch_axes if axis not in split)

  def on_device(own: jax.Array, rows: jax.Array) -> jax.Array:
    # A copy of its own on every device: the gradient is summed here, once.
    own = jax.lax.pcast(own, copied, to="varying") if copied else own
    return multiply(_gathered(own, shared, jnp.dtype(dtype)), rows)

  return jax.shard_map(
    on_device,
    in_specs=(PartitionSpec(*stored), PartitionSpec(batch_axes)),
    out_specs=PartitionSpec(batch_axes),
    axis_names=set(batch_axes),
  )(weights, rows)


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
