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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parameter:
  """A parameter and the tensors it consists of.

  Attributes:
    path: Path in the decoder's tree, joined by slashes.
    tensor: Hugging Face's name, with "{layer}" where each layer has one.
    kind: Kind of parameter: "vocabulary" [V, D], "matrix" or "norm".
    num_inputs: Number of leading axes of a kernel that are inputs.
  """

  path: str
  tensor: str
  kind: str
  num_inputs: int = 1

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
      inputs = int(np.prod(value.shape[: self.num_inputs]))
      value = value.reshape(inputs, -1).T
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
  entries = [("token_embedder/embedding", EMBEDDING, "vocabulary", 1)]
  entries += [
    (f"layers/attention/{ours}/kernel", f"self_attn.{theirs}", "matrix", inputs)
    for ours, theirs, inputs in (
      ("query", "q_proj", 1),
      ("key", "k_proj", 1),
      ("value", "v_proj", 1),
      ("out", "o_proj", 2),
    )
  ]
  entries += [
    (f"layers/mlp/{ours}/kernel", f"mlp.{theirs}", "matrix", 1)
    for ours, theirs in (
      ("wi_0", "gate_proj"),
      ("wi_1", "up_proj"),
      ("wo", "down_proj"),
    )
  ]
  if config.qk_norm:
    entries += [
      (f"layers/attention/{ours}/scale", f"self_attn.{theirs}", "norm", 1)
      for ours, theirs in (("query_norm", "q_norm"), ("key_norm", "k_norm"))
    ]
  norms = {"pre_attention_norm": "input_layernorm"}
  if config.post_norms:
    norms["post_attention_norm"] = "post_attention_layernorm"
    norms["pre_mlp_norm"] = "pre_feedforward_layernorm"
    norms["post_mlp_norm"] = "post_feedforward_layernorm"
  else:
    # Llama names the norm by what precedes it.
    norms["pre_mlp_norm"] = "post_attention_layernorm"
  entries += [
    (f"layers/{ours}/scale", theirs, "norm", 1)
    for ours, theirs in norms.items()
  ]
  entries.append(("decoder_norm/scale", "model.norm.weight", "norm", 1))
  if not config.tied_embeddings:
    entries.append(("logits_dense/kernel", OUTPUT, "vocabulary", 1))
  return [
    Parameter(
      path=path,
      tensor=(
        f"model.layers.{{layer}}.{tensor}.weight"
        if path.startswith("layers/")
        else tensor
      ),
      kind=kind,
      num_inputs=inputs,
    )
    for path, tensor, kind, inputs in entries
  ]
