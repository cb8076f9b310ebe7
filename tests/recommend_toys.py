"""A tiny real decoder with a catalogue, for tests of the recommenders."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax.core import meta

from calrec_jax.data.records import Catalogue, PromptTokens
from calrec_jax.models.decoder import Decoder, DecoderConfig

VOCAB, ROOM = 40, 48  # Tokens that mean something, and room in the arrays.
END = 2
PROMPT = PromptTokens(begin=1, end=END, prefix=(3, 4), first=(5,), next=(6,))
FIRST_WORD = 10


@dataclasses.dataclass
class Vocabulary:
  """One word a token: `w10 w11`."""

  def decode(self, ids):
    return " ".join(f"w{token}" for token in ids)

  size = VOCAB


def catalogue(num_items=24, seed=0):
  """Items of 2 to 6 words; rows 3 and 9 are twins, and so are 5 and 6."""
  draw = np.random.default_rng(seed)
  items = [
    draw.integers(FIRST_WORD, VOCAB, draw.integers(2, 7)).tolist()
    for _ in range(num_items)
  ]
  items[9], items[6] = items[3], items[5]
  tokens = [np.array([*item, END], np.int32) for item in items]
  return Catalogue(
    item_ids=tuple(f"item-{row}" for row in range(num_items)),
    texts=tuple(Vocabulary().decode(item) for item in items),
    values=np.concatenate(tokens),
    offsets=np.cumsum([0, *map(len, tokens)]),
    train_counts=np.zeros(num_items, np.int64),
    train_recent=np.zeros(num_items),
  )


@functools.cache
def decoder(seed=0, **changes):
  """A decoder with random weights, sharp enough to be told apart."""
  shape = {
    "vocab_size": ROOM,
    "width": 16,
    "layers": 2,
    "heads": 4,
    "kv_heads": 2,
    "head_dim": 4,
    "mlp_width": 32,
    "dtype": "float32",
    **changes,
  }
  module = Decoder(DecoderConfig(**shape))
  blank = jnp.zeros((1, 4), jnp.int32)
  init = jax.jit(module.init)  # One program rather than one for each leaf.
  params = meta.unbox(init(jax.random.key(seed), blank, blank, blank)["params"])
  table = params["token_embedder"]["embedding"]
  return module, {**params, "token_embedder": {"embedding": 3.0 * table}}


def histories(users=7, num_items=24, longest=9, seed=1):
  draw = np.random.default_rng(seed)
  return [
    draw.integers(0, num_items, draw.integers(1, longest + 1))
    for _ in range(users)
  ]
