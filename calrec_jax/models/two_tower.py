"""The two towers: pooled vectors of users and items from one decoder.

Both towers are the decoder itself with mean pooling over its last layer, after
the final norm; there is no projection head (CALRec, section on the objective).
`DecoderConfig.user_tokens` restricts the user's mean to the end of the prompt,
from where the decoder predicts the next item.
Pooling is masked and in float32, so padding never enters.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from calrec_jax.data.feed.batch import Batch


class TowerEmbeddings(NamedTuple):
  """Unnormalised vectors of every slot; zero where a slot is empty.

  Attributes:
    joint: float32[R, S, D], v_{T|U}: mean over the target's tokens after the
      user's history.
    user: float32[R, S, D], v_U: mean over the tokens before the target, all of
      them or the last `user_tokens`.
    item: float32[R, S, D], v_T: mean over the target's tokens in a segment of
      their own.
  """

  joint: jax.Array
  user: jax.Array
  item: jax.Array


def pool(
  hidden: Float[Array, "R L D"], batch: Batch, *, user_tokens: int | None = None
) -> TowerEmbeddings:
  """Pools a packed batch.

  Args:
    hidden: Last layer of the batch's tokens.
    batch: Packed batch, which assigns tokens to slots.
    user_tokens: See `DecoderConfig`.
  """
  slots = batch.slot_items.shape[1]
  joint = _of_slot(batch.joint_slots, slots)
  item = _of_slot(batch.item_slots, slots)
  return TowerEmbeddings(
    joint=_masked_mean(hidden, joint),
    user=_masked_mean(
      hidden, history_mask(joint, batch.segment_ids, user_tokens)
    ),
    item=_masked_mean(hidden, item),
  )


def history_mask(
  joint: Bool[Array, "R S L"],
  segment_ids: Int[Array | np.ndarray, "R L"],
  user_tokens: int | None = None,
) -> Bool[Array, "R S L"]:
  """Mask of the tokens before the target in a slot's joint segment.

  A mask rather than a difference of cumulative sums: the product costs the same
  as the other two poolings, and there is no cancellation.

  Args:
    joint: Mask of the target's tokens of each slot.
    segment_ids: Segment of each token.
    user_tokens: Maximum number of tokens, the last before the target; None
      takes all.
  """
  filled = jnp.any(joint, axis=-1)
  start = jnp.argmax(joint, axis=-1)  # [R, S], first token of the target.
  segment = jnp.take_along_axis(segment_ids, start, axis=1)
  position = jnp.arange(joint.shape[-1])[None, None]
  before = position < start[..., None]
  if user_tokens is not None:
    before &= position >= start[..., None] - user_tokens
  same = jnp.equal(segment_ids[:, None], segment[..., None])
  return before & same & filled[..., None]


def embed_users(
  decoder: nn.Module,
  params: dict,
  tokens: Int[Array, "B P"],
  lengths: Int[Array, " B"],
) -> Float[Array, "B D"]:
  """v_U of prompts: the mean over all of their tokens or the last ones.

  Args:
    decoder: `Decoder`, whose configuration has `user_tokens`.
    params: Parameters of the decoder.
    tokens: Right-padded prompts.
    lengths: Tokens of each prompt.
  """
  position = jnp.arange(tokens.shape[1])[None]
  inside = pooled = position < lengths[:, None]
  if decoder.config.user_tokens is not None:
    pooled &= position >= lengths[:, None] - decoder.config.user_tokens
  return _embed(decoder, params, tokens, inside, pooled)


def embed_items(
  decoder: nn.Module,
  params: dict,
  tokens: Int[Array, "B P"],
  lengths: Int[Array, " B"],
  *,
  begins: bool,
) -> Float[Array, "B D"]:
  """v_T of items: the mean over the tokens of their text.

  Args:
    decoder: `Decoder`.
    params: Parameters of the decoder.
    tokens: Right-padded segments of items.
    lengths: Tokens of each segment.
    begins: Whether segments start with a begin token, which is not pooled.
  """
  position = jnp.arange(tokens.shape[1])[None]
  inside = position < lengths[:, None]
  return _embed(decoder, params, tokens, inside, inside & (position >= begins))


def normalise(vectors: Float[Array, "*batch D"]) -> Float[Array, "*batch D"]:
  """Unit vectors; a zero vector stays zero and has a finite gradient."""
  square = jnp.sum(vectors * vectors, axis=-1, keepdims=True)
  # Clamped inside the root: the gradient of a norm at zero is NaN.
  return vectors * jax.lax.rsqrt(square + 1e-12)


def _embed(
  decoder: nn.Module, params: dict, tokens: Array, inside: Array, pooled: Array
) -> Array:
  positions = jnp.broadcast_to(jnp.arange(tokens.shape[1])[None], tokens.shape)
  hidden: Any = decoder.apply(
    {"params": params}, tokens, positions, inside.astype(jnp.int32)
  )
  return _masked_mean(hidden, pooled[:, None])[:, 0]


def _of_slot(slots: Array | np.ndarray, count: int) -> Array:
  """Whether a token belongs to a slot, bool[R, S, L]."""
  return jnp.equal(slots[:, None], jnp.arange(count)[None, :, None])


def _masked_mean(hidden: Array, mask: Array) -> Array:
  weights = mask.astype(jnp.float32)
  total = jnp.einsum(
    "rsl,rld->rsd",
    weights,
    hidden.astype(jnp.float32),
    precision=jax.lax.Precision.HIGHEST,
  )
  count = jnp.sum(weights, axis=-1, keepdims=True)
  return total / jnp.maximum(count, 1.0)
