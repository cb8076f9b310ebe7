"""Encoding and decoding with byte-level BPE (`tokenizer.json`)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import tokenizers

from calrec_jax.errors import InputError


class ByteBpeModel:
  """A tokenizer in memory.

  Control tokens spelled out in a text are read as text: an item's name must not
  end a sequence.

  Attributes:
    size: Number of embedding rows that the ids need.
  """

  def __init__(self, content: bytes):
    """Opens a tokenizer from the bytes of its `tokenizer.json`.

    Raises:
      InputError: If it is not a byte-level BPE tokenizer.
    """
    _check(content)
    self._tokenizer = tokenizers.Tokenizer.from_str(content.decode())
    # Settings left in the file; items are truncated elsewhere.
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
    """The text of token ids; control tokens are dropped."""
    return self._tokenizer.decode(list(ids), skip_special_tokens=True)

  def piece(self, token: int) -> str:
    """The piece of one token."""
    return self._tokenizer.id_to_token(token) or f"<{token}>"

  def token(self, piece: str) -> int | None:
    """The id of a piece, or None if there is no such piece."""
    return self._tokenizer.token_to_id(piece)


def _check(content: bytes) -> None:
  try:
    saved = json.loads(content)
    model, decoder = saved["model"], saved["decoder"]
  except (ValueError, KeyError, TypeError) as error:
    raise InputError(f"This is not a tokenizer.json ({error!r}).") from error
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
    raise InputError(
      f"This tokenizer.json is not byte-level BPE but {model.get('type')!r}. "
      "Tokenizers of the Llama 3 family are read from tokenizer.json, those of "
      "the Gemma family from tokenizer.model or a GGUF file; set "
      "PretrainedVocabulary.source to one of them."
    )


def _has_byte_level(part: Any) -> bool:
  """Whether a decoder is, or contains, that of byte-level BPE."""
  if not isinstance(part, dict):
    return False
  return part.get("type") == "ByteLevel" or any(
    map(_has_byte_level, part.get("decoders", ()))
  )
