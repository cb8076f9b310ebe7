"""The two towers: pooled vectors of users and items from one decoder.

Both towers are the decoder itself with mean pooling over its last layer,
after the final norm; there is no head (CALRec, section on the objective).
`DecoderConfig.user_tokens` may narrow the user's mean to the prompt's end,
where the decoder predicts the next item from.
Pooling is by mask and in float32, so padding never enters.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from calrec_jax.data.feed.batch import Batch


class TowerEmbeddings(NamedTuple):
  """Vectors of every slot, not normalised; zero where a slot is empty.

  Attributes:
    joint: float32[R, S, D], v_{T|U}: mean over the target's own tokens at the
      end of the user's history.
    user: float32[R, S, D], v_U: mean over what is before the target, all of
      it or its last `user_tokens`.
    item: float32[R, S, D], v_T: mean over the target's tokens alone.
  """

  joint: jax.Array
  user: jax.Array
  item: jax.Array


def pool(
  hidden: Float[Array, "R L D"],
  batch: Batch,
  *,
  user_tokens: int | None = None,
) -> TowerEmbeddings:
  """Pools a packed batch.

  Args:
    hidden: last layer of the batch's tokens.
    batch: says which token belongs to which slot.
    user_tokens: of `DecoderConfig`.
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
  segment_ids: Int[Array, "R L"],
  user_tokens: int | None = None,
) -> Bool[Array, "R S L"]:
  """Tokens of a slot's joint segment that stand before its target.

  A mask rather than a difference of cumulative sums: the product costs the
  same as the other two poolings and nothing cancels.

  Args:
    joint: the target's tokens of each slot.
    segment_ids: of the rows.
    user_tokens: most tokens of a slot, those nearest to the target; None takes
      all.
  """
  filled = jnp.any(joint, axis=-1)
  start = jnp.argmax(joint, axis=-1)  # [R, S], the first of them.
  segment = jnp.take_along_axis(segment_ids, start, axis=1)
  place = jnp.arange(joint.shape[-1])[None, None]
  before = place < start[..., None]
  if user_tokens is not None:
    before &= place >= start[..., None] - user_tokens
  same = segment_ids[:, None] == segment[..., None]
  return before & same & filled[..., None]


def embed_users(
  decoder: nn.Module,
  params: dict,
  tokens: Int[Array, "B P"],
  lengths: Int[Array, " B"],
) -> Float[Array, "B D"]:
  """v_U of prompts: the mean over all of their tokens, or over the last ones.

  Args:
    decoder: a `Decoder`; its configuration says over how many.
    params: its parameters.
    tokens: prompts, filled up on the right.
    lengths: tokens of each prompt.
  """
  place = jnp.arange(tokens.shape[1])[None]
  inside = pooled = place < lengths[:, None]
  if decoder.config.user_tokens is not None:
    pooled &= place >= lengths[:, None] - decoder.config.user_tokens
  return _embed(decoder, params, tokens, inside, pooled)


def embed_items(
  decoder: nn.Module,
  params: dict,
  tokens: Int[Array, "B P"],
  lengths: Int[Array, " B"],
  *,
  begins: bool,
) -> Float[Array, "B D"]:
  """v_T of items: the mean over their text.

  Args:
    decoder: a `Decoder`.
    params: its parameters.
    tokens: item segments, filled up on the right.
    lengths: tokens of each segment.
    begins: whether segments start with a begin token, which is not pooled.
  """
  place = jnp.arange(tokens.shape[1])[None]
  inside = place < lengths[:, None]
  return _embed(decoder, params, tokens, inside, inside & (place >= begins))


def normalise(vectors: Float[Array, "*batch D"]) -> Float[Array, "*batch D"]:
  """Unit vectors; a zero vector stays zero and has a finite gradient."""
  square = jnp.sum(vectors * vectors, axis=-1, keepdims=True)
  # Under the root: the gradient of a norm at zero is not a number.
  return vectors * jax.lax.rsqrt(square + 1e-12)


def _embed(
  decoder: nn.Module,
  params: dict,
  tokens: Array,
  inside: Array,
  pooled: Array,
) -> Array:
  positions = jnp.broadcast_to(jnp.arange(tokens.shape[1])[None], tokens.shape)
  hidden = decoder.apply(
    {"params": params}, tokens, positions, inside.astype(jnp.int32)
  )
  return _masked_mean(hidden, pooled[:, None])[:, 0]


def _of_slot(slots: Array, count: int) -> Array:
  """bool[R, S, L]: whether a token belongs to a slot."""
  return slots[:, None] == jnp.arange(count)[None, :, None]


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
