"""Rebuilds the tokenizer's file from the metadata of a GGUF file.

llama.cpp stores pieces, scores or merges, and types; the rest follows from the
tokenizer's family. The result is a SentencePiece model, or a `tokenizer.json`
for byte-level BPE. Tested by
`tests/unit/data/vocabulary/test_gguf_vocabulary.py`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from sentencepiece import sentencepiece_model_pb2

from calrec_jax.data.vocabulary import files
from calrec_jax.weights.packages import WeightsError

_KEY = "tokenizer.ggml"
_SPACE = "\u2581"  # SentencePiece's escape of a space.
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = range(1, 7)
proto_lib: Any = sentencepiece_model_pb2  # Its classes are made at run time.
_Piece = proto_lib.ModelProto.SentencePiece
_TYPES = {
  _NORMAL: _Piece.NORMAL,
  _UNKNOWN: _Piece.UNKNOWN,
  _CONTROL: _Piece.CONTROL,
  _USER_DEFINED: _Piece.USER_DEFINED,
  _UNUSED: _Piece.UNUSED,
  _BYTE: _Piece.BYTE,
}
# Patterns that split a text into words before merging, by `tokenizer.ggml.pre`:
# https://github.com/ggml-org/llama.cpp/blob/master/src/llama-vocab.cpp.
_LLAMA_3_WORDS = (
  r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
  r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
_WORDS = {
  "smollm": [
    {"type": "Digits", "individual_digits": True},
    _BYTES | {"use_regex": True},
  ],
  "llama-bpe": [
    {
      "type": "Split",
      "pattern": {"Regex": _LLAMA_3_WORDS},
      "behavior": "Isolated",
      "invert": False,
    },
    _BYTES | {"use_regex": False},
  ],
}
# Llama 3 looks up whole words before merging, and adds a begin token.
_LLAMA_3 = "llama-bpe"


def read(path: str | os.PathLike[str]) -> files.Tokenizer:
  """Rebuilds the tokenizer of a GGUF file.

  Raises:
    WeightsError: If the kind of tokenizer is not supported.
  """
  # `gguf` is needed only by such files.
  from calrec_jax.weights import gguf_file

  fields = gguf_file.GgufFile(path).fields
  kind = fields.get(f"{_KEY}.model")
  begin = fields.get(f"{_KEY}.bos_token_id")
  pre = fields.get(f"{_KEY}.pre")
  default = kind == "llama" or pre == _LLAMA_3
  adds = bool(fields.get(f"{_KEY}.add_bos_token", default))
  if kind == "llama":
    content = _sentencepiece(fields)
    return files.Tokenizer(files.SENTENCEPIECE, content, begin, adds)
  if kind != "gpt2" or pre not in _WORDS:
    raise WeightsError(
      f"The tokenizer of {path} ({_KEY}.model = {kind!r}, {_KEY}.pre = {pre!r})"
      " is not supported in GGUF; 'llama' (Gemma) and 'gpt2' with "
      f"{' or '.join(map(repr, _WORDS))} are. Set PretrainedVocabulary.source "
      "to the model's own tokenizer.model or tokenizer.json."
    )
  content = _byte_bpe(fields, pre, begin if adds else None)
  return files.Tokenizer(files.BYTE_BPE, content, begin, adds)


def _sentencepiece(fields: Mapping[str, Any]) -> bytes:
  pieces = fields[f"{_KEY}.tokens"]
  scores = fields[f"{_KEY}.scores"]
  types = fields[f"{_KEY}.token_type"]
  unknown = fields.get(f"{_KEY}.unknown_token_id", 0)
  model = proto_lib.ModelProto()
  for token, (text, score, kind) in enumerate(
    zip(pieces, scores, types, strict=True)
  ):
    # llama.cpp does not escape the spaces in pieces of several spaces, which
    # SentencePiece would then never find in its escaped text.
    piece = model.pieces.add(piece=text.replace(" ", _SPACE))
    piece.type = _Piece.UNKNOWN if token == unknown else _TYPES[kind]
    # For other types llama.cpp stores no score that SentencePiece can use.
    piece.score = score if kind == _NORMAL else 0.0
  spec = model.trainer_spec
  spec.model_type = proto_lib.TrainerSpec.BPE
  spec.vocab_size = len(pieces)
  spec.byte_fallback = _BYTE in types
  for name, key in (
    ("pad", "padding"),
    ("eos", "eos"),
    ("bos", "bos"),
    ("unk", "unknown"),
  ):
    token = fields.get(f"{_KEY}.{key}_token_id")
    setattr(spec, f"{name}_id", -1 if token is None else token)
    if token is not None:
      setattr(spec, f"{name}_piece", pieces[token])
  normal = model.normalizer_spec
  normal.name = "identity"
  normal.add_dummy_prefix = bool(fields.get(f"{_KEY}.add_space_prefix", True))
  normal.remove_extra_whitespaces = False
  normal.escape_whitespaces = True
  return model.SerializeToString(deterministic=True)


def _byte_bpe(fields: Mapping[str, Any], pre: str, begin: int | None) -> bytes:
  tokens, types = fields[f"{_KEY}.tokens"], fields[f"{_KEY}.token_type"]
  added = [
    {
      "id": token,
      "content": text,
      "single_word": False,
      "lstrip": False,
      "rstrip": False,
      "normalized": False,
      "special": kind == _CONTROL,
    }
    for token, (text, kind) in enumerate(zip(tokens, types, strict=True))
    if kind in (_CONTROL, _USER_DEFINED)
  ]
  saved = {
    "version": "1.0",
    "truncation": None,
    "padding": None,
    "added_tokens": added,
    "normalizer": None,
    "pre_tokenizer": {"type": "Sequence", "pretokenizers": _WORDS[pre]},
    "post_processor": None if begin is None else _opening(begin, tokens[begin]),
    "decoder": _BYTES | {"use_regex": True},
    "model": {
      "type": "BPE",
      "dropout": None,
      "unk_token": None,
      "continuing_subword_prefix": None,
      "end_of_word_suffix": None,
      "fuse_unk": False,
      "byte_fallback": False,
      "ignore_merges": pre == _LLAMA_3,
      "vocab": {text: token for token, text in enumerate(tokens)},
      "merges": [pair.split(" ", 1) for pair in fields[f"{_KEY}.merges"]],
    },
  }
  return json.dumps(saved, ensure_ascii=False).encode()


def _opening(token: int, text: str) -> dict[str, Any]:
  """The post-processor that adds a begin token on request."""
  special = {"SpecialToken": {"id": text, "type_id": 0}}
  return {
    "type": "TemplateProcessing",
    "single": [special, {"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [
      special,
      {"Sequence": {"id": "A", "type_id": 0}},
      {"Sequence": {"id": "B", "type_id": 1}},
    ],
    "special_tokens": {text: {"id": text, "ids": [token], "tokens": [text]}},
  }
