"""A model of item ids on items that it was not trained on, by their words.

A new item has no embedding of its own. It gets the mean of those that were
trained, which says how often any item is bought, and its words, which say what
it is.
"""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from calrec_jax.data.cache import item_ids
from calrec_jax.data.cache.item_ids import FIRST_TOKEN, ItemDomain
from calrec_jax.data.cache.token_cache import TokenCache
from calrec_jax.models.families import texts_for
from calrec_jax.models.sasrec import SASRec


def with_items_of(
  cache: TokenCache,
  known: Int[np.ndarray, " N"],
  model: SASRec,
  domain: ItemDomain,
  params: Any,
) -> tuple[SASRec, ItemDomain, Any]:
  """The model with the items of a log that has changed.

  Args:
    cache: Token cache of that log.
    known: Row in training of each of its items, -1 for new ones.
    model: Model as it was trained.
    domain: Its items as they were in training.
    params: Parameters of the model.

  Returns:
    The model, its items and its parameters.
  """
  new = int(np.count_nonzero(known < 0))
  if new:
    print(
      f"{cache.name}: {new:,} of {cache.num_items:,} items are new to SASRec, "
      "which knows them by their words",
      file=sys.stderr,
    )
  items = item_ids.domain_of(cache)
  config = dataclasses.replace(model.config, num_items=cache.num_items)
  trained = np.asarray(params["item_embedding"])
  own = trained[domain.first_token : domain.first_token + domain.items]
  table = np.zeros((config.table_rows, config.width), trained.dtype)
  rows = np.where((known < 0)[:, None], own.mean(axis=0), own[known])
  table[FIRST_TOKEN : FIRST_TOKEN + cache.num_items] = rows
  # On the devices of the table that it replaces, of which it may have less.
  params = {**params, "item_embedding": jnp.asarray(table)}
  return SASRec(config, texts_for(config, [(cache, items)])), items, params
