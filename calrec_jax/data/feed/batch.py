"""The packed batch, the input of the training step.

Symbols of shapes everywhere: R rows, L tokens per row, S slots per row (one for
each target item), D model width, V vocabulary size, N catalogue size.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np

# A token outside every slot, and a slot without a target.
NO_SLOT = -1
# Segment of padding tokens; real segments of a row count from 1.
PADDING_SEGMENT = 0


class Batch(NamedTuple):
  """Packed rows of user documents.

  A document is a joint segment (prompt prefix and items of one user) followed
  by one item segment for each target. The batch is a NamedTuple, a pytree of
  NumPy arrays on the host and of `jax.Array` on the mesh.

  Attributes:
    tokens: int32[R, L], vocabulary ids, 0 in padding.
    positions: int32[R, L], position in the segment, from 0.
    segment_ids: int32[R, L], segment, 0 in padding; attention is causal within
      one.
    loss_weights: float32[R, L], 1 where the *next* token belongs to a target
      in the joint segment.
    joint_slots: int32[R, L], slot of the target that the token of a joint
      segment belongs to, else -1.
    item_slots: int32[R, L], slot of the target that the token of an item
      segment belongs to, else -1, as for begin tokens.
    slot_items: int32[R, S], item of each slot, numbered across the domains of a
      mixture, -1 where the slot is empty.
    slot_users: int32[R, S], user of each slot, likewise.
  """

  tokens: np.ndarray | jax.Array
  positions: np.ndarray | jax.Array
  segment_ids: np.ndarray | jax.Array
  loss_weights: np.ndarray | jax.Array
  joint_slots: np.ndarray | jax.Array
  item_slots: np.ndarray | jax.Array
  slot_items: np.ndarray | jax.Array
  slot_users: np.ndarray | jax.Array

  @classmethod
  def empty(cls, rows: int, row_tokens: int, row_slots: int) -> Batch:
    """A batch of padding, as NumPy arrays."""
    by_token = (rows, row_tokens)
    by_slot = (rows, row_slots)
    return cls(
      tokens=np.zeros(by_token, np.int32),
      positions=np.zeros(by_token, np.int32),
      segment_ids=np.full(by_token, PADDING_SEGMENT, np.int32),
      loss_weights=np.zeros(by_token, np.float32),
      joint_slots=np.full(by_token, NO_SLOT, np.int32),
      item_slots=np.full(by_token, NO_SLOT, np.int32),
      slot_items=np.full(by_slot, NO_SLOT, np.int32),
      slot_users=np.full(by_slot, NO_SLOT, np.int32),
    )
