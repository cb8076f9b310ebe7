"""L_NIG: next-token cross-entropy on target tokens, in pieces.

The logits of a whole batch are never held: the positions that carry loss are
brought to the front of their row, rows are cut into chunks of positions, each
chunk's logits are computed again in the backward pass, and chunks in which no
row has any loss are skipped.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from calrec_jax.weighted_sum import WeightedSum


def next_token_loss(
  decoder: nn.Module,
  params: dict,
  hidden: Float[Array, "R L D"],
  tokens: Int[Array, "R L"],
  weights: Float[Array, "R L"],
  *,
  chunk_tokens: int,
) -> tuple[WeightedSum, WeightedSum]:
  """Sums the loss over the positions that carry weight.

  Args:
    decoder: a `Decoder`, for its `logits`.
    params: its parameters.
    hidden: last layer at every position.
    tokens: the row; position t is asked for token t + 1.
    weights: 1 where the next token counts, by position t.
    chunk_tokens: positions of a row whose logits are held at once.

  Returns:
    Cross-entropy in nats, and hits of the most probable token, each with the
    number of tokens that count.
  """
  labels = jnp.roll(tokens, -1, axis=1)
  weights = weights.at[:, -1].set(0.0)  # The last position has no next token.
  length = weights.shape[1]
  chunk = min(chunk_tokens, length)
  padding = -length % chunk
  order = jnp.argsort(weights <= 0, axis=1, stable=True)
  hidden = jnp.take_along_axis(hidden, order[..., None], axis=1)
  labels = jnp.take_along_axis(labels, order, axis=1)
  weights = jnp.take_along_axis(weights, order, axis=1)

  def in_chunks(array: Array) -> Array:
    wide = ((0, 0), (0, padding)) + ((0, 0),) * (array.ndim - 2)
    array = jnp.pad(array, wide)
    array = array.reshape(array.shape[0], -1, chunk, *array.shape[2:])
    return jnp.moveaxis(array, 1, 0)

  @jax.checkpoint
  def counted(part: tuple[Array, Array, Array]) -> tuple[Array, Array]:
    logits = decoder.apply({"params": params}, part[0], method="logits")
    return _cross_entropy(logits, part[1], part[2])

  def body(carry, part):
    nothing = (jnp.zeros(()), jnp.zeros(()))
    some = jnp.any(part[2] > 0)
    sums = jax.lax.cond(some, counted, lambda _: nothing, part)
    return jax.tree.map(jnp.add, carry, sums), None

  chunks = tuple(map(in_chunks, (hidden, labels, weights)))
  (nats, hits), _ = jax.lax.scan(body, (jnp.zeros(()), jnp.zeros(())), chunks)
  count = jnp.sum(weights)
  return WeightedSum(nats, count), WeightedSum(hits, count)


def _cross_entropy(
  logits: Float[Array, "R C V"],
  labels: Int[Array, "R C"],
  weights: Float[Array, "R C"],
) -> tuple[Float[Array, ""], Float[Array, ""]]:
  chosen = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
  highest = jax.lax.stop_gradient(jnp.max(logits, axis=-1))
  rest = jnp.sum(jnp.exp(logits - highest[..., None]), axis=-1)
  nats = highest + jnp.log(rest) - chosen
  hits = (chosen >= highest).astype(jnp.float32)
  return jnp.sum(nats * weights), jnp.sum(hits * weights)
