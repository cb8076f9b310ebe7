"""Conversion between Hugging Face's config.json and the shape of a decoder.

Read without Transformers. Features that the decoder does not have are refused,
never ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from calrec_jax.models.decoder_config import DecoderConfig
from calrec_jax.models.rope import RopeScaling
from calrec_jax.weights.packages import WeightsError

# The Transformers version whose layout is written. Without it, some versions
# mistake a folder's tokenizer for a faulty one of another model and warn.
_LAYOUT_OF = "4.57.6"
FAMILIES = ("gemma3", "llama")
# Model types whose text decoder belongs to a family; gemma3 also has an image
# tower.
_MODEL_TYPES = {"gemma3": "gemma3", "gemma3_text": "gemma3", "llama": "llama"}
_TANH = "gelu_pytorch_tanh"
_ACTIVATIONS = {"silu": "silu", "swish": "silu", _TANH: "gelu_tanh"}


def family(config: Mapping[str, Any]) -> str:
  """The family of a configuration; others are refused."""
  kind = str(config.get("model_type"))
  if kind not in _MODEL_TYPES:
    raise WeightsError(
      f"config.json: model_type {kind!r} is not supported; choose one of "
      f"{', '.join(_MODEL_TYPES)} (Gemma 3; Llama, SmolLM2)."
    )
  return _MODEL_TYPES[kind]


def decoder_fields(config: Mapping[str, Any]) -> dict[str, Any]:
  """Fields of `DecoderConfig` that a config.json determines.

  Args:
    config: Content of config.json; of a model with images, the text part is
      used.

  Raises:
    WeightsError: If the model has a feature that the decoder does not.
  """
  kind = family(config)
  config = config.get("text_config") or config
  for name in ("attention_bias", "mlp_bias", "use_bidirectional_attention"):
    if config.get(name):
      raise WeightsError(
        f"config.json: {name} is set, which the decoder does not support."
      )
  heads = config["num_attention_heads"]
  fields = {
    "width": config["hidden_size"],
    "layers": config["num_hidden_layers"],
    "heads": heads,
    "kv_heads": config.get("num_key_value_heads") or heads,
    "head_dim": config.get("head_dim") or config["hidden_size"] // heads,
    "mlp_width": config["intermediate_size"],
    "norm_eps": config.get("rms_norm_eps", 1e-6),
  }
  if kind == "gemma3":
    return fields | _gemma(config)
  theta, scaling = _rotations(config)
  return fields | {
    "activation": _activation(config.get("hidden_act", "silu")),
    "rope_theta": theta,
    "rope_scaling": scaling,
    "tied_embeddings": bool(config.get("tie_word_embeddings", False)),
  }


def config_json(
  config: DecoderConfig, *, tokens: int, special: Mapping[str, int | None]
) -> dict[str, Any]:
  """The config.json of a decoder.

  Args:
    config: Shape of the decoder.
    tokens: Rows of the embedding.
    special: Ids of "bos", "eos" and "pad", or None.

  Raises:
    WeightsError: If neither family has this shape.
  """
  written = {
    "hidden_size": config.width,
    "num_hidden_layers": config.layers,
    "num_attention_heads": config.heads,
    "num_key_value_heads": config.kv_heads,
    "head_dim": config.head_dim,
    "intermediate_size": config.mlp_width,
    "rms_norm_eps": config.norm_eps,
    "rope_theta": config.rope_theta,
    "tie_word_embeddings": config.tied_embeddings,
    "vocab_size": tokens,
    "attention_bias": False,
    "attention_dropout": 0.0,
    "initializer_range": 0.02,
    "use_cache": True,
    "transformers_version": _LAYOUT_OF,
    **{f"{name}_token_id": token for name, token in special.items()},
  }
  if config.qk_norm and config.post_norms and config.embed_scale:
    return written | _write_gemma(config)
  if not _is_llama(config):
    raise WeightsError(
      "This DecoderConfig is neither Gemma 3's nor Llama's in its norms, "
      "embedding scale, window and caps: no Hugging Face model computes the "
      "same."
    )
  return written | {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_act": "silu" if config.activation == "silu" else _TANH,
    "rope_scaling": _write_scaling(config.rope_scaling),
    "mlp_bias": False,
    "max_position_embeddings": _length(config, 8192),
  }


def _activation(name: str) -> str:
  if name not in _ACTIVATIONS:
    raise WeightsError(
      f"config.json: the activation {name!r} is not supported; choose one of "
      f"{', '.join(_ACTIVATIONS)}."
    )
  return _ACTIVATIONS[name]


def _gemma(config: Mapping[str, Any]) -> dict[str, Any]:
  theta, scaling = _rotations(config, "full_attention", 1_000_000.0)
  local, local_scaling = _rotations(config, "sliding_attention", 10_000.0)
  if local_scaling is not None:
    raise WeightsError(
      "config.json: RoPE scaling of local layers is not supported."
    )
  return {
    "activation": _activation(config.get("hidden_activation", _TANH)),
    "qk_norm": True,
    "post_norms": True,
    "embed_scale": True,
    "rope_theta": theta,
    "rope_theta_local": local,
    "rope_scaling": scaling,
    "window": config["sliding_window"],
    "global_every": _global_every(config),
    "attention_scale": config.get("query_pre_attn_scalar", 256) ** -0.5,
    "attention_softcap": config.get("attn_logit_softcapping"),
    "logit_softcap": config.get("final_logit_softcapping"),
    "tied_embeddings": bool(config.get("tie_word_embeddings", True)),
  }


def _global_every(config: Mapping[str, Any]) -> int:
  kinds = config.get("layer_types")
  if not kinds:
    pattern = config.get("sliding_window_pattern")
    return pattern or config.get("_sliding_window_pattern") or 6
  whole = [kind == "full_attention" for kind in kinds]
  # A model of local layers only: its first global layer would follow them.
  every = whole.index(True) + 1 if any(whole) else len(whole) + 1
  if whole != [(layer + 1) % every == 0 for layer in range(len(whole))]:
    raise WeightsError(
      "config.json: layer_types has global layers at irregular intervals, "
      "which is not supported."
    )
  return every


def _rotations(
  config: Mapping[str, Any], kind: str | None = None, theta: float = 10_000.0
) -> tuple[float, RopeScaling | None]:
  """RoPE base and scaling, from the older or newer form of config.json."""
  newer = config.get("rope_parameters")
  if newer:
    newer = newer.get(kind, newer) if kind else newer
    return float(newer.get("rope_theta", theta)), _scaling(newer)
  if kind == "sliding_attention":
    return float(config.get("rope_local_base_freq", theta)), None
  scaling = _scaling(config.get("rope_scaling"))
  return float(config.get("rope_theta", theta)), scaling


def _scaling(given: Mapping[str, Any] | None) -> RopeScaling | None:
  kind = (given or {}).get("rope_type") or (given or {}).get("type")
  if not given or kind in (None, "default"):
    return None
  if kind == "linear":
    return RopeScaling(kind="linear", factor=float(given["factor"]))
  if kind == "llama3":
    return RopeScaling(
      kind="llama3",
      factor=float(given["factor"]),
      low_frequency_factor=float(given["low_freq_factor"]),
      high_frequency_factor=float(given["high_freq_factor"]),
      original_length=int(given["original_max_position_embeddings"]),
    )
  raise WeightsError(
    f"config.json: RoPE scaling {kind!r} is not supported; linear and llama3 "
    "are."
  )


def _write_scaling(scaling: RopeScaling | None) -> dict[str, Any] | None:
  if scaling is None:
    return None
  if scaling.kind == "linear":
    return {"rope_type": "linear", "factor": scaling.factor}
  return {
    "rope_type": "llama3",
    "factor": scaling.factor,
    "low_freq_factor": scaling.low_frequency_factor,
    "high_freq_factor": scaling.high_frequency_factor,
    "original_max_position_embeddings": scaling.original_length,
  }


def _write_gemma(config: DecoderConfig) -> dict[str, Any]:
  scale = config.attention_scale or config.head_dim**-0.5
  return {
    "architectures": ["Gemma3ForCausalLM"],
    "model_type": "gemma3_text",
    "hidden_activation": _TANH if config.activation != "silu" else "silu",
    "rope_local_base_freq": config.rope_theta_local or config.rope_theta,
    "rope_scaling": _write_scaling(config.rope_scaling),
    "sliding_window": config.window or 2**20,
    "sliding_window_pattern": config.global_every if config.window else 1,
    "layer_types": [
      "full_attention" if whole else "sliding_attention"
      for whole in config.is_global()
    ],
    # Transformers takes the inverse square root itself.
    "query_pre_attn_scalar": _whole(scale**-2),
    "attn_logit_softcapping": config.attention_softcap,
    "final_logit_softcapping": config.logit_softcap,
    "max_position_embeddings": _length(config, 32_768),
  }


def _is_llama(config: DecoderConfig) -> bool:
  usual = config.attention_scale in (None, config.head_dim**-0.5)
  return usual and not (
    config.qk_norm
    or config.post_norms
    or config.embed_scale
    or config.window
    or config.attention_softcap
    or config.logit_softcap
  )


def _length(config: DecoderConfig, plain: int) -> int:
  """Context length of a model, as far as its RoPE scaling tells."""
  scaling = config.rope_scaling
  if scaling is None:
    return plain
  trained = scaling.original_length if scaling.kind == "llama3" else 16_384
  return int(scaling.factor * trained)


def _whole(value: float) -> int | float:
  return round(value) if abs(value - round(value)) < 1e-6 else value
