"""Tiny decoders and packed batches, for tests of the model."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax.core import meta

from calrec_jax.data import features
from calrec_jax.data.batch import Batch
from calrec_jax.data.records import PromptTokens
from calrec_jax.models.decoder import Decoder, DecoderConfig
from calrec_jax.models.rope import RopeScaling

VOCAB = 48
PROMPT = PromptTokens(begin=1, end=2, prefix=(3, 4), first=(5,), next=(6, 7))

LLAMA = {"kv_heads": 2, "tied_embeddings": False, "norm_eps": 1e-5}
GEMMA = {
  "layers": 3,
  "kv_heads": 1,
  "activation": "gelu_tanh",
  "qk_norm": True,
  "post_norms": True,
  "embed_scale": True,
  "rope_theta": 1e6,
  "rope_theta_local": 1e4,
  "window": 5,
  "global_every": 2,
  "attention_scale": 0.3,
}
CAPPED = {"attention_softcap": 2.0, "logit_softcap": 3.0, "user_tokens": 4}
FAMILIES = {"llama": LLAMA, "gemma": GEMMA, "capped": CAPPED}


def config(**changes):
  shape = {
    "vocab_size": VOCAB,
    "width": 16,
    "layers": 2,
    "heads": 4,
    "kv_heads": 4,
    "head_dim": 4,
    "mlp_width": 32,
    "dtype": "float32",
    **changes,
  }
  return DecoderConfig(**shape)


def decoder(**changes):
  """A decoder and random parameters, with norm scales that are not 1."""
  scaling = changes.pop("rope_scaling", None)
  if scaling is not None:
    changes["rope_scaling"] = RopeScaling(**scaling)
  module = Decoder(config(**changes))
  return module, _params(module.config)


@functools.cache
def _params(shape):
  blank = jnp.zeros((1, 2), jnp.int32)
  init = jax.jit(Decoder(shape).init)
  params = meta.unbox(init(jax.random.key(0), blank, blank, blank + 1))
  draw = np.random.default_rng(0)

  def sharper(path, leaf):
    name = jax.tree_util.keystr(path)
    if "scale" in name:
      return jnp.asarray(draw.uniform(0.5, 1.5, leaf.shape), jnp.float32)
    return 2.0 * leaf if "embedding" in name else leaf

  return jax.tree_util.tree_map_with_path(sharper, params["params"])


def documents(count=6, longest=5, num_items=9, seed=0):
  """(user, items, first_target); items come again in other documents."""
  draw = np.random.default_rng(seed)
  texts = [
    [*draw.integers(8, VOCAB, draw.integers(1, 5)).tolist(), PROMPT.end]
    for _ in range(num_items)
  ]
  found = []
  for user in range(count):
    number = int(draw.integers(2, longest + 1))
    items = draw.integers(0, num_items, number).tolist()
    first_target = int(draw.integers(1, number))
    found.append((user, [(item, texts[item]) for item in items], first_target))
  return found


def pack(rows, row_tokens, row_slots):
  """A batch with these documents in each row."""
  batch = Batch.empty(len(rows), row_tokens, row_slots)
  for row, members in enumerate(rows):
    cursor = features.Cursor()
    for user, items, first_target in members:
      cursor = features.write_document(
        batch,
        row,
        cursor,
        PROMPT,
        [np.array(tokens, np.int32) for _, tokens in items],
        first_target=first_target,
        slot_items=np.array([i for i, _ in items[first_target:]], np.int32),
        slot_user=user,
      )
  return jax.tree.map(jnp.asarray, batch)


def packed_row(lengths, total):
  """Segments of these lengths, then padding."""
  positions, segments = np.zeros(total, np.int32), np.zeros(total, np.int32)
  at = 0
  for number, length in enumerate(lengths, 1):
    positions[at : at + length] = np.arange(length)
    segments[at : at + length] = number
    at += length
  return positions, segments
