"""Histories as token arrays of a few shapes.

Every new shape compiles a program, so prompts are padded to a length that
doubles from a smallest one, and filled up to a fixed number of rows. The
length depends on the prompt alone, so results do not depend on the batch.
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import gin
import numpy as np

from calrec_jax.data.feed import tokenization
from calrec_jax.data.feed.feed import Feed
from calrec_jax.data.records import Catalogue, PromptTokens
from calrec_jax.errors import InputError, at_least, check, optional

PADDING_TOKEN = 0


@gin.configurable
@dataclasses.dataclass(frozen=True, kw_only=True)
class PromptLimits:
  """How much of a history the model reads.

  What is None follows from the feed that the model was trained on, see
  `prompt_limits`; without a feed it is no limit.

  Attributes:
    max_tokens: Tokens of the longest prompt; the oldest items are dropped,
      whole, until it fits. Not longer than the rows that were trained on.
    usual_tokens: A shorter limit that a prompt of one item alone may exceed.
    max_items: MAX_HISTORY, most items of a prompt, the newest.
    smallest_length: Prompts are padded to this length or to its doubles.
  """

  max_tokens: int | None = None
  usual_tokens: int | None = None
  max_items: int | None = None
  smallest_length: int = 128

  def __post_init__(self):
    check(
      self,
      max_tokens=optional(at_least(1)),
      usual_tokens=optional(at_least(1)),
      max_items=optional(at_least(1)),
      smallest_length=at_least(1),
    )


class TokenRows(NamedTuple):
  """Padded token sequences.

  Attributes:
    indices: Index of each sequence that a row holds, at most `rows` of them;
      the rows after them are empty.
    sequences: These sequences.
    tokens: int32[rows, P].
    lengths: int32[rows], 0 for an empty row.
  """

  indices: list[int]
  sequences: list[np.ndarray]
  tokens: np.ndarray
  lengths: np.ndarray


class PromptWriter:
  """Writes the prompts of one catalogue's users as tokens."""

  def __init__(
    self,
    catalogue: Catalogue,
    prompt: PromptTokens,
    limits: PromptLimits | None = None,
  ):
    """Takes the catalogue and the pieces of the prompt."""
    self.limits = limits or PromptLimits()
    self._catalogue, self._prompt = catalogue, prompt

  def user(self, history: np.ndarray) -> np.ndarray:
    """The prompt of a user, int32[P], ending before the next item.

    Args:
      history: int32[n] catalogue rows, oldest first; `records.EventItems` where
        the prompt distinguishes kinds of event.

    Raises:
      InputError: if `PromptLimits.max_tokens` is too short for the last item.
      ValueError: if the prompt distinguishes kinds and the history has none.
    """
    newest = self.limits.max_items
    rows = history if newest is None else history[-newest:]
    kinds = getattr(rows, "kinds", None)
    tokens = [self._catalogue.tokens(row) for row in rows.tolist()]
    if self.limits.usual_tokens is not None:
      with contextlib.suppress(tokenization.PromptTooLong):
        return tokenization.prompt_tokens(
          self._prompt, tokens, self.limits.usual_tokens, kinds=kinds
        )
      tokens = tokens[-1:]
      kinds = None if kinds is None else kinds[-1:]
    try:
      return tokenization.prompt_tokens(
        self._prompt, tokens, self.limits.max_tokens, kinds=kinds
      )
    except tokenization.PromptTooLong as error:
      raise InputError(f"PromptLimits.max_tokens: {error}") from error

  def item(self, row: int) -> np.ndarray:
    """What the item tower reads, int32: as in training."""
    return tokenization.item_segment_tokens(
      self._prompt, self._catalogue.tokens(row)
    )


def padded_length(length: int, smallest: int) -> int:
  """The smallest of `smallest` and its doubles that holds the length."""
  return smallest << max(0, -(-length // smallest) - 1).bit_length()


def token_rows(
  sequences: Sequence[np.ndarray], rows: int, smallest_length: int
) -> Iterator[TokenRows]:
  """Pads sequences to few shapes: always `rows` rows, doubling lengths.

  Args:
    sequences: Token ids of each sequence, int32.
    rows: Number of rows of every batch.
    smallest_length: Lengths are this or its doubles.

  Yields:
    Batches of equal padded length, the shortest first; together they hold
    every sequence once.
  """
  by_length: dict[int, list[int]] = {}
  for index, sequence in enumerate(sequences):
    length = padded_length(len(sequence), smallest_length)
    by_length.setdefault(length, []).append(index)
  for length in sorted(by_length):
    for start in range(0, len(by_length[length]), rows):
      indices = by_length[length][start : start + rows]
      chosen = [sequences[index] for index in indices]
      tokens = np.full((rows, length), PADDING_TOKEN, np.int32)
      lengths = np.zeros(rows, np.int32)
      for row, sequence in enumerate(chosen):
        lengths[row] = len(sequence)
        tokens[row, : len(sequence)] = sequence
      yield TokenRows(indices, chosen, tokens, lengths)


def prompt_limits(feed: Feed) -> PromptLimits:
  """The bound limits; what is not bound is what the feed trains on.

  Where every event is a target it appears twice in the row, in the joint
  segment and alone; with at most half of the row for events that are context
  only, no joint segment is longer than three quarters of it. A model that
  counts positions from a history's start has never seen those beyond.

  Args:
    feed: Feed that the model was trained on.

  Raises:
    InputError: for limits beyond the rows of the feed.
  """
  bound = PromptLimits()
  for name in ("max_tokens", "usual_tokens"):
    if (getattr(bound, name) or 0) > feed.row_tokens:
      raise InputError(
        f"PromptLimits.{name} = {getattr(bound, name)}, but the model was "
        f"trained on rows of Feed.row_tokens = {feed.row_tokens}. Use at most "
        "that."
      )
  longest = bound.max_tokens or feed.row_tokens
  usual = bound.usual_tokens
  if usual is None and feed.targets == "all" and feed.item_segments:
    usual = min(3 * feed.row_tokens // 4, longest)
  return dataclasses.replace(
    bound,
    max_tokens=longest,
    usual_tokens=usual,
    max_items=bound.max_items or feed.max_history,
  )
