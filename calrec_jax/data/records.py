"""Data records that training, recommending and evaluation read.

Plain NumPy and strings: nothing here needs JAX or TensorFlow.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int


@dataclasses.dataclass(frozen=True)
class PromptTokens:
  """The pieces of a prompt, tokenised separately and joined as tokens.

  Attributes:
    begin: First token of every segment, or None if the vocabulary has none.
    end: Token of the end marker, which ends every item.
    prefix: Tokens of the sentence before a history.
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
    values: int32, token ids of all items, concatenated.
    offsets: int64[N + 1], item i has `values[offsets[i]:offsets[i + 1]]`.
    train_counts: int64[N], training events of each item.
    train_recent: float64[N], the same with a weight of 1/n for a user's n-th
      last event: how often the item was bought recently.
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
    """Token ids of one item with its end marker."""
    if not 0 <= row < len(self):
      raise IndexError(f"catalogue row {row} is outside 0..{len(self) - 1}")
    return self.values[self.offsets[row] : self.offsets[row + 1]]

  @property
  def lengths(self) -> np.ndarray:
    """Number of tokens of each item, int64[N]."""
    return np.diff(self.offsets)

  @functools.cached_property
  def rows(self) -> dict[str, int]:
    """The row of each item id."""
    return {item_id: row for row, item_id in enumerate(self.item_ids)}

  @functools.cached_property
  def text_rows(self) -> np.ndarray:
    """The first row with the same tokens, int32[N].

    A text recommender cannot distinguish items with identical text.
    """
    first: dict[bytes, int] = {}
    texts = (self.tokens(row).tobytes() for row in range(len(self)))
    rows = [first.setdefault(text, row) for row, text in enumerate(texts)]
    return np.array(rows, np.int32)


@dataclasses.dataclass(frozen=True, eq=False)
class History:
  """One user of an evaluation split: purchases and the one that followed.

  Attributes:
    user_id: Id of the user in the source.
    items: int32[n], catalogue rows, oldest first.
    target: Catalogue row of the item to predict.
    timestamps: int64[n + 1] of the history and the target, or None.
  """

  user_id: str
  items: np.ndarray
  target: int
  timestamps: np.ndarray | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class DocumentColumns:
  """The documents of one split as concatenated columns.

  Attributes:
    user_ids: Ids of the users in the source, one per document.
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


class Purchases(NamedTuple):
  """What users bought, for count-based baselines.

  Attributes:
    items: int[E], catalogue rows by user, each user's oldest first.
    offsets: int[U + 1], user u has `items[offsets[u]:offsets[u + 1]]`.
  """

  items: Int[np.ndarray, " E"]
  offsets: Int[np.ndarray, " U1"]

  def counts(self, num_items: int) -> Int[np.ndarray, " N"]:
    """How often each item was bought."""
    return np.bincount(self.items, minlength=num_items)

  def recent(self, num_items: int) -> Float[np.ndarray, " N"]:
    """How often each item was bought; a user's n-th last event counts 1/n."""
    lengths = np.diff(self.offsets)
    ages = np.repeat(self.offsets[1:], lengths) - np.arange(len(self.items))
    return np.bincount(self.items, 1.0 / ages, num_items)
