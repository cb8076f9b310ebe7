"""Several splits read as one: the last document of every user.

A user's document of a later split holds that of an earlier one and goes on, and
who is not in the later split has the earlier document. So `train+validation` is
what is known when the validation is over, and with `+test` all that is known.
Tested by `tests/unit/data/test_joined_splits.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

SIGN = "+"


class Part(NamedTuple):
  """What is taken of one split.

  Attributes:
    split: its name.
    rows: int64[n], which of its documents.
  """

  split: str
  rows: np.ndarray


def names(split: str) -> tuple[str, ...]:
  """The splits that a name such as "train+validation" joins, as written."""
  return tuple(split.split(SIGN))


def join(users: Sequence[tuple[str, Sequence[str]]]) -> tuple[Part, ...]:
  """The last document of every user; the latest split's come first.

  Args:
    users: name and user ids of each split, the earliest split first. A user
      has one document in a split at most.
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
  """Where joined documents lie: of each split the rows that are asked for.

  Args:
    parts: what is joined.
    indices: documents, counted through all parts.

  Yields:
    The split, int64[m] rows of it, and int64[m] places among `indices`.

  Raises:
    IndexError: for a document that is not there.
  """
  asked = np.asarray(indices, np.int64)
  ends = np.cumsum([0, *(len(part.rows) for part in parts)])
  if len(asked) and not 0 <= asked.min() <= asked.max() < ends[-1]:
    raise IndexError(f"documents {asked} are not all within 0..{ends[-1] - 1}")
  owner = np.searchsorted(ends, asked, side="right") - 1
  for number, part in enumerate(parts):
    [places] = np.nonzero(owner == number)
    if len(places):
      yield part.split, part.rows[asked[places] - ends[number]], places
