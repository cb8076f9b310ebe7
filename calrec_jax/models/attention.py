"""Attention behind one function, for packed rows and for shared prefixes.

Softmax and its logits are float32 whatever the inputs. Tested against a
NumPy loop in `tests/reference`.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

# Far below any logit, and finite: a row that may see nothing (padding) must
# not become NaN.
_MASKED = -1e30


def packed_mask(
  positions: Int[Array, "R L"],
  segment_ids: Int[Array, "R L"],
  window: int | None = None,
) -> Bool[Array, "R L L"]:
  """Which key (last axis) a query (middle axis) of a packed row may see.

  Args:
    positions: restart at 0 in every segment.
    segment_ids: attention stays within one.
    window: a query sees at most so many keys, itself included.
  """
  distance = positions[:, :, None] - positions[:, None, :]
  seen = (segment_ids[:, :, None] == segment_ids[:, None, :]) & (distance >= 0)
  return seen if window is None else seen & (distance < window)


def attend(
  query: Float[Array, "B Q H F"],
  key: Float[Array, "B M K F"],
  value: Float[Array, "B M K F"],
  mask: Bool[Array, "B Q M"],
  *,
  scale: float,
  softcap: float | None = None,
) -> Float[Array, "B Q H F"]:
  """Grouped-query attention of Q queries over M keys.

  Args:
    query: H heads; H is a multiple of K.
    key: K heads of F features.
    value: as the keys.
    mask: True where a query may see a key.
    scale: multiplies the dot products.
    softcap: squashes logits into (-softcap, softcap) by tanh; None does not.

  Returns:
    The weighted values, in the dtype of the values.
  """
  return attend_parts(query, [(key, value, mask)], scale=scale, softcap=softcap)


def attend_parts(
  query: Float[Array, "B Q H F"],
  parts: list[tuple[Array, Array, Array]],
  *,
  scale: float,
  softcap: float | None = None,
) -> Float[Array, "B Q H F"]:
  """Attention over keys that lie in several arrays, under one softmax.

  Args:
    query: H heads of B users and Q queries each.
    parts: keys, values and mask; either shared by the queries of a user,
      [B, M, K, F] with mask [B, Q, M], or each query's own, [B, Q, M, K, F].
    scale: multiplies the dot products.
    softcap: see `attend`.

  Returns:
    The weighted values, in the dtype of the values.
  """
  batch, queries, heads, features = query.shape
  kv_heads = parts[0][0].shape[-2]
  grouped = query.reshape(batch, queries, kv_heads, -1, features)
  logits = []
  for key, _, mask in parts:
    own = "bqmkf" if key.ndim == 5 else "bmkf"
    scores = jnp.einsum(
      f"bqkgf,{own}->bkgqm", grouped, key, preferred_element_type=jnp.float32
    )
    scores = scores * scale
    if softcap is not None:
      scores = softcap * jnp.tanh(scores / softcap)
    logits.append(jnp.where(mask[:, None, None], scores, _MASKED))
  joined = logits[0] if len(logits) == 1 else jnp.concatenate(logits, axis=-1)
  weights = jax.nn.softmax(joined, axis=-1)
  output, start = None, 0
  for _, value, _ in parts:
    stop = start + value.shape[-3]
    own = "bqmkf" if value.ndim == 5 else "bmkf"
    part = jnp.einsum(
      f"bkgqm,{own}->bqkgf",
      weights[..., start:stop].astype(value.dtype),
      value,
    )
    output, start = part if output is None else output + part, stop
  return output.reshape(batch, queries, heads, features)
