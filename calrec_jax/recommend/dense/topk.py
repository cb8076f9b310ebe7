"""Exact search of the best of many vectors, over a mesh if there is one.

The vectors lie spread over all devices. Each device walks its shard in chunks
and carries the best found so far, then the devices' lists are merged: scores
of all queries with all vectors never exist at once. Beside the list the search
counts, exactly, what ties with its last position, and reports the scores of
requested vectors from the very same products, so that exclusions need no second
computation that might round differently.

With `approx` a chunk's best are looked for by `jax.lax.approx_max_k`, which
may miss some: a TPU then sorts less (Chern et al., 2022, arXiv 2206.14286).
Scores and their order stay exact, and what was found in one chunk is not lost
in another.

Tested against full sorts in `tests/reference/test_dense_reference.py`, on one
device and on eight; timed by `benchmarks/dense_search.py`.
"""

import functools
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

from calrec_jax.errors import DivergedError
from calrec_jax.recommend.candidates import EMPTY

_PIECE = 2**15  # Rows that are read at once, so that they are not held twice.


@runtime_checkable
class Rows(Protocol):
  """Vectors that are read in pieces: an array, or files of one."""

  @property
  def shape(self) -> tuple[int, ...]:
    """Rows and width, M and D."""
    ...

  def __getitem__(self, rows: slice, /) -> np.ndarray:
    """float32[rows, D]."""
    ...


class Best(NamedTuple):
  """The best vectors of each query.

  Attributes:
    indices: int32[B, K], best first, equal scores by ascending index; -1 where
      there are fewer than K vectors.
    scores: float32[B, K], -inf where `indices` is -1.
    ties: int32[B], total size of the vectors beyond the list whose score
      equals the last listed one; an approximate search may miss some.
    requested: float32[B, E], scores of the requested vectors, -inf for -1.
  """

  indices: Any
  scores: Any
  ties: Any
  requested: Any


class _Listed(NamedTuple):
  """An unfinished list: scores, indices and sizes [B, K], ties [B]."""

  scores: jax.Array
  indices: jax.Array
  sizes: jax.Array
  ties: jax.Array


class VectorIndex:
  """Vectors spread over the devices of a mesh, to be searched.

  Attributes:
    num_vectors: Number of vectors, M.
    chunk: Number of vectors that a device compares at once. It does not depend
      on the mesh, so neither does the rounding of a score.
    recall_target: Expected fraction of a chunk's best that an approximate
      search finds in it; None for an exact one.
  """

  def __init__(
    self,
    vectors: Rows,
    sizes: Int[np.ndarray, " M"],
    *,
    chunk: int,
    mesh: Mesh | None = None,
    recall_target: float | None = None,
  ):
    """Places the vectors; each process reads what its devices hold.

    Args:
      vectors: Vectors, compared by dot product.
      sizes: Number of items of each, at least 1; weighs ties.
      chunk: Most vectors that a device compares at once.
      mesh: Devices to spread over, all of its axes; None for one device.
      recall_target: See `VectorIndex`.

    Raises:
      DivergedError: for a vector that is not finite.
    """
    if sizes.min(initial=1) < 1:
      raise ValueError("A vector without an item cannot be ranked.")
    self.num_vectors, width = vectors.shape
    self.chunk = min(chunk, 1 << max(0, self.num_vectors - 1).bit_length())
    self.recall_target = recall_target
    self._mesh = mesh
    step = self.chunk * (1 if mesh is None else mesh.size)
    padded = self.num_vectors + -self.num_vectors % step
    self._vectors = self._place(vectors, (padded, width))
    self._sizes = self._place(sizes.astype(np.int32), (padded,))

  def search(
    self,
    queries: Float[Array, "B D"],
    requested: Int[np.ndarray, "B E"],
    depth: int,
  ) -> Best:
    """The `depth` best vectors of each query, and scores of requested ones.

    Each pair of shapes and each depth is compiled once.
    """
    program = _program(self._mesh, self.chunk, depth, self.recall_target)
    return program(self._vectors, self._sizes, queries, jnp.asarray(requested))

  def _place(self, array: Rows, shape: tuple[int, ...]) -> jax.Array:
    """The rows on their devices, zeros after them."""

    def read(index: tuple[slice, ...] | None) -> np.ndarray:
      start, stop, _ = (index or (slice(None),))[0].indices(shape[0])
      return _filled(array, start, stop)

    if self._mesh is None:
      # One more copy than what is read; jnp.asarray makes two.
      return jax.device_put(read(None))
    rows = PartitionSpec(self._mesh.axis_names)
    return jax.make_array_from_callback(
      shape, NamedSharding(self._mesh, rows), read
    )


