"""Objectives whose rows can be computed separately, a few at a time.

Every row has its own sums; rows interact only through their pooled embeddings.
A whole batch and accumulation over microbatches
(`calrec_jax.train.accumulation`) use the same methods, so that a loss has one
definition.
"""

import abc
from collections.abc import Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float

from calrec_jax.data.feed.batch import Batch
from calrec_jax.metrics.weighted_sum import WeightedSum
from calrec_jax.models.next_token import next_token_weights

Sums = dict[str, WeightedSum]


class RowObjective(abc.ABC):
  """The loss of a batch, from sums over rows and comparisons of rows.

      loss = total(means of the sums of all rows, and of `compare`)

  A subclass defines the sums over rows (`sums`), how their means are combined
  (`total`) and, where rows are compared, `vectors`, `compare` and `compares`.

  Attributes:
    METRICS: Names of what a validation gives of it: the loss and its parts.
  """

  METRICS: ClassVar[tuple[str, ...]] = (
    "loss", "loss_nig_nats", "token_accuracy"
  )  # fmt: skip

  @property
  def compares(self) -> bool:
    """Whether the gradient of a row depends on the vectors of others."""
    return False

  @property
  def is_stochastic(self) -> bool:
    """Whether training is stochastic, apart from the model's dropout."""
    return False

  def __call__(
    self,
    model: Any,
    params: dict,
    batch: Batch,
    *,
    dropout_rng: Array | None = None,
  ) -> tuple[Float[Array, ""], Sums]:
    """The loss of a batch in nats, and its parts.

    Args:
      model: Module.
      params: Parameters of the module.
      batch: Packed rows, the global batch under `jax.jit`.
      dropout_rng: Key of dropout and of other sampling in training; None turns
        both off.

    Returns:
      The loss, and the weighted sums of `sums` and `compare`.
    """
    sums, vectors = self.of_rows(model, params, batch, dropout_rng=dropout_rng)
    metrics = {**sums, **self.compare(vectors, batch)}
    return self.total(means(metrics)), metrics

  def of_rows(
    self,
    model: Any,
    params: dict,
    batch: Batch,
    *,
    dropout_rng: Array | None = None,
  ) -> tuple[Sums, Any]:
    """Sums over any subset of a batch's rows, and the rows' vectors."""
    hidden = _hidden(model, params, batch, dropout_rng)
    sums = self.sums(model, params, hidden, batch, dropout_rng)
    return sums, self.vectors(model, hidden, batch)

  def vectors_of_rows(
    self,
    model: Any,
    params: dict,
    batch: Batch,
    *,
    dropout_rng: Array | None = None,
  ) -> Any:
    """The vectors alone, bit-identical to those of `of_rows`."""
    hidden = _hidden(model, params, batch, dropout_rng)
    return self.vectors(model, hidden, batch)

  @abc.abstractmethod
  def sums(
    self,
    model: Any,
    params: dict,
    hidden: Float[Array, "R L D"],
    batch: Batch,
    dropout_rng: Array | None,
  ) -> Sums:
    """Sums that rows contribute independently, weighted by `weights`."""

  def weights(self, batch: Batch) -> dict[str, Array]:
    """Weights of `sums`, determined by the batch: its target tokens."""
    tokens = jnp.sum(next_token_weights(batch.loss_weights))
    return {"loss_nig_nats": tokens, "token_accuracy": tokens}

  def vectors(
    self, model: Any, hidden: Float[Array, "R L D"], batch: Batch
  ) -> Any:
    """Vectors by which rows are compared: a tree of float32 arrays [R, ...]."""
    del model, hidden, batch
    return ()

  def compare(self, vectors: Any, batch: Batch) -> Sums:
    """Sums that need the vectors of all rows of a batch."""
    del vectors, batch
    return {}

  @abc.abstractmethod
  def total(self, means: Mapping[str, Any]) -> Array:
    """The loss, given the means of its parts; linear in them."""


def means(sums: Sums) -> dict[str, Array]:
  """The mean of every sum."""
  return {name: part.mean() for name, part in sums.items()}


def _hidden(
  model: Any, params: dict, batch: Batch, dropout_rng: Array | None
) -> Float[Array, "R L D"]:
  """Hidden states of the last layer; dropout is off without a key."""
  return model.apply(
    {"params": params},
    batch.tokens,
    batch.positions,
    batch.segment_ids,
    deterministic=dropout_rng is None,
    rngs={} if dropout_rng is None else {"dropout": dropout_rng},
  )
