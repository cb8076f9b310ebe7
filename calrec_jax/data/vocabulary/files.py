"""The folder of a vocabulary: written atomically, verified, loaded.

It has the tokenizer's file, a description, and the row map of a pruned
vocabulary. Loading does not need TensorFlow.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import io
import json
import os
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from calrec_jax.data.logs.columns import text as text_lib
from calrec_jax.data.vocabulary import sentencepiece
from calrec_jax.errors import InputError
from calrec_jax.storage import atomic, identity

SCHEMA = 1
_PRETRAINED_SCHEMA = 2  # Makes older versions refuse the new fields.
SENTENCEPIECE, BYTE_BPE = "sentencepiece", "byte_bpe"
MODEL_FILE = "sentencepiece.model"
DESCRIPTION_FILE = "vocabulary.json"
ROW_MAP_FILE = "kept.npy"
MODEL_FILES = {SENTENCEPIECE: MODEL_FILE, BYTE_BPE: "tokenizer.json"}


class Model(text_lib.Tokenizer, Protocol):
  """A tokenizer in memory: `SentencePieceModel` or `ByteBpeModel`."""

  size: int

  def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of several texts."""
    ...

  def piece(self, token: int) -> str:
    """The piece of one token."""
    ...


class Tokenizer(NamedTuple):
  """The tokenizer of a pretrained model.

  Attributes:
    kind: Kind of tokenizer, `SENTENCEPIECE` or `BYTE_BPE`.
    content: Content of the tokenizer's file.
    begin: Begin token, or None.
    adds_begin: Whether the model expects it before a text.
  """

  kind: str
  content: bytes
  begin: int | None
  adds_begin: bool

  @property
  def name(self) -> str:
    """Usual name of the file."""
    return f"tokenizer.{'model' if self.kind == SENTENCEPIECE else 'json'}"


class Origin(NamedTuple):
  """The vocabulary of the pretrained model that one is derived from.

  Attributes:
    full_size: Number of its tokens.
    full_sha256: Hash of its tokenizer's file.
    kept_sha256: Hash of the row map; None if nothing was pruned.
  """

  full_size: int
  full_sha256: str
  kept_sha256: str | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Vocabulary:
  """A loaded vocabulary.

  Attributes:
    folder: Folder with the model and its description.
    begin: Begin token of every segment, or None.
    sha256: Hash of the model's bytes.
    kind: Kind of tokenizer, `SENTENCEPIECE` or `BYTE_BPE`.
    origin: The pretrained model's vocabulary, or None.
  """

  folder: str
  begin: int | None
  sha256: str
  kind: str = SENTENCEPIECE
  origin: Origin | None = None

  @property
  def model_file(self) -> str:
    """Path of the tokenizer's file."""
    return os.path.join(self.folder, MODEL_FILES[self.kind])

  @property
  def files(self) -> tuple[str, ...]:
    """The files that make up the vocabulary."""
    names = [MODEL_FILES[self.kind], DESCRIPTION_FILE]
    if self.origin is not None and self.origin.kept_sha256 is not None:
      names.append(ROW_MAP_FILE)
    return tuple(os.path.join(self.folder, name) for name in names)

  @functools.cached_property
  def _model(self) -> Model:
    return open_model(self.kind, pathlib.Path(self.model_file).read_bytes())

  @property
  def size(self) -> int:
    """Number of tokens, and of a pretrained model's embedding rows."""
    return self._model.size

  @property
  def pretrained(self) -> bool:
    """Whether it belongs to a pretrained model."""
    return self.origin is not None

  @functools.cached_property
  def row_map(self) -> np.ndarray | None:
    """Id of each token in the full vocabulary, int32[size], ascending.

    None if nothing was pruned.
    """
    if self.origin is None or self.origin.kept_sha256 is None:
      return None
    return np.load(os.path.join(self.folder, ROW_MAP_FILE))

  @property
  def full_size(self) -> int:
    """Number of tokens before pruning."""
    return self.size if self.origin is None else self.origin.full_size

  @property
  def full_sha256(self) -> str:
    """Hash of the tokenizer's file before pruning."""
    return self.sha256 if self.origin is None else self.origin.full_sha256

  def encode(self, text: str) -> list[int]:
    """Token ids of a text, without begin or end tokens."""
    return self._model.encode(text)

  def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of several texts."""
    return self._model.encode_all(texts)

  def decode(self, ids: Iterable[int]) -> str:
    """The text of token ids, without control tokens and padding.

    Ids beyond the vocabulary, which a padded embedding can give, are dropped.
    """
    size = self.size
    return self._model.decode([int(i) for i in ids if 0 <= i < size])

  def piece(self, token: int) -> str:
    """The piece of one token."""
    return self._model.piece(int(token))

  def describe(self) -> dict[str, Any]:
    """Description for a dataset's card."""
    more = {"full_size": self.full_size} if self.pretrained else {}
    return {"size": self.size, "sha256": self.sha256} | more


