"""The dataset of a run: its domains, mixtures, vocabulary and prompt.

It knows which token caches exist; `building` builds those that are missing.
Caches are addressed by their content: a changed option, file or vocabulary
gives another folder, and nothing is ever overwritten.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from collections.abc import Container, Mapping, Sequence
from typing import Any

import gin

from calrec_jax.data.cache import files
from calrec_jax.data.domain import card as card_lib
from calrec_jax.data.domain import domain as domain_lib
from calrec_jax.data.domain import prompt as prompt_lib
from calrec_jax.data.logs import log_files
from calrec_jax.data.vocabulary import files as vocabulary_files
from calrec_jax.data.vocabulary import trained as vocabulary_lib
from calrec_jax.errors import InputError, nearest, refuse
from calrec_jax.storage import identity

_REQUIRED: Any = gin.REQUIRED  # Gin rejects it when used.
_DIGITS = 12  # Of a fingerprint, in the name of a folder.


@gin.configurable
@dataclasses.dataclass(frozen=True, kw_only=True)
class Dataset:
  """Domains, and how they are mixed and tokenised.

  Attributes:
    domains: Domains, e.g. `[@grocery/Domain(), @produce/Domain()]`.
    mixtures: Names of domains by mixture name.
    vocabulary: Vocabulary, from `TrainedSentencePiece`, `SentencePieceFile` or
      `PretrainedVocabulary`.
    prompt: Sentences around the items.
    mixing_exponent: Power of a domain's number of training users that gives its
      weight in SeqIO's mixture (0.3 in the paper).
    data_dir: Folder of datasets, vocabularies and caches; None is
      `$CALREC_DATA_DIR`, or `~/.cache/calrec_jax`.
    beam_options: Flags of an Apache Beam pipeline whose workers write the TFDS
      datasets, such as `["--runner=FlinkRunner"]`; they must see `data_dir`.
      None writes them on this machine.
  """

  domains: Sequence[domain_lib.Domain] = _REQUIRED
  mixtures: Mapping[str, Sequence[str]] = dataclasses.field(
    default_factory=dict
  )
  vocabulary: Any = dataclasses.field(
    default_factory=vocabulary_lib.TrainedSentencePiece
  )
  prompt: prompt_lib.Prompt = dataclasses.field(
    default_factory=prompt_lib.Prompt
  )
  mixing_exponent: float = 0.3
  data_dir: str | None = None
  beam_options: Sequence[str] | None = None

  def __post_init__(self) -> None:
    if not hasattr(self.vocabulary, "fingerprint"):
      refuse(
        self,
        "vocabulary",
        "must be a reference: @TrainedSentencePiece(), @SentencePieceFile() or "
        "@PretrainedVocabulary().",
      )
    names = self.names()
    if not names or len(set(names)) != len(names):
      raise InputError(
        f"Dataset.domains holds {', '.join(names) or 'nothing'}; give it "
        "domains of distinct names (Domain.name, each in a scope of its own)."
      )
    object.__setattr__(
      self,
      "mixtures",
      {
        mixture: tuple(_known_as(member, names) for member in members)
        for mixture, members in self.mixtures.items()
      },
    )
    for mixture, members in self.mixtures.items():
      if mixture in names:
        raise InputError(
          f"Dataset.mixtures: {mixture!r} is a domain's name already."
        )
      for member in members:
        if member not in names:
          raise InputError(
            f"Dataset.mixtures: {mixture!r} names {member!r}, which is not in "
            f"Dataset.domains.{nearest(member, names)}"
          )
      if not members or len(set(members)) != len(members):
        raise InputError(
          f"Dataset.mixtures: {mixture!r} must name distinct domains."
        )

  @property
  def folder(self) -> str:
    """The absolute path of `data_dir`."""
    if self.data_dir:
      return os.path.abspath(os.path.expanduser(self.data_dir))
    return default_folder()

  def names(self) -> tuple[str, ...]:
    """Names of all domains."""
    return tuple(domain.name for domain in self.domains)

  def select(self, *names: str) -> tuple[domain_lib.Domain, ...]:
    """The domains of mixtures and tasks, each once, in the given order.

    Args:
      names: Names of mixtures and tasks, as in MIXTURE_OR_TASK_NAME.

    Raises:
      InputError: If a name is unknown, with the nearest known one.
    """
    known = {domain.name: domain for domain in self.domains}
    chosen: dict[str, None] = {}
    for name in names:
      if not isinstance(name, str):
        raise InputError(
          f"MIXTURE_OR_TASK_NAME = {name!r}: must be a text, the name of a "
          "domain or of a mixture of Dataset."
        )
      if name not in self.mixtures:
        name = _known_as(name, known)
      if name in known:
        chosen[name] = None
      elif name in self.mixtures:
        chosen.update(dict.fromkeys(self.mixtures[name]))
      else:
        every = (*known, *self.mixtures)
        raise InputError(
          f"MIXTURE_OR_TASK_NAME = {name!r} is neither a domain nor a mixture "
          f"of Dataset.{nearest(name, every)} There are {', '.join(every)}."
        )
    return tuple(known[name] for name in chosen)

  def vocabulary_dir(self) -> str:
    """Folder of the vocabulary, which may not exist yet."""
    fingerprint = self.vocabulary.fingerprint(self.domains, self.prompt)
    return os.path.join(self.folder, "vocabularies", fingerprint[:_DIGITS])

  def made_vocabulary(self, *names: str) -> str | None:
    """Hash of the vocabulary's model where it exists already, else None.

    Args:
      names: Names of mixtures and tasks, in whose caches it is looked for too.
    """
    folders = [
      os.path.join(self.cache_dir(domain), "vocabulary")
      for domain in self.select(*names)
    ]
    for folder in (self.vocabulary_dir(), *folders):
      if os.path.isdir(folder):
        return vocabulary_files.load(folder).sha256
    return None

  def fingerprint(self, domain: domain_lib.Domain) -> str:
    """Hash of everything the token cache of a domain depends on."""
    return identity.fingerprint(
      {
        "schema": [files.SCHEMA, card_lib.SCHEMA],
        "domain": domain.fingerprint(),
        "vocabulary": self.vocabulary.fingerprint(self.domains, self.prompt),
        "prompt": self.prompt.fingerprint(),
      }
    )

  def cache_dir(self, domain: domain_lib.Domain) -> str:
    """Folder of a domain's token cache, which may not exist yet."""
    name = f"{domain.name}-{self.fingerprint(domain)[:_DIGITS]}"
    return os.path.join(self.folder, "caches", name)

  def missing(self, *names: str) -> tuple[domain_lib.Domain, ...]:
    """The domains of mixtures and tasks that have no usable cache yet.

    They include strict domains whose card shows bad rows, so that building
    fails for them.
    """
    return tuple(
      domain
      for domain in self.select(*names)
      if not _is_cached(self.cache_dir(domain), strict=domain.strict)
    )


