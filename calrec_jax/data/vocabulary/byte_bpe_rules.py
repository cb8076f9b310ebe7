"""Merge rules of byte-level BPE, for pruning.

Tested by `tests/unit/data/vocabulary/test_pruning.py`.
"""

from __future__ import annotations

import json

import numpy as np
import tokenizers

from calrec_jax.data.vocabulary.pruning import SPARE, merge


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
    self._texts = {token: text for text, token in self._ids.items()}
    self.size = max(self._texts) + 1
    # Added tokens and the symbols of single bytes.
    self.always = np.zeros(self.size, bool)
    symbols = set(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    for text, token in self._ids.items():
      added = text in self._added and not SPARE.fullmatch(text)
      self.always[token] = added or text in symbols
    made = [self._ids[a + b] for a, b in self._merges]
    self.order = np.array(list(dict.fromkeys(made)), np.int64)

  def path(self, token: int) -> list[int] | None:
    """Intermediate tokens of merging a token; None if it is never merged.

    Some tokenizers (`ignore_merges`) look up whole words before merging; such a
    token needs no other.
    """
    text = self._texts.get(token)
    if text is None or text in self._added:
      return []
    made = merge(list(text), lambda a, b: self._ranks.get((a, b)))
    if made is None:
      return None
    return [self._ids[part] for part in (*text, *made) if part in self._ids]

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
      # It adds begin tokens by their old ids; `feed` adds ours.
      "post_processor": None,
    }
    return json.dumps(chosen, ensure_ascii=False).encode()
