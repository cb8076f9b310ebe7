"""Packs documents into rows of fixed size, with little padding.

Documents are taken in chunks, longest first, and each goes into the fullest
open row that still has room for its tokens and slots (best fit decreasing).
Documents come shuffled, and the plan shuffles the rows afterwards, so that only
which documents share a row depends on their lengths. Tested by
`tests/unit/data/feed/test_packing.py`.
"""

from __future__ import annotations

import bisect

import numpy as np

# Large enough that the rows left open after a chunk do not matter, small enough
# for cheap insertion into the sorted list of open rows.
_CHUNK = 4096


def pack(
  tokens: np.ndarray, slots: np.ndarray, *, row_tokens: int, row_slots: int
) -> tuple[np.ndarray, int]:
  """Packs documents into rows, deterministically.

  Args:
    tokens: int[D], tokens of each document.
    slots: int[D], slots of each document.
    row_tokens: Tokens per row.
    row_slots: Slots per row.

  Returns:
    int64[D], row of each document, and the number of rows.

  Raises:
    ValueError: If a document is larger than a row.
  """
  too_large = (tokens > row_tokens) | (slots > row_slots)
  if too_large.any():
    at = int(np.argmax(too_large))
    raise ValueError(
      f"Document {at} has {tokens[at]} tokens and {slots[at]} slots, but a row "
      f"has {row_tokens} (Feed.row_tokens) and {row_slots} (Feed.row_slots)."
    )
  rows = np.empty(len(tokens), np.int64)
  num_rows = 0
  for at in range(0, len(tokens), _CHUNK):
    chunk = slice(at, at + _CHUNK)
    longest_first = np.argsort(-tokens[chunk], kind="stable")
    found, used = _pack_in_order(
      tokens[chunk][longest_first].tolist(),
      slots[chunk][longest_first].tolist(),
      row_tokens,
      row_slots,
    )
    rows[at + longest_first] = np.array(found) + num_rows
    num_rows += used
  return rows, num_rows


def _pack_in_order(
  tokens: list[int], slots: list[int], row_tokens: int, row_slots: int
) -> tuple[list[int], int]:
  """Packs over the open rows, fullest first; plain ints are fastest."""
  open_rows: list[tuple[int, int]] = []  # (tokens left, row), ascending.
  slots_left: list[int] = []
  rows = []
  for needed, slots_needed in zip(tokens, slots, strict=True):
    at = bisect.bisect_left(open_rows, (needed, -1))
    while at < len(open_rows):
      if slots_left[open_rows[at][1]] >= slots_needed:
        room, row = open_rows.pop(at)
        break
      at += 1
    else:
      room, row = row_tokens, len(slots_left)
      slots_left.append(row_slots)
    rows.append(row)
    slots_left[row] -= slots_needed
    bisect.insort(open_rows, (room - needed, row))
  return rows, len(slots_left)
