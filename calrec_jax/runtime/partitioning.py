"""Meshes, logical axes, and where every array lives.

The model names the axes of its parameters and activations; one table maps
those names to the mesh axes `replica`, `data`, `fsdp` and `tensor`. Linen
silently replicates an axis that no rule names, so names are checked here.
Tested on eight CPU devices in `tests/sharded`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeGuard

import flax.linen as nn
import gin
import jax
import numpy as np
from flax.linen import spmd
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from calrec_jax.errors import CalrecError

MESH_AXES = ("replica", "data", "fsdp", "tensor")
# Rows of a batch are split over every axis that is not a model axis.
BATCH_AXES = ("replica", "data", "fsdp")

MeshAxes = str | Sequence[str] | None
Rules = Mapping[str, MeshAxes]


class PartitioningError(CalrecError, ValueError):
  """A mesh or a rule that does not fit the devices or the model."""


@gin.configurable
@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshShape:
  """Devices along each mesh axis.

  Attributes:
    replica: Slices, each with a copy of the model, joined by the slow network.
    data: Devices, each with a copy of the model, that split the batch.
    fsdp: Devices that split both the batch and the parameters.
    tensor: Devices that split the width of every layer.
  One axis may be -1: it takes the remaining devices.
  """

  replica: int = 1
  data: int = -1
  fsdp: int = 1
  tensor: int = 1

  def resolve(self, num_devices: int) -> tuple[int, ...]:
    """Sizes of `MESH_AXES` on this number of devices."""
    sizes = [getattr(self, axis) for axis in MESH_AXES]
    if sizes.count(-1) > 1 or any(s < 1 and s != -1 for s in sizes):
      raise PartitioningError(
        f"MeshShape is {_arithmetic(sizes)}: every axis is at least 1, and "
        "at most one of them is -1."
      )
    known = math.prod(size for size in sizes if size != -1)
    if -1 in sizes:
      if num_devices % known:
        raise PartitioningError(
          f"MeshShape is {_arithmetic(sizes)}, but {num_devices} devices are "
          f"not a multiple of {known}."
        )
      sizes[sizes.index(-1)] = num_devices // known
    elif known != num_devices:
      raise PartitioningError(
        f"MeshShape is {_arithmetic(sizes)} = {known} devices, but there are "
        f"{num_devices}. Change MeshShape, or set one axis to -1."
      )
    return tuple(sizes)


@gin.configurable
def logical_axis_rules(
  embed: str | None = "fsdp",
  vocab: str | None = "tensor",
  heads: str | None = "tensor",
  kv_heads: str | None = "tensor",
  mlp: str | None = "tensor",
  activation_batch: Sequence[str] | str | None = BATCH_AXES,
  activation_heads: str | None = "tensor",
  activation_mlp: str | None = "tensor",
) -> dict[str, MeshAxes]:
  """The table from logical axes to mesh axes.

  Args:
    embed: Model width of parameters.
    vocab: Vocabulary of the embedding and the output.
    heads: Query heads of parameters.
    kv_heads: Key and value heads; None if they cannot be split.
    mlp: Hidden width of the feed-forward layers.
    activation_batch: Rows of a batch.
    activation_heads: Heads of queries.
    activation_mlp: Hidden activations of the feed-forward layers.

  Returns:
    The mesh axes of every logical axis that models use; None if it is not
    split.
  """
  return {
    "embed": embed,
    "vocab": vocab,
    "heads": heads,
    "kv_heads": kv_heads,
    "mlp": mlp,
    "kv": None,
    "layers": None,
    "lora_rank": None,
    "norm": None,
    "activation_batch": activation_batch,
    "activation_length": None,
    "activation_embed": None,
    "activation_heads": activation_heads,
    "activation_mlp": activation_mlp,
  }


def make_mesh(shape: MeshShape, devices: Sequence[Any] | None = None) -> Mesh:
  """A mesh over the devices, by default over all of the job.

  Its axes are `Auto`, which Linen's sharding constraints need.
  """
  devices = jax.devices() if devices is None else list(devices)
  sizes = shape.resolve(len(devices))
  axis_types = (AxisType.Auto,) * len(MESH_AXES)
  if len(_slices(devices)) > 1:
    return Mesh(arrange_slices(sizes, devices), MESH_AXES, axis_types)
  return jax.make_mesh(sizes, MESH_AXES, axis_types, devices=devices)


def arrange_slices(sizes: Sequence[int], devices: Sequence[Any]) -> np.ndarray:
  """Devices of several TPU slices along `MESH_AXES`.

  The slow network between slices is crossed along `replica` alone.

  Args:
    sizes: Sizes of `MESH_AXES`.
    devices: Devices of all slices, as many as `sizes` multiply to.

  Raises:
    PartitioningError: if a copy of the model would span slices.
  """
  slices = len(_slices(devices))
  replica, *within = sizes
  if replica % slices:
    raise PartitioningError(
      f"MeshShape is {_arithmetic(sizes)} on {slices} slices: a copy of the "
      f"model must not span slices. Make MeshShape.replica a multiple of "
      f"{slices}."
    )
  return mesh_utils.create_hybrid_device_mesh(
    (replica // slices, *within),
    (slices, 1, 1, 1),
    devices,
    allow_split_physical_axes=True,
  )


@contextlib.contextmanager
def activate(mesh: Mesh, rules: Rules) -> Iterator[None]:
  """Sets a mesh and its rules for everything traced inside."""
  pairs: Any = list(rules.items())
  with jax.set_mesh(mesh), nn.logical_axis_rules(pairs):
    yield


def constrain(array: jax.Array, *axes: str | None) -> jax.Array:
  """Constrains an array to the sharding of its logical axes.

  Without active rules, as in a test on one device, it does nothing.
  """
  rules = dict(nn.get_logical_axis_rules())
  if not rules:
    return array
  partition_spec(axes, rules)  # Linen does not check the names.
  return spmd.with_logical_constraint(array, axes)


def axis_names(entry: MeshAxes) -> tuple[str, ...]:
  """Mesh axes of an entry of a `PartitionSpec` or of the rules."""
  return (entry,) if isinstance(entry, str) else tuple(entry or ())


def partition_spec(axes: Sequence[str | None], rules: Rules) -> PartitionSpec:
  """Mesh axes of an array with these logical axes.

  Raises:
    PartitioningError: for a name that no rule has.
  """
  entries: list[str | tuple[str, ...] | None] = []
  for axis in axes:
    if axis is not None and axis not in rules:
      raise PartitioningError(
        f"No rule names the logical axis {axis!r}; logical_axis_rules has "
        f"{', '.join(sorted(rules))}."
      )
    entry = None if axis is None else rules[axis]
    if not (entry is None or isinstance(entry, str)):
      entry = tuple(entry)
    entries.append(entry)
  return PartitionSpec(*entries)


def state_shardings(abstract: Any, mesh: Mesh, rules: Rules) -> Any:
  """The sharding of every leaf of a tree.

  Args:
    abstract: Tree of shapes, boxed with their logical axes if they have any;
      leaves without axes are replicated.
    mesh: Mesh of the devices.
    rules: Mapping from logical to mesh axes.

  Returns:
    The unboxed tree with a `NamedSharding` for each leaf.

  Raises:
    PartitioningError: for an unknown axis, or a dimension that the mesh does
      not divide, with the arithmetic.
  """

  def sharding(path: Any, leaf: Any) -> NamedSharding:
    if not _is_box(leaf):
      return NamedSharding(mesh, PartitionSpec())
    spec = partition_spec(leaf.names, rules)
    _require_divisible(path, leaf, spec, mesh)
    return NamedSharding(mesh, spec)

  return jax.tree_util.tree_map_with_path(sharding, abstract, is_leaf=_is_box)


def unbox(tree: Any) -> Any:
  """Removes the boxes with logical axes; unlike Linen's, constrains nothing."""
  return jax.tree.map(
    lambda leaf: leaf.value if _is_box(leaf) else leaf, tree, is_leaf=_is_box
  )


