"""Encoding and decoding with a SentencePiece model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import sentencepiece

from calrec_jax.errors import InputError


class SentencePieceModel:
  """A tokenizer in memory.

  Attributes:
    size: Number of tokens.
    begin: Begin token of the model, or None.
  """

  def __init__(self, content: bytes):
    """Opens a model from the bytes of its file.

    Raises:
      InputError: If it is not a SentencePiece model.
    """
    try:
      self._processor = sentencepiece.SentencePieceProcessor(
        model_proto=content
      )
    except RuntimeError as error:
      raise InputError(f"This is not a SentencePiece model: {error}") from error
    self.size: int = self._processor.vocab_size()
    begin = self._processor.bos_id()
    self.begin: int | None = begin if begin >= 0 else None

  def encode(self, text: str) -> list[int]:
    """Token ids of a text."""
    return self._processor.encode(text)

  def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of several texts."""
    return self._processor.encode(list(texts))

  def decode(self, ids: Iterable[int]) -> str:
    """The text of token ids; control tokens are dropped."""
    return self._processor.decode(list(ids))

  def piece(self, token: int) -> str:
    """The piece of one token."""
    return self._processor.id_to_piece(token)

  def token(self, piece: str) -> int | None:
    """The id of a piece, or None if there is no such piece."""
    token = self._processor.piece_to_id(piece)
    return token if self._processor.id_to_piece(token) == piece else None
