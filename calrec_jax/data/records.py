"""Data records that training, recommending and evaluation read.

Plain NumPy and strings: nothing here needs JAX or TensorFlow.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

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
    first_of_kind: Where a domain has several kinds of event, tokens before the
      first item, by its kind; `first` is then that of the kind that is asked
      for.
    next_of_kind: Likewise before every later item; the end of a prompt is
      always `next`.
  """

  begin: int | None
  end: int
  prefix: tuple[int, ...]
  first: tuple[int, ...]
  next: tuple[int, ...]
  first_of_kind: tuple[tuple[int, ...], ...] = ()
  next_of_kind: tuple[tuple[int, ...], ...] = ()

  def as_json(self) -> dict[str, Any]:
    """The pieces, JSON-compatible; without kinds of event as ever."""
    fields = dataclasses.asdict(self)
    if not self.next_of_kind:
      del fields["first_of_kind"], fields["next_of_kind"]
    return fields

  @classmethod
  def from_json(cls, fields: Mapping[str, Any]) -> PromptTokens:
    """The inverse of `as_json`."""

    def plain(value: Any) -> Any:
      return tuple(map(plain, value)) if isinstance(value, list) else value

    return cls(**{name: plain(value) for name, value in fields.items()})

  def largest(self) -> int:
    """The largest token of all pieces."""
    pieces = (self.prefix, self.first, self.next)
    pieces = (*pieces, *self.first_of_kind, *self.next_of_kind)
    return max((self.begin or 0, *itertools.chain.from_iterable(pieces)))


@dataclasses.dataclass(frozen=True)
class EventKinds:
  """The kinds of event of a domain, and which of them are asked for.

  Attributes:
    names: Names of the kinds, such as `("view", "cart", "purchase")`; the codes
      of events are rows of it.
    targets: Names of the kinds that targets have, the most frequent one last.
  """

  names: tuple[str, ...]
  targets: tuple[str, ...]

  @property
  def query(self) -> int:
    """Code of the kind that prompts ask for: the most frequent target."""
    return self.names.index(self.targets[-1])

  def codes(self, names: Sequence[str]) -> np.ndarray:
    """Codes of the kinds of some events, int8[n].

    Raises:
      KeyError: If one is not a kind of the domain.
    """
    known = {name: code for code, name in enumerate(self.names)}
    return np.array([known[name] for name in names], np.int8)


class EventItems(np.ndarray):
  """The items of a history, int32[n], with what is known of each event.

  An array of catalogue rows for all that reads items only. Slices, masks and
  index arrays retain the columns; other operations give a plain array, which
  `recommend.prompts.PromptWriter` refuses where kinds decide the prompt.

  Attributes:
    kinds: int8[n], kind of each event, or None if a domain has one kind only.
    settled: bool[n], whether the next target cannot be an event's item if the
      event is the last of the history, see `candidates`.
  """

  kinds: np.ndarray | None
  settled: np.ndarray | None

  # Joined arrays are plain ones.
  __array_priority__ = -1.0  # pyright: ignore

  def __new__(
    cls,
    items: np.ndarray,
    kinds: np.ndarray | None = None,
    settled: np.ndarray | None = None,
  ) -> EventItems:
    """Joins the columns of a history."""
    rows = np.asarray(items, np.int32).view(cls)
    rows.kinds, rows.settled = kinds, settled
    return rows

  def __array_finalize__(self, source: Any) -> None:
    """Starts every derived array without columns."""
    self.kinds = self.settled = None

  def __array_wrap__(
    self, array: np.ndarray, context: Any = None, return_scalar: bool = False
  ) -> Any:
    """Gives the results of arithmetic as plain arrays."""
    plain = np.asarray(array)
    return plain[()] if return_scalar or not plain.ndim else plain

  def __getitem__(self, key: Any) -> Any:
    """Rows of the history with their columns, or a single item."""
    found = super().__getitem__(key)
    if isinstance(found, EventItems) and found.ndim == 1:
      for name in ("kinds", "settled"):
        column = getattr(self, name)
        setattr(found, name, None if column is None else column[key])
    return found

  def __reduce__(self) -> tuple[Any, ...]:
    return EventItems, (np.asarray(self), self.kinds, self.settled)


def event_items(items: np.ndarray) -> np.ndarray:
  """A history as int32 rows of its own, with the columns that it has."""
  rows = np.array(items, np.int32)
  if not isinstance(items, EventItems):
    return rows
  return EventItems(rows, items.kinds, items.settled)


def document_items(
  items: np.ndarray,
  kinds: np.ndarray | None,
  targets: np.ndarray | None,
  known: EventKinds | None,
) -> np.ndarray:
  """The items of a document, `EventItems` where its events have kinds.

  Args:
    items: int32[n], catalogue rows, oldest first.
    kinds: int8[n], kind of each event, or None.
    targets: bool[n], which events may be targets, or None if all may.
    known: Kinds of the domain, or None if it has one only.
  """
  if targets is None and kinds is None:
    return items
  settled = np.ones(len(items), bool) if targets is None else targets
  # One kind of target may follow another of the same item.
  one_kind = known is None or len(known.targets) == 1
  return EventItems(items, kinds, settled & one_kind)


def sample_rows(
  count: int, limit: int | None = None, seed: int | None = None
) -> Int[np.ndarray, " n"]:
  """Rows of a sample without repeats, ascending.

  Args:
    count: Number of rows to choose from.
    limit: Size of the sample; None takes all rows.
    seed: Seed of the sample; None takes the first rows.
  """
  if limit is None or limit >= count:
    return np.arange(count)
  if seed is None:
    return np.arange(limit)
  # Raw bits rather than `Generator.choice`: NumPy guarantees only these.
  order = np.argsort(np.random.PCG64(seed).random_raw(count), kind="stable")
  return np.sort(order[:limit])


@dataclasses.dataclass(frozen=True, eq=False)
class Catalogue:
  """The items of one domain, by row.

  Attributes:
    item_ids: Ids of the items in the source, by row.
    texts: Cleaned texts of the items, by row.
    values: int32, token ids of all items, concatenated.
    offsets: int64[N + 1], item i has `values[offsets[i]:offsets[i + 1]]`.
    train_counts: int64[N], training events of each item, of those that may be
      targets.
    train_recent: float64[N], the same with a weight of 1/n for a user's n-th
      last such event: how often the item was bought recently.
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
    items: int32[n], catalogue rows, oldest first; `EventItems` where the
      domain has several kinds of event.
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
    kinds: int8[E], codes of `EventKinds`, or None if events have one kind.
    targets: bool[E], which events may be targets, or None if all may.
  """

  user_ids: Sequence[str]
  offsets: np.ndarray
  items: np.ndarray
  timestamps: np.ndarray
  events: np.ndarray
  kinds: np.ndarray | None = None
  targets: np.ndarray | None = None

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
