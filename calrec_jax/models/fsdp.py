"""Matrix products with weights sharded over the same axes as the batch.

Explicit fully sharded data parallelism: on the mesh axis `fsdp` a device holds
a shard of every weight and its own rows of the batch. It all-gathers a layer's
weights when they are used, and reduce-scatters their gradients. Left to itself,
the TPU compiler passes weights around in a loop of small products, and
all-reduces whole gradients before slicing them.
Tested on eight CPU devices in `tests/sharded`, and on compiled TPU programs.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from calrec_jax.runtime import partitioning


def product(
  rows: jax.Array,
  weights: jax.Array,
  axes: Sequence[str | None],
  dtype: Any,
  *,
  num_inputs: int = 1,
) -> jax.Array:
  """Rows times weights, both of which may be sharded over devices.

  On a mesh whose batch axes hold several devices all collectives are explicit,
  also on the axis `tensor`: outputs that it splits stay split, and products
  over inputs that it splits are all-reduced. Otherwise it is the plain product.

  Args:
    rows: Rows [T, inputs...], ordered by rows of the batch, in `dtype`.
    weights: Weights [inputs..., outputs...] as stored; their gradients are
      summed in float32.
    axes: Logical axes of the weights.
    dtype: Dtype in which the weights are gathered and multiplied.
    num_inputs: Number of leading axes of the weights that are contracted.

  Returns:
    [T, outputs...].
  """
  weights = partitioning.constrain(weights, *axes)
  layout = _Layout.of(axes)
  if not layout.divides(len(rows)):  # One row, at initialisation.
    return jnp.tensordot(rows, weights.astype(dtype), axes=num_inputs)
  # The mesh axes of each dimension that remain once the weights are gathered.
  split = [
    tuple(name for name in found if name not in layout.batch_axes)
    for found in layout.stored
  ]
  summed = tuple(name for found in split[:num_inputs] for name in found)

  def on_device(rows: jax.Array, own: jax.Array) -> jax.Array:
    whole = layout.gathered(own, jnp.dtype(dtype))
    result = jnp.tensordot(rows, whole, axes=num_inputs)
    return jax.lax.psum(result, summed) if summed else result

  return jax.shard_map(
    on_device,
    in_specs=(
      _spec(layout.batch_axes, *split[:num_inputs]),
      _spec(*layout.stored),
    ),
    out_specs=_spec(layout.batch_axes, *split[num_inputs:]),
  )(rows, weights)


def by_rows(
  function: Callable[..., Any], axes: Sequence[str | None], dtype: Any
) -> Callable[..., Any]:
  """Maps a function of weights over each device's own rows of a batch.

  Inside, devices with different rows do not communicate; mesh axes other than
  the batch axes are left to the compiler. Without an active mesh the function
  runs unchanged.

  Args:
    function: Function of the weights (gathered except over `tensor`), of a tree
      that is the same for all rows, and of arrays [R, ...]; returns arrays
      [R, ...].
    axes: Logical axes of the weights.
    dtype: Dtype in which the weights are gathered.

  Returns:
    The same function of the weights as stored; their gradients are summed in
    float32.
  """

  def run(weights: jax.Array, shared: Any, *arrays: jax.Array) -> Any:
    weights = partitioning.constrain(weights, *axes)
    layout = _Layout.of(axes)
    if not layout.divides(len(arrays[0])):
      return function(weights.astype(dtype), shared, *arrays)
    rows = _spec(layout.batch_axes)

    def on_device(own: jax.Array, shared: Any, *arrays: jax.Array) -> Any:
      # Varies over devices from here on, as `layout.gathered` does.
      shared = jax.lax.pcast(shared, layout.batch_axes, to="varying")
      return function(layout.gathered(own, jnp.dtype(dtype)), shared, *arrays)

    among_rows = [
      tuple(name for name in found if name in layout.batch_axes)
      for found in layout.stored
    ]
    return jax.shard_map(
      on_device,
      in_specs=(_spec(*among_rows), _spec(), *(rows for _ in arrays)),
      out_specs=rows,
      axis_names=set(layout.batch_axes),
    )(weights, shared, *arrays)

  return run


class _Layout(NamedTuple):
  """How batch and weights are sharded under the active mesh and rules.

  Attributes:
    batch_axes: Mesh axes that split rows; empty where one device has them all.
    parts: Number of devices with different rows.
    stored: Mesh axes of each dimension of the weights.
    shared: (dimension, mesh axes) that split both weights and rows.
  """

  batch_axes: tuple[str, ...]
  parts: int
  stored: list[tuple[str, ...]]
  shared: tuple[tuple[int, tuple[str, ...]], ...]

  @classmethod
  def of(cls, axes: Sequence[str | None]) -> _Layout:
    rules = dict(nn.get_logical_axis_rules())
    mesh = jax.sharding.get_abstract_mesh()
    batch_axes = partitioning.axis_names(rules.get("activation_batch"))
    parts = math.prod(mesh.shape.get(axis, 1) for axis in batch_axes)
    if parts == 1:
      return cls((), 1, [], ())
    stored = [
      partitioning.axis_names(entry)
      for entry in partitioning.partition_spec(axes, rules)
    ]
    shared = tuple(
      (dim, names)
      for dim, found in enumerate(stored)
      if (names := tuple(name for name in found if name in batch_axes))
      and math.prod(mesh.shape[name] for name in names) > 1
    )
    return cls(batch_axes, parts, stored, shared)

  def divides(self, rows: int) -> bool:
    """Whether several devices can split this number of rows evenly."""
    return self.parts > 1 and rows % self.parts == 0

  def gathered(self, own: jax.Array, dtype: Any) -> jax.Array:
    """All-gathers the weights on a device from its own shard."""
    held = {name for found in self.stored for name in found}
    copied = tuple(axis for axis in self.batch_axes if axis not in held)
    # Varies over devices: the gradient is summed here, once.
    own = jax.lax.pcast(own, copied, to="varying") if copied else own
    return _gathered(own, self.shared, dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _gathered(
  own: jax.Array, shared: tuple[tuple[int, tuple[str, ...]], ...], dtype: Any
) -> jax.Array:
  """All-gathers a device's shard of weights along (dimension, mesh axes)."""
  whole = own.astype(dtype)
  for dim, names in shared:
    whole = jax.lax.all_gather(whole, names, axis=dim, tiled=True)
  return whole


def _gathered_forward(own: jax.Array, shared: Any, dtype: Any) -> Any:
  # The empty array carries the stored dtype to the backward pass.
  return _gathered(own, shared, dtype), jnp.zeros((0,), own.dtype)


def _gathered_backward(
  shared: Any, _: Any, stored: jax.Array, gradient: jax.Array
) -> tuple[jax.Array]:
  part = gradient.astype(jnp.float32)
  for dim, names in reversed(shared):
    # Shards as the leading axis: each is then contiguous in memory.
    shape = part.shape
    devices = jax.lax.axis_size(names)
    part = part.reshape(*shape[:dim], devices, -1, *shape[dim + 1 :])
    part = jnp.moveaxis(part, dim, 0)
    part = jax.lax.psum_scatter(part, names, scatter_dimension=0, tiled=False)
  return (part.astype(stored.dtype),)


_gathered.defvjp(_gathered_forward, _gathered_backward)


def _spec(*axes: tuple[str, ...]) -> PartitionSpec:
  return PartitionSpec(*(names or None for names in axes))
