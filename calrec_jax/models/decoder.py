"""One decoder-only language model for the Gemma 3 and Llama families.

Layers are scanned, so a model of any depth compiles as one layer; parameters
are stacked along a leading `layers` axis. The same weights run four ways:
packed rows, prompts whose keys and values are cached (`prefill`), one token for
each of G continuations of every prompt (`extend`), and several tokens on each
branch of a tree after every prompt (`branch`).
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from calrec_jax.models import fsdp, rope
from calrec_jax.models.block import (
  Block,
  Branched,
  Continued,
  KeyValue,
  Packed,
  View,
)
from calrec_jax.models.decoder_config import REMAT_POLICIES, DecoderConfig
from calrec_jax.models.layers import RMSNorm, gather_output, parameter
from calrec_jax.runtime.partitioning import constrain


class Decoder(nn.Module):
  """A causal decoder over packed segments.

  Attributes:
    config: Shape of the decoder.
  """

  config: DecoderConfig

  def setup(self):
    """Declares the parameters."""
    config = self.config
    if config.vocab_size is None:
      raise ValueError(
        "DecoderConfig.vocab_size is None; call `for_vocabulary` first."
      )
    self.token_embedder = Embedder(config)
    block = Block
    if config.remat != "none":
      block = nn.remat(
        Block, policy=REMAT_POLICIES[config.remat], prevent_cse=False
      )
    self.layers = nn.scan(
      block,
      variable_axes={"params": 0},
      split_rngs={"params": True, "dropout": True},
      in_axes=(0, nn.broadcast),
      out_axes=0,
      length=config.layers,
      unroll=min(config.scan_unroll, config.layers),
      metadata_params={nn.PARTITION_NAME: "layers"},
    )(config)
    self.decoder_norm = RMSNorm(config.norm_eps)
    if not config.tied_embeddings:
      self.logits_dense = OutputWeights(config)

  def __call__(
    self,
    tokens: Int[Array, "R L"],
    positions: Int[Array, "R L"],
    segment_ids: Int[Array, "R L"],
    deterministic: bool = True,
  ) -> Float[Array, "R L D"]:
    """Hidden states of packed rows, after the final norm.

    Args:
      tokens: Vocabulary ids.
      positions: Positions, which restart at 0 in every segment.
      segment_ids: Segment of each token; attention is causal within one.
      deterministic: Whether dropout is off.
    """
    hidden, _ = self._run(
      tokens,
      positions,
      Packed(positions, segment_ids),
      return_kv=False,
      deterministic=deterministic,
    )
    if self.is_initializing() and not self.config.tied_embeddings:
      self.output_weights()
    return hidden

  def prefill(
    self,
    tokens: Int[Array, "B P"],
    positions: Int[Array, "B P"],
    segment_ids: Int[Array, "B P"],
  ) -> tuple[Float[Array, "B P D"], KeyValue]:
    """Hidden states of prompts, and their keys and values for `extend`.

    Returns:
      The hidden states, and keys and values [layers, B, P, K, F].
    """
    return self._run(tokens, positions, Packed(positions, segment_ids))

  def extend(
    self,
    tokens: Int[Array, "B G"],
    step: Int[Array, ""],
    prefix: KeyValue,
    prefix_lengths: Int[Array, " B"],
    samples: KeyValue,
  ) -> tuple[Float[Array, "B G D"], KeyValue]:
    """Advances G continuations of every prompt by one token.

    A prompt's keys and values are stored once for all of its continuations.

    Args:
      tokens: Newest token of each continuation.
      step: Number of tokens in each continuation before it.
      prefix: Keys and values returned by `prefill`.
      prefix_lengths: Tokens of each prompt; later ones are padding.
      samples: Keys and values from `empty_samples` or the previous step.

    Returns:
      Hidden states of the new tokens, and `samples` updated at `step`.
    """
    positions = jnp.broadcast_to((prefix_lengths + step)[:, None], tokens.shape)
    layout = Continued(step, prefix_lengths)
    hidden, new = self._run(tokens, positions, layout, (prefix, samples))
    samples = jax.tree.map(
      lambda cache, fresh: jax.lax.dynamic_update_slice_in_dim(
        cache, fresh[:, :, :, None].astype(cache.dtype), step, axis=3
      ),
      samples,
      new,
    )
    return hidden, samples

  def branch(
    self,
    tokens: Int[Array, "B G C"],
    layout: Branched,
    prefix: KeyValue,
    tree: KeyValue | None = None,
  ) -> tuple[Float[Array, "B G C D"], KeyValue]:
    """Runs new tokens on G branches of the tree that grows from each prompt.

    Args:
      tokens: Consecutive tokens of each branch; those after the end of a branch
        do not affect the ones before.
      layout: How the branches are arranged.
      prefix: Keys and values returned by `prefill`.
      tree: Keys and values [layers, B, N, K, F] of the tokens after the
        prompts.

    Returns:
      Hidden states, and keys and values [layers, B, G C, K, F] of the new
      tokens.
    """
    batch, branches, length = tokens.shape
    flat = tokens.reshape(batch, branches * length)
    within = jnp.arange(length, dtype=jnp.int32)
    depths = layout.depths[:, :, None] + within[None, None]
    positions = layout.prefix_lengths[:, None, None] + depths
    hidden, new = self._run(
      flat, positions.reshape(flat.shape), layout, (prefix, tree)
    )
    return hidden.reshape(*tokens.shape, -1), new

  def logits(
    self, hidden: Float[Array, "*batch D"]
  ) -> Float[Array, "*batch V"]:
    """Next-token logits, float32."""
    return project(self.config, self.output_weights(), hidden)

  def output_weights(self) -> Float[Array, "..."]:
    """The output matrix, gathered over every axis but the vocabulary.

    Returns:
      [V, D] where it is the embedding, else [D, V]; in the compute dtype, as
      `project` takes it.
    """
    dtype = jnp.dtype(self.config.dtype)
    return gather_output(self.stored_output_weights(), self.output_axes, dtype)

  def stored_output_weights(self) -> Float[Array, "..."]:
    """The output matrix as stored; `output_axes` are its logical axes."""
    if self.config.tied_embeddings:
      return self.token_embedder.embedding
    return self.logits_dense.kernel

  @property
  def output_axes(self) -> tuple[str, str]:
    """Logical axes of `stored_output_weights`."""
    return EMBEDDING_AXES if self.config.tied_embeddings else OUTPUT_AXES

  def empty_samples(self, prompts: int, samples: int, tokens: int) -> KeyValue:
    """Empty keys and values of continuations: [layers, B, G, T, K, F]."""
    config = self.config
    shape = (
      config.layers, prompts, samples, tokens, config.kv_heads, config.head_dim,
    )  # fmt: skip
    zeros = jnp.zeros(shape, jnp.dtype(config.dtype))
    return KeyValue(zeros, zeros)

  def _run(
    self,
    tokens: Int[Array, "B L"],
    positions: Int[Array, "B L"],
    layout: Packed | Continued | Branched,
    cached: Any = None,
    *,
    return_kv: bool = True,
    deterministic: bool = True,
  ) -> tuple[Float[Array, "B L D"], Any]:
    """Hidden states after the final norm, and keys and values if requested.

    Global layers are kind 0, local ones, if any, kind 1.
    """
    config = self.config
    kinds: list[tuple[float, rope.RopeScaling | None, int | None]] = [
      (config.rope_theta, config.rope_scaling, None)
    ]
    if config.window is not None:
      theta = config.rope_theta_local or config.rope_theta
      kinds.append((theta, None, config.window))
    view = View(
      layout=layout,
      rotations=tuple(
        rope.rotation(
          positions, rope.frequencies(config.head_dim, theta, scaling)
        )
        for theta, scaling, _ in kinds
      ),
      windows=tuple(window for _, _, window in kinds),
      return_kv=return_kv,
      deterministic=deterministic,
    )
    of_layers = jnp.array(
      [0 if whole else 1 for whole in config.is_global()], jnp.int32
    )
    hidden, kv = self.layers(
      self.token_embedder(tokens), (of_layers, cached), view
    )
    return self.decoder_norm(hidden), kv


EMBEDDING_AXES = ("vocab", "embed")
OUTPUT_AXES = ("embed", "vocab")


class Embedder(nn.Module):
  """Token embeddings, also the output matrix where they are tied.

  Attributes:
    config: Shape of the decoder.
  """

  config: DecoderConfig

  def setup(self):
    """Declares the table."""
    config = self.config
    # With width ** -0.5 scaled embeddings start at the scale of the layers'
    # outputs, and so do the logits of a tied output.
    self.embedding = parameter(
      self,
      "embedding",
      nn.initializers.normal(config.width**-0.5),
      (config.vocab_size or 0, config.width),
      EMBEDDING_AXES,
      jnp.dtype(config.param_dtype),
    )

  def __call__(self, tokens: Int[Array, "R L"]) -> Float[Array, "R L D"]:
    """Rows of the table."""
    config = self.config
    look_up = fsdp.by_rows(_look_up, EMBEDDING_AXES, jnp.dtype(config.dtype))
    rows = look_up(self.embedding, (), tokens)
    if config.embed_scale:
      rows = rows * jnp.asarray(config.width**0.5, rows.dtype)
    return constrain(
      rows, "activation_batch", "activation_length", "activation_embed"
    )


@jax.custom_vjp
def _look_up(
  table: Float[Array, "V D"], shared: tuple[()], tokens: Int[Array, "R L"]
) -> Float[Array, "R L D"]:
  """Rows of the table; their gradients are summed in float32.

  In bfloat16 the sum of a frequent token would stop growing after a few hundred
  rows.
  """
  del shared
  return table[tokens]


def _look_up_forward(table: Array, shared: tuple[()], tokens: Array) -> Any:
  # The empty array carries the table's shape and dtype to the backward pass.
  return _look_up(table, shared, tokens), (tokens, table[:, :0])


def _look_up_backward(residuals: Any, gradient: Array) -> Any:
  tokens, table = residuals
  summed = jnp.zeros((len(table), gradient.shape[-1]), jnp.float32)
  summed = summed.at[tokens].add(gradient.astype(jnp.float32))
  return summed.astype(table.dtype), (), None


_look_up.defvjp(_look_up_forward, _look_up_backward)


class OutputWeights(nn.Module):
  """The output matrix where it is not tied to the embedding.

  Attributes:
    config: Shape of the decoder.
  """

  config: DecoderConfig

  def setup(self):
    """Declares the matrix."""
    config = self.config
    self.kernel = parameter(
      self,
      "kernel",
      nn.initializers.normal(config.width**-0.5),
      (config.width, config.vocab_size or 0),
      OUTPUT_AXES,
      jnp.dtype(config.param_dtype),
    )


def project(
  config: DecoderConfig,
  weights: Float[Array, "..."],
  hidden: Float[Array, "*batch D"],
) -> Float[Array, "*batch V"]:
  """Next-token logits, float32.

  A function rather than a method, so that a loss can gather the weights once
  and use them in chunks.

  Args:
    config: Shape of the decoder.
    weights: Output matrix, from `Decoder.output_weights`.
    hidden: Hidden states after the final norm.
  """
  # One axis of tokens, as in `Projection`.
  logits = jnp.einsum(
    "td,vd->tv" if config.tied_embeddings else "td,dv->tv",
    hidden.reshape(-1, hidden.shape[-1]),
    weights,
    preferred_element_type=jnp.float32,
  )
  if config.logit_softcap is not None:
    logits = config.logit_softcap * jnp.tanh(logits / config.logit_softcap)
  return logits.reshape(*hidden.shape[:-1], -1)
