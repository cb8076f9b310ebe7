"""A batch in microbatches, with the loss and the gradient of the whole batch.

In-batch negatives make a row's gradient depend on all rows, so the mean of the
microbatches' gradients would be that of another loss. The remedy is that of Gao
et al., "Scaling deep contrastive learning batch size under memory limited
setup" (2021): rows interact only through their pooled embeddings.

1. Forward pass of every microbatch, without gradient; the embeddings are saved.
2. The contrastive losses of the whole batch, and their gradient with respect
   to the embeddings.
3. Forward and backward pass of every microbatch: its part of the next-token
   loss, and its embeddings times that gradient. Gradients are summed in
   float32.

Activations of one microbatch are held at a time. Without a contrastive loss the
first two steps are skipped.

Each microbatch samples its own dropout masks and negatives, the same ones in
both passes. With dropout or negatives, another number of microbatches means
another sample of the same distribution; without, the loss is equal up to
rounding.
"""

from __future__ import annotations

import collections
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from calrec_jax.data.feed.batch import Batch
from calrec_jax.errors import InputError
from calrec_jax.metrics.weighted_sum import WeightedSum
from calrec_jax.models.row_objective import RowObjective, Sums, means
from calrec_jax.runtime import partitioning


def value_and_grad(
  objective: RowObjective,
  model: Any,
  params_of: Callable[[Any], Any],
  trained: Any,
  batch: Batch,
  *,
  dropout_rng: jax.Array,
  microbatches: int,
) -> tuple[tuple[jax.Array, Sums], Any]:
  """Like `jax.value_and_grad` of the objective, one microbatch at a time.

  Args:
    objective: Losses.
    model: Module of the model.
    params_of: Function from the trained parameters to all of the model's.
    trained: Trained parameters.
    batch: Global batch.
    dropout_rng: Key of dropout and of the objective's samples.
    microbatches: Number of parts that the rows are split into.

  Returns:
    ((loss, weighted sums), gradients).
  """
  parts = split(batch, microbatches)
  keys = jax.random.split(dropout_rng, microbatches)
  compared, pulls = None, None
  if objective.compares:
    vectors = jax.lax.map(
      lambda part: objective.vectors_of_rows(
        model, params_of(trained), part[0], dropout_rng=part[1]
      ),
      (parts, keys),
    )

    def comparison(vectors: Any) -> tuple[jax.Array, Sums]:
      compared = objective.compare(vectors, batch)
      return _part_of_loss(objective, compared), compared

    pulls, compared = jax.grad(comparison, has_aux=True)(_join(vectors))
    pulls = split(pulls, microbatches)
  weights = objective.weights(batch)

  def surrogate(trained: Any, part: Batch, key: jax.Array, pull: Any):
    """Its gradient is these rows' part of the gradient of the whole batch."""
    sums, vectors = objective.of_rows(
      model, params_of(trained), part, dropout_rng=key
    )
    loss = _part_of_loss(
      objective,
      {name: WeightedSum(sums[name].total, weights[name]) for name in sums},
    )
    if pull is None:
      return loss, (sums, vectors)
    pulled = jax.tree.map(lambda p, v: jnp.sum(p * v), pull, vectors)
    return loss + sum(jax.tree.leaves(pulled)), (sums, None)

  def add(gradients: Any, part: tuple[Batch, jax.Array, Any]):
    gradient, shown = jax.grad(surrogate, has_aux=True)(trained, *part)
    return jax.tree.map(jnp.add, gradients, gradient), shown

  zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.float32), trained)
  gradients, (sums, vectors) = jax.lax.scan(add, zeros, (parts, keys, pulls))
  if compared is None:
    compared = objective.compare(_join(vectors), batch)
  metrics = {**jax.tree.map(jnp.sum, sums), **compared}
  gradients = jax.tree.map(
    lambda gradient, leaf: gradient.astype(leaf.dtype), gradients, trained
  )
  return (objective.total(means(metrics)), metrics), gradients


def split(rows: Any, microbatches: int) -> Any:
  """Arrays [R, ...] as [microbatches, R / microbatches, ...].

  Microbatch m takes rows m, m + microbatches, and so on: rows are sharded over
  the mesh in blocks, so every device has its part of every microbatch locally.
  """

  def one(array: jax.Array) -> jax.Array:
    if len(array) % microbatches:
      raise InputError(
        f"BATCH_SIZE (Feed.rows) = {len(array)} rows cannot be split into "
        f"MICROBATCHES (Stage.microbatches) = {microbatches}."
      )
    array = array.reshape(-1, microbatches, *array.shape[1:])
    return _constrain_rows(jnp.moveaxis(array, 1, 0), axis=1)

  return jax.tree.map(one, rows)


def _join(parts: Any) -> Any:
  """The inverse of `split`."""
  return jax.tree.map(
    lambda array: _constrain_rows(
      jnp.moveaxis(array, 0, 1).reshape(-1, *array.shape[2:]), axis=0
    ),
    parts,
  )


def _constrain_rows(array: jax.Array, axis: int) -> jax.Array:
  """Shards the rows, along this axis, as those of a batch."""
  axes: list[str | None] = [None] * array.ndim
  axes[axis] = "activation_batch"
  return partitioning.constrain(array, *axes)


def _part_of_loss(objective: RowObjective, sums: Sums) -> jax.Array:
  """Part of the loss, which is linear in means, that some sums contribute."""
  return objective.total(collections.defaultdict(float, means(sums)))
