"""Several splits read as one: the last document of every user.

A user's document of a later split extends that of an earlier one; users who are
not in the later split have the earlier document. So `train+validation` is what
is known at the end of validation, and `train+validation+test` everything.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

SIGN = "+"


class Part(NamedTuple):
  """The documents taken from one split.

  Attributes:
    split: Name of the split.
    rows: int64[n], indices of its documents.
  """

  split: str
  rows: np.ndarray


def names(split: str) -> tuple[str, ...]:
  """Names of the splits that a name such as "train+validation" joins."""
  return tuple(split.split(SIGN))


def join(users: Sequence[tuple[str, Sequence[str]]]) -> tuple[Part, ...]:
  """The last document of every user, from the latest split to the earliest.

  Args:
    users: Name and user ids of each split, the earliest split first; a user has
      at most one document in a split.
  """
  seen: set[str] = set()
  parts = []
  for split, ids in reversed(users):
    rows = [row for row, user in enumerate(ids) if user not in seen]
    parts.append(Part(split, np.array(rows, np.int64)))
    seen.update(ids)
  return tuple(parts)


def located(
  parts: Sequence[Part], indices: Sequence[int] | np.ndarray
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
  """The rows of each split that hold the requested documents.

  Args:
    parts: Parts that are joined.
    indices: Indices of the documents, counted across all parts.

  Yields:
    The split, int64[m] rows of it, and int64[m] positions in `indices`.

  Raises:
    IndexError: If an index is out of range.
  """
  rows = np.asarray(indices, np.int64)
  ends = np.cumsum([0, *(len(part.rows) for part in parts)])
  if len(rows) and not 0 <= rows.min() <= rows.max() < ends[-1]:
    raise IndexError(f"documents {rows} are not all within 0..{ends[-1] - 1}")
  owner = np.searchsorted(ends, rows, side="right") - 1
  for number, part in enumerate(parts):
    [positions] = np.nonzero(owner == number)
    if len(positions):
      yield part.split, part.rows[rows[positions] - ends[number]], positions
