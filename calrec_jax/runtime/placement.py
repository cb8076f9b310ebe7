"""Where rows of users lie when several devices work together."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from calrec_jax.runtime import partitioning


def mesh_in_use(mesh: Mesh | None = None) -> Mesh | None:
  """The given mesh, else the one that is set, else none."""
  if mesh is None:
    mesh = jax.sharding.get_mesh()
  return None if mesh.empty else mesh


def whole_rows(rows: int, mesh: Mesh | None) -> int:
  """The rows of one program where each part of the mesh takes so many.

  A product rounds by its shape. With the same number of rows on every device,
  whatever the number of devices, an answer is the same to the last bit.
  """
  if mesh is None:
    return rows
  return rows * math.prod(mesh.shape[axis] for axis in partitioning.BATCH_AXES)


def spans_processes(mesh: Mesh | None) -> bool:
  """Whether devices of several processes make the mesh."""
  if mesh is None:
    return False
  return len({device.process_index for device in mesh.devices.flat}) > 1


def place(arrays: Any, mesh: Mesh | None) -> Any:
  """Puts NumPy arrays on the devices, their rows spread over the mesh."""
  if mesh is None:
    return jax.tree.map(jnp.asarray, arrays)
  rows = partitioning.batch_sharding(mesh)
  return jax.tree.map(
    lambda array: jax.make_array_from_callback(
      np.shape(array), rows, lambda index: array[index]
    ),
    arrays,
  )


def everywhere(arrays: Any, mesh: Mesh | None) -> Any:
  """Inside a program: asks for whole arrays on every device of the mesh."""
  if mesh is None:
    return arrays
  return jax.lax.with_sharding_constraint(
    arrays, NamedSharding(mesh, PartitionSpec())
  )


def from_local_rows(batch: Any, mesh: jax.sharding.Mesh) -> Any:
  """This host's rows as part of the global batch on the mesh."""
  sharding = partitioning.batch_sharding(mesh)
  return jax.tree.map(
    lambda array: jax.make_array_from_process_local_data(sharding, array), batch
  )
