"""Prompts that are read once and continued many times."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from calrec_jax.models.block import KeyValue


class Prefix(NamedTuple):
  """The decoder's state after B prompts.

  Attributes:
    hidden: [B, D], hidden state after each prompt, which predicts a token.
    cache: Keys and values [layers, B, P, K, F].
    lengths: int32[B], tokens of each prompt; 0 for an empty row.
  """

  hidden: jax.Array
  cache: KeyValue
  lengths: jax.Array


def prefill(
  apply: Any, tokens: Int[Array, "B P"], lengths: Int[Array, " B"]
) -> Prefix:
  """Reads prompts.

  Args:
    apply: Method of the decoder, with its parameters.
    tokens: Prompts, right-padded.
    lengths: Number of tokens of each prompt.
  """
  at = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None, :]
  # An empty row attends to its first padding token rather than to nothing.
  inside = at < jnp.maximum(lengths, 1)[:, None]
  positions = jnp.broadcast_to(at, tokens.shape)
  hidden, cache = apply(
    tokens, positions, inside.astype(jnp.int32), method="prefill"
  )
  last = jnp.maximum(lengths - 1, 0)[:, None, None]
  return Prefix(jnp.take_along_axis(hidden, last, axis=1)[:, 0], cache, lengths)


@functools.partial(jax.jit, static_argnames="decoder")
def read(
  decoder: Any,
  params: Any,
  tokens: Int[Array, "B P"],
  lengths: Int[Array, " B"],
) -> Prefix:
  """`prefill` as a program of its own, for what is used by several."""
  return prefill(
    functools.partial(decoder.apply, {"params": params}), tokens, lengths
  )


def first_logits(apply: Any, prefix: Prefix) -> Float[Array, "B V"]:
  """Logits of the token after each prompt, float32."""
  return apply(prefix.hidden, method="logits").astype(jnp.float32)
