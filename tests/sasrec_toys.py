"""A tiny SASRec with packed rows of item tokens, for tests."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax.core import meta

from calrec_jax.data import features
from calrec_jax.data.batch import Batch
from calrec_jax.data.item_ids import FIRST_TOKEN
from calrec_jax.data.records import PromptTokens
from calrec_jax.models.sasrec import SASRec, SASRecConfig

ITEMS = 11
NO_PROMPT = PromptTokens(begin=None, end=0, prefix=(), first=(), next=())


@functools.cache
def model(**changes):
  """A module and random parameters, none of them at its usual start."""
  shape = {"num_items": ITEMS, "max_items": 6, "width": 8, **changes}
  module = SASRec(SASRecConfig(**shape))
  blank = jnp.zeros((1, 2), jnp.int32)
  params = meta.unbox(
    jax.jit(module.init)(jax.random.key(0), blank, blank, blank + 1)["params"]
  )
  draw = np.random.default_rng(0)
  params = jax.tree.map(
    lambda leaf: jnp.asarray(draw.normal(0.3, 0.6, leaf.shape), leaf.dtype),
    params,
  )
  # Items that differ more than places do.
  return module, {**params, "item_embedding": 3 * params["item_embedding"]}


def histories(users=7, longest=9, seed=1, items=ITEMS):
  draw = np.random.default_rng(seed)
  return [
    draw.integers(0, items, draw.integers(1, longest + 1)).astype(np.int32)
    for _ in range(users)
  ]


def pack(rows, row_tokens=16):
  """A batch with these documents, catalogue rows, in each of its rows."""
  batch = Batch.empty(len(rows), row_tokens, row_tokens)
  for row, documents in enumerate(rows):
    cursor = features.Cursor()
    for user, items in enumerate(documents):
      items = np.asarray(items, np.int32)
      cursor = features.write_document(
        batch,
        row,
        cursor,
        NO_PROMPT,
        list((FIRST_TOKEN + items)[:, None]),
        first_target=1,
        slot_items=items[1:],
        slot_user=user,
        item_segments=False,
      )
  return jax.tree.map(jnp.asarray, batch)


@functools.partial(jax.jit, static_argnums=(0, 1))
def loss(objective, module, params, batch, seed=None):
  """Loss and parts; with a seed, as in training."""
  key = None if seed is None else jax.random.key(seed)
  return objective(module, params, batch, dropout_rng=key)


def hidden(module, params, batch):
  return np.asarray(_hidden(module, params, batch))


@functools.partial(jax.jit, static_argnums=0)
def _hidden(module, params, batch):
  return module.apply(
    {"params": params}, batch.tokens, batch.positions, batch.segment_ids
  )
