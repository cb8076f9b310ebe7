"""Builds what a dataset lacks: vocabulary, TFDS datasets, token caches.

Imports TensorFlow, so `dataset` imports this module only when something is to
be built.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import pathlib
import time
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import tqdm

from calrec_jax.data import dataset as dataset_lib
from calrec_jax.data.cache import token_cache
from calrec_jax.data.domain import card, leakage, splits
from calrec_jax.data.domain import domain as domain_lib
from calrec_jax.data.logs import text as text_lib
from calrec_jax.data.seqio import builder, tasks
from calrec_jax.data.vocabulary import trained as vocabulary_lib
from calrec_jax.storage import build_lock


class Building:
  """One round of building; a domain's log is read at most once."""

  def __init__(
    self, dataset: dataset_lib.Dataset, *, progress: bool = True
  ) -> None:
    """Prepares to build.

    Args:
      dataset: says what is to be built and where.
      progress: shows what is going on.
    """
    self._dataset = dataset
    self._progress = progress
    self._prepared: dict[tuple[str, bool], domain_lib.Prepared] = {}
    self._vocabulary: vocabulary_lib.Vocabulary | None = None

  def cache(self, domain: domain_lib.Domain) -> str:
    """Makes the token cache of a domain from its TFDS dataset.

    Raises:
      leakage.LeakageError: if a document shows what is to be predicted.
    """
    path = self._dataset.cache_dir(domain)
    name = os.path.basename(path)
    with self._alone(name, f"caches/.{name}-*"):
      # Another process may have made it meanwhile.
      if self._dataset.missing(domain.name):
        self._write_cache(domain, path)
    # The next domain needs the memory.
    for key in (True, False):
      self._prepared.pop((domain.name, key), None)
    return path

  def _write_cache(self, domain: domain_lib.Domain, path: str) -> None:
    self.tfds(domain)
    prepared = self._prepare(domain)
    vocabulary = self.vocabulary()
    with (
      self._step(f"{domain.name}: token cache"),
      build_lock.room(path, _cache_bytes(prepared)),
    ):
      catalogue = tasks.read_catalogue(
        domain.name, self._bar(f"tokenise {domain.name}", "batches")
      )
      if [item.item_id for item in catalogue] != list(prepared.item_ids):
        raise RuntimeError(
          f"{domain.name}: TFDS gives the catalogue in another order; delete "
          f"its folder in {self._dataset.folder}/tfds and build it again."
        )
      checking = leakage.Check(prepared)
      about = card.build_card(
        domain,
        prepared,
        item_tokens=[item.tokens for item in catalogue],
        vocabulary=vocabulary.describe(),
        leakage_checks=checking.checks,
      )
      items = iter(catalogue)
      del catalogue  # So that it goes when it is written.
      token_cache.write_cache(
        path,
        items,
        {
          # What is later is checked first.
          split: self._documents(domain.name, split, checking)
          for split in reversed(splits.SPLITS)
        },
        self._dataset.prompt.tokenise(vocabulary),
        vocabulary.files,
        about,
        name=domain.name,
      )

  def _documents(
    self, name: str, split: str, checking: leakage.Check
  ) -> Iterator[token_cache.DocumentRecord]:
    """The checked documents of a split; they are read when the first is."""
    documents = tasks.read_documents(
      name, split, self._bar(f"read {name} {split}", "batches")
    )
    checking.add(split, documents)
    ends = documents.offsets.tolist()
    rows = zip(documents.user_ids, ends, ends[1:], strict=False)
    bar = self._bar(f"write {name} {split}", "documents", len(documents))
    for user_id, start, stop in bar(rows):
      yield token_cache.DocumentRecord(
        user_id,
        documents.items[start:stop],
        documents.timestamps[start:stop],
      )

  def tfds(self, domain: domain_lib.Domain) -> str:
    """Makes the TFDS dataset of a domain and registers its SeqIO tasks.

    Returns:
      TFDS's name of the dataset.
    """
    vocabulary = self.vocabulary()
    parts = [domain.fingerprint()]
    if domain.cuts_by_tokens:
      parts.append(vocabulary.sha256)
    config = f"{domain.name}-{domain_lib.digest(parts)[:12]}"
    data_dir = os.path.join(self._dataset.folder, "tfds")
    name = builder.full_name(config)
    path = pathlib.Path(data_dir, *name.replace(":", "/").split("/"))
    parent = path.parent.relative_to(self._dataset.folder)
    if not path.exists():
      with self._alone(f"tfds-{config}", f"{parent}/incomplete.*"):
        if not path.exists():  # Another process may have made it meanwhile.
          self._write_tfds(domain, config, data_dir)
    tasks.register_domain(
      domain.name,
      config=config,
      data_dir=data_dir,
      vocabulary=vocabulary,
      prompt=self._dataset.prompt.tokenise(vocabulary),
    )
    return name

  def _write_tfds(
    self, domain: domain_lib.Domain, config: str, data_dir: str
  ) -> None:
    prepared = self._prepare(domain)
    with self._step(f"{domain.name}: TFDS dataset"):
      builder.build(
        prepared,
        config=config,
        data_dir=data_dir,
        progress=self._progress,
        beam_options=self._dataset.beam_options,
      )

  def mixture(self, name: str) -> None:
    """Registers a mixture whose domains are registered."""
    tasks.register_mixture(
      name, self._dataset.mixtures[name], self._dataset.mixing_exponent
    )

  def vocabulary(self) -> vocabulary_lib.Vocabulary:
    """The vocabulary; trained on the training text if it is not there."""
    if self._vocabulary is None:
      folder = self._dataset.vocabulary_dir()
      name = os.path.basename(folder)
      if not os.path.isdir(folder):
        with self._alone(name, f"vocabularies/.{name}-*"):
          if not os.path.isdir(folder):
            self._make_vocabulary(folder)
      self._vocabulary = vocabulary_lib.load(folder)
    return self._vocabulary

  def _make_vocabulary(self, folder: str) -> None:
    dataset = self._dataset

    def prepare(
      domain: domain_lib.Domain, tokenizer: text_lib.Tokenizer | None
    ) -> domain_lib.Prepared:
      if tokenizer is None or not domain.cuts_by_tokens:
        return self._prepare(domain, cut=False)
      return self._read(domain, tokenizer)

    with self._step("vocabulary"), build_lock.room(folder):
      dataset.vocabulary.make(folder, dataset.domains, dataset.prompt, prepare)

  def _prepare(
    self, domain: domain_lib.Domain, *, cut: bool = True
  ) -> domain_lib.Prepared:
    """The domain's documents; `cut` applies the limits on tokens too."""
    by_tokens = cut and domain.cuts_by_tokens
    key = (domain.name, by_tokens)
    if key not in self._prepared:
      tokenizer = self.vocabulary() if by_tokens else None
      self._prepared[key] = self._read(domain, tokenizer)
    return self._prepared[key]

  def _read(
    self, domain: domain_lib.Domain, tokenizer: text_lib.Tokenizer | None
  ) -> domain_lib.Prepared:
    with self._step(f"{domain.name}: reading the log"):
      prepared = domain.prepare(tokenizer)
    if len(prepared.problems):
      self._say(f"{domain.name}: bad rows\n{prepared.problems.table()}")
    return prepared

  def _alone(
    self, name: str, leftovers: str
  ) -> contextlib.AbstractContextManager[None]:
    return build_lock.alone(
      self._dataset.folder, name, leftovers=leftovers, say=self._say
    )

  @contextlib.contextmanager
  def _step(self, what: str) -> Iterator[None]:
    began = time.perf_counter()
    yield
    self._say(f"{what} ({time.perf_counter() - began:.1f} s)")

  def _say(self, text: str) -> None:
    if self._progress:
      tqdm.tqdm.write(text)
    else:
      logging.info(text)

  def _bar(
    self, what: str, unit: str, total: int | None = None
  ) -> Callable[[Iterable], Iterable]:
    return functools.partial(
      tqdm.tqdm,
      total=total,
      desc=what,
      unit=f" {unit}",
      leave=False,
      disable=not self._progress,
    )


# Of a record's frame, and of its names, ids and lengths, at least.
_RECORD_BYTES = 100
_EVENT_BYTES = 16  # Item, time and length.


def _cache_bytes(prepared: domain_lib.Prepared) -> int:
  """About how large a token cache becomes, less its catalogue."""
  size = 0
  for part in prepared.documents.values():
    size += _RECORD_BYTES * len(part)
    size += _EVENT_BYTES * int(np.sum(part.stops - part.starts))
  return size
