"""Files of an exported model other than its weights.

The tokenizer of the full vocabulary, the prompt's pieces as its ids, and the
ids at which generation stops.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from calrec_jax.models.pretrained.sources import (
  GgufSource,
  HuggingFaceSource,
  Source,
)

# Tokenizer files that Transformers reads; none of them is code.
_TOKENIZER_FILES = (
  "tokenizer.model",
  "tokenizer.json",
  "tokenizer_config.json",
  "special_tokens_map.json",
  "added_tokens.json",
  "chat_template.jinja",
  "vocab.json",
  "merges.txt",
)
_SPECIAL = {"bos": "bos", "eos": "eos", "pad": "padding"}  # GGUF's names.
# Configuration of a tokenizer that a stage trained for itself.
_TRAINED = {
  "tokenizer_class": "LlamaTokenizer",
  "legacy": False,
  "add_prefix_space": False,
  "add_bos_token": True,
  "clean_up_tokenization_spaces": False,
  "bos_token": "<s>",
  "eos_token": "</s>",
  "unk_token": "<unk>",
  "pad_token": "<pad>",
}

Files = list[tuple[str, bytes]]
Special = dict[str, int | None]


def collect(
  checkpoint: pathlib.Path, vocabulary: Mapping[str, Any], source: Source | None
) -> tuple[Files, Special]:
  """The files and the special tokens of an export.

  Args:
    checkpoint: Exported checkpoint; `vocabulary/` lies in its stage's folder.
    vocabulary: Record of the checkpoint.
    source: Published model that its vocabulary comes from, or None.

  Returns:
    Names and contents of the files, and the ids of "bos", "eos" and "pad".
  """
  special: Special
  if isinstance(source, HuggingFaceSource):
    special = {name: _special_id(source.config, name) for name in _SPECIAL}
    files = [
      (name, (source.path / name).read_bytes())
      for name in _TOKENIZER_FILES
      if (source.path / name).is_file()
    ]
  elif isinstance(source, GgufSource):
    fields = source.file.fields
    special = {
      name: fields.get(f"tokenizer.ggml.{key}_token_id")
      for name, key in _SPECIAL.items()
    }
    files = _from_gguf(source, special)
  else:
    special = {**dict.fromkeys(_SPECIAL), "bos": vocabulary.get("begin")}
    model = checkpoint.parent / "vocabulary" / "sentencepiece.model"
    files = []
    if model.is_file():
      files = _tokenizer("tokenizer.model", model.read_bytes(), _TRAINED)
  if prompt := vocabulary.get("prompt"):
    prompt = _full_ids(prompt, vocabulary.get("kept"))
    # Generation stops after an item, which its end marker ends.
    stops = [prompt["end"], *filter(None, [special["eos"]])]
    generation = {
      "do_sample": True,
      "temperature": 0.5,
      "eos_token_id": list(dict.fromkeys(stops)),
      "pad_token_id": special["pad"],
      "bos_token_id": special["bos"],
    }
    files.append(("prompt.json", _json(prompt)))
    files.append(("generation_config.json", _json(generation)))
  return files, special


def _full_ids(
  prompt: Mapping[str, Any], row_map: Sequence[int] | None
) -> dict[str, Any]:
  """The prompt's pieces as ids of the full vocabulary."""

  def full(value: Any) -> Any:
    if isinstance(value, list | tuple):
      return [full(token) for token in value]
    return value if value is None or row_map is None else int(row_map[value])

  return {name: full(value) for name, value in prompt.items()}


def _special_id(config: Mapping[str, Any], name: str) -> int | None:
  """Id of a special token; the first one of a configuration with several."""
  value = config.get(f"{name}_token_id")
  if isinstance(value, list):
    return value[0] if value else None
  return value


def _from_gguf(source: GgufSource, special: Special) -> Files:
  # It needs protobuf, which the other formats do not.
  from calrec_jax.data.vocabulary import gguf

  tokenizer = gguf.read(source.path)
  fields = source.file.fields
  pieces = fields["tokenizer.ggml.tokens"]
  is_sentencepiece = tokenizer.name == "tokenizer.model"
  config = {
    **{
      f"{name}_token": pieces[token]
      for name, token in special.items()
      if token is not None
    },
    "add_bos_token": bool(fields.get("tokenizer.ggml.add_bos_token", False)),
    "clean_up_tokenization_spaces": False,
    "tokenizer_class": "GemmaTokenizer"
    if is_sentencepiece
    else "PreTrainedTokenizerFast",
  }
  return _tokenizer(tokenizer.name, tokenizer.content, config)


def _tokenizer(name: str, content: bytes, config: Mapping[str, Any]) -> Files:
  return [(name, content), ("tokenizer_config.json", _json(config))]


def _json(value: Any) -> bytes:
  return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
