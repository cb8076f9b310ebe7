"""L_TT and L_UT: InfoNCE between pooled vectors of the global batch.

Negatives are the other targets of the global batch, across all devices. The
same item in another slot is never a negative, and neither, by default, are
other targets of the same user.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from calrec_jax.data.feed.batch import NO_SLOT
from calrec_jax.metrics.weighted_sum import WeightedSum
from calrec_jax.models.two_tower import normalise
from calrec_jax.runtime.partitioning import constrain

DIRECTIONS = ("item_to_user", "user_to_item", "both")


def negatives(
  items: Int[Array | np.ndarray, " M"],
  users: Int[Array | np.ndarray, " M"],
  *,
  same_user: bool,
) -> Bool[Array, "M M"]:
  """Mask of the pairs of slots that are negatives of each other.

  Items are compared by id, not by vector: a batch may hold two purchases of the
  same item, which are not negatives. The mask is symmetric.

  Args:
    items: Item of each slot, -1 where the slot is empty.
    users: User of each slot.
    same_user: Whether another target of the same user is a negative.
  """
  filled = items != NO_SLOT
  other = jnp.not_equal(items[:, None], items[None])
  if not same_user:
    other &= jnp.not_equal(users[:, None], users[None])
  return other & filled[:, None] & filled[None]


def contrastive_loss(
  queries: Float[Array, "M D"],
  items: Float[Array, "M D"],
  filled: Bool[Array, " M"],
  negative: Bool[Array, "M M"],
  *,
  temperature: float,
  direction: str,
) -> tuple[WeightedSum, WeightedSum]:
  """InfoNCE with cosine similarity, in nats.

  `item_to_user` is the paper's form: the item is the anchor and the users are
  the candidates, sum over j of exp(cos(q_j, t_i) / temperature).

  Args:
    queries: v_U or v_{T|U} of every slot.
    items: v_T of every slot.
    filled: Which slots hold a target.
    negative: Mask returned by `negatives`.
    temperature: Divisor of the cosine; dimensionless.
    direction: Which side is the anchor, a name in `DIRECTIONS`.

  Returns:
    The loss, and how often the positive is the nearest candidate, each with the
    number of filled slots.
  """
  queries = constrain(normalise(queries), "activation_batch", None)
  items = constrain(normalise(items), "activation_batch", None)
  # Row by row rather than the diagonal of [M, M], which no device holds whole.
  own = jnp.sum(queries * items, axis=-1) / temperature
  # (anchors, candidates) of each direction.
  sides = {"item_to_user": (items, queries), "user_to_item": (queries, items)}
  totals = []
  for anchor, other in (
    sides.values() if direction == "both" else [sides[direction]]
  ):
    similarity = jnp.einsum("id,jd->ij", anchor, other, precision="highest")
    others = jnp.where(negative, similarity / temperature, -jnp.inf)
    others = constrain(others, "activation_batch", None)  # [M, M]
    nearest = jax.lax.stop_gradient(jnp.max(others, axis=-1))
    highest = jax.lax.stop_gradient(jnp.maximum(own, nearest))
    rest = jnp.sum(jnp.exp(others - highest[:, None]), axis=-1)
    nats = jnp.log(jnp.exp(own - highest) + rest) + highest - own
    hits = filled & (own >= nearest)
    totals.append(
      (jnp.sum(jnp.where(filled, nats, 0.0)), jnp.sum(hits, dtype=jnp.float32))
    )
  count = jnp.sum(filled, dtype=jnp.float32)
  loss, hits = (sum(part) / len(totals) for part in zip(*totals, strict=True))
  return WeightedSum(loss, count), WeightedSum(hits, count)
