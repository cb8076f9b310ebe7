"""Trained models of item ids, from their checkpoints, for one domain.

A checkpoint records its model and the items of its tokens. It may come from
another recipe than the one that is evaluated; users and splits of the same log
must be the same. Of a log that has changed, a model that reads words serves new
items, too. Tested by `tests/end_to_end/test_sasrec_recipe.py` and
`tests/unit/recommend/dense/test_new_items.py`.
"""

import os
import pathlib
import sys
from collections.abc import Mapping
from typing import Any

import gin
import jax
import numpy as np

from calrec_jax.checkpoint import stage_folder, store
from calrec_jax.checkpoint.store import CheckpointError
from calrec_jax.data.cache import item_ids
from calrec_jax.data.cache.item_ids import ItemDomain
from calrec_jax.data.cache.token_cache import TokenCache
from calrec_jax.errors import InputError
from calrec_jax.models.families import abstract_params, texts_for
from calrec_jax.models.sasrec import SASRec, SASRecConfig
from calrec_jax.recommend import provenance
from calrec_jax.recommend.dense import new_items
from calrec_jax.recommend.dense.sasrec import SASRecRecommender, SASRecSearch
from calrec_jax.runtime import partitioning
from calrec_jax.storage import lineage

MEMBER = "sasrec"  # Its stage where it is trained beside a language model.
# Splits whose events must be the same, or a test target may have been trained.
_SPLITS = ("train", "validation", "test")


@gin.configurable
def trained_sasrec(
  cache: TokenCache,
  mesh: jax.sharding.Mesh,
  checkpoint: str | os.PathLike[str] | None = None,
) -> SASRecRecommender:
  """The recommender `sasrec` of a domain.

  Args:
    cache: Token cache of the domain.
    mesh: Devices that the parameters are placed on.
    checkpoint: A `checkpoint_<step>` folder, a stage's, or the MODEL_DIR of a
      recipe with the member `sasrec` or without STAGES. In a recipe of another
      model, bind it.

  Raises:
    InputError: without a checkpoint.
    CheckpointError: if it holds another model, items that it cannot know, or
      another split of the same log.
  """
  if checkpoint is None:
    raise InputError(
      "The recommender 'sasrec' needs a trained SASRec. recipes/own_log.gin "
      "trains one; or train it with recipes/sasrec_folders.gin or "
      "recipes/sasrec_own_log.gin, and bind trained_sasrec.checkpoint to its "
      "MODEL_DIR."
    )
  path = pathlib.Path(checkpoint).expanduser()
  for stage in (MEMBER, stage_folder.SINGLE_STAGE):
    if (path / stage).is_dir():
      path = path / stage
      break
  folder = store.find(path)
  if stage_folder.handover(folder.parent) is None:
    print(f"sasrec: {folder} is not trained to its end", file=sys.stderr)
  record = store.read_json(folder, "lineage")
  items = item_ids.domain_of(cache)
  config, domain = _described(folder, record, items)
  known = None  # Row of each item in training, where the items have changed.
  if _has_changed(domain, config, items):
    known = _known_rows(folder, domain, config, record, cache)
  else:
    _refuse_another_split(folder, domain, record, cache)
  # The texts are another log's, but the shapes are those of training.
  texts = texts_for(config, [] if known is not None else [(cache, domain)])
  model = SASRec(config, texts)
  params = store.restore_params(
    folder, *partitioning.place(abstract_params(model), mesh)
  )
  if known is not None:
    model, domain, params = new_items.with_items_of(
      cache, known, model, domain, params
    )
  return SASRecRecommender(
    model,
    params,
    domain,
    settings=SASRecSearch(),
    mesh=mesh,
    checkpoint=provenance.of_checkpoint(folder),
    trained_on=lineage.trained_split(record),
  )


