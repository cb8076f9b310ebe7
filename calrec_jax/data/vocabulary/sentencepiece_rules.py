"""Merge rules of a SentencePiece model, for pruning.

Tested by `tests/unit/data/vocabulary/test_pruning.py`.
"""

from __future__ import annotations

import functools
import itertools

import numpy as np
from sentencepiece import sentencepiece_model_pb2 as proto_lib

from calrec_jax.data.vocabulary.pruning import SPARE

_SPACE = "\u2581"  # SentencePiece's escape of a space.
_Piece = proto_lib.ModelProto.SentencePiece


class SentencePieceRules:
  """The merge rules of a model; see `pruning.Rules`."""

  def __init__(self, content: bytes):
    self._proto = proto_lib.ModelProto.FromString(content)
    pieces = self._proto.pieces
    self._texts = [piece.piece for piece in pieces]
    self._kinds = [piece.type for piece in pieces]
    self._scores = [piece.score for piece in pieces]
    self.size = len(pieces)

  @property
  def always(self) -> np.ndarray:
    """Control and byte tokens, markers and ASCII characters, bool[size]."""
    return np.array([self._is_needed(token) for token in range(self.size)])

  @property
  def order(self) -> np.ndarray:
    """Ordinary tokens in the order of merging, best scores first, int64[n]."""
    ordinary = np.flatnonzero(np.array(self._kinds) == _Piece.NORMAL)
    scores = np.array(self._scores)[ordinary]
    return ordinary[np.argsort(-scores, kind="stable")]

  def path(self, token: int) -> list[int] | None:
    """Intermediate tokens of merging a token; None if it is never merged.

    A unigram model merges nothing, so its tokens need no others.
    """
    if self._proto.trainer_spec.model_type != proto_lib.TrainerSpec.BPE:
      return []
    if self._kinds[token] != _Piece.NORMAL:
      return []
    symbols, made = list(self._texts[token]), []
    made.extend(self._ids[s] for s in symbols if s in self._ids)
    while len(symbols) > 1:
      pairs = [a + b for a, b in itertools.pairwise(symbols)]
      known = [at for at, pair in enumerate(pairs) if pair in self._ids]
      if not known:
        return None
      # The first of equal scores, as in SentencePiece.
      at = max(known, key=lambda at: self._scores[self._ids[pairs[at]]])
      symbols[at : at + 2] = [pairs[at]]
      made.append(self._ids[pairs[at]])
    return made

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

  @functools.cached_property
  def _ids(self) -> dict[str, int]:
    """Ids of pieces that merging can form: all but control and byte tokens."""
    able = (_Piece.NORMAL, _Piece.USER_DEFINED, _Piece.UNUSED)
    return {
      text: token
      for token, (text, kind) in enumerate(
        zip(self._texts, self._kinds, strict=True)
      )
      if kind in able
    }

  def _is_needed(self, token: int) -> bool:
    text, kind = self._texts[token], self._kinds[token]
    if kind in (_Piece.NORMAL, _Piece.UNUSED):
      return len(text) == 1 and (text.isascii() or text == _SPACE)
    return not SPARE.fullmatch(text)
