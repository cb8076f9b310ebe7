"""Choosing among the edges of a trie's states by a model's logits.

States have from two edges to tens of thousands. They are walked in chunks, as
many as the widest state at hand needs, so no array has the size of the
vocabulary or of the widest state times the branches.

Tested against a loop over dictionaries in
`tests/reference/test_walk_reference.py`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from calrec_jax.recommend.constrain.trie import TrieArrays
from calrec_jax.recommend.generate.sampling import invert

CHUNK = 64
"""Edges of a state that are looked at together."""


class Chosen(NamedTuple):
  """What each of G hypotheses continues with.

  Attributes:
    origins: int32[B, G], the hypothesis it was before.
    edges: int32[B, G], the edge it takes, or -1 where it waits or has ended.
    log_probs: float32[B, G], its log-probability now, in nats.
  """

  origins: jax.Array
  edges: jax.Array
  log_probs: jax.Array


class _Totals(NamedTuple):
  """Normalisers of the edges of W states.

  Attributes:
    highest: float32[B, W], the highest logit.
    log_sums: float32[B, W], log of the sum of exp(logit - highest).
    chunk_sums: float32[B, W, chunks], sums of exp((logit - highest) / T).
  """

  highest: jax.Array
  log_sums: jax.Array
  chunk_sums: jax.Array


def sample(
  trie: TrieArrays,
  logits: Float[Array, "B W V"],
  states: Int[Array, "B W"],
  branches: Int[Array, "B G"],
  choosing: Bool[Array, "B G"],
  log_probs: Float[Array, "B G"],
  uniform: Float[Array, "B G"],
  *,
  temperature: Float[Array, ""] | float,
  max_edges: int,
) -> Chosen:
  """Samples an edge for every hypothesis that has to choose.

  Args:
    trie: Trie of the catalogue.
    logits: Logits after each branch.
    states: State of each branch; -1 where there is none.
    branches: Branch of each hypothesis.
    choosing: Whether each hypothesis chooses now.
    log_probs: Log-probabilities of the hypotheses so far, in nats.
    uniform: Numbers in [0, 1) that decide.
    temperature: Divisor of the logits of the sample, not of `log_probs`.
    max_edges: Most edges of any state.
  """
  totals = _totals(trie, logits, states, temperature, max_edges)
  sums = jnp.cumsum(_of(totals.chunk_sums, branches), axis=-1)
  target = uniform * sums[..., -1]
  chunk, below = invert(sums, target)
  own = jnp.take_along_axis(states, branches, axis=1)
  edges, inside = _edges(trie, own, chunk)
  found = _logits(trie, logits, branches, edges)
  shifted = found - _of(totals.highest, branches)[..., None]
  weights = jnp.where(inside, jnp.exp(shifted / temperature), 0.0)
  within, _ = invert(jnp.cumsum(weights, axis=-1), target - below)
  taken = within[..., None]
  log_prob = jnp.take_along_axis(shifted, taken, axis=-1)[..., 0] - _of(
    totals.log_sums, branches
  )
  return Chosen(
    _indices(branches),
    jnp.where(choosing, jnp.take_along_axis(edges, taken, axis=-1)[..., 0], -1),
    log_probs + jnp.where(choosing, log_prob, 0.0),
  )


def best(
  trie: TrieArrays,
  logits: Float[Array, "B W V"],
  states: Int[Array, "B W"],
  branches: Int[Array, "B G"],
  choosing: Bool[Array, "B G"],
  log_probs: Float[Array, "B G"],
  *,
  max_edges: int,
) -> Chosen:
  """The G most probable hypotheses, of those that wait and all next ones.

  Args: as of `sample`.
  """
  batch, width = branches.shape
  totals = _totals(trie, logits, states, 1.0, max_edges)
  own = jnp.take_along_axis(states, branches, axis=1)
  less = _of(totals.highest, branches) + _of(totals.log_sums, branches)
  origins = _indices(branches)
  best_so_far = Chosen(
    origins,
    jnp.full_like(branches, -1),
    jnp.where(choosing, -jnp.inf, log_probs),
  )

  def add(chunk: Array, best_so_far: Chosen) -> Chosen:
    edges, inside = _edges(trie, own, jnp.broadcast_to(chunk, own.shape))
    found = _logits(trie, logits, branches, edges) - less[..., None]
    found = jnp.where(
      inside & choosing[..., None], log_probs[..., None] + found, -jnp.inf
    )
    pool = Chosen(
      *(
        jnp.concatenate([old, new.reshape(batch, -1)], axis=1)
        for old, new in zip(
          best_so_far,
          (jnp.broadcast_to(origins[..., None], edges.shape), edges, found),
          strict=True,
        )
      )
    )
    scores, indices = jax.lax.top_k(pool.log_probs, width)
    return Chosen(
      jnp.take_along_axis(pool.origins, indices, axis=1),
      jnp.take_along_axis(pool.edges, indices, axis=1),
      scores,
    )

  degrees = jnp.where(choosing, _degrees(trie, own), 0)
  return jax.lax.fori_loop(0, -(-jnp.max(degrees) // CHUNK), add, best_so_far)


def _totals(
  trie: TrieArrays,
  logits: Float[Array, "B W V"],
  states: Int[Array, "B W"],
  temperature: Float[Array, ""] | float,
  max_edges: int,
) -> _Totals:
  own = _indices(states)
  chunks = -(-jnp.max(_degrees(trie, states)) // CHUNK)

  def edge_logits(chunk: Array) -> Array:
    edges, inside = _edges(trie, states, jnp.broadcast_to(chunk, states.shape))
    found = _logits(trie, logits, own, edges)
    return jnp.where(inside, found, -jnp.inf)

  highest = jax.lax.fori_loop(
    0,
    chunks,
    lambda chunk, most: jnp.maximum(most, jnp.max(edge_logits(chunk), axis=-1)),
    jnp.full(states.shape, -jnp.inf, jnp.float32),
  )
  highest = jnp.where(jnp.isfinite(highest), highest, 0.0)

  def add(chunk: Array, sums: tuple[Array, Array]) -> tuple[Array, Array]:
    shifted = edge_logits(chunk) - highest[..., None]
    tempered = jnp.sum(jnp.exp(shifted / temperature), axis=-1)
    return (
      sums[0] + jnp.sum(jnp.exp(shifted), axis=-1),
      jax.lax.dynamic_update_index_in_dim(sums[1], tempered, chunk, axis=2),
    )

  plain, tempered = jax.lax.fori_loop(
    0,
    chunks,
    add,
    (
      jnp.zeros(states.shape, jnp.float32),
      jnp.zeros((*states.shape, -(-max_edges // CHUNK)), jnp.float32),
    ),
  )
  return _Totals(highest, jnp.log(plain), tempered)


def _degrees(trie: TrieArrays, states: Int[Array, "B G"]) -> Int[Array, "B G"]:
  real = jnp.maximum(states, 0)
  return jnp.where(states >= 0, trie.starts[real + 1] - trie.starts[real], 0)


def _edges(
  trie: TrieArrays, states: Int[Array, "B G"], chunk: Int[Array, "B G"]
) -> tuple[Int[Array, "B G K"], Bool[Array, "B G K"]]:
  """A chunk of each state's edges, and which of them are its own."""
  begin = trie.starts[jnp.maximum(states, 0)] + chunk * CHUNK
  edges = begin[..., None] + jnp.arange(CHUNK, dtype=jnp.int32)[None, None]
  end = trie.starts[jnp.maximum(states, 0) + 1]
  inside = (edges < end[..., None]) & (states >= 0)[..., None]
  return jnp.where(inside, edges, 0), inside


def _logits(
  trie: TrieArrays,
  logits: Float[Array, "B W V"],
  branches: Int[Array, "B G"],
  edges: Int[Array, "B G K"],
) -> Float[Array, "B G K"]:
  """The logits of edges after the branches that they leave from."""
  batch, _, size = logits.shape
  flat = branches[..., None] * size + trie.edge_tokens[edges]
  found = jnp.take_along_axis(
    logits.reshape(batch, -1), flat.reshape(batch, -1), axis=1
  )
  return found.reshape(edges.shape)


def _indices(like: Int[Array, "B G"]) -> Int[Array, "B G"]:
  """The index of each entry in its row."""
  return jnp.broadcast_to(
    jnp.arange(like.shape[1], dtype=jnp.int32)[None], like.shape
  )


def _of(array: Array, branches: Int[Array, "B G"]) -> Array:
  """Rows [B, W, ...] of each hypothesis's branch."""
  index = branches.reshape(*branches.shape, *(1,) * (array.ndim - 2))
  return jnp.take_along_axis(array, index, axis=1)