def _described(
  folder: pathlib.Path, record: Mapping[str, Any], items: ItemDomain
) -> tuple[SASRecConfig, ItemDomain]:
  """The model, and the domain among its tokens: of these items or this name."""
  shape = record["training"].get(SASRecConfig.__name__)
  if shape is None:
    raise CheckpointError(
      f"{folder} holds no SASRec (trained_sasrec.checkpoint). Train it by "
      f"`calrec train --stage={MEMBER}` with the same gin files and flags, or "
      "leave 'sasrec' out of Fusion.members and Evaluation.recommenders."
    )
  vocabulary = store.read_json(folder, "vocabulary")
  domains = [ItemDomain(**domain) for domain in vocabulary["domains"]]
  same = [domain for domain in domains if domain.sha256 == items.sha256]
  named = [domain for domain in domains if domain.name == items.name]
  if not same + named:
    known = ", ".join(f"{at.name} ({at.items} items)" for at in domains)
    raise CheckpointError(
      f"{folder} was trained on {known}, not on the {items.items} items of "
      f"{items.name}. Train it on them, or leave 'sasrec' out."
    )
  return SASRecConfig.from_record(shape), (same + named)[0]


def _has_changed(
  domain: ItemDomain, config: SASRecConfig, items: ItemDomain
) -> bool:
  """Whether items, or the words that are read, are not those of training."""
  if domain.sha256 != items.sha256:
    return True
  return bool(config.text_tokens) and (
    domain.texts_sha256 != items.texts_sha256
  )


def _known_rows(
  folder: pathlib.Path,
  domain: ItemDomain,
  config: SASRecConfig,
  record: Mapping[str, Any],
  cache: TokenCache,
) -> np.ndarray:
  """Row in training of each item of a log that has changed, -1 for new ones."""
  if not config.text_tokens:
    raise CheckpointError(
      f"{folder} was trained on the {domain.items} items of {domain.name}, not "
      f"on the {cache.num_items} items of {cache.name}. It has a row for each "
      "item that it was trained on, so that it knows none that are new: train "
      "it anew on this log (the same data and Domain settings), let it read "
      "words (SASRecConfig.text_tokens), or leave 'sasrec' out."
    )
  trained = record["cards"][domain.name]
  if _vocabulary(trained) != _vocabulary(cache.card):
    raise CheckpointError(
      f"{folder} reads words by another vocabulary than that of {cache.name}. "
      "Name the run by --run, so that its own vocabulary is used, or train "
      "with the same Dataset.vocabulary."
    )
  if _files(trained) == _files(cache.card):
    raise CheckpointError(
      f"{folder} was trained on the same files with other Domain settings, so "
      "that it may have seen test targets. Train it with the same Domain "
      "settings."
    )
  rows = {
    item_id: row
    for row, item_id in enumerate(
      item_ids.read_items(folder.parent / item_ids.ITEMS_FILE, domain)
    )
  }
  found = (rows.get(item_id, -1) for item_id in cache.catalogue.item_ids)
  return np.fromiter(found, np.int64, cache.num_items)


def _vocabulary(card: Mapping[str, Any]) -> str | None:
  return (card.get("vocabulary") or {}).get("sha256")


def _files(card: Mapping[str, Any]) -> list[str]:
  return sorted(each["sha256"] for each in card.get("inputs", ()))


def _refuse_another_split(
  folder: pathlib.Path,
  domain: ItemDomain,
  record: Mapping[str, Any],
  cache: TokenCache,
) -> None:
  """Refuses a split by which test targets may have been trained on.

  Of another log, one of another day, the evaluation warns if it is earlier.
  """
  trained = record["cards"][domain.name]
  outputs, own = trained["outputs"], cache.card["outputs"]
  differing = [s for s in _SPLITS if outputs.get(s) != own.get(s)]
  if differing and _files(trained) == _files(cache.card):
    raise CheckpointError(
      f"{folder} was trained with another split of {cache.name}: "
      f"{', '.join(differing)} differ, so that it may have seen test targets. "
      "Train it with the same Domain settings."
    )
