"""L_TT and L_UT: InfoNCE between pooled vectors of the global batch.

Negatives are the other targets of the whole batch, over all devices. The same
item in another slot is never a negative, and neither, by default, are other
targets of the same user.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from calrec_jax.data.batch import NO_SLOT
from calrec_jax.models.two_tower import normalise
from calrec_jax.partitioning import constrain
from calrec_jax.weighted_sum import WeightedSum

DIRECTIONS = ("item_to_user", "user_to_item", "both")


def negatives(
  items: Int[Array, " M"],
  users: Int[Array, " M"],
  *,
  same_user: bool,
) -> Bool[Array, "M M"]:
  """Which pairs of slots are compared: real negatives and the own pair.

  Items are compared by id, not by vector: two users may have bought the same
  item in one batch, and that is no negative.

  Args:
    items: item of each slot, -1 where it is empty.
    users: user of each slot.
    same_user: whether another target of the same user is a negative.
  """
  filled = items != NO_SLOT
  other = items[:, None] != items[None]
  if not same_user:
    other &= users[:, None] != users[None]
  own = jnp.eye(len(items), dtype=bool)
  return (other | own) & filled[:, None] & filled[None]


def contrastive_loss(
  queries: Float[Array, "M D"],
  items: Float[Array, "M D"],
  compared: Bool[Array, "M M"],
  *,
  temperature: float,
  direction: str,
) -> tuple[WeightedSum, WeightedSum]:
  """InfoNCE with cosine similarity, in nats.

  `item_to_user` is the form of the paper: an item's vector picks the user it
  belongs to, sum over j of exp(cos(q_j, t_i) / temperature).

  Args:
    queries: v_U or v_{T|U} of every slot.
    items: v_T of every slot.
    compared: of `negatives`; symmetric.
    temperature: divides the cosine; dimensionless.
    direction: which side picks, a name of `DIRECTIONS`.

  Returns:
    The loss, and hits of the own pair as the nearest, each with the number of
    filled slots.
  """
  queries = constrain(normalise(queries), "activation_batch", None)
  items = constrain(normalise(items), "activation_batch", None)
  filled = jnp.diagonal(compared)
  totals = []
  for anchor, other in _sides(queries, items, direction):
    similarity = jnp.einsum(
      "id,jd->ij", anchor, other, precision="highest"
    )  # [M, M], own pairs on the diagonal.
    logits = constrain(similarity / temperature, "activation_batch", None)
    logits = jnp.where(compared, logits, -jnp.inf)
    own = jnp.where(filled, jnp.diagonal(logits), 0.0)
    # Empty slots compare with nothing; a finite stand-in keeps NaN out of
    # their gradient.
    safe = jnp.where(filled[:, None], logits, 0.0)
    highest = jnp.max(safe, axis=-1)
    rest = jnp.sum(jnp.exp(safe - highest[:, None]), axis=-1)
    nats = jnp.where(filled, highest + jnp.log(rest) - own, 0.0)
    hits = jnp.where(filled, own >= highest, False)
    totals.append((jnp.sum(nats), jnp.sum(hits.astype(jnp.float32))))
  count = jnp.sum(filled.astype(jnp.float32))
  loss, hits = (sum(part) / len(totals) for part in zip(*totals, strict=True))
  return WeightedSum(loss, count), WeightedSum(hits, count)


def _sides(
  queries: Array, items: Array, direction: str
) -> list[tuple[Array, Array]]:
  sides = []
  if direction in ("item_to_user", "both"):
    sides.append((items, queries))
  if direction in ("user_to_item", "both"):
    sides.append((queries, items))
  return sides
