"""The model's own log-probability of given texts after read prompts.

One pass reads K texts after each prompt, whose keys and values they share.
Tested against whole sequences in `tests/reference/test_walk_reference.py`.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from calrec_jax.models.block import Branched
from calrec_jax.recommend.prefix import Prefix, first_logits
from calrec_jax.runtime import placement

_TOKENS_AT_ONCE = 8  # Of each text, whose logits are held together.


@functools.partial(jax.jit, static_argnames=("decoder", "mesh"))
def log_likelihood(
  decoder: Any,
  params: Any,
  prefix: Prefix,
  tokens: Int[Array, "B K C"],
  lengths: Int[Array, "B K"],
  *,
  mesh: Mesh | None = None,
) -> Float[Array, "B K"]:
  """Log-probabilities in nats, end markers included.

  Args:
    decoder: Module of the model.
    params: Parameters of the decoder.
    prefix: Prompts that were read.
    tokens: Texts, right-padded.
    lengths: Number of tokens of each; 0 for none, whose result is 0.
    mesh: Devices the rows are spread over; the result is given to all.
  """
  apply = functools.partial(decoder.apply, {"params": params})
  branched = Branched(jnp.zeros_like(lengths), prefix.lengths)
  hidden, _ = apply(tokens, branched, prefix.cache, method="branch")
  # Each state predicts the token after it: the last one none.
  labels = jnp.roll(tokens, -1, axis=2)
  at = jnp.arange(tokens.shape[2], dtype=jnp.int32)[None, None]
  counted = at < lengths[..., None] - 1
  size = min(_TOKENS_AT_ONCE, tokens.shape[2])
  padding = -tokens.shape[2] % size

  def in_pieces(array: Array) -> Array:
    widths = ((0, 0), (0, 0), (0, padding), *((0, 0),) * (array.ndim - 3))
    array = jnp.pad(array, widths)
    array = array.reshape(*array.shape[:2], -1, size, *array.shape[3:])
    return jnp.moveaxis(array, 2, 0)

  def add(
    total: Array, piece: tuple[Array, Array, Array]
  ) -> tuple[Array, None]:
    hidden, labels, counted = piece
    logits = apply(hidden, method="logits").astype(jnp.float32)
    found = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
    found -= jax.nn.logsumexp(logits, axis=-1)
    return total + jnp.sum(jnp.where(counted, found, 0.0), axis=2), None

  first = first_logits(apply, prefix)
  total = jnp.take_along_axis(first, tokens[:, :, 0], axis=1)
  total -= jax.nn.logsumexp(first, axis=1, keepdims=True)
  total = jnp.where(lengths > 0, total, 0.0)
  total, _ = jax.lax.scan(
    add, total, jax.tree.map(in_pieces, (hidden, labels, counted))
  )
  return placement.everywhere(total, mesh)