@gin.configurable
def folder_domains(
  root: str = _REQUIRED,
  names: Sequence[str] = _REQUIRED,
  positions: Sequence[str] = (),
) -> tuple[domain_lib.Domain, ...]:
  """Domains from folders with `interactions.csv.gz` and `items.jsonl.gz`.

  Other options are those of `Domain` and `LogFiles`.

  Args:
    root: Parent of the folders.
    names: Names of the folders and so of the domains: `ml-100k` is the domain
      `ml_100k`, by either name.
    positions: Names of the folders whose timestamps are positions, not times.
  """
  _refuse_unusable(names)
  for name in positions:
    if name not in names:
      raise InputError(
        f"folder_domains.positions names {name!r}, which is not in "
        f"folder_domains.names.{nearest(name, names)}"
      )

  def source(name: str) -> log_files.LogFiles:
    chosen = log_files.LogFiles(
      interactions="interactions.csv.gz",
      items="items.jsonl.gz",
      folder=os.path.join(root, name),
    )
    if name in positions:
      chosen = dataclasses.replace(chosen, time_unit="order")
    return chosen

  return tuple(
    domain_lib.Domain(name=domain_lib.slug(name), source=source(name))
    for name in names
  )


def _refuse_unusable(folders: Sequence[str]) -> None:
  """Refuses folders whose names make no domain's, or the same one."""
  before: dict[str, str] = {}
  for folder in folders:
    name = domain_lib.slug(folder)
    if not name[:1].isalpha():
      raise InputError(
        f"folder_domains.names: the folder {folder!r} makes no domain's name, "
        "which starts with a letter from a to z. Rename it, or link to it by "
        "another name."
      )
    if name in before:
      raise InputError(
        f"folder_domains.names: {before[name]!r} and {folder!r} would both be "
        f"the domain {name!r}. Rename one of the folders."
      )
    before[name] = folder


def _known_as(name: str, names: Container[str]) -> str:
  """The domain that a name means: itself, or that of the folder it names."""
  slug = domain_lib.slug(name)
  return slug if name not in names and slug in names else name


def default_folder() -> str:
  """The folder of datasets if `Dataset.data_dir` is not set."""
  chosen = os.environ.get("CALREC_DATA_DIR")
  return os.path.abspath(
    os.path.expanduser(chosen or os.path.join("~", ".cache", "calrec_jax"))
  )


def _is_cached(folder: str, *, strict: bool) -> bool:
  path = pathlib.Path(folder)
  try:
    files.check(path)
  except files.CacheError:
    return False
  card = json.loads((path / "card.json").read_text(encoding="utf-8"))
  return not (strict and card["problems"])
