"""Packed rows written by the feed's own writer, and a tiny decoder for them."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import synthetic_caches
from flax.core import meta

from calrec_jax.data import assembly, plan
from calrec_jax.data.batch import Batch
from calrec_jax.data.cache import TokenCache
from calrec_jax.models.decoder import Decoder, DecoderConfig

# Above every token id of `synthetic_caches`, and unlike any other size here.
VOCABULARY = 96

GEMMA = {
  "vocab_size": VOCABULARY,
  "width": 16,
  "layers": 2,
  "heads": 4,
  "kv_heads": 2,
  "head_dim": 4,
  "mlp_width": 24,
  "dtype": "float32",
  "activation": "gelu_tanh",
  "qk_norm": True,
  "post_norms": True,
  "embed_scale": True,
  "rope_theta": 5000.0,
  "rope_theta_local": 100.0,
  "window": 6,
  "global_every": 2,
}


class Document(NamedTuple):
  """Items `start..stop` of a user, targets from `first_target` on."""

  user: int
  start: int
  first_target: int
  stop: int


# Users 0, 1 and 2 share targets; the third document is a further window of a
# long history, whose first items are context only.
HISTORIES = ((0, 1, 2, 3), (4, 2), (3, 5, 0, 1, 2), (1, 0))
# Two lengths, 3 and 3 + 5 tokens, where an item adds 3 + 2 or 8 + 2: prefixes
# have few different lengths, so that a test compiles few programs.
ITEM_LENGTHS = (3, 8, 3, 3, 8, 3)
DOCUMENTS = (
  Document(0, 0, 1, 4),
  Document(1, 0, 1, 2),
  Document(2, 1, 3, 5),
  Document(3, 0, 1, 2),
)


def decoder(seed: int = 0) -> tuple[Decoder, dict]:
  """A decoder with random parameters; no norm scale is left at 1."""
  module = Decoder(DecoderConfig(**GEMMA))
  blank = jnp.zeros((1, 1), jnp.int32)
  abstract = meta.unbox(
    jax.eval_shape(module.init, jax.random.key(0), blank, blank, blank)
  )["params"]
  numbers = np.random.default_rng(seed)

  def fill(path, leaf):
    values = numbers.normal(size=leaf.shape)
    values = 1 + 0.2 * values if path[-1].key == "scale" else 0.3 * values
    return jnp.asarray(values, leaf.dtype)

  return module, jax.tree_util.tree_map_with_path(fill, abstract)


def cache(folder) -> TokenCache:
  """The cache that `DOCUMENTS` are cut from."""
  return synthetic_caches.write(
    folder, item_lengths=ITEM_LENGTHS, histories=HISTORIES
  )


def rows(
  cache: TokenCache,
  layout: Sequence[Sequence[Document]],
  *,
  row_tokens: int = 96,
  row_slots: int = 6,
) -> Batch:
  """Rows that hold these documents, in this order."""
  writer = assembly.Assembler([cache], row_tokens, row_slots)
  return writer.batch("train", [_columns(documents) for documents in layout])


def on_device(batch: Batch) -> Batch:
  return Batch(*map(jnp.asarray, batch))


def _columns(documents: Sequence[Document]) -> plan.Documents:
  table = np.array(documents, np.int64).reshape(-1, 4)
  zeros = np.zeros(len(table), np.int64)
  return plan.Documents(zeros, *table.T, tokens=zeros, visit=zeros)