def place(boxed: Any, mesh: Mesh) -> tuple[Any, Any]:
  """The unboxed tree, and its `state_shardings` by the configured rules."""
  return unbox(boxed), state_shardings(boxed, mesh, logical_axis_rules())


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """Rows over every batch axis, the rest whole."""
  return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def require_rows(rows: int, mesh: Mesh, microbatches: int = 1) -> None:
  """Refuses a batch whose rows cannot be split over the mesh.

  Args:
    rows: Rows of the global batch.
    mesh: Mesh of the devices.
    microbatches: Number of parts of the batch; each takes the same number of
      rows from every device.
  """
  parts = math.prod(mesh.shape[axis] for axis in BATCH_AXES)
  if rows % (parts * microbatches):
    split = f"replica × data × fsdp = {parts} devices"
    if microbatches > 1:
      split = f"MICROBATCHES (Stage.microbatches) = {microbatches} of {split}"
    raise PartitioningError(
      f"BATCH_SIZE (Feed.rows) = {rows} rows cannot be split over {split}; "
      f"use a multiple of {parts * microbatches}."
    )


def parameter_table(
  abstract: Any, mesh: Mesh, rules: Rules, frozen: Collection[str] = ()
) -> str:
  """Every parameter with shape, logical axes, sharding and bytes per device.

  Args:
    abstract: Boxed shapes, as `jax.eval_shape` gives them.
    mesh: Mesh of the devices.
    rules: Mapping from logical to mesh axes.
    frozen: Paths of parameters that are not trained; if there are any, a
      column says which.
  """
  shardings = jax.tree.leaves(state_shardings(abstract, mesh, rules))
  leaves, _ = jax.tree_util.tree_flatten_with_path(abstract, is_leaf=_is_box)
  rows, parameters, total, local = [], 0, 0, 0
  for (path, leaf), sharding in zip(leaves, shardings, strict=True):
    value = unbox(leaf)
    axes = leaf.names if _is_box(leaf) else ()
    itemsize = np.dtype(value.dtype).itemsize
    shard = math.prod(sharding.shard_shape(value.shape)) * itemsize
    parameters += math.prod(value.shape)
    total += math.prod(value.shape) * itemsize
    local += shard
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    rows.append(
      (
        name,
        "×".join(map(str, value.shape)),
        str(value.dtype),
        ", ".join(map(str, axes)) or "–",
        show_spec(sharding.spec),
        *(["frozen" if name in frozen else "trained"] if frozen else []),
        f"{shard:,}",
      )
    )
  head = (
    "parameter", "shape", "dtype", "logical axes", "mesh axes",
    *(["tuning"] if frozen else []), "bytes/device",
  )  # fmt: skip
  mesh_text = " × ".join(f"{axis} {size}" for axis, size in mesh.shape.items())
  return "\n".join(aligned([head, *rows])) + (
    f"\n{parameters:,} parameters, {total:,} bytes, {local:,} bytes on each of "
    f"{mesh.size} devices ({mesh_text})"
  )


