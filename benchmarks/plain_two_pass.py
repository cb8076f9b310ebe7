"""A plain version of the objective: one example per row, two passes, padded.

This is a direct implementation of CALRec, with which the packed single pass of
`calrec_jax.models.objective` is compared: every target is a row with its whole
prompt, a second forward pass reads the target alone, both are padded to the
longest of the batch, and the logits of all target positions are in memory at
once. Decoder, parameters and optimizer are the same.

The losses are implemented independently from their formulas. Tested by
`tests/unit/benchmarks/test_benchmark_train_step.py`.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from calrec_jax.data.feed.batch import NO_SLOT, Batch
from calrec_jax.metrics.weighted_sum import WeightedSum
from calrec_jax.models.decoder import Decoder
from calrec_jax.models.objective import Objective

# Parts that `PlainObjective.skip` can omit, to measure their cost.
PARTS = ("item_pass", "logits")


class Example(NamedTuple):
  """A target with its history.

  Attributes:
    joint: int32, tokens of the prompt and the target.
    target_tokens: Number of the target's tokens, at the end.
    alone: int32, tokens of the target alone, begin token included.
    item: Number of the target in the mixture.
    user: Number of the user in the mixture.
  """

  joint: np.ndarray
  target_tokens: int
  alone: np.ndarray
  item: int
  user: int


class PlainBatch(NamedTuple):
  """B examples, right-padded to P tokens, targets to T and M tokens.

  Attributes:
    tokens: int32[B, P], tokens of prompt and target.
    positions: int32[B, P], position of each token.
    segment_ids: int32[B, P], 1 for tokens, 0 for padding.
    in_target: bool[B, P], whether a token is the target's.
    queries: int32[B, T], positions whose next token is the target's.
    labels: int32[B, T], that next token.
    label_weights: float32[B, T], 1 for labels, 0 for padding.
    item_tokens: int32[B, M], tokens of the target alone.
    item_positions: int32[B, M], position of each token.
    item_segment_ids: int32[B, M], 1 for tokens, 0 for padding.
    in_item: bool[B, M], its tokens except the begin token.
    slot_items: int32[B], item of each example.
    slot_users: int32[B], user of each example.
  """

  tokens: np.ndarray | jax.Array
  positions: np.ndarray | jax.Array
  segment_ids: np.ndarray | jax.Array
  in_target: np.ndarray | jax.Array
  queries: np.ndarray | jax.Array
  labels: np.ndarray | jax.Array
  label_weights: np.ndarray | jax.Array
  item_tokens: np.ndarray | jax.Array
  item_positions: np.ndarray | jax.Array
  item_segment_ids: np.ndarray | jax.Array
  in_item: np.ndarray | jax.Array
  slot_items: np.ndarray | jax.Array
  slot_users: np.ndarray | jax.Array


def examples_of(batch: Batch) -> list[Example]:
  """The training examples in a packed batch.

  Args:
    batch: Packed batch of NumPy arrays.
  """
  examples = []
  for row, slot in zip(*np.nonzero(batch.slot_items != NO_SLOT), strict=True):
    start, stop, spelled = _segment_of(batch, batch.joint_slots[row], row, slot)
    opens, closes, _ = _segment_of(batch, batch.item_slots[row], row, slot)
    examples.append(
      Example(
        joint=batch.tokens[row, start:stop],
        target_tokens=spelled,
        alone=batch.tokens[row, opens:closes],
        item=int(batch.slot_items[row, slot]),
        user=int(batch.slot_users[row, slot]),
      )
    )
  return examples


def pad(examples: Sequence[Example]) -> PlainBatch:
  """One row per example, padded to the longest."""
  count = len(examples)
  joint = [example.joint for example in examples]
  lengths = np.array([len(tokens) for tokens in joint])
  targets = np.array([example.target_tokens for example in examples])
  position = np.arange(lengths.max())[None]
  inside = position < lengths[:, None]
  tokens = _padded(joint)
  # Token t is predicted at position t - 1.
  step = np.arange(targets.max())[None]
  queries = (lengths - targets)[:, None] - 1 + step
  real = step < targets[:, None]
  queries = np.where(real, queries, 0)
  alone = _padded([example.alone for example in examples])
  item_lengths = np.array([len(example.alone) for example in examples])
  item_place = np.arange(alone.shape[1])[None]
  item_inside = item_place < item_lengths[:, None]
  begins = (item_lengths - targets)[:, None]
  return PlainBatch(
    tokens=tokens,
    positions=np.broadcast_to(position, tokens.shape).astype(np.int32),
    segment_ids=inside.astype(np.int32),
    in_target=inside & (position >= (lengths - targets)[:, None]),
    queries=queries.astype(np.int32),
    labels=tokens[np.arange(count)[:, None], queries + 1],
    label_weights=real.astype(np.float32),
    item_tokens=alone,
    item_positions=np.broadcast_to(item_place, alone.shape).astype(np.int32),
    item_segment_ids=item_inside.astype(np.int32),
    in_item=item_inside & (item_place >= begins),
    slot_items=np.array([example.item for example in examples], np.int32),
    slot_users=np.array([example.user for example in examples], np.int32),
  )


@dataclasses.dataclass(frozen=True)
class PlainObjective:
  """The objective on a `PlainBatch`, with the interface of `Objective`.

  Attributes:
    objective: Weights, temperature, direction and negatives.
    skip: Parts from `PARTS` to omit, which changes the loss.
  """

  objective: Objective
  skip: tuple[str, ...] = ()

  def __call__(
    self,
    decoder: Decoder,
    params: dict,
    batch: PlainBatch,
    *,
    dropout_rng: jax.Array | None = None,
  ) -> tuple[jax.Array, dict[str, WeightedSum]]:
    """The loss, and its three parts as weighted sums."""
    del dropout_rng  # Rows of different shapes cannot have the same dropout.
    variables = {"params": params}
    hidden = decoder.apply(
      variables, batch.tokens, batch.positions, batch.segment_ids
    )
    joint = _mean(hidden, batch.in_target)
    user = _mean(hidden, (batch.segment_ids > 0) & ~batch.in_target)
    item = joint
    if "item_pass" not in self.skip:
      alone = decoder.apply(
        variables,
        batch.item_tokens,
        batch.item_positions,
        batch.item_segment_ids,
      )
      item = _mean(alone, batch.in_item)
    nats, tokens = jnp.zeros(()), jnp.sum(batch.label_weights)
    if "logits" not in self.skip:
      queries = jnp.take_along_axis(hidden, batch.queries[..., None], axis=1)
      logits = decoder.apply(variables, queries, method="logits")  # [B, T, V]
      log_p = jnp.take_along_axis(
        jax.nn.log_softmax(logits), batch.labels[..., None], axis=-1
      )
      nats = -jnp.sum(log_p[..., 0] * batch.label_weights)
    compared = self._compared(batch)
    examples = jnp.asarray(len(batch.slot_items), jnp.float32)
    parts = {
      "loss_nig_nats": WeightedSum(nats, tokens),
      "loss_tt_nats": WeightedSum(
        self._info_nce(joint, item, compared), examples
      ),
      "loss_ut_nats": WeightedSum(
        self._info_nce(user, item, compared), examples
      ),
    }
    loss = self.objective.mix(*(part.mean() for part in parts.values()))
    return loss, parts

  def _compared(self, batch: PlainBatch) -> jax.Array:
    items, users = batch.slot_items, batch.slot_users
    other = items[:, None] != items[None]
    if not self.objective.same_user_negatives:
      other &= users[:, None] != users[None]
    return other | jnp.eye(len(items), dtype=bool)

  def _info_nce(
    self, queries: jax.Array, items: jax.Array, compared: jax.Array
  ) -> jax.Array:
    """-sum_i log exp(cos(q_i, t_i) / tau) / sum_j exp(cos(q_j, t_i) / tau)."""
    queries, items = (
      vectors / jnp.linalg.norm(vectors, axis=-1, keepdims=True)
      for vectors in (queries, items)
    )
    # Row i has the candidates of anchor item i.
    cosine = jnp.matmul(items, queries.T, precision="highest")
    logits = jnp.where(compared, cosine / self.objective.temperature, -jnp.inf)
    axes = {"item_to_user": (1,), "user_to_item": (0,), "both": (0, 1)}
    sums = [
      -jnp.sum(jnp.diagonal(jax.nn.log_softmax(logits, axis=axis)))
      for axis in axes[self.objective.direction]
    ]
    return sum(sums) / len(sums)


def _segment_of(
  batch: Batch, slots: np.ndarray, row: int, slot: int
) -> tuple[int, int, int]:
  """Start of the segment, end of the slot's tokens, and their number."""
  positions = np.flatnonzero(slots == slot)
  start = positions[0] - batch.positions[row, positions[0]]
  return int(start), int(positions[-1]) + 1, len(positions)


def _padded(rows: Sequence[np.ndarray]) -> np.ndarray:
  padded = np.zeros((len(rows), max(map(len, rows))), np.int32)
  for row, tokens in enumerate(rows):
    padded[row, : len(tokens)] = tokens
  return padded


def _mean(hidden: jax.Array, mask: jax.Array) -> jax.Array:
  """Mean of [B, L, D] over the masked positions, float32."""
  weights = mask.astype(jnp.float32)
  total = jnp.einsum(
    "bl,bld->bd", weights, hidden.astype(jnp.float32), precision="highest"
  )
  return total / jnp.sum(weights, axis=-1, keepdims=True)
