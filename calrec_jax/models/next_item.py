"""The objective of a model of item ids: the next item at every position.

Cross-entropy over all items, or over the true item and a sample of the others.
Tested against NumPy in `tests/reference/test_sasrec_reference.py`.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import gin
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from calrec_jax.data.cache.item_ids import FIRST_TOKEN
from calrec_jax.data.feed.batch import Batch
from calrec_jax.errors import at_least, check, optional
from calrec_jax.metrics.weighted_sum import WeightedSum
from calrec_jax.models import sasrec
from calrec_jax.models.next_token import (
  chunked_cross_entropy,
  next_token_weights,
)
from calrec_jax.models.row_objective import RowObjective, Sums

_MASKED = -1e30


@gin.configurable
@dataclasses.dataclass(frozen=True, kw_only=True)
class NextItem(RowObjective):
  """Full or sampled softmax over the items.

  Attributes:
    negatives: Number of negative items, sampled uniformly with replacement in
      every step; None takes all items. Validation always takes all.
    full_up_to: Number of items up to which all are taken, whatever `negatives`
      says: then a sample saves little time.
    shared_by: Number of consecutive positions that share a sample. Fewer make
      the gradient less noisy, more make the step faster.
    corrected: Whether a sampled item counts as `num_items / negatives` items,
      which makes the softmax's sum an unbiased estimate of the full one (Bengio
      and Senecal, 2008; Jean et al., 2015). Uncorrected, the model only learns
      to tell the next item from a few others.
    loss_chunk_tokens: Positions of a row whose logits over all items are in
      memory at once. Small, as there are many rows: what exceeds a core's cache
      takes half as long again.
  """

  negatives: int | None = None
  full_up_to: int = 0
  shared_by: int = 8
  corrected: bool = True
  loss_chunk_tokens: int = 8

  def __post_init__(self):
    check(
      self,
      negatives=optional(at_least(1)),
      full_up_to=at_least(0),
      shared_by=at_least(1),
      loss_chunk_tokens=at_least(1),
    )

  @property
  def is_stochastic(self) -> bool:
    """Whether negatives are sampled."""
    return self.negatives is not None

  def sums(
    self,
    model: sasrec.SASRec,
    params: dict,
    hidden: Float[Array, "R L D"],
    batch: Batch,
    dropout_rng: Array | None,
  ) -> Sums:
    """Sums over rows, which are the whole loss: rows do not interact.

    Without `dropout_rng` all items are candidates.

    Returns:
      `loss_nig_nats`, the cross-entropy of the next item, and `token_accuracy`,
      how often it has the highest logit; both among the sampled items where
      items are sampled.
    """
    num_items = model.config.num_items or 1
    few = num_items <= self.full_up_to
    if self.negatives is None or dropout_rng is None or few:
      table = model.apply({"params": params}, method="output_weights")
      table = jnp.asarray(table, jnp.float32)
      nats, hits = full_softmax(
        model.config,
        hidden,
        table,
        batch.tokens,
        batch.loss_weights,
        chunk_tokens=self.loss_chunk_tokens,
      )
    else:
      rows, length = batch.tokens.shape
      sampled = sample_items(
        jax.random.fold_in(dropout_rng, 1),
        (rows, -(-length // self.shared_by), self.negatives),
        num_items,
      )
      fraction = self.negatives / num_items

      def embed(tokens: Array) -> Array:
        rows = model.apply({"params": params}, tokens, method="embed")
        return jnp.asarray(rows, jnp.float32)

      nats, hits = sampled_softmax(
        hidden,
        embed,
        batch.tokens,
        batch.loss_weights,
        sampled,
        log_expected=math.log(fraction) if self.corrected else 0.0,
      )
    return {"loss_nig_nats": nats, "token_accuracy": hits}

  def total(self, means: Mapping[str, Any]) -> Array:
    """The loss, given the means of its parts."""
    return jnp.asarray(means["loss_nig_nats"])


def sample_items(
  key: Array, shape: tuple[int, ...], num_items: int
) -> Int[Array, "..."]:
  """Samples item tokens uniformly with replacement."""
  return jax.random.randint(key, shape, FIRST_TOKEN, FIRST_TOKEN + num_items)


def full_softmax(
  config: sasrec.SASRecConfig,
  hidden: Float[Array, "R L D"],
  table: Float[Array, "V D"],
  tokens: Int[Array | np.ndarray, "R L"],
  weights: Float[Array | np.ndarray, "R L"],
  *,
  chunk_tokens: int,
) -> tuple[WeightedSum, WeightedSum]:
  """Cross-entropy over all items; see `chunked_cross_entropy`."""
  dtype = jnp.dtype(config.dtype)
  blank = jnp.where(sasrec.is_item(config), 0.0, _MASKED)

  def logits_of(table: Array, hidden: Array) -> Array:
    flat = jnp.einsum(
      "td,vd->tv",
      hidden.reshape(-1, hidden.shape[-1]),
      table.astype(dtype),
      preferred_element_type=jnp.float32,
    )
    return (flat + blank[None]).reshape(*hidden.shape[:-1], -1)

  return chunked_cross_entropy(
    logits_of,
    table,
    hidden,
    tokens,
    weights,
    axes=("vocab", None),
    dtype=jnp.float32,
    chunk_tokens=chunk_tokens,
  )


def sampled_softmax(
  hidden: Float[Array, "R L D"],
  embed: Callable[[Array], Array],
  tokens: Int[Array | np.ndarray, "R L"],
  weights: Float[Array | np.ndarray, "R L"],
  negatives: Int[Array, "R G M"],
  *,
  log_expected: float,
) -> tuple[WeightedSum, WeightedSum]:
  """Cross-entropy over the true item and sampled negatives.

  A sampled item that is the true one is ignored.

  Args:
    hidden: Last layer at every position.
    embed: Function from item tokens to their embeddings, float32[..., D].
    tokens: Tokens of the rows; position t predicts token t + 1.
    weights: Weight of each position, 1 where its next token counts.
    negatives: Sampled items of each of the G groups of consecutive positions in
      a row; all groups but the last have the same size.
    log_expected: Logarithm of an item's expected number of samples, subtracted
      from the logits of sampled items.

  Returns:
    Cross-entropy in nats, and hits of the highest logit, each with the number
    of positions that count.
  """
  labels = jnp.roll(tokens, -1, axis=1)
  weights = next_token_weights(weights)
  count = jnp.sum(weights)
  hidden, labels, weights = (
    _in_groups(array, negatives.shape[1])
    for array in (hidden.astype(jnp.float32), labels, weights)
  )
  true = jnp.sum(hidden * embed(labels), axis=-1)  # [R, G, positions]
  sampled = jnp.einsum("rgld,rgmd->rglm", hidden, embed(negatives))
  same = labels[..., None] == negatives[:, :, None]
  sampled = jnp.where(same, _MASKED, sampled - log_expected)
  total = jnp.logaddexp(true, jax.nn.logsumexp(sampled, axis=-1))
  hits = (true >= jnp.max(sampled, axis=-1)).astype(jnp.float32)
  return (
    WeightedSum(jnp.sum((total - true) * weights), count),
    WeightedSum(jnp.sum(hits * weights), count),
  )


def _in_groups(array: Array, groups: int) -> Array:
  """Splits rows [R, L, ...] into groups of positions [R, G, size, ...]."""
  rows, length, *rest = array.shape
  size = -(-length // groups)
  padding = ((0, 0), (0, groups * size - length), *((0, 0),) * len(rest))
  return jnp.pad(array, padding).reshape(rows, groups, size, *rest)
