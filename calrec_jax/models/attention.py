"""Attention for packed rows, and for texts that go on from shared prefixes.

Softmax and its logits are float32 whatever the inputs. Nothing of the size
queries × keys is kept for the backward pass, and none of it is computed above
the causal diagonal but for the blocks that lie on it.

Tested against a NumPy loop in `tests/reference/test_attention_reference.py`.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

# Far below any logit, and finite: a query that may see nothing (padding) must
# not become NaN.
_MASKED = -1e30
# Queries of one block, at least: smaller products are slow everywhere.
_SMALLEST_BLOCK = 64
# Tokens of a tree of branches that are looked at together.
_TREE_CHUNK = 128

Window = int | Int[Array, ""] | None


def attend(
  query: Float[Array, "R L H F"],
  key: Float[Array, "R L K F"],
  value: Float[Array, "R L K F"],
  *,
  positions: Int[Array, "R L"],
  segment_ids: Int[Array, "R L"],
  scale: float,
  window: Window = None,
  softcap: float | None = None,
  blocks: int = 4,
) -> Float[Array, "R L H F"]:
  """Grouped-query attention inside packed rows, causal within a segment.

  A row's queries are handled in blocks. Each sees the keys up to its own end,
  which saves up to half of the products, and is computed again in the backward
  pass.

  Args:
    query: H heads; H is a multiple of K.
    key: K heads of F features.
    value: as the keys.
    positions: rise by one inside a segment, whose tokens are neighbours.
    segment_ids: attention stays within one.
    scale: multiplies the dot products.
    window: a query sees at most so many keys, itself included.
    softcap: squashes logits into (-softcap, softcap) by tanh; None does not.
    blocks: of queries in a row; short rows have fewer.

  Returns:
    The weighted values, in the dtype of the values.
  """
  length, heads = query.shape[1:3]
  query = jnp.moveaxis(_grouped(query, key.shape[2]), 1, 3)  # [R K H/K L F]
  key, value = jnp.swapaxes(key, 1, 2), jnp.swapaxes(value, 1, 2)
  size = min(length, max(_SMALLEST_BLOCK, -(-length // blocks)))
  block = jax.checkpoint(
    functools.partial(_attend_block, scale=scale, softcap=softcap)
  )
  outputs = []
  for start in range(0, length, size):
    rows, seen = slice(start, min(start + size, length)), slice(start + size)
    mask = packed_mask(
      (positions[:, rows], segment_ids[:, rows]),
      (positions[:, seen], segment_ids[:, seen]),
      window,
    )
    part, total = block(
      query[..., rows, :], key[:, :, seen], value[:, :, seen], mask
    )
    # Divided after the product with the values: Q × F numbers, not Q × M; and
    # outside, so that the backward pass need not repeat that product.
    outputs.append((part / total).astype(value.dtype))
  output = jnp.moveaxis(jnp.concatenate(outputs, axis=3), 3, 1)
  return output.reshape(*output.shape[:2], heads, -1)


def packed_mask(
  query: tuple[Int[Array, "R Q"], Int[Array, "R Q"]],
  key: tuple[Int[Array, "R M"], Int[Array, "R M"]],
  window: Window = None,
) -> Bool[Array, "R Q M"]:
  """Which keys (last axis) each query (middle axis) of a packed row may see.

  Args:
    query: positions and segment ids.
    key: positions and segment ids.
    window: see `attend`.
  """
  distance = query[0][:, :, None] - key[0][:, None]
  seen = (query[1][:, :, None] == key[1][:, None]) & (distance >= 0)
  return seen if window is None else seen & (distance < window)


def attend_continuations(
  query: Float[Array, "B G H F"],
  new: tuple[Float[Array, "B G K F"], Float[Array, "B G K F"]],
  past: tuple[Float[Array, "B G T K F"], Float[Array, "B G T K F"]],
  prefix: tuple[Float[Array, "B P K F"], Float[Array, "B P K F"]],
  *,
  step: Int[Array, ""],
  prefix_lengths: Int[Array, " B"],
  scale: float,
  window: Window = None,
  softcap: float | None = None,
) -> Float[Array, "B G H F"]:
  """Attention of the newest token of G continuations of each of B prompts.

  One softmax over three parts: the prompt, whose keys are shared by its
  continuations, the continuation so far, and the new token itself.

  Args:
    query: of the new tokens.
    new: their keys and values.
    past: those of the continuations so far, filled up to `step`.
    prefix: those of the prompts.
    step: tokens of each continuation before the new one.
    prefix_lengths: tokens of each prompt; what lies beyond is not seen.
    scale: multiplies the dot products.
    window: see `attend`.
    softcap: see `attend`.

  Returns:
    The weighted values, in the dtype of the values.
  """
  grouped = _grouped(query, new[0].shape[2])  # [B, G, K, H/K, F]
  place, age = (
    jnp.arange(prefix[0].shape[1]),
    step - jnp.arange(past[0].shape[2]),
  )
  seen = place[None] < prefix_lengths[:, None]
  seen_past = age > 0
  if window is not None:
    distance = prefix_lengths[:, None] + step - place[None]
    seen, seen_past = seen & (distance < window), seen_past & (age < window)
  scores = functools.partial(_scores, grouped, scale=scale, softcap=softcap)
  logits = [
    scores("bgkhf,bmkf->bgkhm", prefix[0], mask=seen[:, None, None, None]),
    scores(
      "bgkhf,bgmkf->bgkhm", past[0], mask=seen_past[None, None, None, None]
    ),
    scores("bgkhf,bgkf->bgkh", new[0])[..., None],
  ]
  highest = functools.reduce(
    jnp.maximum, [jnp.max(part, axis=-1, keepdims=True) for part in logits]
  )
  weights = [jnp.exp(part - highest) for part in logits]
  total = sum(jnp.sum(part, axis=-1, keepdims=True) for part in weights)
  dtype = new[1].dtype
  shared, own, itself = (part.astype(dtype) for part in weights)
  output = (
    jnp.einsum("bgkhm,bmkf->bgkhf", shared, prefix[1])
    + jnp.einsum("bgkhm,bgmkf->bgkhf", own, past[1])
    + itself * new[1][:, :, :, None]
  )
  return (output / total).astype(dtype).reshape(query.shape)


def attend_branches(
  query: Float[Array, "B G C H F"],
  new: tuple[Float[Array, "B G C K F"], Float[Array, "B G C K F"]],
  prefix: tuple[Float[Array, "B P K F"], Float[Array, "B P K F"]],
  tree: tuple[Float[Array, "B N K F"], Float[Array, "B N K F"]] | None,
  *,
  depths: Int[Array, "B G"],
  prefix_lengths: Int[Array, " B"],
  ancestors: Bool[Array, "B G N"] | None = None,
  tree_depths: Int[Array, "B N"] | None = None,
  used: Int[Array, ""] | None = None,
  scale: float,
  window: Window = None,
  softcap: float | None = None,
) -> Float[Array, "B G C H F"]:
  """Attention of C new tokens on each of G branches of every prompt's tree.

  A branch sees its prompt, the tokens of the tree on its way, and its own new
  tokens up to the one that asks. The tree's tokens are held once for all
  branches, and only as many are looked at as are used.

  Args:
    query: of the new tokens.
    new: their keys and values.
    prefix: those of the prompts.
    tree: those of the tokens behind each prompt, in any order; or None.
    depths: tokens of each branch before the new ones.
    prefix_lengths: tokens of each prompt; what lies beyond is not seen.
    ancestors: which tokens of the tree lie on the way of each branch.
    tree_depths: how many tokens of its branch lie before each of the tree's.
    used: places of the tree that hold a token of any prompt; rising from 0.
    scale: multiplies the dot products.
    window: see `attend`.
    softcap: see `attend`.

  Returns:
    The weighted values, in the dtype of the values.
  """
  tokens = query.shape[2]
  grouped = _grouped(query, new[0].shape[3])  # [B, G, C, K, H/K, F]
  within = jnp.arange(tokens, dtype=jnp.int32)
  places = (
    depths[:, :, None] + within[None, None]
  )  # [B, G, C], counted from the prompt.
  part = functools.partial(
    _partial_softmax, grouped, scale=scale, softcap=softcap
  )
  at = jnp.arange(prefix[0].shape[1], dtype=jnp.int32)
  seen = jnp.broadcast_to(
    (at[None] < prefix_lengths[:, None])[:, None, None],
    (*places.shape, len(at)),
  )
  if window is not None:
    distance = prefix_lengths[:, None, None] + places
    seen &= distance[..., None] - at[None, None, None] < window
  total = part(prefix, seen, "bgckhf,bmkf->bgckhm", "bgckhm,bmkf->bgckhf")

  seen = within[:, None] >= within[None]
  if window is not None:
    seen &= within[:, None] - within[None] < window
  own = part(
    new,
    jnp.broadcast_to(seen, (*places.shape, tokens)),
    "bgckhf,bgmkf->bgckhm",
    "bgckhm,bgmkf->bgckhf",
  )
  total = _joined_softmax(total, own)

  if tree is not None:
    size = min(_TREE_CHUNK, tree[0].shape[1])

    def add(chunk: Array, total: Any) -> Any:
      # The last chunk may begin earlier than its turn: what was seen in the
      # one before is left out.
      begin = jnp.minimum(chunk * size, tree[0].shape[1] - size)
      cut = functools.partial(
        jax.lax.dynamic_slice_in_dim, start_index=begin, slice_size=size
      )
      fresh = begin + jnp.arange(size) >= chunk * size
      seen = cut(ancestors, axis=2) & fresh[None, None]
      seen = jnp.broadcast_to(seen[:, :, None], (*places.shape, size))
      if window is not None:
        distance = places[..., None] - cut(tree_depths, axis=1)[:, None, None]
        seen &= distance < window
      keys_and_values = tuple(cut(half, axis=1) for half in tree)
      return _joined_softmax(
        total,
        part(
          keys_and_values, seen, "bgckhf,bmkf->bgckhm", "bgckhm,bmkf->bgckhf"
        ),
      )

    total = jax.lax.fori_loop(0, -(-used // size), add, total)
  _, weight, output = total
  return (output / weight).astype(new[1].dtype).reshape(query.shape)


def _partial_softmax(
  query: Array,
  keys_and_values: tuple[Array, Array],
  seen: Array,
  compare: str,
  mix: str,
  *,
  scale: float,
  softcap: float | None,
) -> tuple[Array, Array, Array]:
  """A part of a softmax: its highest logit, its sum, its weighted values."""
  keys, values = keys_and_values
  logits = _scores(
    query,
    compare,
    keys,
    scale=scale,
    softcap=softcap,
    mask=seen[:, :, :, None, None],
  )
  highest = jnp.max(logits, axis=-1, keepdims=True)
  # Where nothing is seen, the part has to weigh nothing.
  weights = jnp.where(logits > _MASKED, jnp.exp(logits - highest), 0.0)
  output = jnp.einsum(
    mix,
    weights.astype(values.dtype),
    values,
    preferred_element_type=jnp.float32,
  )
  return highest, jnp.sum(weights, axis=-1, keepdims=True), output


def _joined_softmax(
  one: tuple[Array, Array, Array], other: tuple[Array, Array, Array]
) -> tuple[Array, Array, Array]:
  highest = jnp.maximum(one[0], other[0])
  scales = (jnp.exp(one[0] - highest), jnp.exp(other[0] - highest))
  return (
    highest,
    one[1] * scales[0] + other[1] * scales[1],
    one[2] * scales[0] + other[2] * scales[1],
  )


def _attend_block(
  query: Array,
  key: Array,
  value: Array,
  mask: Array,
  *,
  scale: float,
  softcap: float | None,
) -> tuple[Array, Array]:
  """Queries [R, K, H/K, Q, F] over keys [R, K, M, F], mask [R, Q, M].

  Returns:
    Values weighted by unnormalised chances, and the sum of the chances.
  """
  rows, kv_heads, shared, queries, features = query.shape
  # The queries that share a key's head are one axis: the products, and above
  # all their gradients, are a fifth faster on CPUs.
  logits = _scores(
    query.reshape(rows, kv_heads, -1, features),
    "rkqf,rkmf->rkqm",
    key,
    scale=scale,
    softcap=softcap,
  ).reshape(rows, kv_heads, shared, queries, -1)
  logits = jnp.where(mask[:, None, None], logits, _MASKED)
  highest = jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
  weights = jnp.exp(logits - highest)
  total = jnp.sum(weights, axis=-1, keepdims=True)
  output = jnp.einsum(
    "rkqm,rkmf->rkqf",
    weights.reshape(rows, kv_heads, -1, key.shape[2]).astype(value.dtype),
    value,
  )
  return output.reshape(query.shape), total


def _scores(
  query: Array,
  equation: str,
  key: Array,
  *,
  scale: float,
  softcap: float | None,
  mask: Array | None = None,
) -> Array:
  scores = jnp.einsum(equation, query, key, preferred_element_type=jnp.float32)
  scores = scores * scale
  if softcap is not None:
    scores = softcap * jnp.tanh(scores / softcap)
  return scores if mask is None else jnp.where(mask, scores, _MASKED)


def _grouped(query: Array, kv_heads: int) -> Array:
  """Splits heads [..., H, F] into [..., K, H/K, F]."""
  return query.reshape(*query.shape[:-2], kv_heads, -1, query.shape[-1])