def show_spec(spec: Iterable[MeshAxes]) -> str:
  """The mesh axes of each dimension of an array, as "·, data+fsdp"."""
  shown = ("+".join(axis_names(entry)) or "·" for entry in spec)
  return ", ".join(shown) or "replicated"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
  """Lines of a table; the last column, of numbers, is right-aligned."""
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  lines = []
  for row in rows:
    cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
    cells[-1] = row[-1].rjust(widths[-1])
    lines.append("  ".join(cells))
  return lines


def _slices(devices: Sequence[Any]) -> set[int]:
  """TPU slices of the devices; other devices form a single one."""
  return {getattr(device, "slice_index", 0) for device in devices}


def _is_box(leaf: Any) -> TypeGuard[nn.LogicallyPartitioned]:
  return isinstance(leaf, nn.LogicallyPartitioned)


def _arithmetic(sizes: Sequence[int]) -> str:
  return " × ".join(
    f"{axis} {size}" for axis, size in zip(MESH_AXES, sizes, strict=True)
  )


def _require_divisible(
  path: Any, leaf: nn.LogicallyPartitioned, spec: PartitionSpec, mesh: Mesh
) -> None:
  for size, name, entry in zip(leaf.value.shape, leaf.names, spec, strict=True):
    axes = axis_names(entry)
    parts = math.prod(mesh.shape[axis] for axis in axes)
    if size % parts:
      raise PartitioningError(
        f"{jax.tree_util.keystr(path)}: the logical axis {name!r} has {size} "
        f"entries, which {' × '.join(axes)} = {parts} devices do not divide. "
        f"Change MeshShape, or bind logical_axis_rules.{name} = None."
      )
