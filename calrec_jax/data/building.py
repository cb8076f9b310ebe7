"""Builds what a dataset lacks: vocabulary, TFDS datasets, token caches.

Imports TensorFlow, so `dataset` imports this module only when something is to
be built.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pathlib
import time
from collections.abc import Iterable, Iterator

import tqdm

from calrec_jax.data import builder, cache, card, leakage, splits, tasks
from calrec_jax.data import dataset as dataset_lib
from calrec_jax.data import domain as domain_lib
from calrec_jax.data import text as text_lib
from calrec_jax.data import vocabulary as vocabulary_lib


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
    self._prepared: dict[str, domain_lib.Prepared] = {}
    self._vocabulary: vocabulary_lib.Vocabulary | None = None

  def cache(self, domain: domain_lib.Domain) -> str:
    """Makes the token cache of a domain from its SeqIO tasks.

    Raises:
      leakage.LeakageError: if a document shows what is to be predicted.
    """
    self.tfds(domain)
    prepared = self._prepare(domain)
    vocabulary = self.vocabulary()
    with self._step(f"{domain.name}: token cache"):
      documents = {
        split: list(
          self._bar(
            tasks.iter_documents(domain.name, split),
            len(prepared.documents[split]),
            f"read {domain.name} {split}",
          )
        )
        for split in splits.SPLITS
      }
      checks = leakage.check(prepared, documents)
      catalogue = list(
        self._bar(
          tasks.iter_catalogue(domain.name),
          len(prepared.item_ids),
          f"tokenise {domain.name}",
        )
      )
      if [item.item_id for item in catalogue] != list(prepared.item_ids):
        raise RuntimeError(
          f"{domain.name}: TFDS gives the catalogue in another order; delete "
          f"its folder in {self._dataset.folder}/tfds and build it again."
        )
      path = self._dataset.cache_dir(domain)
      cache.write_cache(
        path,
        catalogue,
        documents,
        self._dataset.prompt.tokenise(vocabulary),
        vocabulary.files,
        card.build_card(
          domain,
          prepared,
          item_tokens=[item.tokens for item in catalogue],
          vocabulary=vocabulary.describe(),
          leakage_checks=checks,
        ),
        name=domain.name,
      )
    return path

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
    if not pathlib.Path(data_dir, *name.replace(":", "/").split("/")).exists():
      prepared = self._prepare(domain)
      with self._step(f"{domain.name}: TFDS dataset"):
        builder.build(
          prepared, config=config, data_dir=data_dir, progress=self._progress
        )
    tasks.register_domain(
      domain.name,
      config=config,
      data_dir=data_dir,
      vocabulary=vocabulary,
      prompt=self._dataset.prompt.tokenise(vocabulary),
    )
    return name

  def mixture(self, name: str) -> None:
    """Registers a mixture whose domains are registered."""
    tasks.register_mixture(
      name, self._dataset.mixtures[name], self._dataset.mixing_exponent
    )

  def vocabulary(self) -> vocabulary_lib.Vocabulary:
    """The vocabulary; trained on the training text if it is not there."""
    if self._vocabulary is None:
      folder = self._dataset.vocabulary_dir()
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

    with self._step("vocabulary"):
      dataset.vocabulary.make(folder, dataset.domains, dataset.prompt, prepare)

  def _prepare(
    self, domain: domain_lib.Domain, *, cut: bool = True
  ) -> domain_lib.Prepared:
    """The domain's documents; `cut` applies the limits on tokens too."""
    by_tokens = cut and domain.cuts_by_tokens
    key = f"{domain.name} {by_tokens}"
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

  def _bar(self, rows: Iterable, total: int, what: str) -> Iterable:
    return tqdm.tqdm(
      rows, total=total, desc=what, leave=False, disable=not self._progress
    )
