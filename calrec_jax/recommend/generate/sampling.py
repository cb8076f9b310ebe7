"""Sampling continuations of prompts on the device, in one compiled loop.

B prompts are read once; their keys and values are shared by the G samples of
each, which are the only thing that grows. A sample depends on its prompt, the
seed and its number alone: not on the other prompts of the batch, on their
number, or on how many samples there are.

Tested against a loop without any cache in
`tests/reference/test_sampling_reference.py`.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import gin
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from calrec_jax.errors import above, at_least, check, integer, optional
from calrec_jax.recommend.prefix import prefill
from calrec_jax.runtime import placement

_BLOCK = 128  # Tokens whose probabilities are summed first; see `sample_token`.


@gin.configurable
@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampler:
  """How texts are sampled from the model: plain ancestral sampling.

  Nothing else shapes the distribution: no top-k, no nucleus, no penalty.

  Attributes:
    samples: Texts for each user, G.
    temperature: Divisor of the logits before sampling; above 0.
    max_new_tokens: Longest text in tokens, end marker included; None for the
      longest item of the catalogue.
    seed: Seed of all samples.
    rows: Prompts on a device at once; more are faster on large devices and
      need more memory.
  """

  samples: int = 32
  temperature: float = 0.5
  max_new_tokens: int | None = None
  seed: int = 0
  rows: int = 16

  def __post_init__(self):
    check(
      self,
      samples=at_least(1),
      max_new_tokens=optional(at_least(1)),
      rows=at_least(1),
      seed=integer(0, below=2**64),
      temperature=above(0),
    )


class Samples(NamedTuple):
  """G sampled continuations of each of B prompts.

  Attributes:
    tokens: int32[B, G, T], 0 after the end of a sample.
    lengths: int32[B, G], tokens of each sample, end marker included.
    log_probs: float32[B, G], log-probability of the sample in nats under the
      model's own, untempered distribution, end marker included.
    ended: bool[B, G], whether the end marker was sampled.
  """

  tokens: Any
  lengths: Any
  log_probs: Any
  ended: Any


class _Loop(NamedTuple):
  """State of the sampling loop."""

  step: jax.Array
  hidden: jax.Array
  cache: Any
  samples: Samples


def prompt_number(tokens: np.ndarray) -> int:
  """A 64-bit hash of a prompt, which seeds its random numbers."""
  digest = hashlib.blake2b(
    np.ascontiguousarray(tokens, "<i4").tobytes(), digest_size=8
  )
  return int.from_bytes(digest.digest(), "little")


def uniform_numbers(
  seed: int, number: int, samples: int, steps: int
) -> Float[np.ndarray, "G T"]:
  """What decides the tokens of one prompt's samples: numbers in [0, 1).

  Each depends on the seed, the prompt, its sample and its step alone: fewer
  samples, or shorter ones, are the first part of more.

  Args:
    seed: Seed of all samples, from 0.
    number: Hash of the prompt, see `prompt_number`.
    samples: Number of continuations of the prompt, G.
    steps: Most tokens of a continuation, T.
  """
  bits = np.empty((samples, steps), np.uint64)
  for index in range(samples):
    # Raw bits of a counter-based generator: NumPy keeps these stable.
    generator = np.random.Philox(key=[seed, number], counter=[0, 0, 0, index])
    bits[index] = generator.random_raw(steps)
  return (bits >> np.uint64(40)).astype(np.float32) * np.float32(2**-24)


def uniform_rows(
  seed: int, prompts: Sequence[np.ndarray], rows: int, samples: int, steps: int
) -> Float[np.ndarray, "B G T"]:
  """`uniform_numbers` of a batch of prompts, zeros in the rows after them."""
  numbers = np.zeros((rows, samples, steps), np.float32)
  for row, prompt in enumerate(prompts):
    numbers[row] = uniform_numbers(seed, prompt_number(prompt), samples, steps)
  return numbers


@functools.partial(jax.jit, static_argnames=("decoder", "vocab_size", "mesh"))
def sample(
  decoder: Any,
  params: Any,
  tokens: Int[Array, "B P"],
  lengths: Int[Array, " B"],
  uniform: Float[Array, "B G T"],
  *,
  temperature: Float[Array, ""] | float,
  end_token: Int[Array, ""] | int,
  vocab_size: int,
  mesh: Mesh | None = None,
) -> Samples:
  """Samples continuations of prompts until each has ended.

  Args:
    decoder: Module of the model, with `prefill`, `extend` and `logits`.
    params: Parameters of the decoder.
    tokens: Prompts, right-padded.
    lengths: Number of tokens of each prompt; 0 for an empty row, which is not
      sampled.
    uniform: Numbers that decide each token, see `uniform_numbers`: G
      continuations of at most T tokens.
    temperature: Divisor of the logits before sampling.
    end_token: Id of the marker that ends a continuation.
    vocab_size: First id of the padding of the vocabulary, never sampled.
    mesh: Devices the rows are spread over; the result is given to all.
  """
  batch, samples, steps = uniform.shape
  apply = functools.partial(decoder.apply, {"params": params})
  hidden, prefix, _ = prefill(apply, tokens, lengths)
  begin = _Loop(
    step=jnp.int32(0),
    hidden=jnp.broadcast_to(
      hidden[:, None], (batch, samples, hidden.shape[-1])
    ),
    cache=apply(batch, samples, steps, method="empty_samples"),
    samples=Samples(
      tokens=jnp.zeros((batch, samples, steps), jnp.int32),
      lengths=jnp.zeros((batch, samples), jnp.int32),
      log_probs=jnp.zeros((batch, samples), jnp.float32),
      ended=jnp.zeros((batch, samples), bool),
    ),
  )
  real = jnp.broadcast_to(lengths[:, None] > 0, (batch, samples))

  def unfinished(loop: _Loop) -> Bool[Array, ""]:
    return (loop.step < steps) & jnp.any(real & ~loop.samples.ended)

  def advance(loop: _Loop) -> _Loop:
    logits = apply(loop.hidden, method="logits").astype(jnp.float32)
    chance = jax.lax.dynamic_index_in_dim(uniform, loop.step, 2, False)
    token, log_probs = sample_token(logits, chance, temperature, vocab_size)
    found = _append(loop.samples, loop.step, token, log_probs, end_token)
    hidden, cache = apply(
      token, loop.step, prefix, lengths, loop.cache, method="extend"
    )
    return _Loop(loop.step + 1, hidden, cache, found)

  found = jax.lax.while_loop(unfinished, advance, begin).samples
  return placement.everywhere(found, mesh)


def sample_token(
  logits: Float[Array, "B G V"],
  uniform: Float[Array, "B G"],
  temperature: Float[Array, ""] | float,
  vocab_size: int,
) -> tuple[Int[Array, "B G"], Float[Array, "B G"]]:
  """Samples one token each, by inverting the distribution function.

  It takes one random number per token, where the usual way takes V. Sums run
  over blocks of tokens, then within one block, which is quick and keeps float32
  sums short. A token of probability 0 is never sampled.

  Args:
    logits: float32 logits of the model.
    uniform: Numbers in [0, 1).
    temperature: Divisor of the logits before sampling.
    vocab_size: First id that is never sampled.

  Returns:
    The tokens, and their log-probabilities in nats without the temperature.
  """
  # The largest one that may be sampled is 0, so they never all underflow.
  shifted = logits - jnp.max(logits[..., :vocab_size], axis=-1, keepdims=True)
  weights = jnp.exp(shifted[..., :vocab_size] / temperature)
  padding = -vocab_size % _BLOCK
  weights = jnp.pad(weights, ((0, 0), (0, 0), (0, padding)))
  blocks = weights.reshape(*weights.shape[:2], -1, _BLOCK)
  sums = jnp.cumsum(jnp.sum(blocks, axis=-1), axis=-1)
  target = uniform * sums[..., -1]
  block, below = invert(sums, target)
  chosen = jnp.take_along_axis(blocks, block[..., None, None], axis=2)[
    ..., 0, :
  ]
  within, _ = invert(jnp.cumsum(chosen, axis=-1), target - below)
  token = block * _BLOCK + within
  log_prob = jnp.take_along_axis(shifted, token[..., None], axis=-1)[..., 0]
  return token, log_prob - jax.nn.logsumexp(shifted, axis=-1)


def invert(
  sums: Float[Array, "B G K"], target: Float[Array, "B G"]
) -> tuple[Int[Array, "B G"], Float[Array, "B G"]]:
  """The first index whose running sum exceeds the target, and the sum before.

  Where rounding carries the target beyond all sums, the last index that adds
  anything.
  """
  reached = jnp.sum(sums <= target[..., None], axis=-1, dtype=jnp.int32)
  ascending = jnp.sum(sums < sums[..., -1:], axis=-1, dtype=jnp.int32)
  index = jnp.minimum(reached, ascending)
  previous = jnp.maximum(index - 1, 0)[..., None]
  before = jnp.take_along_axis(sums, previous, axis=-1)[..., 0]
  return index, jnp.where(index > 0, before, 0.0)


def _append(
  samples: Samples,
  step: Int[Array, ""],
  token: Int[Array, "B G"],
  log_probs: Float[Array, "B G"],
  end_token: Int[Array, ""] | int,
) -> Samples:
  """Adds a token to every sample that has not ended."""
  open_ = ~samples.ended
  new = jnp.where(open_, token, 0)[..., None]
  return Samples(
    tokens=jax.lax.dynamic_update_slice(samples.tokens, new, (0, 0, step)),
    lengths=samples.lengths + open_,
    log_probs=samples.log_probs + jnp.where(open_, log_probs, 0.0),
    ended=samples.ended | (open_ & (token == end_token)),
  )
