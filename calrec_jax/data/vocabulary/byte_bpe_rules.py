"""Merge rules of byte-level BPE, for pruning.

Tested by `tests/unit/data/vocabulary/test_pruning.py`.
"""

from __future__ import annotations

import functools
import itertools
import json

import numpy as np
import tokenizers

from calrec_jax.data.vocabulary.pruning import SPARE


class ByteBpeRules:
  """The merge rules of a tokenizer; see `pruning.Rules`."""

  def __init__(self, content: bytes):
    self._json = json.loads(content)
    model = self._json["model"]
    self._ids: dict[str, int] = dict(model["vocab"])
    # Added tokens may be missing from the vocabulary proper.
    self._added = {
      row["content"]: row["id"] for row in self._json["added_tokens"]
    }
    self._ids |= self._added
    self._merges = [
      tuple(pair.split(" ", 1)) if isinstance(pair, str) else tuple(pair)
      for pair in model["merges"]
    ]
    self._ranks = {pair: rank for rank, pair in enumerate(self._merges)}
    self.size = max(self._ids.values()) + 1

  @property
  def always(self) -> np.ndarray:
    """Added tokens and the symbols of single bytes, bool[size]."""
    needed = np.zeros(self.size, bool)
    symbols = set(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    for text, token in self._ids.items():
      added = text in self._added and not SPARE.fullmatch(text)
      needed[token] = added or text in symbols
    return needed

  @property
  def order(self) -> np.ndarray:
    """Tokens in the order of their merges, int64[n]."""
    made = [self._ids[a + b] for a, b in self._merges]
    return np.array(list(dict.fromkeys(made)), np.int64)

  def path(self, token: int) -> list[int] | None:
    """Intermediate tokens of merging a token; None if it is never merged.

    Some tokenizers (`ignore_merges`) look up whole words before they merge
    anything; such a token needs no other.
    """
    text = self._texts.get(token)
    if text is None or text in self._added:
      return []
    symbols = list(text)
    made = [self._ids[symbol] for symbol in symbols if symbol in self._ids]
    while len(symbols) > 1:
      pairs = list(itertools.pairwise(symbols))
      known = [at for at, pair in enumerate(pairs) if pair in self._ranks]
      if not known:
        return None
      at = min(known, key=lambda at: self._ranks[pairs[at]])
      symbols[at : at + 2] = ["".join(pairs[at])]
      made.append(self._ids[symbols[at]])
    return made

  def select(self, retained: np.ndarray) -> bytes:
    """The tokenizer with only these tokens, renumbered in order."""
    new = {
      self._texts[old]: token
      for token, old in enumerate(retained.tolist())
      if old in self._texts
    }
    model = self._json["model"] | {
      "vocab": new,
      "merges": [
        [a, b]
        for a, b in self._merges
        if a in new and b in new and a + b in new
      ],
    }
    added = [
      row | {"id": new[row["content"]]}
      for row in self._json["added_tokens"]
      if row["content"] in new
    ]
    chosen = self._json | {
      "model": model,
      "added_tokens": added,
      # It adds begin tokens by their old ids; ours are added elsewhere.
      "post_processor": None,
    }
    return json.dumps(chosen, ensure_ascii=False).encode()

  @functools.cached_property
  def _texts(self) -> dict[int, str]:
    return {token: text for text, token in self._ids.items()}
