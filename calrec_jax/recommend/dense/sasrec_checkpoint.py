"""Trained models of item ids, from their checkpoints, for one domain.

A checkpoint records its model and the items of its tokens. It may come from
another recipe than the one that is evaluated; catalogue, users and splits must
be the same. Tested by
`tests/end_to_end/test_sasrec_recipe.py`.
"""

import os
import pathlib
from collections.abc import Mapping
from typing import Any

import gin
import jax

from calrec_jax.checkpoint import stage_folder, store
from calrec_jax.checkpoint.store import CheckpointError
from calrec_jax.data.cache import item_ids
from calrec_jax.data.cache.item_ids import ItemDomain
from calrec_jax.data.cache.token_cache import TokenCache
from calrec_jax.errors import InputError
from calrec_jax.models.families import abstract_params, texts_for
from calrec_jax.models.sasrec import SASRec, SASRecConfig
from calrec_jax.recommend import provenance
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
    CheckpointError: if it holds another model, other items or other users.
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
  record = store.read_json(folder, "lineage")
  config, domain = _described(folder, record, cache)
  model = SASRec(config, texts_for(config, [(cache, domain)]))
  placed = partitioning.place(abstract_params(model), mesh)
  return SASRecRecommender(
    model,
    store.restore_params(folder, *placed),
    domain,
    settings=SASRecSearch(),
    mesh=mesh,
    checkpoint=provenance.of_checkpoint(folder),
    trained_on=lineage.trained_split(record),
  )


def _described(
  folder: pathlib.Path, record: Mapping[str, Any], cache: TokenCache
) -> tuple[SASRecConfig, ItemDomain]:
  """The model, and the domain among its tokens, checked against the cache."""
  shape = record["training"].get(SASRecConfig.__name__)
  if shape is None:
    raise CheckpointError(
      f"{folder} holds no SASRec (trained_sasrec.checkpoint)."
    )
  vocabulary = store.read_json(folder, "vocabulary")
  digest = item_ids.item_digest(cache)
  domains = [ItemDomain(**domain) for domain in vocabulary["domains"]]
  found = [domain for domain in domains if domain.sha256 == digest]
  if not found:
    known = ", ".join(f"{at.name} ({at.items} items)" for at in domains)
    raise CheckpointError(
      f"{folder} was trained on {known}, not on the {cache.num_items} items of "
      f"{cache.name}. It has a row for each item that it was trained on, so "
      "that it knows none of a log that has grown: train it anew on this one "
      "(the same data and Domain settings), or leave 'sasrec' out; models of "
      "texts serve new items as they are."
    )
  [domain, *_] = found
  shape = SASRecConfig.from_record(shape)
  if shape.text_tokens and domain.texts_sha256 != item_ids.texts_digest(cache):
    raise CheckpointError(
      f"{folder} was trained on other texts of {cache.name}, or with another "
      "vocabulary (SASRecConfig.text_tokens). Train it with the same "
      "Domain.fields and Dataset.vocabulary."
    )
  outputs = record["cards"][domain.name]["outputs"]
  own = cache.card["outputs"]
  differing = [s for s in _SPLITS if outputs.get(s) != own.get(s)]
  if differing:
    raise CheckpointError(
      f"{folder} was trained with another split of {cache.name}: "
      f"{', '.join(differing)} differ, so that it may have seen test targets. "
      "Train it with the same Domain settings."
    )
  return shape, domain
