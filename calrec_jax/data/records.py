"""Records that the data rooms hand to training, recommending and evaluation.

Plain NumPy and strings: nothing here needs JAX or TensorFlow.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class PromptTokens:
  """The pieces of a prompt, tokenised apart and joined as tokens.

  Attributes:
    begin: Token that every segment starts with, or None where the vocabulary
      has none.
    end: Token of the end marker, which closes every item.
    prefix: Tokens of the sentence that opens a history.
    first: Tokens before the first item.
    next: Tokens before every later item, and at the end of every prompt.
  """

  begin: int | None
  end: int
  prefix: tuple[int, ...]
  first: tuple[int, ...]
  next: tuple[int, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Catalogue:
  """The items of one domain, by row.

  Attributes:
    item_ids: Ids of the items in the source, by row.
    texts: Cleaned texts of the items, by row.
    values: int32, token ids of all items one after another.
    offsets: int64[N + 1], item i has `values[offsets[i]:offsets[i + 1]]`.
    train_counts: int64[N], training events of each item.
    train_recent: float64[N], the same where a user's n-th last event counts
      1/n: how often the item was bought recently.
  """

  item_ids: tuple[str, ...]
  texts: tuple[str, ...]
  values: np.ndarray
  offsets: np.ndarray
  train_counts: np.ndarray
  train_recent: np.ndarray

  def __len__(self) -> int:
    return len(self.item_ids)

  def tokens(self, row: int) -> np.ndarray:
    """Token ids of one item, closed by the end marker."""
    if not 0 <= row < len(self):
      raise IndexError(f"catalogue row {row} is outside 0..{len(self) - 1}")
    return self.values[self.offsets[row] : self.offsets[row + 1]]

  @property
  def lengths(self) -> np.ndarray:
    """Tokens of each item, int64[N]."""
    return np.diff(self.offsets)

  @functools.cached_property
  def rows(self) -> dict[str, int]:
    """The row of each item id."""
    return {item_id: row for row, item_id in enumerate(self.item_ids)}

  @functools.cached_property
  def twins(self) -> np.ndarray:
    """The smallest row with the same tokens, int32[N].

    A text recommender cannot distinguish items with identical text.
    """
    first: dict[bytes, int] = {}
    twins = np.empty(len(self), np.int32)
    for row in range(len(self)):
      twins[row] = first.setdefault(self.tokens(row).tobytes(), row)
    return twins


@dataclasses.dataclass(frozen=True, eq=False)
class History:
  """One user of an evaluation split: what was bought, and what came next.

  Attributes:
    user_id: Id of the user in the source.
    items: int32[n], catalogue rows, oldest first.
    target: Catalogue row of the item to be predicted.
    timestamps: int64[n + 1] of the history and the target, or None.
  """

  user_id: str
  items: np.ndarray
  target: int
  timestamps: np.ndarray | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class DocumentColumns:
  """The documents of one split as columns, one after another.

  Attributes:
    user_ids: Ids of the users in the source, one a document.
    offsets: int64[n + 1], document d has the events `offsets[d]:offsets[d+1]`.
    items: int32[E], catalogue rows, each document's oldest first.
    timestamps: int64[E], unix milliseconds or positions.
    events: int64[E], rows of the domain's sorted events.
  """

  user_ids: Sequence[str]
  offsets: np.ndarray
  items: np.ndarray
  timestamps: np.ndarray
  events: np.ndarray

  def __len__(self) -> int:
    return len(self.user_ids)
