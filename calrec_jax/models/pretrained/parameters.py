"""The tensors of published models that make up the decoder's parameters.

Names are Hugging Face's, for both families; reading and writing use the same
table. Their kernels are [outputs, inputs] matrices; ours have the inputs first
and an axis of heads.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from calrec_jax.models.decoder_config import DecoderConfig

EMBEDDING = "model.embed_tokens.weight"
OUTPUT = "lm_head.weight"

# Names within a layer: of the kernels, then of the scales of norms.
_KERNELS = {
  "attention/query": "self_attn.q_proj",
  "attention/key": "self_attn.k_proj",
  "attention/value": "self_attn.v_proj",
  "attention/out": "self_attn.o_proj",
  "mlp/wi_0": "mlp.gate_proj",
  "mlp/wi_1": "mlp.up_proj",
  "mlp/wo": "mlp.down_proj",
}
_QK_NORMS = {
  "attention/query_norm": "self_attn.q_norm",
  "attention/key_norm": "self_attn.k_norm",
}
# Llama names a norm by what precedes it.
_LLAMA_NORMS = {
  "pre_attention_norm": "input_layernorm",
  "pre_mlp_norm": "post_attention_layernorm",
}
_GEMMA_NORMS = {
  "pre_attention_norm": "input_layernorm",
  "post_attention_norm": "post_attention_layernorm",
  "pre_mlp_norm": "pre_feedforward_layernorm",
  "post_mlp_norm": "post_feedforward_layernorm",
}


@dataclasses.dataclass(frozen=True)
class Parameter:
  """A parameter and the tensors it consists of.

  Attributes:
    path: Path in the decoder's tree, joined by slashes.
    tensor: Hugging Face's name, with "{layer}" where each layer has one.
  """

  path: str
  tensor: str

  @property
  def kind(self) -> str:
    """Kind of parameter: "matrix", "norm" or "vocabulary" [V, D]."""
    if self.path.endswith("/scale"):
      return "norm"
    return "matrix" if self.layered else "vocabulary"

  @property
  def layered(self) -> bool:
    """Whether every layer has a tensor of its own."""
    return "{layer}" in self.tensor

  @property
  def transposed_vocabulary(self) -> bool:
    """Whether it is the output matrix [D, V], stored as [V, D]."""
    return self.path == "logits_dense/kernel"

  def from_tensor(
    self, tensor: np.ndarray, shape: Sequence[int], norm_offset: float
  ) -> np.ndarray:
    """A parameter of one layer, or rows of a vocabulary.

    Args:
      tensor: Tensor as stored, float32.
      shape: Shape of the parameter, without the axis of layers.
      norm_offset: Offset from a stored norm to its multiplier.
    """
    if self.kind == "matrix":
      return tensor.T.reshape(shape)
    if self.kind == "norm":
      return tensor + np.float32(norm_offset) if norm_offset else tensor
    return tensor.T if self.transposed_vocabulary else tensor

  def to_tensor(self, value: np.ndarray, norm_offset: float) -> np.ndarray:
    """The inverse of `from_tensor`: contiguous, in the value's dtype."""
    if self.kind == "matrix":
      inputs = 2 if self.path.endswith("attention/out/kernel") else 1
      rows = int(np.prod(value.shape[:inputs]))
      value = value.reshape(rows, -1).T
    elif self.kind == "norm" and norm_offset:
      value = (value.astype(np.float32) - np.float32(norm_offset)).astype(
        value.dtype
      )
    elif self.transposed_vocabulary:
      value = value.T
    return np.ascontiguousarray(value)


def of(config: DecoderConfig) -> list[Parameter]:
  """All parameters of a decoder, except LoRA's.

  Args:
    config: Shape of the decoder; Gemma's names are used if it has norms after
      attention and feed-forward, else Llama's.
  """
  norms = _GEMMA_NORMS if config.post_norms else _LLAMA_NORMS
  scales = (_QK_NORMS if config.qk_norm else {}) | norms
  within_layers = {f"{name}/kernel": _KERNELS[name] for name in _KERNELS}
  within_layers |= {f"{name}/scale": scales[name] for name in scales}
  names = {
    "token_embedder/embedding": EMBEDDING,
    **{
      f"layers/{ours}": f"model.layers.{{layer}}.{theirs}.weight"
      for ours, theirs in within_layers.items()
    },
    "decoder_norm/scale": "model.norm.weight",
  }
  if not config.tied_embeddings:
    names["logits_dense/kernel"] = OUTPUT
  return [Parameter(path, tensor) for path, tensor in names.items()]
