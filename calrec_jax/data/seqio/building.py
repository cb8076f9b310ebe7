"""Builds TFDS datasets and registers their SeqIO tasks and mixtures."""

from __future__ import annotations

import os
import pathlib

from calrec_jax.data import building
from calrec_jax.data import dataset as dataset_lib
from calrec_jax.data.domain import domain as domain_lib
from calrec_jax.data.domain import leakage, splits
from calrec_jax.data.seqio import builder, tasks
from calrec_jax.storage import identity


def build_tfds(
  dataset: dataset_lib.Dataset, *names: str, progress: bool = True
) -> dict[str, str]:
  """Builds the TFDS datasets that are missing; registers tasks and mixtures.

  Args:
    dataset: Dataset whose domains are built.
    names: Names of mixtures and tasks.
    progress: Whether progress bars are shown.

  Returns:
    TFDS's name of each domain's dataset.

  Raises:
    problems.BadRowsError: If a strict domain has bad rows.
    leakage.LeakageError: If a document shows what is to be predicted.
    build_lock.DiskFullError: If the disk is full.
  """
  work = building.Building(dataset, progress=progress)
  built = {
    domain.name: _build_domain(work, domain)
    for domain in dataset.select(*names)
  }
  for name in names:
    if name in dataset.mixtures:
      tasks.register_mixture(
        name, dataset.mixtures[name], dataset.mixing_exponent
      )
  return built


def _build_domain(work: building.Building, domain: domain_lib.Domain) -> str:
  """Builds a domain's dataset and registers its task; returns TFDS's name."""
  dataset, vocabulary = work.dataset, work.vocabulary()
  parts = [domain.fingerprint()]
  if domain.cuts_by_tokens:
    parts.append(vocabulary.sha256)
  config = f"{domain.name}-{identity.fingerprint(parts)[:12]}"
  data_dir = os.path.join(dataset.folder, "tfds")
  name = builder.full_name(config)
  path = pathlib.Path(data_dir, *name.replace(":", "/").split("/"))
  if not path.exists():
    parent = path.parent.relative_to(dataset.folder)
    with work.lock(f"tfds-{config}", f"{parent}/incomplete.*"):
      if not path.exists():  # Another process may have written it meanwhile.
        _write(work, domain, config, data_dir)
  tasks.register_domain(
    domain.name,
    config=config,
    data_dir=data_dir,
    vocabulary=vocabulary,
    prompt=dataset.prompt.tokenise(vocabulary, builder.kinds(config, data_dir)),
  )
  return name


def _write(
  work: building.Building, domain: domain_lib.Domain, config: str, data_dir: str
) -> None:
  prepared = work.prepare(domain)
  with work.step(f"{domain.name}: TFDS dataset"):
    leakage.check(
      prepared, {split: prepared.columns(split) for split in splits.SPLITS}
    )
    builder.write(
      prepared,
      config=config,
      data_dir=data_dir,
      progress=work.progress,
      beam_options=work.dataset.beam_options,
    )
