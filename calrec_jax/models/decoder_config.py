"""The shape of a decoder, as gin configures it."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import gin
import jax

from calrec_jax.errors import (
  InputError,
  at_least,
  check,
  one_of,
  optional,
  refuse,
  within,
)
from calrec_jax.models import rope, splash
from calrec_jax.models.layers import ACTIVATIONS
from calrec_jax.models.lora import Lora

REMAT_POLICIES = {
  "full": jax.checkpoint_policies.nothing_saveable,
  "dots": jax.checkpoint_policies.save_from_both_policies(
    jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    jax.checkpoint_policies.save_only_these_names(splash.RESULT),
  ),
}
DTYPES = ("bfloat16", "float16", "float32")


@gin.configurable
@dataclasses.dataclass(frozen=True, kw_only=True)
class DecoderConfig:
  """The shape of a decoder.

  Attributes:
    vocab_size: Rows of the embedding, V; None takes what the token cache
      needs, rounded up to a multiple of 128.
    width: Width of the residual stream, D.
    layers: Number of layers.
    heads: Number of query heads.
    kv_heads: Number of key and value heads; divides `heads`.
    head_dim: Features per head.
    mlp_width: Hidden width of the gated feed-forward layer.
    activation: Activation, "silu" (Llama) or "gelu_tanh" (Gemma).
    norm_eps: Epsilon of every RMS norm.
    qk_norm: Whether queries and keys are normalised (Gemma 3).
    post_norms: Whether a norm follows attention and feed-forward (Gemma 3).
    rope_theta: Base of the rotary frequencies in global layers.
    rope_theta_local: Base in layers with a window; None is `rope_theta`.
    rope_scaling: Scaling of the global frequencies, or None.
    window: Keys a query of a local layer attends to; None makes all layers
      global.
    global_every: Period of the global layers among local ones.
    embed_scale: Whether embeddings are multiplied by sqrt(width) (Gemma).
    attention_scale: Factor of the dot products; None is head_dim ** -0.5.
    attention_softcap: Tanh cap of attention logits, or None.
    logit_softcap: Tanh cap of the output logits, or None.
    tied_embeddings: Whether the output matrix is the embedding.
    lora: Settings of the low-rank adapters of projections, or None.
    user_tokens: Tokens at the end of a prompt that v_U averages; None averages
      all of them (the paper).
    dropout: Dropout rate on the output of attention and feed-forward.
    dtype: Dtype of activations and matrix products.
    param_dtype: Dtype of parameters.
    remat: What a layer's backward pass recomputes: "none", "full" or "dots".
    attention_kernel: Attention kernel: "xla", "splash" (see `models.splash`; in
      a slow interpreter on CPUs and GPUs) or "auto", splash on TPUs. Rows whose
      length is not a multiple of 128 tokens always use XLA.
    attention_blocks: Query blocks per row, without the kernel; more of them
      skip more products above the diagonal (up to half) and compile slower.
    scan_unroll: Layers per step of the scan; more of them compile slower and
      run faster on a CPU.
  """

  vocab_size: int | None = None
  width: int = 128
  layers: int = 3
  heads: int = 4
  kv_heads: int = 4
  head_dim: int = 32
  mlp_width: int = 512
  activation: str = "silu"
  norm_eps: float = 1e-6
  qk_norm: bool = False
  post_norms: bool = False
  rope_theta: float = 10_000.0
  rope_theta_local: float | None = None
  rope_scaling: rope.RopeScaling | None = None
  window: int | None = None
  global_every: int = 6
  embed_scale: bool = False
  attention_scale: float | None = None
  attention_softcap: float | None = None
  logit_softcap: float | None = None
  tied_embeddings: bool = True
  lora: Lora | None = None
  user_tokens: int | None = None
  dropout: float = 0.0
  dtype: str = "bfloat16"
  param_dtype: str = "float32"
  remat: str = "none"
  attention_kernel: str = "auto"
  attention_blocks: int = 4
  scan_unroll: int = 1

  def __post_init__(self):
    size = at_least(1)
    check(
      self,
      width=size,
      layers=size,
      heads=size,
      kv_heads=size,
      mlp_width=size,
      window=optional(size),
      global_every=size,
      attention_blocks=size,
      scan_unroll=size,
      user_tokens=optional(size),
      dropout=within("[0, 1)"),
      activation=one_of(*sorted(ACTIVATIONS)),
      remat=one_of("none", *REMAT_POLICIES),
      attention_kernel=one_of(*splash.KERNELS),
      dtype=one_of(*DTYPES),
      param_dtype=one_of(*DTYPES),
    )
    if self.heads % self.kv_heads:
      refuse(self, "heads", f"must be a multiple of kv_heads, {self.kv_heads}.")
    if self.head_dim % 2:
      refuse(self, "head_dim", "must be even: rotary embeddings turn pairs.")

  @classmethod
  def from_record(cls, record: Mapping[str, Any]) -> "DecoderConfig":
    """The shape from the plain values of a lineage record."""
    parts = {"rope_scaling": rope.RopeScaling, "lora": Lora}
    return cls(
      **{
        name: parts[name](**value) if name in parts and value else value
        for name, value in record.items()
      }
    )

  def for_vocabulary(
    self, tokens: int, *, exact: bool = False
  ) -> "DecoderConfig":
    """The same shape with an embedding for the given number of tokens.

    Args:
      tokens: Number of token ids.
      exact: Whether the embedding has exactly one row per token; otherwise
        rows are rounded up to a multiple of 128, which every mesh divides.

    Raises:
      InputError: If a fixed `vocab_size` is too small.
    """
    if self.vocab_size is None:
      rows = tokens if exact else -(-tokens // 128) * 128
      return dataclasses.replace(self, vocab_size=rows)
    if self.vocab_size < tokens:
      raise InputError(
        f"DecoderConfig.vocab_size = {self.vocab_size}, but the token cache "
        f"holds ids up to {tokens - 1}. Leave it at None, or use the "
        "vocabulary that belongs to the model."
      )
    return self

  def is_global(self) -> tuple[bool, ...]:
    """Whether each layer attends to the whole segment."""
    return tuple(
      self.window is None or (layer + 1) % self.global_every == 0
      for layer in range(self.layers)
    )
