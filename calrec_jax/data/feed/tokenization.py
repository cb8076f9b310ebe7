"""The one place where tokens are joined into sequences.

Training rows and inference prompts come from the same pieces in the same
order, so a prompt equals, token for token, what precedes the target in a
training row:

    [begin] prefix first item_1 next item_2 ... next item_n          a document
    [begin] prefix first item_1 next item_2 ... next item_n next     a prompt
    [begin] item                                               an item segment

Where items themselves are the tokens (`item_ids`) the pieces are empty.
Tested by `tests/unit/data/test_features.py`.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from calrec_jax.data.cache.token_cache import TokenCache
from calrec_jax.data.feed.batch import NO_SLOT, PADDING_SEGMENT, Batch
from calrec_jax.data.records import PromptTokens
from calrec_jax.errors import CalrecError


class TokenCosts(NamedTuple):
  """Tokens that joining adds to the items' own.

  Attributes:
    opening: begin token, prefix and first template, once a sequence.
    between: the next template, before every item but the first.
    begin: the begin token of an item segment, 0 or 1.
  """

  opening: int
  between: int
  begin: int


class Cursor(NamedTuple):
  """Where the next document goes in a row: token, slot and segment."""

  token: int = 0
  slot: int = 0
  segment: int = PADDING_SEGMENT + 1


class PromptTooLong(CalrecError, ValueError):
  """A prompt whose newest item alone is longer than the limit."""


def token_costs(prompt: PromptTokens) -> TokenCosts:
  """What joining with this prompt costs, for planning by lengths alone."""
  pieces = _pieces(prompt)
  return TokenCosts(len(pieces.opening), len(pieces.next), len(pieces.begin))


def prompt_tokens(
  prompt: PromptTokens,
  item_tokens: Sequence[np.ndarray],
  max_tokens: int | None = None,
) -> np.ndarray:
  """The prompt after which the model writes the next item.

  Args:
    prompt: the pieces.
    item_tokens: token ids of each item with its end marker, oldest first. An
      empty history gives the words that stand before a first item.
    max_tokens: the longest prompt; the oldest items are dropped, whole, until
      it fits.

  Returns:
    int32[P] token ids.

  Raises:
    PromptTooLong: if not even the newest item fits.
  """
  if max_tokens is not None:
    kept = _newest_that_fit(prompt, item_tokens, max_tokens)
    item_tokens = item_tokens[len(item_tokens) - kept :]
  return np.concatenate(_joined(prompt, item_tokens))


def document_tokens(
  prompt: PromptTokens, item_tokens: Sequence[np.ndarray]
) -> np.ndarray:
  """The joint segment of a document, int32: closed by the last item's end."""
  pieces = _joined(prompt, item_tokens)
  return np.concatenate(pieces[:-1] if len(item_tokens) else pieces)


def item_segment_tokens(prompt: PromptTokens, tokens: np.ndarray) -> np.ndarray:
  """What the item tower reads, int32: the begin token and the item's own."""
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
    batch: NumPy arrays, written in place.
    row: row of the batch.
    cursor: where the document starts.
    prompt: the pieces.
    item_tokens: token ids of the document's items, oldest first.
    first_target: the first of them that is a target; all later ones are too,
      those before are history only.
    slot_items: int32, the catalogue item of each target.
    slot_user: the user.
    item_segments: whether each target has a segment of its own, too.

  Returns:
    The cursor behind the document.
  """
  targets = item_tokens[first_target:]
  joint = document_tokens(prompt, item_tokens)
  stop = cursor.token + len(joint)
  _put_segment(batch, row, cursor.token, joint, cursor.segment)
  at, between = stop, len(_pieces(prompt).next)
  for slot in range(cursor.slot + len(targets) - 1, cursor.slot - 1, -1):
    start = at - len(targets[slot - cursor.slot])
    batch.joint_slots[row, start:at] = slot
    # The weight stands where the token is predicted, one position earlier.
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


def describe_row(batch: Batch, row: int, cache: TokenCache) -> str:
  """A row as text, one segment a line, for people.

  Args:
    batch: a batch on the host.
    row: which of its rows.
    cache: any cache of the mixture; its vocabulary decodes the tokens.
  """
  decode = cache.vocabulary().decode
  segments = np.asarray(batch.segment_ids[row])
  lines = []
  for segment in range(1, int(segments.max(initial=0)) + 1):
    at = np.flatnonzero(segments == segment)
    text = decode(np.asarray(batch.tokens[row])[at].tolist())
    slots = np.asarray(batch.item_slots[row])[at]
    if (slots != NO_SLOT).any():
      slot = int(slots.max())
      item, user = batch.slot_items[row, slot], batch.slot_users[row, slot]
      kind = f"item {item} for user {user}, slot {slot}"
    else:
      targets = np.unique(np.asarray(batch.joint_slots[row])[at])
      kind = f"history with {(targets != NO_SLOT).sum()} targets"
    lines.append(f"[{at[0]}:{at[-1] + 1}] {kind}: {text!r}")
  lines.append(f"{(segments == PADDING_SEGMENT).sum()} tokens of padding")
  return "\n".join(lines)


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
  """The opening, then every item with the next template behind it."""
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
  kept = int(np.searchsorted(totals, max_tokens, side="right"))
  if costs.opening > max_tokens or (len(lengths) and not kept):
    needed = int(totals[0]) if len(lengths) else costs.opening
    raise PromptTooLong(
      f"a prompt with the newest item alone takes {needed} tokens, more than "
      f"the {max_tokens} allowed; allow longer prompts or cut long item texts "
      "in the Domain's fields"
    )
  return kept


def _put_segment(
  batch: Batch, row: int, at: int, tokens: np.ndarray, segment: int
) -> None:
  stop = at + len(tokens)
  batch.tokens[row, at:stop] = tokens
  batch.positions[row, at:stop] = np.arange(len(tokens))
  batch.segment_ids[row, at:stop] = segment
