"""What belongs to an exported model beside its weights.

The tokenizer of the full vocabulary, the prompt's pieces as ids of it, and
the ids at which generation stops.
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

# What Transformers reads of a tokenizer; none of it is code.
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
_SPECIAL = ("bos", "eos", "pad")


def collect(
  checkpoint: pathlib.Path, vocabulary: Mapping[str, Any], source: Source | None
) -> tuple[list[tuple[str, bytes]], dict[str, int | None]]:
  """The files and the special tokens of an export.

  Args:
    checkpoint: Exported checkpoint; its vocabulary lies beside it.
    vocabulary: Record of the checkpoint.
    source: Published model its vocabulary comes from, or None.

  Returns:
    Names and contents, and the ids of "bos", "eos" and "pad".
  """
  if isinstance(source, HuggingFaceSource):
    files = _copied(source.path)
    special = {
      name: _first(source.config.get(f"{name}_token_id")) for name in _SPECIAL
    }
  elif isinstance(source, GgufSource):
    special = _gguf_special(source)
    files = _rebuilt(source, special)
  else:
    files, special = _beside(checkpoint), dict.fromkeys(_SPECIAL)
    special["bos"] = vocabulary.get("begin")
  prompt = vocabulary.get("prompt")
  if prompt:
    full = full_ids(prompt, vocabulary.get("kept"))
    files.append(("prompt.json", _json(full)))
    # An item is written when its end marker is.
    stops = [full["end"], *filter(None, [special.get("eos")])]
    files.append(
      (
        "generation_config.json",
        _json(
          {
            "do_sample": True,
            "temperature": 0.5,
            "eos_token_id": list(dict.fromkeys(stops)),
            "pad_token_id": special.get("pad"),
            "bos_token_id": special.get("bos"),
          }
        ),
      )
    )
  return files, special


def full_ids(
  prompt: Mapping[str, Any], kept: Sequence[int] | None
) -> dict[str, Any]:
  """The prompt's pieces as ids of the full vocabulary."""

  def full(token: int | None) -> int | None:
    return token if token is None or kept is None else int(kept[token])

  return {
    name: [full(token) for token in value]
    if isinstance(value, list | tuple)
    else full(value)
    for name, value in prompt.items()
  }


def _copied(folder: pathlib.Path) -> list[tuple[str, bytes]]:
  return [
    (name, (folder / name).read_bytes())
    for name in _TOKENIZER_FILES
    if (folder / name).is_file()
  ]


def _gguf_special(source: GgufSource) -> dict[str, int | None]:
  fields = source.file.fields
  keys = {"bos": "bos", "eos": "eos", "pad": "padding"}
  return {
    name: fields.get(f"tokenizer.ggml.{key}_token_id")
    for name, key in keys.items()
  }


def _rebuilt(
  source: GgufSource, special: Mapping[str, int | None]
) -> list[tuple[str, bytes]]:
  # It needs protobuf, which the other formats do not.
  from calrec_jax.data.vocabulary import gguf

  tokenizer = gguf.read(source.path)
  pieces = source.file.fields["tokenizer.ggml.tokens"]
  config: dict[str, Any] = {
    f"{key}_token": pieces[token]
    for key, token in special.items()
    if token is not None
  }
  config["add_bos_token"] = bool(
    source.file.fields.get("tokenizer.ggml.add_bos_token", False)
  )
  config["clean_up_tokenization_spaces"] = False
  config["tokenizer_class"] = (
    "GemmaTokenizer"
    if tokenizer.name == "tokenizer.model"
    else "PreTrainedTokenizerFast"
  )
  return [
    (tokenizer.name, tokenizer.content),
    ("tokenizer_config.json", _json(config)),
  ]


def _beside(checkpoint: pathlib.Path) -> list[tuple[str, bytes]]:
  """The vocabulary that a stage trained for itself."""
  model = checkpoint.parent / "vocabulary" / "sentencepiece.model"
  if not model.is_file():
    return []
  config = {
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
  return [
    ("tokenizer.model", model.read_bytes()),
    ("tokenizer_config.json", _json(config)),
  ]


def _first(value: Any) -> int | None:
  """Some configurations list several."""
  return value[0] if isinstance(value, list) and value else value


def _json(value: Any) -> bytes:
  return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
