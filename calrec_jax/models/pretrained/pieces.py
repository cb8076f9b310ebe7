"""Sharded arrays assembled from pieces that are read one at a time.

In every file format a parameter comes in pieces: rows of a vocabulary, or the
tensor of a layer. A host retains of each what belongs to its devices.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import os
from collections.abc import Callable, Iterator

import jax
import numpy as np

THREADS = min(8, os.cpu_count() or 1)  # Concurrent readers.


@dataclasses.dataclass(frozen=True)
class Piece:
  """A piece of a parameter: `values`, starting at `start` along one axis."""

  axis: int
  start: int
  values: np.ndarray


def in_parallel(
  pool: concurrent.futures.Executor, pieces: Iterator[Callable[[], Piece]]
) -> Iterator[Piece]:
  """Reads pieces in order, prefetching a few."""
  waiting: list[concurrent.futures.Future[Piece]] = []
  for read in pieces:
    waiting.append(pool.submit(read))
    if len(waiting) > THREADS:
      yield waiting.pop(0).result()
  for future in waiting:
    yield future.result()


def assemble(
  shape: jax.ShapeDtypeStruct,
  sharding: jax.sharding.Sharding,
  pieces: Iterator[Piece],
) -> jax.Array:
  """Assembles an array of which each host holds the shards of its devices.

  Args:
    shape: Shape and dtype of the whole array.
    sharding: Sharding of the array.
    pieces: All of its pieces, in any order.
  """
  indices = sharding.addressable_devices_indices_map(shape.shape)
  # Devices with the same shard share a buffer.
  buffers: dict[tuple[tuple[int, int], ...], np.ndarray] = {}
  bounds = {
    device: tuple(
      part.indices(size)[:2]
      for part, size in zip(index or (), shape.shape, strict=True)
    )
    for device, index in indices.items()
  }
  for bound in bounds.values():
    if bound not in buffers:
      local = [stop - start for start, stop in bound]
      buffers[bound] = np.empty(local, shape.dtype)
  for piece in pieces:
    for bound, buffer in buffers.items():
      _copy_overlap(buffer, bound, piece)
  arrays = [
    jax.device_put(buffers[bound], device) for device, bound in bounds.items()
  ]
  return jax.make_array_from_single_device_arrays(shape.shape, sharding, arrays)


def _copy_overlap(
  buffer: np.ndarray, bound: tuple[tuple[int, int], ...], piece: Piece
) -> None:
  into, out = [], []
  for axis, (start, stop) in enumerate(bound):
    begin = piece.start if axis == piece.axis else 0
    end = begin + piece.values.shape[axis]
    low, high = max(start, begin), min(stop, end)
    if low >= high:
      return
    into.append(slice(low - start, high - start))
    out.append(slice(low - begin, high - begin))
  buffer[tuple(into)] = piece.values[tuple(out)]
