"""Byte-level BPE (`tokenizer.json`): encoding, and what pruning must know.

Tested by `tests/unit/data/test_pruning.py`.
"""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import tokenizers

from calrec_jax.data.sentencepiece_model import SPARE


class ByteBpeModel:
  """A tokenizer in memory.

  A control token that a text writes out is read as text: what a shop calls an
  item must not end a sequence.

  Attributes:
    size: number of rows that the ids need.
  """

  def __init__(self, content: bytes):
    """Opens a tokenizer from the bytes of its `tokenizer.json`.

    Raises:
      ValueError: if they are no byte-level BPE tokenizer.
    """
    _check(content)
    self._tokenizer = tokenizers.Tokenizer.from_str(content.decode())
    # Settings of whoever saved the file; items are cut elsewhere.
    self._tokenizer.no_truncation()
    self._tokenizer.no_padding()
    self._tokenizer.encode_special_tokens = True
    ids = self._tokenizer.get_vocab(with_added_tokens=True).values()
    self.size: int = max(ids) + 1

  def encode(self, text: str) -> list[int]:
    """Token ids of a text."""
    return self._tokenizer.encode(text, add_special_tokens=False).ids

  def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of several texts."""
    encoded = self._tokenizer.encode_batch_fast(
      list(texts), add_special_tokens=False
    )
    return [encoding.ids for encoding in encoded]

  def decode(self, ids: Iterable[int]) -> str:
    """The text of token ids; control tokens write nothing."""
    return self._tokenizer.decode(list(ids), skip_special_tokens=True)

  def piece(self, token: int) -> str:
    """How the tokenizer writes one token."""
    return self._tokenizer.id_to_token(token) or f"<{token}>"

  def token(self, piece: str) -> int | None:
    """The id of a piece, or None if there is no such piece."""
    return self._tokenizer.token_to_id(piece)


class ByteBpeRules:
  """A tokenizer taken apart for pruning; see `pruning.Rules`."""

  def __init__(self, content: bytes):
    self._json = json.loads(content)
    model = self._json["model"]
    self._ids: dict[str, int] = dict(model["vocab"])
    # Added tokens may stand outside the vocabulary proper.
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
    """bool[size]: added tokens, and the symbols of single bytes."""
    needed = np.zeros(self.size, bool)
    symbols = set(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    for text, token in self._ids.items():
      added = text in self._added and not SPARE.fullmatch(text)
      needed[token] = added or text in symbols
    return needed

  @property
  def order(self) -> np.ndarray:
    """int64[n]: tokens in the order in which they are merged."""
    made = [self._ids[a + b] for a, b in self._merges]
    return np.array(list(dict.fromkeys(made)), np.int64)

  def path(self, token: int) -> list[int] | None:
    """Tokens that merging makes on the way to a token; None if it never does.

    Some tokenizers (`ignore_merges`) take a whole word that is a token before
    they merge anything; such a token needs no other.
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

  def select(self, kept: np.ndarray) -> bytes:
    """The tokenizer with these tokens only, renumbered in their order."""
    new = {
      self._texts[old]: token
      for token, old in enumerate(kept.tolist())
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
      # It writes begin tokens by their old ids; ours are written elsewhere.
      "post_processor": None,
    }
    return json.dumps(chosen, ensure_ascii=False).encode()

  @functools.cached_property
  def _texts(self) -> dict[int, str]:
    return {token: text for text, token in self._ids.items()}


def _check(content: bytes) -> None:
  try:
    saved = json.loads(content)
    model, decoder = saved["model"], saved["decoder"]
  except (ValueError, KeyError, TypeError) as error:
    raise ValueError(f"This is no tokenizer.json ({error!r}).") from error
  plain = not any(
    model.get(name)
    for name in (
      "dropout",
      "byte_fallback",
      "continuing_subword_prefix",
      "end_of_word_suffix",
    )
  )
  if model.get("type") != "BPE" or not _has_byte_level(decoder) or not plain:
    raise ValueError(
      "This tokenizer.json is no byte-level BPE (it holds the model "
      f"{model.get('type')!r}). Tokenizers of the Llama 3 family are read from "
      "tokenizer.json, those of the Gemma family from tokenizer.model or a "
      "GGUF file; set PretrainedVocabulary.source to one of them."
    )


def _has_byte_level(part: Any) -> bool:
  """Whether a decoder is, or holds, that of byte-level BPE."""
  if not isinstance(part, dict):
    return False
  return part.get("type") == "ByteLevel" or any(
    map(_has_byte_level, part.get("decoders", ()))
  )
