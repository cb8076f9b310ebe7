"""SentencePiece vocabularies: trained on the training text, or given.

Needs `sentencepiece` and nothing of TensorFlow, so that inference can load
the vocabulary a cache was written with.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import io
import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from typing import Any

import gin
import numpy as np
import sentencepiece

from calrec_jax.data import domain as domain_lib
from calrec_jax.data import prompt as prompt_lib
from calrec_jax.data import tables

_REQUIRED: Any = gin.REQUIRED  # Refused by gin where it is used.

SCHEMA = 1
MODEL_FILE = "sentencepiece.model"
DESCRIPTION_FILE = "vocabulary.json"
PADDING, BEGIN, END_OF_TEXT, UNKNOWN = range(4)  # Of trained vocabularies.
_SPACE = "\u2581"  # How SentencePiece writes a blank.


@dataclasses.dataclass(frozen=True, eq=False)
class Vocabulary:
  """A loaded vocabulary.

  Attributes:
    folder: holds the model and its description.
    begin: token that begins every segment, or None.
    sha256: hash of the model's bytes.
  """

  folder: str
  begin: int | None
  sha256: str

  @property
  def model_file(self) -> str:
    """Path of the SentencePiece model."""
    return os.path.join(self.folder, MODEL_FILE)

  @property
  def files(self) -> tuple[str, ...]:
    """The files that make up the vocabulary."""
    return self.model_file, os.path.join(self.folder, DESCRIPTION_FILE)

  @functools.cached_property
  def _processor(self) -> sentencepiece.SentencePieceProcessor:
    return sentencepiece.SentencePieceProcessor(model_file=self.model_file)

  @property
  def size(self) -> int:
    """Number of tokens."""
    return self._processor.vocab_size()

  @property
  def kept(self) -> np.ndarray | None:
    """int32[size]: the full vocabulary's id of each token, if it was pruned."""
    return None

  @property
  def full_size(self) -> int:
    """Number of tokens before pruning."""
    return self.size

  @property
  def full_sha256(self) -> str:
    """Hash of the model before pruning."""
    return self.sha256

  @property
  def pretrained(self) -> bool:
    """Whether it belongs to a published model."""
    return False

  def encode(self, text: str) -> list[int]:
    """Token ids of a text, without begin or end tokens."""
    return self._processor.encode(text)

  def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of several texts."""
    return self._processor.encode(list(texts))

  def decode(self, ids: Iterable[int]) -> str:
    """The text of token ids; control tokens and padding write nothing.

    Ids beyond the vocabulary, which a padded embedding table can yield, also
    write nothing.
    """
    size = self.size
    return self._processor.decode([int(i) for i in ids if 0 <= i < size])

  def piece(self, token: int) -> str:
    """How the vocabulary writes one token."""
    return self._processor.id_to_piece(int(token))


def load(folder: str | os.PathLike[str]) -> Vocabulary:
  """Loads a vocabulary that `write` wrote.

  Raises:
    FileNotFoundError: if the folder holds no vocabulary.
    ValueError: if the model is not the one described.
  """
  folder = os.fspath(folder)
  try:
    text = pathlib.Path(folder, DESCRIPTION_FILE).read_text(encoding="utf-8")
    model = pathlib.Path(folder, MODEL_FILE).read_bytes()
  except FileNotFoundError as error:
    raise FileNotFoundError(
      f"{folder} holds no vocabulary ({os.path.basename(error.filename)} is "
      "missing). Build it again with `calrec data cache`."
    ) from error
  description = json.loads(text)
  found = hashlib.sha256(model).hexdigest()
  if description.get("schema") != SCHEMA or description["sha256"] != found:
    raise ValueError(
      f"{folder}: {MODEL_FILE} is not the model that {DESCRIPTION_FILE} "
      "describes. Delete the folder and run `calrec data cache` again."
    )
  return Vocabulary(folder, description["begin"], found)


def write(folder: str, model: bytes, begin: int | None) -> Vocabulary:
  """Writes a vocabulary's folder at once, and loads it."""
  sha256 = hashlib.sha256(model).hexdigest()
  description = {"schema": SCHEMA, "begin": begin, "sha256": sha256}
  parent = os.path.dirname(os.path.abspath(folder))
  os.makedirs(parent, exist_ok=True)
  partial = tempfile.mkdtemp(dir=parent, prefix=".vocabulary-")
  try:
    pathlib.Path(partial, MODEL_FILE).write_bytes(model)
    pathlib.Path(partial, DESCRIPTION_FILE).write_text(
      json.dumps(description, indent=2) + "\n", encoding="utf-8"
    )
    os.chmod(partial, 0o755)
    try:
      os.rename(partial, folder)
    except OSError:
      if not os.path.exists(folder):
        raise
      # Another process was faster; the content is the same by its address.
  finally:
    shutil.rmtree(partial, ignore_errors=True)
  return load(folder)


