"""Concatenates tokens into sequences; nothing else does.

Training rows and inference prompts have the same parts in the same order, so a
prompt equals, token for token, what precedes the target in a training row:

    [begin] prefix first item_1 next item_2 ... next item_n          a document
    [begin] prefix first item_1 next item_2 ... next item_n next     a prompt
    [begin] item                                               an item segment

If the tokens are item ids (`item_ids`), the prompt's parts are empty. Where
events have kinds, `first` and `next` before an item are those of its kind, and
`next` at the end of a prompt is that of the kind that is asked for.
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
    opening: Begin token, prefix and first template, once per sequence. Where
      events have kinds, no less than that of the first item's kind, given that
      its next template has `between` tokens: of several kinds, the largest.
    between: Next template, before every item but the first; where events have
      kinds, that of the kind that is asked for.
    begin: Begin token of an item segment, 0 or 1.
    between_of_kind: Next template by kind, or () without kinds.
  """

  opening: int
  between: int
  begin: int
  between_of_kind: tuple[int, ...] = ()

  def between_events(self, kinds: np.ndarray | None) -> np.ndarray | int:
    """Tokens of the next template before each event, int64[E] or a number."""
    if kinds is None or not self.between_of_kind:
      return self.between
    return np.array(self.between_of_kind, np.int64)[kinds]


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
  between, begin = len(pieces.next), len(pieces.begin)
  if not pieces.next_of_kind:
    return TokenCosts(len(pieces.opening), between, begin)
  between_of_kind = tuple(map(len, pieces.next_of_kind))
  excess = max(
    len(opening) - cost
    for opening, cost in zip(
      pieces.opening_of_kind, between_of_kind, strict=True
    )
  )
  return TokenCosts(between + excess, between, begin, between_of_kind)


def prompt_tokens(
  prompt: PromptTokens,
  item_tokens: Sequence[np.ndarray],
  max_tokens: int | None = None,
  *,
  kinds: np.ndarray | None = None,
) -> np.ndarray:
  """The prompt after which the model generates the next item.

  Args:
    prompt: Parts of the prompt.
    item_tokens: Token ids of each item with its end marker, oldest first. An
      empty history gives what precedes a first item.
    max_tokens: Maximum length of the prompt; the oldest items are dropped,
      whole, until it fits.
    kinds: int8[n], kind of each item, where the prompt distinguishes kinds.

  Returns:
    int32[P] token ids.

  Raises:
    PromptTooLong: If not even the newest item fits.
  """
  if max_tokens is not None:
    count = _newest_that_fit(prompt, item_tokens, max_tokens, kinds)
    start = len(item_tokens) - count
    item_tokens = item_tokens[start:]
    kinds = None if kinds is None else kinds[start:]
  return np.concatenate(_joined(prompt, item_tokens, kinds))


def document_tokens(
  prompt: PromptTokens,
  item_tokens: Sequence[np.ndarray],
  kinds: np.ndarray | None = None,
) -> np.ndarray:
  """The joint segment of a document, int32, up to the last item's end."""
  pieces = _joined(prompt, item_tokens, kinds)
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
  targets: Sequence[int],
  slot_items: np.ndarray,
  slot_user: int,
  item_segments: bool = True,
  kinds: np.ndarray | None = None,
) -> Cursor:
  """Writes one document into a row of a batch.

  Args:
    batch: Batch of NumPy arrays, modified in place.
    row: Row of the batch.
    cursor: Start of the document.
    prompt: Parts of the prompt.
    item_tokens: Token ids of the document's items, oldest first.
    targets: Indices of the targets, ascending; all other items are history
      only.
    slot_items: int32, item of each target.
    slot_user: User of the document.
    item_segments: Whether each target also has a segment of its own.
    kinds: int8, kind of each item, where the prompt distinguishes kinds.

  Returns:
    The cursor after the document.
  """
  pieces = _joined(prompt, item_tokens, kinds)[: max(2 * len(item_tokens), 1)]
  joint = np.concatenate(pieces)
  # Items are pieces 1, 3, ...
  ends = cursor.token + np.cumsum([len(piece) for piece in pieces])
  _put_segment(batch, row, cursor.token, joint, cursor.segment)
  for slot, target in enumerate(targets, cursor.slot):
    stop = int(ends[2 * target + 1])
    start = stop - len(item_tokens[target])
    batch.joint_slots[row, start:stop] = slot
    # The weight is where the token is predicted, one position earlier.
    batch.loss_weights[row, start - 1 : stop - 1] = 1
  at, segment = cursor.token + len(joint), cursor.segment + 1
  for slot, target in enumerate(targets if item_segments else (), cursor.slot):
    tokens = item_tokens[target]
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
  opening_of_kind: tuple[np.ndarray, ...]
  next_of_kind: tuple[np.ndarray, ...]


@functools.lru_cache(maxsize=64)
def _pieces(prompt: PromptTokens) -> _Pieces:
  begin = () if prompt.begin is None else (prompt.begin,)
  head = (*begin, *prompt.prefix)
  return _Pieces(
    opening=np.array((*head, *prompt.first), np.int32),
    next=np.array(prompt.next, np.int32),
    begin=np.array(begin, np.int32),
    opening_of_kind=tuple(
      np.array((*head, *first), np.int32) for first in prompt.first_of_kind
    ),
    next_of_kind=tuple(
      np.array(following, np.int32) for following in prompt.next_of_kind
    ),
  )


def _joined(
  prompt: PromptTokens,
  item_tokens: Sequence[np.ndarray],
  kinds: np.ndarray | None,
) -> list[np.ndarray]:
  """The opening, then every item followed by the next template."""
  pieces = _pieces(prompt)
  if not pieces.next_of_kind or not len(item_tokens):
    joined = [pieces.opening]
    for tokens in item_tokens:
      joined += (tokens, pieces.next)
    return joined
  if kinds is None or len(kinds) != len(item_tokens):
    raise ValueError(
      f"{len(item_tokens)} items, but kinds of "
      f"{'none' if kinds is None else len(kinds)}: this prompt distinguishes "
      "kinds of event, so every item of a history needs one."
    )
  codes = kinds.tolist()
  before = [pieces.next_of_kind[code] for code in codes[1:]]
  joined = [pieces.opening_of_kind[codes[0]]]
  for tokens, following in zip(
    item_tokens, (*before, pieces.next), strict=True
  ):
    joined += (tokens, following)
  return joined


def _newest_that_fit(
  prompt: PromptTokens,
  item_tokens: Sequence[np.ndarray],
  max_tokens: int,
  kinds: np.ndarray | None,
) -> int:
  pieces = _pieces(prompt)
  lengths = np.array([len(tokens) for tokens in reversed(item_tokens)], int)
  opening: int | np.ndarray = len(pieces.opening)
  following = np.full(len(lengths), len(pieces.next))
  if pieces.next_of_kind and kinds is not None and len(lengths):
    newest = kinds[::-1]
    opening = np.array([len(at) for at in pieces.opening_of_kind])[newest]
    between = np.array([len(at) for at in pieces.next_of_kind])[newest]
    following[1:] = between[:-1]
  totals = opening + np.cumsum(lengths + following)
  fitting = np.flatnonzero(totals <= max_tokens)
  count = int(fitting[-1]) + 1 if len(fitting) else 0
  if len(pieces.opening) > max_tokens or (len(lengths) and not count):
    needed = int(totals[0]) if len(lengths) else len(pieces.opening)
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
