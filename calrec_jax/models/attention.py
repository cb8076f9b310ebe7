"""Attention for packed rows, and for continuations of shared prefixes.

Logits and softmax are float32 whatever the dtype of the inputs. No array of
queries × keys is saved for the backward pass, and above the causal diagonal
only the blocks that cross it are computed.

Tested against a NumPy loop in `tests/reference/test_attention_reference.py`.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

# Far below any logit, but finite: a query without keys (padding) must not
# become NaN.
_MASKED = -1e30
# Minimum queries per block: smaller matrix products are slow on any device.
_SMALLEST_BLOCK = 64
# Tokens of a tree of branches per chunk.
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

  A row's queries are processed in blocks. Each block attends to the keys up to
  its own end, which saves up to half of the products, and is recomputed in the
  backward pass.

  Args:
    query: Queries of H heads; H is a multiple of K.
    key: Keys of K heads with F features.
    value: Values, one for each key.
    positions: Positions within segments, which are contiguous; they increase
      by one.
    segment_ids: Segment of each token; attention stays within one.
    scale: Factor of the dot products.
    window: Maximum number of keys a query attends to, itself included.
    softcap: Bound of the logits, applied by tanh, or None.
    blocks: Number of query blocks per row; short rows have fewer.

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
    # Divided after the product with the values (Q × F elements, not Q × M) and
    # outside of it, so that the backward pass need not repeat that product.
    outputs.append((part / total).astype(value.dtype))
  output = jnp.moveaxis(jnp.concatenate(outputs, axis=3), 3, 1)
  return output.reshape(*output.shape[:2], heads, -1)


def packed_mask(
  query: tuple[Int[Array, "R Q"], Int[Array, "R Q"]],
  key: tuple[Int[Array, "R M"], Int[Array, "R M"]],
  window: Window = None,
) -> Bool[Array, "R Q M"]:
  """Mask of the keys (last axis) that each query of a packed row attends to.

  Args:
    query: Positions and segment ids of the queries.
    key: Positions and segment ids of the keys.
    window: See `attend`.
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
  """Attention of the newest token in G continuations of each of B prompts.

  One softmax over three parts: the prompt, whose keys its continuations share,
  the continuation so far, and the new token itself.

  Args:
    query: Queries of the new tokens.
    new: Keys and values of the new tokens.
    past: Keys and values of the continuations so far, filled up to `step`.
    prefix: Keys and values of the prompts.
    step: Number of tokens in each continuation before the new one.
    prefix_lengths: Tokens of each prompt; later ones are padding.
    scale: Factor of the dot products.
    window: See `attend`.
    softcap: See `attend`.

  Returns:
    The weighted values, in the dtype of the values.
  """
  grouped = _grouped(query, new[0].shape[2])  # [B, G, K, H/K, F]
  position = jnp.arange(prefix[0].shape[1])
  age = step - jnp.arange(past[0].shape[2])
  seen = position[None] < prefix_lengths[:, None]
  seen_past = age > 0
  if window is not None:
    distance = prefix_lengths[:, None] + step - position[None]
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
  """Attention of C new tokens on each of G branches of each prompt's tree.

  A new token attends to its prompt, to its ancestors in the tree, and to the
  new tokens of its branch up to itself. The tree's tokens are stored once for
  all branches, and only the used ones are processed.

  Args:
    query: Queries of the new tokens.
    new: Keys and values of the new tokens.
    prefix: Keys and values of the prompts.
    tree: Keys and values of the tokens after each prompt, in any order, or
      None.
    depths: Tokens of each branch before the new ones.
    prefix_lengths: Tokens of each prompt; later ones are padding.
    ancestors: Which tokens of the tree are ancestors on each branch.
    tree_depths: Tokens before each of the tree's tokens on its branch.
    used: Number of leading slots of the tree that are in use by any prompt.
    scale: Factor of the dot products.
    window: See `attend`.
    softcap: See `attend`.

  Returns:
    The weighted values, in the dtype of the values.
  """
  tokens = query.shape[2]
  grouped = _grouped(query, new[0].shape[3])  # [B, G, C, K, H/K, F]
  within = jnp.arange(tokens, dtype=jnp.int32)
  # [B, G, C], relative to the end of the prompt.
  positions = depths[:, :, None] + within[None, None]
  part = functools.partial(
    _partial_softmax, grouped, scale=scale, softcap=softcap
  )
  at = jnp.arange(prefix[0].shape[1], dtype=jnp.int32)
  seen = jnp.broadcast_to(
    (at[None] < prefix_lengths[:, None])[:, None, None],
    (*positions.shape, len(at)),
  )
  if window is not None:
    distance = prefix_lengths[:, None, None] + positions
    seen &= distance[..., None] - at[None, None, None] < window
  total = part(prefix, seen, "bmkf")

  seen = within[:, None] >= within[None]
  if window is not None:
    seen &= within[:, None] - within[None] < window
  seen = jnp.broadcast_to(seen, (*positions.shape, tokens))
  total = _joined_softmax(total, part(new, seen, "bgmkf"))

  if tree is not None:
    assert ancestors is not None
    assert tree_depths is not None
    assert used is not None
    size = min(_TREE_CHUNK, tree[0].shape[1])

    def add(chunk: Array, total: Any) -> Any:
      # The last chunk may start early, overlapping the one before: tokens that
      # were already attended to are masked.
      begin = jnp.minimum(chunk * size, tree[0].shape[1] - size)
      cut = functools.partial(
        jax.lax.dynamic_slice_in_dim, start_index=begin, slice_size=size
      )
      fresh = begin + jnp.arange(size) >= chunk * size
      seen = cut(ancestors, axis=2) & fresh[None, None]
      seen = jnp.broadcast_to(seen[:, :, None], (*positions.shape, size))
      if window is not None:
        depth = cut(tree_depths, axis=1)[:, None, None]
        seen &= positions[..., None] - depth < window
      keys, values = (cut(half, axis=1) for half in tree)
      return _joined_softmax(total, part((keys, values), seen, "bmkf"))

    total = jax.lax.fori_loop(0, -(-used // size), add, total)
  _, weight, output = total
  return (output / weight).astype(new[1].dtype).reshape(query.shape)


def _partial_softmax(
  query: Array,
  keys_and_values: tuple[Array, Array],
  seen: Array,
  axes: str,
  **settings: Any,
) -> tuple[Array, Array, Array]:
  """A partial softmax: its highest logit, its sum, its weighted values.

  Args:
    query: Grouped queries [B, G, C, K, H/K, F], "bgckhf".
    keys_and_values: Keys and values with `axes`; M keys of each query.
    seen: Mask [B, G, C, M].
    axes: "bmkf", or "bgmkf" where each branch has its own.
    **settings: Settings of `_scores`.
  """
  keys, values = keys_and_values
  mask = seen[:, :, :, None, None]
  logits = _scores(query, f"bgckhf,{axes}->bgckhm", keys, mask=mask, **settings)
  highest = jnp.max(logits, axis=-1, keepdims=True)
  # A part without any key must have weight zero.
  weights = jnp.where(logits > _MASKED, jnp.exp(logits - highest), 0.0)
  output = jnp.einsum(
    f"bgckhm,{axes}->bgckhf",
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
    Values weighted by unnormalised probabilities, and the sum of these.
  """
  rows, kv_heads, shared, queries, features = query.shape
  # The queries that share a key's head form one axis: the products, and above
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
