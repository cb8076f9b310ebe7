"""Prunes a vocabulary to the tokens that a catalogue uses.

Why texts are still tokenised the same: merging repeatedly takes the best known
pair. All intermediate tokens of a final token lie within it and are retained.
So the pruned vocabulary knows fewer pairs, but still every pair that was
merged, and these were the best; it merges the same pairs in the same order.
All texts are nonetheless encoded again and compared. Tested by
`tests/unit/data/vocabulary/test_pruning.py`.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable
from typing import Protocol

import numpy as np

from calrec_jax.data.vocabulary import files
from calrec_jax.errors import InputError

# Reserved rows of models, which were never trained.
SPARE = re.compile(r"<unused\d+>|<\|reserved_special_token_\d+\|>")
# Size multiple for which no mesh needs padding rows.
MULTIPLE = 128


class Rules(Protocol):
  """The merge rules of a tokenizer.

  Attributes:
    size: Number of tokens.
    always: bool[size], whether a token is never pruned.
    order: int64[n], tokens in the order of their merges.
  """

  size: int
  always: np.ndarray
  order: np.ndarray

  def path(self, token: int) -> list[int] | None:
    """Intermediate tokens of merging a token, with itself; None if none."""
    ...

  def select(self, retained: np.ndarray) -> bytes:
    """The tokenizer with only these tokens."""
    ...


def merge(
  symbols: list[str], rank: Callable[[str, str], float | None]
) -> list[str] | None:
  """All intermediate results of merging symbols to one; None if they cannot.

  Args:
    symbols: Characters of a token, merged in place.
    rank: Function that gives the rank of a pair, or None if it has no merge;
      the first pair of lowest rank is merged.
  """
  made = []
  while len(symbols) > 1:
    ranks = [rank(*pair) for pair in itertools.pairwise(symbols)]
    known = [(found, at) for at, found in enumerate(ranks) if found is not None]
    if not known:
      return None
    _, at = min(known)
    symbols[at : at + 2] = ["".join(symbols[at : at + 2])]
    made.append(symbols[at])
  return made


class Seen:
  """Records texts and their tokens; used like a vocabulary."""

  def __init__(self, model: files.Model):
    self._model = model
    self.tokens: dict[str, np.ndarray] = {}

  def add(self, texts: Iterable[str]) -> None:
    """Encodes texts and records their tokens."""
    new = [text for text in dict.fromkeys(texts) if text not in self.tokens]
    for text, ids in zip(new, self._model.encode_all(new), strict=True):
      self.tokens[text] = np.array(ids, np.int32)

  def encode(self, text: str) -> list[int]:
    """Token ids of a text."""
    self.add([text])
    return self.tokens[text].tolist()

  def decode(self, ids: Iterable[int]) -> str:
    """The text of token ids."""
    return self._model.decode(ids)

  def used(self) -> np.ndarray:
    """The distinct tokens, int32, ascending."""
    nothing = np.zeros(0, np.int32)
    return np.unique(np.concatenate([nothing, *self.tokens.values()]))


def choose(
  rules: Rules, used: np.ndarray, multiple: int = MULTIPLE
) -> np.ndarray:
  """Chooses the tokens to retain.

  Args:
    rules: Merge rules of the tokenizer.
    used: Ids of the tokens that must be retained.
    multiple: Divisor of the number of tokens, which is reached by adding the
      earliest merged tokens, those of the most frequent texts.

  Returns:
    Their ids, int32, ascending.
  """
  retained = rules.always.copy()
  retained[used] = True
  for token in np.flatnonzero(retained).tolist():
    retained[rules.path(token) or []] = True
  size = int(retained.sum())
  wanted = -(-size // multiple) * multiple
  for token in rules.order.tolist():
    if size == wanted:
      break
    path = rules.path(token) if not retained[token] else None
    if path is None:
      continue
    new = {step for step in (*path, token) if not retained[step]}
    if size + len(new) <= wanted:
      retained[list(new)] = True
      size += len(new)
  return np.flatnonzero(retained).astype(np.int32)


def verify(seen: Seen, pruned: files.Model, row_map: np.ndarray) -> None:
  """Encodes all texts again and compares.

  Args:
    seen: Texts and their tokens in the full vocabulary.
    pruned: Pruned vocabulary.
    row_map: Full id of each of its tokens.

  Raises:
    InputError: If tokens differ, with the first such text.
  """
  texts = list(seen.tokens)
  for text, ids in zip(texts, pruned.encode_all(texts), strict=True):
    if not np.array_equal(row_map[ids], seen.tokens[text]):
      raise InputError(
        f"The pruned vocabulary tokenises {text!r} differently from the full "
        "one: this tokenizer does not follow its own merge rules. Set "
        "PretrainedVocabulary.pruned = False (PRUNE_VOCABULARY)."
      )
