"""Placement of rows of users on several devices."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from calrec_jax.runtime import partitioning


def mesh_in_use(mesh: Mesh | None = None) -> Mesh | None:
  """The given mesh, else the one that is set, else None."""
  if mesh is None:
    mesh = jax.sharding.get_mesh()
  return None if mesh.empty else mesh


def whole_rows(rows: int, mesh: Mesh | None) -> int:
  """Rows of a program in which every batch shard of the mesh has `rows`.

  The shape of a matrix product decides its rounding. With the same number of
  rows on every device, results are bit-exact for any number of devices.
  """
  if mesh is None:
    return rows
  return rows * math.prod(mesh.shape[axis] for axis in partitioning.BATCH_AXES)


def spans_processes(mesh: Mesh | None) -> bool:
  """Whether the mesh has devices of several processes."""
  if mesh is None:
    return False
  return len({device.process_index for device in mesh.devices.flat}) > 1


def place(arrays: Any, mesh: Mesh | None) -> Any:
  """Puts NumPy arrays on the devices, their rows sharded over the mesh."""
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
  """Inside a program: replicates arrays over the mesh."""
  if mesh is None:
    return arrays
  return jax.lax.with_sharding_constraint(
    arrays, NamedSharding(mesh, PartitionSpec())
  )


def from_local_rows(batch: Any, mesh: Mesh) -> Any:
  """This host's rows as part of the global batch on the mesh."""
  sharding = partitioning.batch_sharding(mesh)
  # Explicit as it is, a transfer guard counts it as implicit where the mesh
  # spans processes.
  with jax.transfer_guard("allow"):
    return jax.tree.map(
      lambda array: jax.make_array_from_process_local_data(sharding, array),
      batch,
    )
