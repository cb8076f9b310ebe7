"""Concatenates tokens into sequences; nothing else does.

Training rows and inference prompts have the same parts in the same order, so a
prompt equals, token for token, what precedes the target in a training row:

    [begin] prefix first item_1 next item_2 ... next item_n          a document
    [begin] prefix first item_1 next item_2 ... next item_n next     a prompt
    [begin] item                                               an item segment

If the tokens are item ids (`item_ids`), the prompt's parts are empty.
Tested by `tests/unit/data/feed/test_tokenization.py`.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from calrec_jax.data.feed.batch import PADDING_SEGMENT, Batch
from calrec_jax.data.records import PromptTokens
from calrec_jax.errors import CalrecError


class TokenCosts(NamedTuple):
  """Tokens that a sequence has in addition to those of its items.

  Attributes:
    opening: Begin token, prefix and first template, once per sequence.
    between: Next template, before every item but the first.
    begin: Begin token of an item segment, 0 or 1.
  """

  opening: int
  between: int
  begin: int


class Cursor(NamedTuple):
  """Start of the next document in a row: token, slot and segment."""

  token: int = 0
  slot: int = 0
  segment: int = PADDING_SEGMENT + 1


class PromptTooLong(CalrecError, ValueError):
  """A prompt that exceeds the limit with its newest item alone."""


def token_costs(prompt: PromptTokens) -> TokenCosts:
  """Tokens that this prompt adds, for planning by lengths alone."""
  pieces = _pieces(prompt)
  return TokenCosts(len(pieces.opening), len(pieces.next), len(pieces.begin))


def prompt_tokens(
  prompt: PromptTokens,
  item_tokens: Sequence[np.ndarray],
  max_tokens: int | None = None,
) -> np.ndarray:
  """The prompt after which the model generates the next item.

  Args:
    prompt: Parts of the prompt.
    item_tokens: Token ids of each item with its end marker, oldest first. An
      empty history gives what precedes a first item.
    max_tokens: Maximum length of the prompt; the oldest items are dropped,
      whole, until it fits.

  Returns:
    int32[P] token ids.

  Raises:
    PromptTooLong: If not even the newest item fits.
  """
  if max_tokens is not None:
    count = _newest_that_fit(prompt, item_tokens, max_tokens)
    item_tokens = item_tokens[len(item_tokens) - count :]
  return np.concatenate(_joined(prompt, item_tokens))


def document_tokens(
  prompt: PromptTokens, item_tokens: Sequence[np.ndarray]
) -> np.ndarray:
  """The joint segment of a document, int32, up to the last item's end."""
  pieces = _joined(prompt, item_tokens)
  return np.concatenate(pieces[:-1] if len(item_tokens) else pieces)


def item_segment_tokens(prompt: PromptTokens, tokens: np.ndarray) -> np.ndarray:
  """The input of the item tower, int32: the begin token and the item's."""
  return np.concatenate([_pieces(prompt).begin, tokens])


def write_document(
  batch: Batch,
  row: int,
  cursor: Cursor,
  prompt: PromptTokens,
  item_tokens: Sequence[np.ndarray],
  *,
  first_target: int,
  slot_items: np.ndarray,
  slot_user: int,
  item_segments: bool = True,
) -> Cursor:
  """Writes one document into a row of a batch.

  Args:
    batch: Batch of NumPy arrays, modified in place.
    row: Row of the batch.
    cursor: Start of the document.
    prompt: Parts of the prompt.
    item_tokens: Token ids of the document's items, oldest first.
    first_target: Index of the first target; all later items are targets too,
      those before are history only.
    slot_items: int32, item of each target.
    slot_user: User of the document.
    item_segments: Whether each target also has a segment of its own.

  Returns:
    The cursor after the document.
  """
  targets = item_tokens[first_target:]
  joint = document_tokens(prompt, item_tokens)
  stop = cursor.token + len(joint)
  _put_segment(batch, row, cursor.token, joint, cursor.segment)
  at, between = stop, len(_pieces(prompt).next)
  for slot in range(cursor.slot + len(targets) - 1, cursor.slot - 1, -1):
    start = at - len(targets[slot - cursor.slot])
    batch.joint_slots[row, start:at] = slot
    # The weight is where the token is predicted, one position earlier.
    batch.loss_weights[row, start - 1 : at - 1] = 1
    at = start - between
  at, segment = stop, cursor.segment + 1
  for slot, tokens in enumerate(targets if item_segments else (), cursor.slot):
    piece = item_segment_tokens(prompt, tokens)
    _put_segment(batch, row, at, piece, segment)
    at += len(piece)
    batch.item_slots[row, at - len(tokens) : at] = slot
    segment += 1
  end = cursor.slot + len(targets)
  batch.slot_items[row, cursor.slot : end] = slot_items
  batch.slot_users[row, cursor.slot : end] = slot_user
  return Cursor(at, end, segment)


class _Pieces(NamedTuple):
  opening: np.ndarray
  next: np.ndarray
  begin: np.ndarray


@functools.lru_cache(maxsize=64)
def _pieces(prompt: PromptTokens) -> _Pieces:
  begin = () if prompt.begin is None else (prompt.begin,)
  return _Pieces(
    opening=np.array((*begin, *prompt.prefix, *prompt.first), np.int32),
    next=np.array(prompt.next, np.int32),
    begin=np.array(begin, np.int32),
  )


def _joined(
  prompt: PromptTokens, item_tokens: Sequence[np.ndarray]
) -> list[np.ndarray]:
  """The opening, then every item followed by the next template."""
  pieces = _pieces(prompt)
  joined = [pieces.opening]
  for tokens in item_tokens:
    joined += (tokens, pieces.next)
  return joined


def _newest_that_fit(
  prompt: PromptTokens, item_tokens: Sequence[np.ndarray], max_tokens: int
) -> int:
  costs = token_costs(prompt)
  lengths = np.array([len(tokens) for tokens in reversed(item_tokens)], int)
  totals = costs.opening + np.cumsum(lengths + costs.between)
  count = int(np.searchsorted(totals, max_tokens, side="right"))
  if costs.opening > max_tokens or (len(lengths) and not count):
    needed = int(totals[0]) if len(lengths) else costs.opening
    raise PromptTooLong(
      f"A prompt with only the newest item takes {needed} tokens, more than "
      f"the {max_tokens} allowed; allow longer prompts or truncate long item "
      "texts in the Domain's fields."
    )
  return count


def _put_segment(
  batch: Batch, row: int, at: int, tokens: np.ndarray, segment: int
) -> None:
  stop = at + len(tokens)
  batch.tokens[row, at:stop] = tokens
  batch.positions[row, at:stop] = np.arange(len(tokens))
  batch.segment_ids[row, at:stop] = segment
