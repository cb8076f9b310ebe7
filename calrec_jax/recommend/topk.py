"""Exact search of the best of many vectors, over a mesh if there is one.

The vectors lie spread over all devices. Each device walks its share in chunks
and carries the best found so far, then the devices' lists are merged: scores
of all queries with all vectors never exist at once. Beside the list the search
counts, exactly, what ties with its last place, and reports the scores of asked
columns from the very same products, so that exclusions need no second
computation that might round differently.

Tested against full sorts in `tests/reference/test_dense_reference.py`, on one
device and on eight.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

NO_COLUMN = -1


class Best(NamedTuple):
  """The best columns of each query.

  Attributes:
    columns: int32[B, K], best first, equal scores by rising column; -1 where
      there are fewer than K vectors.
    scores: float32[B, K], -inf where `columns` is -1.
    ties: int32[B], total size of the columns beyond the list whose score
      equals the last listed one.
    asked: float32[B, E], scores of the asked columns, -inf for -1.
  """

  columns: jax.Array
  scores: jax.Array
  ties: jax.Array
  asked: jax.Array


class _Listed(NamedTuple):
  """A list under way: scores, columns and sizes [B, K], ties [B]."""

  scores: jax.Array
  columns: jax.Array
  sizes: jax.Array
  ties: jax.Array


class VectorIndex:
  """Vectors spread over the devices of a mesh, to be searched exactly.

  Attributes:
    num_columns: the number of vectors, M.
    chunk: vectors that a device compares at once. It does not depend on the
      mesh, and so neither does the rounding of a score.
  """

  def __init__(
    self,
    vectors: Float[np.ndarray, "M D"],
    sizes: Int[np.ndarray, " M"],
    *,
    chunk: int,
    mesh: Mesh | None = None,
  ):
    """Places the vectors.

    Args:
      vectors: one vector a column, compared by dot product.
      sizes: how many items each stands for, at least 1; weighs ties.
      chunk: most vectors that a device compares at once.
      mesh: devices to spread over, all of its axes; None for one device.

    Raises:
      ValueError: for a size below 1 or a vector that is not finite.
    """
    if sizes.min(initial=1) < 1:
      raise ValueError("A column without an item cannot be ranked.")
    if not np.isfinite(vectors).all():
      raise ValueError(
        "Item vectors hold NaN or infinity; a model that has diverged cannot "
        "rank."
      )
    self.num_columns = len(vectors)
    self.chunk = min(chunk, 1 << max(0, len(vectors) - 1).bit_length())
    self._mesh = mesh
    shards = 1 if mesh is None else mesh.size
    padding = -len(vectors) % (self.chunk * shards)
    self._vectors = self._place(np.pad(vectors, ((0, padding), (0, 0))))
    self._sizes = self._place(np.pad(sizes, (0, padding)).astype(np.int32))

  def search(
    self,
    queries: Float[Array, "B D"],
    asked: Int[np.ndarray, "B E"],
    depth: int,
  ) -> Best:
    """The `depth` best columns of each query, and the scores of asked ones.

    Each pair of shapes and each depth is compiled once.
    """
    program = _program(self._mesh, self.chunk, depth)
    return program(self._vectors, self._sizes, queries, jnp.asarray(asked))

  def _place(self, array: np.ndarray) -> jax.Array:
    if self._mesh is None:
      return jnp.asarray(array)
    rows = PartitionSpec(self._mesh.axis_names)
    sharding = NamedSharding(self._mesh, rows)
    return jax.make_array_from_callback(
      array.shape, sharding, lambda index: array[index]
    )


@functools.lru_cache(maxsize=64)
def _program(mesh: Mesh | None, chunk: int, depth: int):
  """The compiled search over one device or over all of a mesh."""
  search = functools.partial(_search_share, chunk=chunk, depth=depth)
  if mesh is None:
    return jax.jit(
      lambda vectors, sizes, queries, asked: _as_best(
        *search(vectors, sizes, queries, asked, 0)
      )
    )
  axes = mesh.axis_names

  def on_device(vectors, sizes, queries, asked):
    first = jax.lax.axis_index(axes) * len(vectors)
    listed, scores = search(vectors, sizes, queries, asked, first)
    return _as_best(
      _merge_shares(listed, axes, depth), jax.lax.pmax(scores, axes)
    )

  spread, everywhere = PartitionSpec(axes), PartitionSpec()
  return jax.jit(
    jax.shard_map(
      on_device,
      mesh=mesh,
      in_specs=(spread, spread, everywhere, everywhere),
      out_specs=everywhere,
      check_vma=False,  # The merge makes the lists equal on all devices.
    )
  )


def _search_share(
  vectors: Float[Array, "M D"],
  sizes: Int[Array, " M"],
  queries: Float[Array, "B D"],
  asked: Int[Array, "B E"],
  first: Int[Array, ""] | int,
  *,
  chunk: int,
  depth: int,
) -> tuple[_Listed, Float[Array, "B E"]]:
  """Searches one device's columns, of which `first` is the smallest."""
  batch = len(queries)
  begin = _Listed(
    scores=jnp.full((batch, depth), -jnp.inf, jnp.float32),
    columns=jnp.full((batch, depth), NO_COLUMN, jnp.int32),
    sizes=jnp.zeros((batch, depth), jnp.int32),
    ties=jnp.zeros(batch, jnp.int32),
  )

  def step(carry, part):
    listed, asked_scores = carry
    block, block_sizes, start = part
    scores = jnp.einsum(
      "bd,cd->bc", queries, block, precision=jax.lax.Precision.HIGHEST
    )
    # One zero only: top_k orders -0 below 0, an equality does not.
    scores = jnp.where(scores == 0, 0.0, scores)
    scores = jnp.where(block_sizes[None, :] > 0, scores, -jnp.inf)
    place = asked - start
    inside = (place >= 0) & (place < chunk) & (asked >= 0)
    found = jnp.take_along_axis(scores, jnp.clip(place, 0, chunk - 1), axis=1)
    asked_scores = jnp.where(inside, found, asked_scores)
    columns = jnp.where(
      block_sizes > 0, start + jnp.arange(chunk, dtype=jnp.int32), NO_COLUMN
    )
    block_listed = _Listed(
      scores=scores,
      columns=jnp.broadcast_to(columns, scores.shape),
      sizes=jnp.broadcast_to(block_sizes, scores.shape),
      ties=jnp.zeros(batch, jnp.int32),
    )
    return (_merge([listed, block_listed], depth), asked_scores), None

  blocks = vectors.reshape(-1, chunk, vectors.shape[1])
  starts = first + jnp.arange(len(blocks), dtype=jnp.int32) * chunk
  carry = (begin, jnp.full(asked.shape, -jnp.inf, jnp.float32))
  carry, _ = jax.lax.scan(
    step, carry, (blocks, sizes.reshape(-1, chunk), starts)
  )
  return carry


