"""GGUF metadata and tensor names in Hugging Face's terms.

Some properties of a model are hard-coded in llama.cpp rather than stored in the
file; they are repeated here (llama.cpp, src/llama-model.cpp).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from calrec_jax.models import rope
from calrec_jax.weights.gguf_file import GgufFile
from calrec_jax.weights.packages import WeightsError

FREQUENCIES = "rope_freqs.weight"

_PLAIN = {
  "token_embd.weight": "model.embed_tokens.weight",
  "output_norm.weight": "model.norm.weight",
  "output.weight": "lm_head.weight",
}
_LAYER = {
  "attn_norm": "input_layernorm",
  "attn_q": "self_attn.q_proj",
  "attn_k": "self_attn.k_proj",
  "attn_v": "self_attn.v_proj",
  "attn_output": "self_attn.o_proj",
  "attn_q_norm": "self_attn.q_norm",
  "attn_k_norm": "self_attn.k_norm",
  "ffn_gate": "mlp.gate_proj",
  "ffn_up": "mlp.up_proj",
  "ffn_down": "mlp.down_proj",
}
_NORMS = {
  "llama": {"ffn_norm": "post_attention_layernorm"},
  "gemma3": {
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
  },
}
_GEMMA_LOCAL_THETA = 10_000.0
_GEMMA_GLOBAL_EVERY = 6
_GEMMA_27B_LAYERS = 62


def architecture(file: GgufFile) -> str:
  """The model family of a file; others are refused."""
  name = file.fields.get("general.architecture")
  if name not in _NORMS:
    raise WeightsError(
      f"{file.path}: the architecture {name!r} is not supported; choose one of "
      f"{', '.join(sorted(_NORMS))}."
    )
  return name


def tensors(file: GgufFile) -> dict[str, str]:
  """Stored names by Hugging Face's; those without a counterpart are omitted."""
  layer_names = _LAYER | _NORMS[architecture(file)]
  names = {}
  for stored in file.tensors:
    if stored in _PLAIN:
      names[_PLAIN[stored]] = stored
      continue
    parts = stored.split(".")
    if len(parts) == 4 and parts[0] == "blk" and parts[2] in layer_names:
      names[f"model.layers.{parts[1]}.{layer_names[parts[2]]}.weight"] = stored
  return names


def decoder_fields(file: GgufFile) -> dict[str, Any]:
  """Fields of `DecoderConfig` that the file determines.

  Raises:
    WeightsError: If metadata is missing or not supported.
  """
  kind = architecture(file)
  width, heads = _field(file, "embedding_length"), _heads(file)
  kv_heads = file.fields.get(f"{kind}.attention.head_count_kv", heads)
  head_dim = file.fields.get(f"{kind}.attention.key_length", width // heads)
  fields = {
    "width": width,
    "layers": _field(file, "block_count"),
    "heads": heads,
    "kv_heads": kv_heads,
    "head_dim": head_dim,
    "mlp_width": _field(file, "feed_forward_length"),
    # Stored as float32; the shortest decimal that rounds to it is meant.
    "norm_eps": float(
      str(np.float32(_field(file, "attention.layer_norm_rms_epsilon")))
    ),
    "rope_theta": float(file.fields.get(f"{kind}.rope.freq_base", 10_000.0)),
    "tied_embeddings": "output.weight" not in file.tensors,
  }
  fields["rope_scaling"] = _scaling(file, head_dim, fields["rope_theta"])
  if kind == "llama":
    return fields | {"activation": "silu"}
  is_27b = fields["layers"] == _GEMMA_27B_LAYERS
  return fields | {
    "activation": "gelu_tanh",
    "qk_norm": True,
    "post_norms": True,
    "embed_scale": True,
    "rope_theta_local": _GEMMA_LOCAL_THETA,
    "window": _field(file, "attention.sliding_window"),
    "global_every": _GEMMA_GLOBAL_EVERY,
    "attention_scale": (width // heads if is_27b else head_dim) ** -0.5,
  }


def reorder(file: GgufFile, stored: str, rows: np.ndarray) -> np.ndarray:
  """Undoes llama.cpp's permutation of rotated rows, where a file has it.

  It stores the rows of a Llama head as adjacent pairs; here, as in Hugging
  Face's files, row i is rotated with row i + F/2.
  """
  part = stored.split(".")[2] if stored.startswith("blk.") else ""
  if architecture(file) != "llama" or part not in ("attn_q", "attn_k"):
    return rows
  head_dim = file.fields.get("llama.attention.key_length") or (
    _field(file, "embedding_length") // _heads(file)
  )
  pairs = rows.reshape(-1, head_dim // 2, 2, rows.shape[-1])
  return pairs.swapaxes(1, 2).reshape(rows.shape)


def _field(file: GgufFile, name: str) -> Any:
  key = f"{architecture(file)}.{name}"
  value = file.fields.get(key)
  if not isinstance(value, int | float) or value <= 0:
    raise WeightsError(f"{file.path}: {key} is {value!r}, not a number.")
  return value


def _heads(file: GgufFile) -> int:
  return _field(file, "attention.head_count")


def _scaling(
  file: GgufFile, head_dim: int, theta: float
) -> rope.RopeScaling | None:
  """RoPE scaling; Llama 3's is stored as divisors of the frequencies."""
  family = architecture(file)
  kind = file.fields.get(f"{family}.rope.scaling.type")
  if family == "gemma3" and kind == "linear":
    factor = float(file.fields["gemma3.rope.scaling.factor"])
    return rope.RopeScaling(kind="linear", factor=factor)
  if family == "gemma3" or FREQUENCIES not in file.tensors:
    if kind in (None, "none"):
      return None
    raise WeightsError(f"{file.path}: RoPE scaling {kind!r} is not supported.")
  divisors = file.read(FREQUENCIES)
  plain = rope.frequencies(head_dim, theta)
  for factor in (8.0, 32.0):
    scaling = rope.RopeScaling(kind="llama3", factor=factor)
    expected = plain / rope.frequencies(head_dim, theta, scaling)
    if np.allclose(divisors, expected, rtol=1e-4):
      return scaling
  raise WeightsError(
    f"{file.path}: its RoPE frequencies are not scaled as in Llama 3.1 and 3.2."
  )
