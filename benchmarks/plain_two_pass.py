"""The same objective computed plainly: one example a row, two passes, padded.

It is what a direct implementation of CALRec does, and what the packed single
pass of `calrec_jax.models.objective` is measured against: every target is a
row of its own with the whole prompt before it, a second forward pass reads
the target alone, both are padded to the longest of the batch, and the logits
of all target positions are held at once. The decoder, its parameters and the
optimizer are the same.

The losses are written down again from their formulas, so that equal numbers
say something. Tested by `tests/unit/test_benchmark_train_step.py`.
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

# What `PlainObjective.skip` can leave out, to see what it costs.
PARTS = ("item_pass", "logits")


class Example(NamedTuple):
  """A target with its history.

  Attributes:
    joint: int32 tokens of the prompt and the target.
    target_tokens: how many of them, at the end, are the target's.
    alone: int32 tokens of the target alone, begin token included.
    item: the target's number in the mixture.
    user: the user's number in the mixture.
  """

  joint: np.ndarray
  target_tokens: int
  alone: np.ndarray
  item: int
  user: int


class PlainBatch(NamedTuple):
  """B examples, padded on the right to P tokens, targets to T and M tokens.

  Attributes:
    tokens: int32[B, P], prompt and target.
    positions: int32[B, P].
    segment_ids: int32[B, P], 1 where there is a token, 0 where none is.
    in_target: bool[B, P], the target's tokens.
    asked: int32[B, T], positions whose next token is one of the target's.
    labels: int32[B, T], that next token.
    label_weights: float32[B, T], 1 where there is one.
    item_tokens: int32[B, M], the target alone.
    item_positions: int32[B, M].
    item_segment_ids: int32[B, M].
    in_item: bool[B, M], its tokens but the begin token.
    slot_items: int32[B].
    slot_users: int32[B].
  """

  tokens: np.ndarray | jax.Array
  positions: np.ndarray | jax.Array
  segment_ids: np.ndarray | jax.Array
  in_target: np.ndarray | jax.Array
  asked: np.ndarray | jax.Array
  labels: np.ndarray | jax.Array
  label_weights: np.ndarray | jax.Array
  item_tokens: np.ndarray | jax.Array
  item_positions: np.ndarray | jax.Array
  item_segment_ids: np.ndarray | jax.Array
  in_item: np.ndarray | jax.Array
  slot_items: np.ndarray | jax.Array
  slot_users: np.ndarray | jax.Array


def examples_of(batch: Batch) -> list[Example]:
  """The examples that a packed batch trains, taken apart again.

  Args:
    batch: in NumPy.
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
  """One row an example, padded to the longest of them."""
  count = len(examples)
  joint = [example.joint for example in examples]
  lengths = np.array([len(tokens) for tokens in joint])
  targets = np.array([example.target_tokens for example in examples])
  place = np.arange(lengths.max())[None]
  inside = place < lengths[:, None]
  tokens = _padded(joint)
  # Token t is asked for at position t - 1.
  step = np.arange(targets.max())[None]
  asked = (lengths - targets)[:, None] - 1 + step
  real = step < targets[:, None]
  asked = np.where(real, asked, 0)
  alone = _padded([example.alone for example in examples])
  item_lengths = np.array([len(example.alone) for example in examples])
  item_place = np.arange(alone.shape[1])[None]
  item_inside = item_place < item_lengths[:, None]
  begins = (item_lengths - targets)[:, None]
  return PlainBatch(
    tokens=tokens,
    positions=np.broadcast_to(place, tokens.shape).astype(np.int32),
    segment_ids=inside.astype(np.int32),
    in_target=inside & (place >= (lengths - targets)[:, None]),
    asked=asked.astype(np.int32),
    labels=tokens[np.arange(count)[:, None], asked + 1],
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
  """Called as `Objective` is, on a `PlainBatch`.

  Attributes:
    objective: weights, temperature, direction and negatives.
    skip: parts out of `PARTS` that are left out; the loss is another one
      then.
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
    del dropout_rng  # Rows of another shape cannot drop the same units.
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
      asked = jnp.take_along_axis(hidden, batch.asked[..., None], axis=1)
      logits = decoder.apply(variables, asked, method="logits")  # [B, T, V]
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
    # Row i holds the queries that item i picks from.
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
  places = np.flatnonzero(slots == slot)
  start = places[0] - batch.positions[row, places[0]]
  return int(start), int(places[-1]) + 1, len(places)


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
