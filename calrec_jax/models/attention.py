"""Attention behind two functions: packed rows, and shared prefixes.

Softmax and its logits are float32 whatever the inputs. Nothing of the size
queries × keys is kept for the backward pass, and none of it is computed above
the causal diagonal but for the blocks that lie on it.

Tested against a NumPy loop in `tests/reference/test_attention_reference.py`.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

# Far below any logit, and finite: a query that may see nothing (padding) must
# not become NaN.
_MASKED = -1e30
# Queries of one block, at least: smaller products are slow everywhere.
_SMALLEST_BLOCK = 64

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
