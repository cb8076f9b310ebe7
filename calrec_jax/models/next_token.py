"""L_NIG: next-token cross-entropy on target tokens, in chunks.

The logits of a whole batch are never in memory. Positions with loss are moved
to the start of their row and rows are split into chunks of positions; chunks
without loss are skipped, and the logits of the others are recomputed in the
backward pass.

On a mesh every device does this for its own rows. The output weights are
gathered once, and their gradient is summed once.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from calrec_jax.metrics.weighted_sum import WeightedSum
from calrec_jax.models import fsdp
from calrec_jax.models.decoder import Decoder, project


def next_token_loss(
  decoder: Decoder,
  params: dict[str, Any],
  hidden: Float[Array, "R L D"],
  tokens: Int[Array | np.ndarray, "R L"],
  weights: Float[Array | np.ndarray, "R L"],
  *,
  chunk_tokens: int,
) -> tuple[WeightedSum, WeightedSum]:
  """Sums the loss over the positions with weight.

  Args:
    decoder: Decoder.
    params: Parameters of the decoder.
    hidden: Last layer at every position.
    tokens: Tokens of the rows; position t predicts token t + 1.
    weights: Weight of each position, 1 where its next token counts.
    chunk_tokens: Positions of a row whose logits are in memory at once.

  Returns:
    Cross-entropy in nats, and hits of the most probable token, each with the
    number of tokens that count.
  """
  dtype = jnp.dtype(decoder.config.dtype)
  output: Any = decoder.apply(
    {"params": params}, method="stored_output_weights"
  )
  return chunked_cross_entropy(
    lambda weights, part: project(decoder.config, weights.astype(dtype), part),
    output,
    hidden,
    tokens,
    weights,
    axes=decoder.output_axes,
    dtype=dtype,
    chunk_tokens=chunk_tokens,
  )


def chunked_cross_entropy(
  logits_of: Callable[[Array, Array], Array],
  output: Float[Array, "..."],
  hidden: Float[Array, "R L D"],
  tokens: Int[Array | np.ndarray, "R L"],
  weights: Float[Array | np.ndarray, "R L"],
  *,
  axes: Sequence[str | None],
  dtype: Any,
  chunk_tokens: int,
) -> tuple[WeightedSum, WeightedSum]:
  """`next_token_loss` of any model, given its map from hidden states to logits.

  `logits_of` maps float32 output weights and hidden states [..., D] to float32
  logits [..., V]; `output` are the output weights as stored, `axes` their
  logical axes and `dtype` the dtype in which they are gathered.
  """
  labels = jnp.roll(tokens, -1, axis=1)
  weights = next_token_weights(weights)
  by_row = functools.partial(
    _loss_of_rows, logits_of, min(chunk_tokens, tokens.shape[1])
  )
  # All devices skip the same chunks, as a chunk contains a collective where the
  # vocabulary is split.
  longest = jnp.max(jnp.sum(weights > 0, axis=1))
  nats, hits = fsdp.by_rows(by_row, axes, dtype)(
    output, longest, hidden, labels, weights
  )
  count = jnp.sum(weights)
  return WeightedSum(jnp.sum(nats), count), WeightedSum(jnp.sum(hits), count)


def next_token_weights(
  weights: Float[Array | np.ndarray, "R L"],
) -> Float[Array, "R L"]:
  """The weights, with zero at a row's last position: it has no next token."""
  return jnp.asarray(weights).at[:, -1].set(0.0)


def _loss_of_rows(
  logits_of: Callable[[Array, Array], Array],
  chunk: int,
  output: Float[Array, "..."],
  longest: Int[Array, ""],
  hidden: Float[Array, "R L D"],
  labels: Int[Array, "R L"],
  weights: Float[Array, "R L"],
) -> tuple[Float[Array, " R"], Float[Array, " R"]]:
  """Nats and hits of every row; the fullest row has `longest` labels."""
  # Converted to float32, in which the chunks' gradients are summed.
  output = output.astype(jnp.float32)
  order = jnp.argsort(weights <= 0, axis=1, stable=True)
  parts = tuple(
    _in_chunks(array, order, chunk) for array in (hidden, labels, weights)
  )
  starts = chunk * jnp.arange(len(parts[0]))

  def counted(output: Array, part: tuple[Array, ...]) -> tuple[Array, Array]:
    return _cross_entropy(logits_of(output, part[0]), part[1], part[2])

  def skipped(output: Array, part: tuple[Array, ...]) -> tuple[Array, Array]:
    return nothing, nothing

  # Around the `cond`, not inside: the residuals of its branches, among them the
  # weights in the compute dtype, would be saved for each chunk.
  @jax.checkpoint
  def of_chunk(
    output: Array, start: Array, part: tuple[Array, ...]
  ) -> tuple[Array, Array]:
    return jax.lax.cond(start < longest, counted, skipped, output, part)

  def add(sums, start_and_part):
    chunk_sums = of_chunk(output, *start_and_part)
    return jax.tree.map(jnp.add, sums, chunk_sums), None

  nothing = jnp.zeros_like(weights[:, 0])
  sums, _ = jax.lax.scan(add, (nothing, nothing), (starts, parts))
  return sums


def _in_chunks(array: Array, order: Array, chunk: int) -> Array:
  """Reorders positions [R, L, ...] and splits them: [chunks, R, chunk, ...]."""
  array = jnp.take_along_axis(
    array, order.reshape(*order.shape, *(1,) * (array.ndim - 2)), axis=1
  )
  padding = (
    (0, 0),
    (0, -order.shape[1] % chunk),
    *((0, 0),) * (array.ndim - 2),
  )
  array = jnp.pad(array, padding)
  array = array.reshape(len(array), -1, chunk, *array.shape[2:])
  return jnp.moveaxis(array, 1, 0)


def _cross_entropy(
  logits: Float[Array, "R C V"],
  labels: Int[Array, "R C"],
  weights: Float[Array, "R C"],
) -> tuple[Float[Array, " R"], Float[Array, " R"]]:
  chosen = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
  highest = jax.lax.stop_gradient(jnp.max(logits, axis=-1))
  rest = jnp.sum(jnp.exp(logits - highest[..., None]), axis=-1)
  nats = highest + jnp.log(rest) - chosen
  hits = (chosen >= highest).astype(jnp.float32)
  return jnp.sum(nats * weights, axis=1), jnp.sum(hits * weights, axis=1)
