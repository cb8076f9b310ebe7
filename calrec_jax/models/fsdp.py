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
  layout = _Layout.of(axes)
  if not layout.divides(len(rows)):  # One row, when parameters are made.
    return jnp.tensordot(rows, weights.astype(dtype), axes=num_inputs)
  # What is left of the split once the weights are gathered.
  split = layout.rest
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
  """Runs a function of weights on every device's own rows of a batch.

  Inside, nothing is exchanged between devices that hold different rows; mesh
  axes that are not batch axes work as ever. Without an active mesh the function
  runs as it is.

  Args:
    function: takes the weights, whole but for what `tensor` splits, then what
      is the same for all rows, then arrays [R, ...]; returns arrays [R, ...].
    axes: logical axes of the weights.
    dtype: in which the weights are gathered.

  Returns:
    The same function of the weights as they are stored; their gradients are
    summed in float32.
  """

  def run(weights: jax.Array, shared: Any, *arrays: jax.Array) -> Any:
    weights = partitioning.constrain(weights, *axes)
    layout = _Layout.of(axes)
    if not layout.divides(len(arrays[0])):
      return function(weights.astype(dtype), shared, *arrays)
    rows = _spec(layout.batch_axes)

    def on_device(own: jax.Array, shared: Any, *arrays: jax.Array) -> Any:
      # From here on a device's own, as `layout.gathered` is.
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
  """How devices share a batch and weights under the active mesh and rules.

  Attributes:
    batch_axes: mesh axes that split rows; none where one device has them all.
    parts: devices that hold different rows.
    stored: mesh axes by dimension of the weights.
    shared: (dimension, mesh axes) that split weights and rows.
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
    """Whether several devices have the same share of so many rows."""
    return self.parts > 1 and rows % self.parts == 0

  @property
  def rest(self) -> list[tuple[str, ...]]:
    """Mesh axes by dimension of the gathered weights."""
    return [
      tuple(name for name in found if name not in self.batch_axes)
      for found in self.stored
    ]

  def gathered(self, own: jax.Array, dtype: Any) -> jax.Array:
    """On a device: its part of the weights made whole."""
    held = {name for found in self.stored for name in found}
    copied = tuple(axis for axis in self.batch_axes if axis not in held)
    # A copy of its own on every device: the gradient is summed here, once.
    own = jax.lax.pcast(own, copied, to="varying") if copied else own
    return _gathered(own, self.shared, dtype)


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


def _spec(*axes: tuple[str, ...]) -> PartitionSpec:
  return PartitionSpec(*(names or None for names in axes))