def open_model(kind: str, content: bytes) -> Model:
  """Opens a tokenizer from the bytes of its file."""
  if kind == SENTENCEPIECE:
    return sentencepiece.SentencePieceModel(content)
  # `tokenizers` is needed only by such vocabularies.
  from calrec_jax.data.vocabulary import byte_bpe

  return byte_bpe.ByteBpeModel(content)


def load(folder: str | os.PathLike[str]) -> Vocabulary:
  """Loads a vocabulary that `write` wrote.

  Raises:
    FileNotFoundError: If the folder has no vocabulary.
    InputError: If the model does not match its description.
  """
  folder = os.fspath(folder)
  try:
    text = pathlib.Path(folder, DESCRIPTION_FILE).read_text(encoding="utf-8")
    description = json.loads(text)
    kind = description.get("kind", SENTENCEPIECE)
    if description.get("schema") not in (SCHEMA, _PRETRAINED_SCHEMA):
      raise InputError(_damaged(folder, DESCRIPTION_FILE))
    origin = None
    if "origin" in description:
      origin = Origin(**description["origin"])
    _check(folder, MODEL_FILES[kind], description["sha256"])
    if origin is not None and origin.kept_sha256 is not None:
      _check(folder, ROW_MAP_FILE, origin.kept_sha256)
  except FileNotFoundError as error:
    raise FileNotFoundError(
      f"{folder} has no vocabulary ({os.path.basename(error.filename)} is "
      "missing). Build it again with `calrec data cache`."
    ) from error
  return Vocabulary(
    folder, description["begin"], description["sha256"], kind, origin
  )


def _check(folder: str, name: str, sha256: str) -> None:
  if identity.file_sha256(os.path.join(folder, name)) != sha256:
    raise InputError(_damaged(folder, name))


def _damaged(folder: str, name: str) -> str:
  return (
    f"{folder}: {name} does not match {DESCRIPTION_FILE}. Delete the folder "
    "and run `calrec data cache` again."
  )


def write(
  folder: str,
  model: bytes,
  begin: int | None,
  *,
  kind: str = SENTENCEPIECE,
  origin: Origin | None = None,
  row_map: np.ndarray | None = None,
) -> Vocabulary:
  """Writes a vocabulary's folder atomically, and loads it.

  Args:
    folder: Folder to create; an existing one is left unchanged.
    model: Content of the tokenizer's file.
    begin: Begin token of every segment, or None.
    kind: Kind of tokenizer, `SENTENCEPIECE` or `BYTE_BPE`.
    origin: The pretrained model's vocabulary, or None.
    row_map: int32[size], ids of a pruned vocabulary's tokens in the full one.
  """
  description: dict[str, Any] = {
    "schema": SCHEMA,
    "begin": begin,
    "sha256": hashlib.sha256(model).hexdigest(),
  }
  files: dict[str, bytes] = {MODEL_FILES[kind]: model}
  if origin is not None:
    if row_map is not None:
      stream = io.BytesIO()
      np.save(stream, row_map.astype(np.int32))
      files[ROW_MAP_FILE] = stream.getvalue()
      kept_sha256 = hashlib.sha256(files[ROW_MAP_FILE]).hexdigest()
      origin = origin._replace(kept_sha256=kept_sha256)
    description |= {
      "schema": _PRETRAINED_SCHEMA,
      "kind": kind,
      "origin": origin._asdict(),
    }
  text = json.dumps(description, indent=2) + "\n"
  files[DESCRIPTION_FILE] = text.encode()
  # If another process was faster, the folder's name ensures the same content.
  with atomic.new_folder(
    pathlib.Path(os.path.abspath(folder)), or_existing=True
  ) as part:
    for name, content in files.items():
      (part / name).write_bytes(content)
  return load(folder)
