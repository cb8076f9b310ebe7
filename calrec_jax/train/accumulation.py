"""A batch in microbatches, with the loss and the gradient of the whole one.

In-batch negatives make a row's gradient depend on all rows, so the mean of the
microbatches' own gradients would be another loss. Gao et al., "Scaling deep
contrastive learning batch size under memory limited setup" (2021), show how:
rows interact only through their pooled embeddings.

1. Every microbatch forward, without gradient; the vectors are saved.
2. The contrastive losses of the whole batch, and their gradient with respect
   to the vectors.
3. Every microbatch forward and backward: its part of the next-token loss,
   and its vectors times that gradient. Gradients are summed in float32.

Activations of one microbatch are held at a time. Without a contrastive loss
there is nothing to compare, and the first two steps are left out.

Each microbatch samples its own dropout masks and negatives, the same ones in
both passes: with them another number of microbatches is another sample of the
same distribution, without them it gives the same loss up to rounding.
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
  """As `jax.value_and_grad` of the objective, one microbatch after another.

  Args:
    objective: Losses.
    model: Module of the model.
    params_of: Function from the trained parameters to all of the model's.
    trained: Trained parameters.
    batch: Global batch.
    dropout_rng: Key of dropout and of what the objective samples.
    microbatches: Number of parts that the rows are split into.

  Returns:
    ((loss, weighted sums), gradients).

  Raises:
    InputError: if the rows cannot be split.
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
    pulls, compared = jax.grad(
      lambda vectors: _comparison(objective, vectors, batch), has_aux=True
    )(_join(vectors))
    pulls = split(pulls, microbatches)
  weights = objective.weights(batch)

  def surrogate(trained: Any, part: Batch, key: jax.Array, pull: Any):
    """Has the gradient that these rows add to that of the whole batch."""
    sums, vectors = objective.of_rows(
      model, params_of(trained), part, dropout_rng=key
    )
    loss = _share(objective, _with_weights(sums, weights))
    if pull is None:
      return loss, (sums, vectors)
    pulled = jax.tree.map(lambda p, v: jnp.sum(p * v), pull, vectors)
    return loss + sum(jax.tree.leaves(pulled)), (sums, None)

  def add(gradients: Any, part: tuple[Batch, jax.Array, Any]):
    gradient, shown = jax.grad(surrogate, has_aux=True)(trained, *part)
    return jax.tree.map(jnp.add, gradients, gradient), shown

  nothing = jax.tree.map(
    lambda leaf: jnp.zeros(leaf.shape, jnp.float32), trained
  )
  gradients, (sums, vectors) = jax.lax.scan(add, nothing, (parts, keys, pulls))
  if compared is None:
    compared = objective.compare(_join(vectors), batch)
  metrics = {**jax.tree.map(jnp.sum, sums), **compared}
  gradients = jax.tree.map(
    lambda gradient, leaf: gradient.astype(leaf.dtype), gradients, trained
  )
  return (objective.total(means(metrics)), metrics), gradients


def split(rows: Any, microbatches: int) -> Any:
  """Arrays [R, ...] as [microbatches, R / microbatches, ...].

  Microbatch m takes rows m, m + microbatches, and so on: rows lie on the mesh
  in blocks, so every device finds its share of every microbatch among its own.

  Raises:
    InputError: if the rows cannot be split.
  """

  def one(array: jax.Array) -> jax.Array:
    if len(array) % microbatches:
      raise InputError(
        f"BATCH_SIZE (Feed.rows) = {len(array)} rows cannot be split into "
        f"MICROBATCHES (Stage.microbatches) = {microbatches}."
      )
    array = array.reshape(-1, microbatches, *array.shape[1:])
    return _spread(jnp.moveaxis(array, 1, 0), axis=1)

  return jax.tree.map(one, rows)


def _join(parts: Any) -> Any:
  """The inverse of `split`."""
  return jax.tree.map(
    lambda array: _spread(
      jnp.moveaxis(array, 0, 1).reshape(-1, *array.shape[2:]), axis=0
    ),
    parts,
  )


def _spread(array: jax.Array, axis: int) -> jax.Array:
  """Rows, along this axis, where they lie in a batch."""
  axes: list[str | None] = [None] * array.ndim
  axes[axis] = "activation_batch"
  return partitioning.constrain(array, *axes)


def _comparison(
  objective: RowObjective, vectors: Any, batch: Batch
) -> tuple[jax.Array, Sums]:
  compared = objective.compare(vectors, batch)
  return _share(objective, compared), compared


def _share(objective: RowObjective, sums: Sums) -> jax.Array:
  """What some of the sums add to the loss, which is linear in their means."""
  return objective.total(collections.defaultdict(float, means(sums)))


def _with_weights(sums: Sums, weights: dict[str, jax.Array]) -> Sums:
  """Sums over rows, divided as those of the whole batch are."""
  return {
    name: WeightedSum(part.total, weights[name]) for name, part in sums.items()
  }
