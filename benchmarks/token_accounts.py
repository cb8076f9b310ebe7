"""Breakdown of the tokens and FLOPs of the two forms of a step.

FLOPs are those of matrix products in forward and backward pass
(`calrec_jax.models.flops`). A padding position costs as much as any other; its
attention is counted up to the diagonal, as both forms compute it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from benchmarks.plain_two_pass import PlainBatch
from calrec_jax.data.feed.batch import PADDING_SEGMENT, Batch
from calrec_jax.models import flops
from calrec_jax.models.decoder_config import DecoderConfig


class Tokens(NamedTuple):
  """A number of tokens, and the total number of their keys."""

  count: int = 0
  keys: int = 0

  def plus(self, count: int, keys: int) -> Tokens:
    """Adds tokens."""
    return Tokens(self.count + int(count), self.keys + int(keys))


def account(
  config: DecoderConfig,
  packed: Sequence[Batch],
  plain: Sequence[PlainBatch],
) -> dict[str, dict[str, Any]]:
  """Tokens and FLOPs per example, and fractions of the FLOPs.

  Args:
    config: Shape of the decoder.
    packed: Packed batches of NumPy arrays.
    plain: The same examples, one per row.

  Returns:
    For `packed` and `plain`: `tokens_per_example`, `real_tokens_per_example`,
    `padding` (a fraction) and `flops_per_example`. In `share_of_plain_flops`,
    `repeated_history` is the history shared by a user's examples, which the
    packed form computes once. In `share_of_packed_flops`, `masked_attention` is
    spent on keys of other segments of the row.
  """
  examples = sum(len(batch.slot_items) for batch in plain)
  labels = sum(float(batch.label_weights.sum()) for batch in plain)
  targets_padded = sum(batch.label_weights.size for batch in plain)
  once, items, rows = Tokens(), Tokens(), Tokens()
  for batch in packed:
    in_item = _in_item_segment(batch)
    real = batch.segment_ids != PADDING_SEGMENT
    seen = batch.positions + 1
    once = once.plus((real & ~in_item).sum(), seen[real & ~in_item].sum())
    items = items.plus(in_item.sum(), seen[in_item].sum())
    rows = rows.plus(*_rectangle(batch.tokens.shape))
  joint, alone, padded = Tokens(), Tokens(), Tokens()
  for batch in plain:
    for ids, places in (
      (batch.segment_ids, batch.positions),
      (batch.item_segment_ids, batch.item_positions),
    ):
      padded = padded.plus(*_rectangle(ids.shape))
      real = ids > 0
      if ids is batch.segment_ids:
        joint = joint.plus(real.sum(), (places + 1)[real].sum())
      else:
        alone = alone.plus(real.sum(), (places + 1)[real].sum())

  def layers(tokens: Tokens) -> float:
    return _step_flops(config, tokens, 0)

  logits = _step_flops(config, Tokens(), labels)
  plain_logits = _step_flops(config, Tokens(), targets_padded)
  plain_flops = layers(padded) + plain_logits
  packed_flops = layers(rows) + logits
  plain_parts = {
    "repeated_history": layers(joint) - layers(once),
    "padding": plain_flops - layers(joint) - layers(alone) - logits,
    "item_pass": layers(alone),
    "logits": logits,
    "once_per_user": layers(once),
  }
  # Real tokens, with the keys that are computed and then masked.
  filled = once.count + items.count
  unmasked = Tokens(filled, round(filled * rows.keys / rows.count))
  packed_parts = {
    "padding": layers(rows) - layers(unmasked),
    "masked_attention": layers(unmasked) - layers(once) - layers(items),
    "item_segments": layers(items),
    "logits": logits,
    "once_per_user": layers(once),
  }
  return {
    "packed": _per_example(rows.count, filled, packed_flops, examples),
    "plain": _per_example(
      padded.count, joint.count + alone.count, plain_flops, examples
    ),
    "share_of_plain_flops": _fractions(plain_parts, plain_flops),
    "share_of_packed_flops": _fractions(packed_parts, packed_flops),
  }


def _per_example(
  tokens: int, real: int, step_flops: float, examples: int
) -> dict[str, float]:
  return {
    "tokens_per_example": tokens / examples,
    "real_tokens_per_example": real / examples,
    "padding": 1 - real / tokens,
    "flops_per_example": step_flops / examples,
  }


def _fractions(parts: dict[str, float], whole: float) -> dict[str, float]:
  return {name: part / whole for name, part in parts.items()}


def _step_flops(
  config: DecoderConfig, tokens: Tokens, loss_tokens: float
) -> float:
  return flops.train_step_flops(
    config,
    tokens=float(tokens.count),
    loss_tokens=float(loss_tokens),
    attended=tokens.keys / max(tokens.count, 1),
  )


def _rectangle(shape: tuple[int, ...]) -> tuple[int, int]:
  """Positions of all rows, and their keys up to the diagonal."""
  rows, length = shape
  return rows * length, rows * length * (length + 1) // 2


def _in_item_segment(batch: Batch) -> np.ndarray:
  """Whether a token is in an item segment, begin token included, bool[R, L]."""
  found = np.zeros(batch.tokens.shape, bool)
  for row, segments in enumerate(batch.segment_ids):
    own = np.unique(segments[batch.item_slots[row] >= 0])
    found[row] = np.isin(segments, own)
  return found
