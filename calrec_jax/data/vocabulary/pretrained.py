"""The vocabulary of a pretrained model, full or pruned to a catalogue.

Tested by `tests/unit/data/vocabulary/test_pretrained_vocabulary.py`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import gin
import numpy as np

from calrec_jax.data.domain import domain as domain_lib
from calrec_jax.data.domain import prompt as prompt_lib
from calrec_jax.data.vocabulary import (
  files,
  gguf,
  pruning,
  sentencepiece,
  sentencepiece_rules,
)
from calrec_jax.data.vocabulary import trained as vocabulary_lib
from calrec_jax.errors import InputError
from calrec_jax.storage import atomic, identity
from calrec_jax.weights import packages

_REQUIRED: Any = gin.REQUIRED  # Gin rejects it when used.

# Part of every fingerprint: raised when the same files give other vocabularies.
SCHEMA = 1
_CONFIG = "tokenizer_config.json"


@gin.configurable
@dataclasses.dataclass(frozen=True, kw_only=True)
class PretrainedVocabulary:
  """The vocabulary of a pretrained model.

  Attributes:
    source: Name of a packaged model ("gemma3-270m"), GGUF file, folder in
      Hugging Face's layout, `tokenizer.model` or `tokenizer.json`.
    begin: Whether segments start with the begin token; None does as the model's
      files say.
    pruned: Whether to remove tokens that the texts of `domains` do not use;
      items and prompt are tokenised the same.
    domains: Names of the domains to prune to; None is all of the dataset.
  """

  source: str = _REQUIRED
  begin: bool | None = None
  pruned: bool = False
  domains: tuple[str, ...] | None = None

  def reads(
    self, domains: Sequence[domain_lib.Domain]
  ) -> tuple[domain_lib.Domain, ...]:
    """The domains whose text determines the vocabulary."""
    if not self.pruned:
      return ()
    return vocabulary_lib.choose_domains(
      domains, self.domains, "PretrainedVocabulary.domains"
    )

  def fingerprint(
    self, domains: Sequence[domain_lib.Domain], prompt: prompt_lib.Prompt
  ) -> str:
    """Hash of everything the vocabulary depends on."""
    return identity.fingerprint(
      {
        "schema": [files.SCHEMA, SCHEMA],
        "source": _fingerprint(self.source),
        "begin": self.begin,
        "pruned": self.pruned,
        "domains": [domain.fingerprint() for domain in self.reads(domains)],
        "prompt": prompt.fingerprint() if self.pruned else None,
      }
    )

  def make(
    self,
    folder: str,
    domains: Sequence[domain_lib.Domain],
    prompt: prompt_lib.Prompt,
    prepare: vocabulary_lib.Prepare,
  ) -> files.Vocabulary:
    """Writes the vocabulary, pruned if configured.

    Raises:
      InputError: If the tokenizer is not supported, or has no begin token
        although `begin` is True.
    """
    full = read(self.source)
    begin = self._begin(full)
    model = files.open_model(full.kind, full.content)
    origin = files.Origin(model.size, hashlib.sha256(full.content).hexdigest())
    content, row_map = full.content, None
    if self.pruned:
      seen = pruning.Seen(model)
      seen.add(prompt.pieces())
      for domain in self.reads(domains):
        prepared = prepare(domain, seen)
        seen.add(prepared.texts)
        seen.add(prompt.pieces(prepared.events.kind_names))
      rules = _rules(full)
      used = seen.used() if begin is None else np.append(seen.used(), begin)
      row_map = pruning.choose(rules, used)
      content = rules.select(row_map)
      pruning.verify(seen, files.open_model(full.kind, content), row_map)
      begin = None if begin is None else int(np.searchsorted(row_map, begin))
    return files.write(
      folder, content, begin, kind=full.kind, origin=origin, row_map=row_map
    )

  def _begin(self, full: files.Tokenizer) -> int | None:
    if self.begin and full.begin is None:
      raise InputError(
        f"PretrainedVocabulary.begin is True, but {self.source} has no begin "
        "token. Leave it None."
      )
    wanted = full.adds_begin if self.begin is None else self.begin
    return full.begin if wanted else None


def read(source: str | os.PathLike[str]) -> files.Tokenizer:
  """Reads the vocabulary of a pretrained model.

  Args:
    source: See `PretrainedVocabulary.source`.

  Raises:
    packages.WeightsError: If there is no such model, or its kind of tokenizer
      is not supported.
  """
  path, config = _find(packages.resolve(source))
  if _is_gguf(path):
    return gguf.read(path)
  content = path.read_bytes()
  settings = json.loads(config.read_text("utf-8")) if config else {}
  try:
    if path.suffix == ".json":
      return _from_json(content, settings)
    return _from_sentencepiece(content, settings)
  except ValueError as error:
    raise packages.WeightsError(f"{path}: {error}") from error


def _find(path: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path | None]:
  """The tokenizer's file, and the settings next to it in a folder."""
  if not path.is_dir():
    return path, None
  config = path / _CONFIG
  model, saved = path / "tokenizer.model", path / "tokenizer.json"
  # Llama 3 has a tokenizer.model in another format.
  if model.is_file() and _is_sentencepiece(model):
    chosen = model
  elif saved.is_file():
    chosen = saved
  else:
    raise packages.WeightsError(
      f"{path} has neither a SentencePiece tokenizer.model nor a "
      "tokenizer.json. Set PretrainedVocabulary.source (VOCABULARY_SOURCE) to "
      "a folder or file that does."
    )
  return chosen, config if config.is_file() else None