@gin.configurable
@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainedSentencePiece:
  """A vocabulary trained on the training text of a data set's domains.

  Only texts of items with a training event are read. The prompt's pieces and
  the fields' labels are symbols of their own, so that a template costs one
  token; bytes stand in for characters the training text does not hold.
  Ids: 0 padding, 1 begin, 2 end of text (unused), 3 unknown.

  Attributes:
    size: wanted number of tokens; small text may give fewer.
    model_type: "unigram" or "bpe".
    domains: names of the domains to read; None is all of the data set.
  """

  size: int = 4096
  model_type: str = "unigram"
  domains: tuple[str, ...] | None = None

  def __post_init__(self) -> None:
    if self.model_type not in ("unigram", "bpe"):
      raise ValueError(
        f"TrainedSentencePiece.model_type is {self.model_type!r}; it must be "
        "'unigram' or 'bpe'."
      )

  def reads(
    self, domains: Sequence[domain_lib.Domain]
  ) -> tuple[domain_lib.Domain, ...]:
    """The domains whose text is read."""
    if self.domains is None:
      return tuple(domains)
    known = {domain.name: domain for domain in domains}
    for name in self.domains:
      if name not in known:
        raise ValueError(
          f"TrainedSentencePiece.domains names {name!r}, which is not in "
          f"Dataset.domains: {', '.join(known)}."
        )
    return tuple(known[name] for name in self.domains)

  def fingerprint(
    self, domains: Sequence[domain_lib.Domain], prompt: prompt_lib.Prompt
  ) -> str:
    """Hash of everything the vocabulary depends on."""
    return domain_lib.digest(
      {
        "schema": SCHEMA,
        "size": self.size,
        "model_type": self.model_type,
        "domains": [domain.fingerprint() for domain in self.reads(domains)],
        "prompt": prompt.fingerprint(),
      }
    )

  def train(self, texts: Sequence[str], symbols: Sequence[str]) -> bytes:
    """Trains the model.

    Args:
      texts: distinct item texts.
      symbols: texts that become one token each.

    Returns:
      The SentencePiece model's bytes.
    """
    if not texts:
      raise ValueError("There is no training text for the vocabulary.")
    model = io.BytesIO()
    try:
      sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=model,
        vocab_size=self.size,
        model_type=self.model_type,
        pad_id=PADDING,
        bos_id=BEGIN,
        eos_id=END_OF_TEXT,
        unk_id=UNKNOWN,
        byte_fallback=True,
        hard_vocab_limit=False,
        # Text is cleaned already, and decoding must give it back unchanged.
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=False,
        character_coverage=1.0,
        max_sentence_length=2**20,
        user_defined_symbols=[s.replace(" ", _SPACE) for s in symbols],
        num_threads=1,  # The same bytes on every machine.
        minloglevel=2,
      )
    except RuntimeError as error:
      raise ValueError(
        f"TrainedSentencePiece.size = {self.size} does not fit the text "
        f"({len(texts)} texts): {error}"
      ) from error
    return model.getvalue()


@gin.configurable
@dataclasses.dataclass(frozen=True, kw_only=True)
class SentencePieceFile:
  """A given SentencePiece model.

  Attributes:
    path: the model's file.
    begin: True takes the model's own begin token; False has none.
  """

  path: str = _REQUIRED
  begin: bool = True

  def fingerprint(
    self, domains: Sequence[domain_lib.Domain], prompt: prompt_lib.Prompt
  ) -> str:
    """Hash of the model; neither domains nor prompt change it."""
    del domains, prompt
    sha256 = tables.sha256(os.path.expanduser(self.path))
    return domain_lib.digest(
      {"schema": SCHEMA, "sha256": sha256, "begin": self.begin}
    )

  def read(self) -> tuple[bytes, int | None]:
    """The model's bytes and its begin token."""
    model = pathlib.Path(self.path).expanduser().read_bytes()
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    begin = processor.bos_id() if self.begin else -1
    return model, begin if begin >= 0 else None


def symbols(
  prompt: prompt_lib.Prompt, domains: Sequence[domain_lib.Domain]
) -> list[str]:
  """Texts that become one token each: the prompt's pieces and the labels."""
  labels = []
  for domain in domains:
    for at, field in enumerate(domain.chosen_fields()):
      labels.append(f"{field.label}:" if at == 0 else f". {field.label}:")
  return list(dict.fromkeys((*prompt.pieces(), *labels)))
