"""Merge rules of a SentencePiece model, for pruning.

Tested by `tests/unit/data/vocabulary/test_pruning.py`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from sentencepiece import sentencepiece_model_pb2

from calrec_jax.data.vocabulary.pruning import SPARE, merge

_SPACE = "\u2581"  # SentencePiece's escape of a space.
proto_lib: Any = sentencepiece_model_pb2  # Its classes are made at run time.
_Piece = proto_lib.ModelProto.SentencePiece


class SentencePieceRules:
  """The merge rules of a model; see `pruning.Rules`."""

  def __init__(self, content: bytes):
    self._proto = proto_lib.ModelProto.FromString(content)
    pieces = self._proto.pieces
    self._texts = [piece.piece for piece in pieces]
    self._kinds = [piece.type for piece in pieces]
    self._scores = np.array([piece.score for piece in pieces])
    # Pieces that merging can form: all but control and byte tokens.
    able = (_Piece.NORMAL, _Piece.USER_DEFINED, _Piece.UNUSED)
    self._ids = {
      piece.piece: token
      for token, piece in enumerate(pieces)
      if piece.type in able
    }
    self.size = len(pieces)
    # Control and byte tokens, markers and ASCII characters.
    self.always = np.array([_is_needed(piece) for piece in pieces])
    ordinary = np.flatnonzero(np.array(self._kinds) == _Piece.NORMAL)
    best_first = np.argsort(-self._scores[ordinary], kind="stable")
    self.order = ordinary[best_first]

  def path(self, token: int) -> list[int] | None:
    """Intermediate tokens of merging a token; None if it is never merged.

    A unigram model merges nothing, so its tokens need no others.
    """
    if self._proto.trainer_spec.model_type != proto_lib.TrainerSpec.BPE:
      return []
    if self._kinds[token] != _Piece.NORMAL:
      return []
    text = self._texts[token]
    made = merge(list(text), self._rank)
    if made is None:
      return None
    return [self._ids[part] for part in (*text, *made) if part in self._ids]

  def _rank(self, a: str, b: str) -> float | None:
    token = self._ids.get(a + b)
    return None if token is None else -self._scores[token]

  def select(self, retained: np.ndarray) -> bytes:
    """The model with only these tokens, renumbered in order."""
    chosen = proto_lib.ModelProto()
    chosen.CopyFrom(self._proto)
    del chosen.pieces[:]
    for token in retained.tolist():
      chosen.pieces.append(self._proto.pieces[token])
    spec = chosen.trainer_spec
    spec.vocab_size = len(retained)
    new = {old: token for token, old in enumerate(retained.tolist())}
    for name in ("pad_id", "eos_id", "bos_id", "unk_id"):
      setattr(spec, name, new.get(getattr(spec, name), -1))
    return chosen.SerializeToString(deterministic=True)


def _is_needed(piece: Any) -> bool:
  text = piece.piece
  if piece.type in (_Piece.NORMAL, _Piece.UNUSED):
    return len(text) == 1 and (text.isascii() or text == _SPACE)
  return not SPARE.fullmatch(text)
