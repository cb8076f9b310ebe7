"""Leaving out the tokens of a vocabulary that a catalogue never uses.

Why texts still become the same tokens: merging takes the best pair it knows,
again and again. Everything it merges on the way to a final token lies within
that token, and all of that is kept. So a vocabulary without the others knows
fewer pairs, but still each of those that were taken, and these were the best;
it takes the same ones in the same order. What was counted is nonetheless
encoded again and compared. Tested by `tests/unit/data/test_pruning.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np

from calrec_jax.data.vocabulary import files
from calrec_jax.errors import InputError

# Rows that models keep in reserve; nothing was ever trained in them.
SPARE = re.compile(r"<unused\d+>|<\|reserved_special_token_\d+\|>")
# Sizes that no mesh has to fill up with rows of no meaning.
MULTIPLE = 128


class Rules(Protocol):
  """A tokenizer taken apart.

  Attributes:
    size: number of tokens.
  """

  size: int

  @property
  def always(self) -> np.ndarray:
    """bool[size]: tokens that are never left out."""
    ...

  @property
  def order(self) -> np.ndarray:
    """Tokens in the order in which they are merged."""
    ...

  def path(self, token: int) -> list[int] | None:
    """Tokens on the way to a token, itself among them; None: there is none."""
    ...

  def select(self, kept: np.ndarray) -> bytes:
    """The tokenizer with these tokens only."""
    ...


class Seen:
  """Texts and their tokens; stands in for a vocabulary and notes its use."""

  def __init__(self, model: files.Model):
    self._model = model
    self.tokens: dict[str, np.ndarray] = {}

  def add(self, texts: Iterable[str]) -> None:
    """Encodes texts and notes what they use."""
    new = [text for text in dict.fromkeys(texts) if text not in self.tokens]
    for text, ids in zip(new, self._model.encode_all(new), strict=True):
      self.tokens[text] = np.array(ids, np.int32)

  def encode(self, text: str) -> list[int]:
    """Token ids of a text."""
    self.add([text])
    return self.tokens[text].tolist()

  def decode(self, ids: Sequence[int]) -> str:
    """The text of token ids."""
    return self._model.decode(ids)

  def used(self) -> np.ndarray:
    """The distinct tokens, int32, ascending."""
    return np.unique(np.concatenate([[], *self.tokens.values()])).astype(
      np.int32
    )


def choose(
  rules: Rules, used: np.ndarray, multiple: int = MULTIPLE
) -> np.ndarray:
  """The tokens to keep.

  Args:
    rules: the tokenizer.
    used: ids of the tokens that must stay.
    multiple: so many tokens, or a multiple of it, are kept: those merged
      earliest fill it up, which are those of the most frequent texts.

  Returns:
    Their ids, int32, ascending.
  """
  kept = rules.always.copy()
  kept[used] = True
  for token in np.flatnonzero(kept).tolist():
    kept[rules.path(token) or []] = True
  size = int(kept.sum())
  wanted = -(-size // multiple) * multiple
  for token in rules.order.tolist():
    if size == wanted:
      break
    path = rules.path(token) if not kept[token] else None
    if path is None:
      continue
    new = {step for step in (*path, token) if not kept[step]}
    if size + len(new) <= wanted:
      kept[list(new)] = True
      size += len(new)
  return np.flatnonzero(kept).astype(np.int32)


def verify(seen: Seen, pruned: files.Model, kept: np.ndarray) -> None:
  """Encodes all texts again and compares.

  Args:
    seen: the texts, and their tokens in the full vocabulary.
    pruned: the pruned one.
    kept: the full id of each of its tokens.

  Raises:
    InputError: with the first text that becomes other tokens.
  """
  texts = list(seen.tokens)
  for text, ids in zip(texts, pruned.encode_all(texts), strict=True):
    if not np.array_equal(kept[ids], seen.tokens[text]):
      raise InputError(
        f"The pruned vocabulary tokenises {text!r} otherwise than the full "
        "one: this tokenizer does not merge as its file says. Set "
        "PretrainedVocabulary.pruned = False (PRUNE_VOCABULARY)."
      )