def _merge(lists: list[_Listed], depth: int) -> _Listed:
  """The best of several lists; earlier ones hold the smaller columns."""
  scores, columns, sizes = (
    jnp.concatenate([getattr(listed, field) for listed in lists], axis=1)
    for field in ("scores", "columns", "sizes")
  )
  best, places = jax.lax.top_k(scores, depth)
  best_sizes = jnp.take_along_axis(sizes, places, axis=1)
  last = best[:, -1:]
  # What ties with the last place: among what is at hand, minus what is listed,
  # and what an earlier list left out at the same score.
  ties = jnp.sum(sizes * (scores == last), axis=1)
  ties -= jnp.sum(best_sizes * (best == last), axis=1)
  for listed in lists:
    ties += jnp.where(listed.scores[:, -1] == last[:, 0], listed.ties, 0)
  return _Listed(
    scores=best,
    columns=jnp.take_along_axis(columns, places, axis=1),
    sizes=best_sizes,
    ties=ties,
  )


def _merge_shares(
  listed: _Listed, axes: tuple[str, ...], depth: int
) -> _Listed:
  """Merges the devices' lists, in the order of their columns."""
  gathered = jax.lax.all_gather(listed, axes)
  shares = len(gathered.ties)
  return _merge(
    [jax.tree.map(lambda a, i=i: a[i], gathered) for i in range(shares)], depth
  )


def _as_best(listed: _Listed, asked: Float[Array, "B E"]) -> Best:
  columns = jnp.where(listed.sizes > 0, listed.columns, NO_COLUMN)
  return Best(columns, listed.scores, listed.ties, asked)