def _from_sentencepiece(
  content: bytes, settings: Mapping[str, Any]
) -> files.Tokenizer:
  model = sentencepiece.SentencePieceModel(content)
  begin = _configured(model, settings, model.begin)
  adds = settings.get("add_bos_token", begin is not None)
  return files.Tokenizer(files.SENTENCEPIECE, content, begin, bool(adds))


def _from_json(content: bytes, settings: Mapping[str, Any]) -> files.Tokenizer:
  # `tokenizers` is needed only by such vocabularies.
  from calrec_jax.data.vocabulary import byte_bpe

  model = byte_bpe.ByteBpeModel(content)
  opening = _opening(json.loads(content).get("post_processor"))
  begin = _configured(model, settings, opening)
  adds = settings.get("add_bos_token", opening is not None)
  return files.Tokenizer(files.BYTE_BPE, content, begin, bool(adds))


def _configured(
  model: Any, settings: Mapping[str, Any], default: int | None
) -> int | None:
  """The begin token in the settings, else the default."""
  named = settings.get("bos_token")
  if isinstance(named, dict):
    named = named.get("content")
  found = model.token(named) if named else None
  return default if found is None else found


def _opening(part: Any) -> int | None:
  """The token that a post-processor adds before a text, if any."""
  if not isinstance(part, dict):
    return None
  if part.get("type") == "Sequence":
    found = [_opening(inner) for inner in part["processors"]]
    return next((token for token in found if token is not None), None)
  if part.get("type") != "TemplateProcessing" or not part["single"]:
    return None
  special = part["single"][0].get("SpecialToken")
  return part["special_tokens"][special["id"]]["ids"][0] if special else None


def _rules(full: files.Tokenizer) -> pruning.Rules:
  if full.kind == files.SENTENCEPIECE:
    return sentencepiece_rules.SentencePieceRules(full.content)
  # `tokenizers` is needed only by such vocabularies.
  from calrec_jax.data.vocabulary import byte_bpe_rules

  return byte_bpe_rules.ByteBpeRules(full.content)


def _is_gguf(path: pathlib.Path) -> bool:
  with path.open("rb") as file:
    return file.read(4) == b"GGUF"


def _is_sentencepiece(path: pathlib.Path) -> bool:
  try:
    sentencepiece.SentencePieceModel(path.read_bytes())
  except ValueError:
    return False
  return True


def _fingerprint(source: str) -> list[str]:
  """Hashes of the files that are read; a package's hash is known."""
  if source in packages.PACKAGES:
    return [packages.PACKAGES[source].sha256]
  path, config = _find(packages.resolve(source))
  return [_sha256(file) for file in (path, config) if file is not None]


def _sha256(path: pathlib.Path) -> str:
  """Hash of a file; a large file's is cached next to it until it changes."""
  status = path.stat()
  stamp = f"{status.st_size} {status.st_mtime_ns}"
  record = path.with_name(f"{path.name}.sha256")
  if not _is_gguf(path):
    record = None
  elif record.is_file():
    sha256, _, found = record.read_text("utf-8").strip().partition(" ")
    if found == stamp:
      return sha256
  sha256 = identity.file_sha256(path)
  if record is not None:
    with contextlib.suppress(OSError):  # A read-only folder.
      atomic.write_text(record, f"{sha256} {stamp}\n")
  return sha256