def _filled(array: Rows, start: int, stop: int) -> np.ndarray:
  """Rows from `start` to `stop`, zeros where there are no more.

  Raises:
    DivergedError: for a value that is not finite.
  """
  filled = np.zeros((stop - start, *array.shape[1:]), array[:0].dtype)
  end = min(stop, array.shape[0])
  for first in range(start, end, _PIECE):
    last = min(first + _PIECE, end)
    piece = array[first:last]
    if not np.isfinite(piece).all():
      raise DivergedError(
        "Item vectors hold NaN or infinity; a model that has diverged cannot "
        "rank."
      )
    filled[first - start : last - start] = piece
  return filled


@functools.lru_cache(maxsize=64)
def _program(
  mesh: Mesh | None, chunk: int, depth: int, recall_target: float | None
):
  """The compiled search over one device or over all of a mesh."""
  search = functools.partial(
    _search_shard, chunk=chunk, depth=depth, recall_target=recall_target
  )
  if mesh is None:
    return jax.jit(
      lambda vectors, sizes, queries, requested: _as_best(
        *search(vectors, sizes, queries, requested, 0)
      )
    )
  axes = mesh.axis_names

  def on_device(vectors, sizes, queries, requested):
    first = jax.lax.axis_index(axes) * len(vectors)
    listed, scores = search(vectors, sizes, queries, requested, first)
    return _as_best(
      _merge_shards(listed, axes, depth), jax.lax.pmax(scores, axes)
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


def _search_shard(
  vectors: Float[Array, "M D"],
  sizes: Int[Array, " M"],
  queries: Float[Array, "B D"],
  requested: Int[Array, "B E"],
  first: Int[Array, ""] | int,
  *,
  chunk: int,
  depth: int,
  recall_target: float | None,
) -> tuple[_Listed, Float[Array, "B E"]]:
  """Searches one device's vectors, of which `first` is the first index."""
  batch = len(queries)
  begin = _Listed(
    scores=jnp.full((batch, depth), -jnp.inf, jnp.float32),
    indices=jnp.full((batch, depth), EMPTY, jnp.int32),
    sizes=jnp.zeros((batch, depth), jnp.int32),
    ties=jnp.zeros(batch, jnp.int32),
  )

  def step(carry, part):
    listed, requested_scores = carry
    block, block_sizes, start = part
    scores = jnp.einsum(
      "bd,cd->bc", queries, block, precision=jax.lax.Precision.HIGHEST
    )
    # One zero only: top_k orders -0 below 0, an equality does not.
    scores = jnp.where(scores == 0, 0.0, scores)
    scores = jnp.where(block_sizes[None, :] > 0, scores, -jnp.inf)
    at = requested - start
    inside = (at >= 0) & (at < chunk) & (requested >= 0)
    found = jnp.take_along_axis(scores, jnp.clip(at, 0, chunk - 1), axis=1)
    requested_scores = jnp.where(inside, found, requested_scores)
    if recall_target is None:
      listed = _extend(listed, scores, block_sizes, start)
    else:
      block_listed = _approximate(
        scores, block_sizes, start, min(depth, chunk), recall_target
      )
      listed = _merge([listed, block_listed], depth)
    return (listed, requested_scores), None

  blocks = vectors.reshape(-1, chunk, vectors.shape[1])
  starts = first + jnp.arange(len(blocks), dtype=jnp.int32) * chunk
  carry = (begin, jnp.full(requested.shape, -jnp.inf, jnp.float32))
  carry, _ = jax.lax.scan(
    step, carry, (blocks, sizes.reshape(-1, chunk), starts)
  )
  return carry


def _extend(
  listed: _Listed,
  scores: Float[Array, "B C"],
  sizes: Int[Array, " C"],
  start: Int[Array, ""],
) -> _Listed:
  """The best of a list and of a chunk of more vectors, from `start` on."""
  depth = listed.scores.shape[1]
  # Together, the list first: what is worse than it costs a CPU no sorting.
  best, positions = jax.lax.top_k(
    jnp.concatenate([listed.scores, scores], axis=1), depth
  )
  new = jnp.maximum(positions - depth, 0)
  known = jnp.minimum(positions, depth - 1)

  def choose(old: Array, more: Array) -> Array:
    old = jnp.take_along_axis(old, known, axis=1)
    return jnp.where(positions < depth, old, more)

  best_sizes = choose(listed.sizes, sizes[new])
  last = _last(best)
  ties = jnp.sum(jnp.where(scores == last, sizes[None], 0), axis=1)
  ties += jnp.sum(jnp.where(listed.scores == last, listed.sizes, 0), axis=1)
  ties -= jnp.sum(jnp.where(best == last, best_sizes, 0), axis=1)
  ties += jnp.where(listed.scores[:, -1] == last[:, 0], listed.ties, 0)
  return _Listed(best, choose(listed.indices, start + new), best_sizes, ties)


def _approximate(
  scores: Float[Array, "B C"],
  sizes: Int[Array, " C"],
  start: Int[Array, ""],
  depth: int,
  recall_target: float,
) -> _Listed:
  """Most of the best of a chunk; all that ties with its last one counts."""
  best, positions = jax.lax.approx_max_k(
    scores, depth, recall_target=recall_target
  )
  best_sizes = sizes[positions]
  last = _last(best)
  ties = jnp.sum(jnp.where(scores == last, sizes[None], 0), axis=1)
  ties -= jnp.sum(jnp.where(best == last, best_sizes, 0), axis=1)
  return _Listed(best, start + positions, best_sizes, ties)


def _last(best: Float[Array, "B K"]) -> Float[Array, "B 1"]:
  """The smallest scores of sorted lists.

  Not `best[:, -1:]`: XLA joins that slice with the one that ends its sort, no
  longer sees that only the first are wanted, and sorts everything, which on a
  CPU takes ten times as long as the rest of the search.
  """
  return jnp.min(best, axis=1, keepdims=True)


def _merge(lists: list[_Listed], depth: int) -> _Listed:
  """The best of several lists; earlier ones hold the smaller indices."""
  scores, indices, sizes = (
    jnp.concatenate([getattr(listed, field) for listed in lists], axis=1)
    for field in ("scores", "indices", "sizes")
  )
  best, positions = jax.lax.top_k(scores, depth)
  best_sizes = jnp.take_along_axis(sizes, positions, axis=1)
  last = _last(best)
  # What ties with the last position: among all candidates, minus those listed,
  # and what an earlier list left out at the same score.
  ties = jnp.sum(sizes * (scores == last), axis=1)
  ties -= jnp.sum(best_sizes * (best == last), axis=1)
  for listed in lists:
    ties += jnp.where(listed.scores[:, -1] == last[:, 0], listed.ties, 0)
  return _Listed(
    scores=best,
    indices=jnp.take_along_axis(indices, positions, axis=1),
    sizes=best_sizes,
    ties=ties,
  )


def _merge_shards(
  listed: _Listed, axes: tuple[str, ...], depth: int
) -> _Listed:
  """Merges the devices' lists, in the order of their indices."""
  gathered = jax.lax.all_gather(listed, axes)
  shards = len(gathered.ties)
  return _merge(
    [jax.tree.map(lambda a, i=i: a[i], gathered) for i in range(shards)], depth
  )


def _as_best(listed: _Listed, requested: Float[Array, "B E"]) -> Best:
  indices = jnp.where(listed.sizes > 0, listed.indices, EMPTY)
  return Best(indices, listed.scores, listed.ties, requested)
