"""Builds what a dataset is missing: its vocabulary and its token caches.

A cache is written directly from the prepared domain, with exactly the documents
that the leakage checks have seen. This does not need TensorFlow, unlike
`data.seqio.building`, which writes TFDS datasets for SeqIO.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import pathlib
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tqdm

from calrec_jax.data import dataset as dataset_lib
from calrec_jax.data import log_sample
from calrec_jax.data.cache import everybody as everybody_lib
from calrec_jax.data.cache import files, writer
from calrec_jax.data.cache.token_cache import TokenCache
from calrec_jax.data.domain import card, leakage, splits
from calrec_jax.data.domain import domain as domain_lib
from calrec_jax.data.logs.columns import text as text_lib
from calrec_jax.data.vocabulary import files as vocabulary_files
from calrec_jax.storage import build_lock

_TEXTS = 8192  # Tokenised together, on all cores.
_RECORD_BYTES = 100  # Minimum size of a record's frame, names, ids and lengths.
_EVENT_BYTES = 16  # Item, time and length.


def build(
  dataset: dataset_lib.Dataset, *names: str, progress: bool = True
) -> dict[str, str]:
  """Builds the token caches that are missing, and the vocabulary if needed.

  Args:
    dataset: Dataset whose domains are built.
    names: Names of mixtures and tasks.
    progress: Whether progress bars are shown.

  Returns:
    The cache folder of every domain, by its name.

  Raises:
    problems.BadRowsError: If a strict domain has bad rows.
    leakage.LeakageError: If a document reveals a target.
    build_lock.DiskFullError: If the disk is full.
  """
  work = Building(dataset, progress=progress)
  for domain in dataset.missing(*names):
    work.cache(domain)
  return {
    domain.name: dataset.cache_dir(domain) for domain in dataset.select(*names)
  }


def attach_everybody(
  dataset: dataset_lib.Dataset, cache: TokenCache, *, progress: bool = True
) -> None:
  """Gives a cache all events of all users, see `everybody`.

  A cache of an earlier version lacks them. Then the log is read again, once: a
  folder that cannot be written to gets them in memory.

  Args:
    dataset: Dataset whose cache it is.
    cache: Token cache of one of its domains.
    progress: Whether progress is shown.
  """
  if cache.everybody is None:
    [domain] = dataset.select(cache.name)
    work = Building(dataset, progress=progress)
    cache.everybody = work.everybody(domain, cache.path, cache.fingerprint)


class Building:
  """Builds parts of a dataset; a domain's log is read at most once.

  Attributes:
    dataset: Dataset whose parts are built.
    progress: Whether progress bars are shown.
  """

  def __init__(
    self, dataset: dataset_lib.Dataset, *, progress: bool = True
  ) -> None:
    self.dataset = dataset
    self.progress = progress
    self._prepared: dict[tuple[str, bool], domain_lib.Prepared] = {}
    self._vocabulary: vocabulary_files.Vocabulary | None = None

  def cache(self, domain: domain_lib.Domain) -> str:
    """Writes the token cache of a domain, and returns its folder.

    Raises:
      leakage.LeakageError: If a document reveals a target.
    """
    path = self.dataset.cache_dir(domain)
    name = os.path.basename(path)
    with self.lock(name, f"caches/.{name}-*"):
      # Another process may have written it meanwhile.
      if self.dataset.missing(domain.name):
        self._write_cache(domain, path)
    self._forget(domain)
    return path

  def card(self, domain: domain_lib.Domain) -> Mapping[str, Any]:
    """The card of a domain, for which no token cache is written.

    Raises:
      leakage.LeakageError: If a document reveals a target.
    """
    if not self.dataset.missing(domain.name):
      path = pathlib.Path(self.dataset.cache_dir(domain), "card.json")
      return json.loads(path.read_text("utf-8"))
    vocabulary = self.vocabulary()
    prepared = self.prepare(domain)
    prompt = self.dataset.prompt.tokenise(vocabulary, prepared.kinds)
    with self.step(f"{domain.name}: card"):
      tokens = self._tokens(prepared, vocabulary, prompt.end)
      checking = leakage.Check(prepared)
      for split in reversed(splits.SPLITS):
        checking.add(split, prepared.columns(split))
      made = _card(domain, prepared, tokens, vocabulary, checking)
    self._forget(domain)
    return made

  def sample(
    self, domain: domain_lib.Domain, split: str, size: log_sample.Size
  ) -> log_sample.LogSample:
    """Users of a domain and what is known for them, without a new cache."""
    if not self.dataset.missing(domain.name):
      cache = TokenCache.open(self.dataset.cache_dir(domain))
      return log_sample.of_cache(cache, split, size)
    return log_sample.of_prepared(self.prepare(domain), split, size)

  def _forget(self, domain: domain_lib.Domain) -> None:
    for cut in (True, False):  # The next domain needs the memory.
      self._prepared.pop((domain.name, cut), None)

  def _tokens(
    self,
    prepared: domain_lib.Prepared,
    vocabulary: vocabulary_files.Vocabulary,
    end: int,
  ) -> list[np.ndarray]:
    """The token ids of each item with its end marker, int32[n]."""
    items = _tokenise(prepared.texts, vocabulary, end)
    count = len(prepared.texts)
    return list(self._bar(items, f"tokenise {prepared.name}", "items", count))

  def _write_cache(self, domain: domain_lib.Domain, path: str) -> None:
    vocabulary = self.vocabulary()
    prepared = self.prepare(domain)
    prompt = self.dataset.prompt.tokenise(vocabulary, prepared.kinds)
    with (
      self.step(f"{domain.name}: token cache"),
      build_lock.room(path, _cache_bytes(prepared)),
    ):
      tokens = self._tokens(prepared, vocabulary, prompt.end)
      checking = leakage.Check(prepared)
      writer.write_cache(
        path,
        map(files.CatalogueRecord, prepared.item_ids, prepared.texts, tokens),
        {
          # Later splits are checked first.
          split: self._documents(prepared, split, checking)
          for split in reversed(splits.SPLITS)
        },
        prompt,
        vocabulary.files,
        lambda: _card(domain, prepared, tokens, vocabulary, checking),
        name=domain.name,
        kinds=prepared.kinds,
        more=lambda folder, fingerprint: everybody_lib.write(
          folder, everybody_lib.collect(domain, prepared), fingerprint
        ),
      )

  def everybody(
    self,
    domain: domain_lib.Domain,
    path: str | os.PathLike[str],
    fingerprint: str,
  ) -> everybody_lib.Everybody:
    """All events of all users, which are also written next to a cache.

    Args:
      domain: Domain of the cache.
      path: Folder of the cache.
      fingerprint: Fingerprint of the cache.
    """
    found = everybody_lib.collect(domain, self.prepare(domain))
    try:
      everybody_lib.write(path, found, fingerprint)
    except OSError as error:
      self.say(f"{path}: {everybody_lib.FILE} is not saved: {error}")
    return found

  def _documents(
    self, prepared: domain_lib.Prepared, split: str, checking: leakage.Check
  ) -> Iterator[files.DocumentRecord]:
    """The documents of a split, checked before the first one is written."""
    documents = prepared.columns(split)
    checking.add(split, documents)
    ends = documents.offsets.tolist()
    rows = zip(documents.user_ids, ends, ends[1:], strict=False)
    what, count = f"write {prepared.name} {split}", len(documents)
    for user_id, start, stop in self._bar(rows, what, "documents", count):
      rows_of_user = slice(start, stop)
      yield files.DocumentRecord(
        user_id,
        documents.items[rows_of_user],
        documents.timestamps[rows_of_user],
        *(
          None if column is None else column[rows_of_user]
          for column in (documents.kinds, documents.targets)
        ),
      )

  def vocabulary(self) -> vocabulary_files.Vocabulary:
    """The vocabulary, which is built first if it does not exist."""
    if self._vocabulary is None:
      folder = self.dataset.vocabulary_dir()
      name = os.path.basename(folder)
      if not os.path.isdir(folder):
        with self.lock(name, f"vocabularies/.{name}-*"):
          if not os.path.isdir(folder):
            self._make_vocabulary(folder)
      self._vocabulary = vocabulary_files.load(folder)
    return self._vocabulary

  def _make_vocabulary(self, folder: str) -> None:
    dataset = self.dataset

    def prepare(
      domain: domain_lib.Domain, tokenizer: text_lib.Tokenizer | None
    ) -> domain_lib.Prepared:
      if tokenizer is None or not domain.cuts_by_tokens:
        return self.prepare(domain, cut=False)
      return self._read(domain, tokenizer)

    with self.step("vocabulary"), build_lock.room(folder):
      dataset.vocabulary.make(folder, dataset.domains, dataset.prompt, prepare)

  def prepare(
    self, domain: domain_lib.Domain, *, cut: bool = True
  ) -> domain_lib.Prepared:
    """The domain's documents; `cut` also applies limits on tokens."""
    by_tokens = cut and domain.cuts_by_tokens
    key = (domain.name, by_tokens)
    if key not in self._prepared:
      tokenizer = self.vocabulary() if by_tokens else None
      self._prepared[key] = self._read(domain, tokenizer)
    return self._prepared[key]

  def _read(
    self, domain: domain_lib.Domain, tokenizer: text_lib.Tokenizer | None
  ) -> domain_lib.Prepared:
    with self.step(f"{domain.name}: reading the log"):
      prepared = domain.prepare(tokenizer)
    self.dataset.prompt.review(
      prepared.events.kind_names,
      prepared.problems,
      alone=len(self.dataset.domains) == 1,
    )
    if len(prepared.problems):
      self.say(f"{domain.name}: bad rows\n{prepared.problems.table()}")
    return prepared

  def lock(
    self, name: str, leftovers: str
  ) -> contextlib.AbstractContextManager[None]:
    """The lock on a part of the dataset, see `build_lock.alone`."""
    return build_lock.alone(
      self.dataset.folder, name, leftovers=leftovers, say=self.say
    )

  @contextlib.contextmanager
  def step(self, what: str) -> Iterator[None]:
    """Reports a step, and the seconds it took."""
    began = time.perf_counter()
    yield
    self.say(f"{what} ({time.perf_counter() - began:.1f} s)")

  def say(self, text: str) -> None:
    """Prints a line above the progress bars, or logs it."""
    if self.progress:
      tqdm.tqdm.write(text)
    else:
      logging.info(text)

  def _bar(
    self, rows: Iterable[Any], what: str, unit: str, total: int
  ) -> Iterable[Any]:
    return tqdm.tqdm(
      rows,
      total=total,
      desc=what,
      unit=f" {unit}",
      leave=False,
      disable=not self.progress,
    )


def _card(
  domain: domain_lib.Domain,
  prepared: domain_lib.Prepared,
  tokens: Sequence[np.ndarray],
  vocabulary: vocabulary_files.Vocabulary,
  checking: leakage.Check,
) -> dict[str, Any]:
  return card.build_card(
    domain,
    prepared,
    item_tokens=tokens,
    vocabulary=vocabulary.describe(),
    leakage_checks=checking.passed(),
  )


def _tokenise(
  texts: Sequence[str], vocabulary: vocabulary_files.Vocabulary, end: int
) -> Iterator[np.ndarray]:
  """The token ids of each text with its end marker, int32[n]."""
  for start in range(0, len(texts), _TEXTS):
    for ids in vocabulary.encode_all(texts[start : start + _TEXTS]):
      yield np.array([*ids, end], np.int32)


def _cache_bytes(prepared: domain_lib.Prepared) -> int:
  """Approximate size of a token cache without its catalogue."""
  parts = prepared.documents.values()
  events = sum(int(np.sum(part.stops - part.starts)) for part in parts)
  return _RECORD_BYTES * sum(map(len, parts)) + _EVENT_BYTES * events
