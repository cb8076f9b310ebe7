"""A decoder in plain NumPy and float64: one segment, one head at a time.

Written from the model cards' formulas, not from the library, as an
independent check of it.
"""

import math

import numpy as np


def hidden_states(config, params, tokens) -> np.ndarray:
  """Hidden states [L, D] of one segment after the final norm."""
  params = _float64(params)
  x = params["token_embedder"]["embedding"][np.asarray(tokens)]
  if config.embed_scale:
    x = x * math.sqrt(config.width)
  for layer in range(config.layers):
    weights = _layer(params["layers"], layer)
    # Gemma 3: five local layers, then a global one.
    local = config.window is not None and (layer + 1) % config.global_every != 0
    update = _attention(
      config,
      weights["attention"],
      _norm(config, x, weights["pre_attention_norm"]),
      local,
    )
    if config.post_norms:
      update = _norm(config, update, weights["post_attention_norm"])
    x = x + update
    update = _mlp(
      config, weights["mlp"], _norm(config, x, weights["pre_mlp_norm"])
    )
    if config.post_norms:
      update = _norm(config, update, weights["post_mlp_norm"])
    x = x + update
  return _norm(config, x, params["decoder_norm"])


def logits(config, params, hidden) -> np.ndarray:
  """Next-token logits [L, V]."""
  params = _float64(params)
  if config.tied_embeddings:
    scores = hidden @ params["token_embedder"]["embedding"].T
  else:
    scores = hidden @ params["logits_dense"]["kernel"]
  return _cap(scores, config.logit_softcap)


def inverse_wave_lengths(config, local: bool) -> list[float]:
  """Radians per position of each feature pair."""
  theta, scaling = config.rope_theta, config.rope_scaling
  if local:
    theta, scaling = config.rope_theta_local or theta, None
  found = []
  for pair in range(config.head_dim // 2):
    radians = 1.0 / theta ** (2 * pair / config.head_dim)
    if scaling is not None and scaling.kind == "linear":
      radians /= scaling.factor
    elif scaling is not None:
      wave = 2 * math.pi / radians
      ratio = scaling.original_length / wave
      if ratio < scaling.low_frequency_factor:
        radians /= scaling.factor
      elif ratio < scaling.high_frequency_factor:
        smooth = (ratio - scaling.low_frequency_factor) / (
          scaling.high_frequency_factor - scaling.low_frequency_factor
        )
        radians = (1 - smooth) * radians / scaling.factor + smooth * radians
    found.append(radians)
  return found


def _attention(config, weights, x, local):
  length = len(x)
  query = np.einsum("ld,dhf->hlf", x, weights["query"]["kernel"])
  key = np.einsum("ld,dhf->hlf", x, weights["key"]["kernel"])
  value = np.einsum("ld,dhf->hlf", x, weights["value"]["kernel"])
  if config.qk_norm:
    query = _norm(config, query, weights["query_norm"])
    key = _norm(config, key, weights["key_norm"])
  radians = inverse_wave_lengths(config, local)
  query, key = (_rotate(part, radians) for part in (query, key))
  scale = config.attention_scale or config.head_dim**-0.5
  total = np.zeros_like(x)
  for head in range(config.heads):
    shared = head // (config.heads // config.kv_heads)
    for at in range(length):
      first = max(0, at - config.window + 1) if local else 0
      seen = slice(first, at + 1)
      scores = key[shared, seen] @ query[head, at] * scale
      scores = _cap(scores, config.attention_softcap)
      chances = np.exp(scores - scores.max())
      chances /= chances.sum()
      mixed = chances @ value[shared, seen]
      total[at] += mixed @ weights["out"]["kernel"][head]
  return total


def _rotate(features, radians):
  """Feature pairs (i, i + F/2) as complex numbers, turned by position."""
  half = features.shape[-1] // 2
  numbers = features[..., :half] + 1j * features[..., half:]
  angles = np.outer(np.arange(features.shape[-2]), radians)
  numbers = numbers * np.exp(1j * angles)
  return np.concatenate([numbers.real, numbers.imag], axis=-1)


def _mlp(config, weights, x):
  gate = x @ weights["wi_0"]["kernel"]
  if config.activation == "silu":
    gate = gate / (1 + np.exp(-gate))
  else:
    inner = math.sqrt(2 / math.pi) * (gate + 0.044715 * gate**3)
    gate = gate * (1 + np.tanh(inner)) / 2
  return (gate * (x @ weights["wi_1"]["kernel"])) @ weights["wo"]["kernel"]


def _norm(config, x, weights):
  mean_square = np.mean(x**2, axis=-1, keepdims=True)
  return x / np.sqrt(mean_square + config.norm_eps) * weights["scale"]


def _cap(scores, cap):
  return scores if cap is None else cap * np.tanh(scores / cap)


def _layer(tree, layer):
  if isinstance(tree, dict):
    return {name: _layer(branch, layer) for name, branch in tree.items()}
  return tree[layer]


def _float64(tree):
  if isinstance(tree, dict):
    return {name: _float64(branch) for name, branch in tree.items()}
  return np.asarray(tree, np.float64)
