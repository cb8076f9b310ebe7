"""Vocabularies trained on the training text, or given as a file.

Pretrained models' vocabularies are in `pretrained`, the folder that stores any
vocabulary in `files`. None of this needs TensorFlow.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
import io
import os
import pathlib
import re
from collections.abc import Callable, Sequence
from typing import Any

import gin
import numpy as np
import sentencepiece

from calrec_jax.data.domain import domain as domain_lib
from calrec_jax.data.domain import prompt as prompt_lib
from calrec_jax.data.logs.columns import text as text_lib
from calrec_jax.data.logs.files import log_paths
from calrec_jax.data.vocabulary import files
from calrec_jax.data.vocabulary import sentencepiece as sentencepiece_model
from calrec_jax.errors import InputError, at_least, check, one_of, optional
from calrec_jax.storage import identity

_REQUIRED: Any = gin.REQUIRED  # Gin rejects it when used.

_MAX_TEXTS = 200_000
PADDING, BEGIN, END_OF_TEXT, UNKNOWN = range(4)  # Of trained vocabularies.
# Of SentencePiece's message.
_TOO_SMALL = re.compile(r"smaller than required_chars\. \d+ vs (\d+)")
_SPACE = "\u2581"  # SentencePiece's escape of a space.

# Reads a domain; fields limited in tokens are truncated with the tokenizer.
Prepare = Callable[
  [domain_lib.Domain, text_lib.Tokenizer | None], domain_lib.Prepared
]


def choose_domains(
  domains: Sequence[domain_lib.Domain],
  names: Sequence[str] | None,
  binding: str,
) -> tuple[domain_lib.Domain, ...]:
  """Selects domains by name; None selects all.

  Raises:
    InputError: If no domain has a name, with the binding.
  """
  if names is None:
    return tuple(domains)
  known = {domain.name: domain for domain in domains}
  for name in names:
    if name not in known:
      raise InputError(
        f"{binding}: {name!r} is not in Dataset.domains; choose from "
        f"{', '.join(known)}."
      )
  return tuple(known[name] for name in names)


@gin.configurable
@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainedSentencePiece:
  """A vocabulary trained on the training text of a dataset's domains.

  Only texts of items with a training event are read. The prompt's parts and the
  fields' labels are symbols of their own, so that a template costs one token;
  characters missing from the training text are encoded as bytes.
  Ids: 0 padding, 1 begin, 2 end of text (unused), 3 unknown.

  Attributes:
    size: Target number of tokens; a small corpus may give fewer.
    model_type: Kind of model, "unigram" or "bpe".
    domains: Names of the domains to read; None is all of the dataset.
    max_texts: Maximum number of unique texts to train on, sampled at random;
      None takes all. Training runs on one core and takes about 0.25 ms and a
      few kilobytes of memory per text.
  """

  size: int = 4096
  model_type: str = "unigram"
  domains: tuple[str, ...] | None = None
  max_texts: int | None = _MAX_TEXTS

  def __post_init__(self) -> None:
    """Checks the settings."""
    check(
      self, model_type=one_of("unigram", "bpe"), max_texts=optional(at_least(1))
    )

  def reads(
    self, domains: Sequence[domain_lib.Domain]
  ) -> tuple[domain_lib.Domain, ...]:
    """The domains whose text is read."""
    return choose_domains(domains, self.domains, "TrainedSentencePiece.domains")

  def fingerprint(
    self, domains: Sequence[domain_lib.Domain], prompt: prompt_lib.Prompt
  ) -> str:
    """Hash of everything the vocabulary depends on."""
    options = {
      "schema": files.SCHEMA,
      "size": self.size,
      "model_type": self.model_type,
      "domains": [domain.fingerprint() for domain in self.reads(domains)],
      "prompt": prompt.fingerprint(),
    }
    if self.max_texts != _MAX_TEXTS:  # Older vocabularies had no limit.
      options["max_texts"] = self.max_texts
    return identity.fingerprint(options)

  def make(
    self,
    folder: str,
    domains: Sequence[domain_lib.Domain],
    prompt: prompt_lib.Prompt,
    prepare: Prepare,
  ) -> files.Vocabulary:
    """Trains on the texts of items with training events, and writes it."""
    texts: dict[str, None] = {}
    read = self.reads(domains)
    kinds: dict[str, None] = {}
    for domain in read:
      prepared = prepare(domain, None)
      kinds.update(dict.fromkeys(prepared.events.kind_names))
      rows: list[int] = prepared.train_items().tolist()
      texts.update(dict.fromkeys(prepared.texts[row] for row in rows))
    model = self.train(
      self._sample(list(texts)), symbols(prompt, read, tuple(kinds))
    )
    return files.write(folder, model, begin=BEGIN)

  def _sample(self, texts: list[str]) -> list[str]:
    """The texts to train on, in order."""
    if self.max_texts is None or len(texts) <= self.max_texts:
      return texts
    # Raw bits, not `Generator.choice`: NumPy guarantees only these.
    order = np.argsort(np.random.PCG64(0).random_raw(len(texts)), kind="stable")
    return [texts[row] for row in np.sort(order[: self.max_texts])]

  def train(self, texts: Sequence[str], symbols: Sequence[str]) -> bytes:
    """Trains the model.

    Args:
      texts: Unique item texts.
      symbols: Texts that become one token each.

    Returns:
      The SentencePiece model's bytes.
    """
    if not texts:
      raise InputError(
        "TrainedSentencePiece: no item has a training event, so there is no "
        "text to train on."
      )
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
        # Text is already normalised, and decoding must restore it unchanged.
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=False,
        character_coverage=1.0,
        max_sentence_length=2**20,
        user_defined_symbols=[s.replace(" ", _SPACE) for s in symbols],
        num_threads=1,  # For the same bytes on every machine.
        minloglevel=2,
      )
    except RuntimeError as error:
      needed = _TOO_SMALL.search(str(error))
      raise InputError(
        f"TrainedSentencePiece.size = {self.size} does not fit the text "
        f"({len(texts)} texts): "
        + (
          f"its characters alone need {needed[1]}. Raise VOCABULARY_SIZE."
          if needed
          else str(error)
        )
      ) from error
    return model.getvalue()


class GivenModel(abc.ABC):
  """A SentencePiece model that is there already, whatever a dataset holds."""

  @abc.abstractmethod
  def read(self) -> tuple[bytes, int | None]:
    """The model's bytes, and the begin token of segments or None."""

  def make(
    self,
    folder: str,
    domains: Sequence[domain_lib.Domain],
    prompt: prompt_lib.Prompt,
    prepare: Prepare,
  ) -> files.Vocabulary:
    """Writes a copy of the model."""
    del domains, prompt, prepare
    return files.write(folder, *self.read())


@gin.configurable
@dataclasses.dataclass(frozen=True, kw_only=True)
class SentencePieceFile(GivenModel):
  """A given SentencePiece model.

  Attributes:
    path: File of the model.
    begin: Whether segments start with the model's begin token.
  """

  path: str = _REQUIRED
  begin: bool = True

  def fingerprint(
    self, domains: Sequence[domain_lib.Domain], prompt: prompt_lib.Prompt
  ) -> str:
    """Hash of the model; independent of domains and prompt."""
    del domains, prompt
    sha256 = log_paths.local(os.path.expanduser(self.path)).sha256()
    return identity.fingerprint(
      {"schema": files.SCHEMA, "sha256": sha256, "begin": self.begin}
    )

  def read(self) -> tuple[bytes, int | None]:
    """The model's bytes and its begin token."""
    model = pathlib.Path(self.path).expanduser().read_bytes()
    begin = sentencepiece_model.SentencePieceModel(model).begin
    return model, begin if self.begin else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunVocabulary(GivenModel):
  """The vocabulary that a run was trained with, out of its folder.

  A log that has grown would give another `TrainedSentencePiece`, whose ids mean
  other texts than the rows of the trained model. With this one new words become
  pieces or bytes.

  Attributes:
    path: Folder of the vocabulary in that of a stage.
  """

  path: str

  @functools.cached_property
  def stored(self) -> files.Vocabulary:
    """The vocabulary in the folder."""
    return files.load(self.path)

  def fingerprint(
    self, domains: Sequence[domain_lib.Domain], prompt: prompt_lib.Prompt
  ) -> str:
    """Hash of the model, as of a `SentencePieceFile`."""
    begin = self.stored.begin is not None
    given = SentencePieceFile(path=self.stored.model_file, begin=begin)
    return given.fingerprint(domains, prompt)

  def read(self) -> tuple[bytes, int | None]:
    """The model's bytes and the begin token that the run had."""
    model = pathlib.Path(self.stored.model_file).read_bytes()
    return model, self.stored.begin


def symbols(
  prompt: prompt_lib.Prompt,
  domains: Sequence[domain_lib.Domain],
  kinds: Sequence[str] = (),
) -> list[str]:
  """Texts that become one token each: the prompt's parts and the labels.

  Args:
    prompt: Sentences around the items.
    domains: Domains whose fields have labels.
    kinds: Names of the domains' kinds of event.
  """
  labels = []
  for domain in domains:
    first, *others = domain.chosen_fields()
    labels += [f"{first.label}:", *(f". {other.label}:" for other in others)]
  return list(dict.fromkeys((*prompt.pieces(kinds), *labels)))
