"""CALRec's model and objective as plain NumPy loops in float64.

Written apart from the library: one sequence at a time, one head at a time, no
packing, no batch, no mask but causality. It reads the library's parameters.
"""

import math

import numpy as np


def float64(tree):
  if isinstance(tree, dict):
    return {key: float64(value) for key, value in tree.items()}
  return np.asarray(tree, np.float64)


def hidden(config, params, tokens):
  """Last layer [P, D] of one sequence."""
  x = params["token_embedder"]["embedding"][np.asarray(tokens)]
  if config.embed_scale:
    x = x * math.sqrt(config.width)
  layers = params["layers"]
  for number in range(config.layers):
    layer = _layer(layers, number)
    update = _attention(config, layer["attention"], number, _norm(
      config, x, layer["pre_attention_norm"]
    ))  # fmt: skip
    if config.post_norms:
      update = _norm(config, update, layer["post_attention_norm"])
    x = x + update
    update = _mlp(config, layer["mlp"], _norm(config, x, layer["pre_mlp_norm"]))
    if config.post_norms:
      update = _norm(config, update, layer["post_mlp_norm"])
    x = x + update
  return _norm(config, x, params["decoder_norm"])


def logits(config, params, states):
  if config.tied_embeddings:
    values = states @ params["token_embedder"]["embedding"].T
  else:
    values = states @ params["logits_dense"]["kernel"]
  if config.logit_softcap:
    values = config.logit_softcap * np.tanh(values / config.logit_softcap)
  return values


def _layer(tree, number):
  if isinstance(tree, dict):
    return {key: _layer(value, number) for key, value in tree.items()}
  return tree[number]


def _norm(config, x, weights):
  root = np.sqrt((x * x).mean(-1, keepdims=True) + config.norm_eps)
  return x / root * weights["scale"]


def _mlp(config, weights, x):
  gate, value = (x @ weights[name]["kernel"] for name in ("wi_0", "wi_1"))
  if config.activation == "silu":
    gate = gate / (1 + np.exp(-gate))
  else:
    inner = math.sqrt(2 / math.pi) * (gate + 0.044715 * gate**3)
    gate = 0.5 * gate * (1 + np.tanh(inner))
  return (gate * value) @ weights["wo"]["kernel"]


def _attention(config, weights, number, x):
  local = config.window is not None and (number + 1) % config.global_every != 0
  theta = config.rope_theta
  if local and config.rope_theta_local:
    theta = config.rope_theta_local
  update = np.zeros_like(x)
  for head in range(config.heads):
    shared = head // (config.heads // config.kv_heads)
    query = x @ weights["query"]["kernel"][:, head]
    key = x @ weights["key"]["kernel"][:, shared]
    value = x @ weights["value"]["kernel"][:, shared]
    if config.qk_norm:
      query = _norm(config, query, weights["query_norm"])
      key = _norm(config, key, weights["key_norm"])
    query, key = _rotate(query, theta), _rotate(key, theta)
    scale = config.attention_scale or 1 / math.sqrt(config.head_dim)
    for place in range(len(x)):
      first = max(0, place - config.window + 1) if local else 0
      scores = key[first : place + 1] @ query[place] * scale
      if config.attention_softcap:
        cap = config.attention_softcap
        scores = cap * np.tanh(scores / cap)
      chances = np.exp(scores - scores.max())
      chances /= chances.sum()
      mixed = chances @ value[first : place + 1]
      update[place] += mixed @ weights["out"]["kernel"][head]
  return update


def _rotate(features, theta):
  half = features.shape[1] // 2
  turned = np.empty_like(features)
  for pair in range(half):
    angle = np.arange(len(features)) * theta ** (-pair / half)
    first, second = features[:, pair], features[:, pair + half]
    turned[:, pair] = first * np.cos(angle) - second * np.sin(angle)
    turned[:, pair + half] = second * np.cos(angle) + first * np.sin(angle)
  return turned


def examples(config, params, prompt, documents):
  """Every target of every document, each from its own two passes.

  Args:
    config: of the decoder.
    params: float64 parameters.
    prompt: the pieces.
    documents: (user, items, first_target) with items as (id, tokens) pairs.

  Returns:
    A dictionary for each target: v_{T|U}, v_U and v_T, the nats of its tokens,
    its item and its user.
  """
  begin = [] if prompt.begin is None else [prompt.begin]
  found = []
  for user, items, first_target in documents:
    for target in range(first_target, len(items)):
      text = [*begin, *prompt.prefix, *prompt.first]
      for _, tokens in items[:target]:
        text += [*tokens, *prompt.next]
      item, own = items[target]
      joint = hidden(config, params, [*text, *own])
      alone = hidden(config, params, [*begin, *own])
      rows = logits(config, params, joint[len(text) - 1 : -1])
      highest = rows.max(-1)
      total = highest + np.log(np.exp(rows - highest[:, None]).sum(-1))
      found.append({
        "joint": joint[len(text) :].mean(0),
        "user": joint[: len(text)][-(config.user_tokens or 0) :].mean(0),
        "item": alone[len(begin) :].mean(0),
        "nats": total - rows[np.arange(len(own)), np.asarray(own)],
        "item_id": item,
        "user_id": user,
      })  # fmt: skip
  return found


def losses(found, *, temperature, direction, same_user_negatives):
  """L_NIG, L_TT and L_UT in nats, by double loops."""
  nats = np.concatenate([example["nats"] for example in found])
  answers = [nats.mean()]
  for tower in ("joint", "user"):
    sides = {
      "item_to_user": [("item", tower)],
      "user_to_item": [(tower, "item")],
      "both": [("item", tower), (tower, "item")],
    }[direction]
    terms = []
    for anchor, other in sides:
      for own in found:
        total = 0.0
        for example in found:
          if example is not own:
            if example["item_id"] == own["item_id"]:
              continue
            if example["user_id"] == own["user_id"] and not same_user_negatives:
              continue
          cosine = _cosine(own[anchor], example[other])
          total += math.exp(cosine / temperature)
        cosine = _cosine(own[anchor], own[other])
        terms.append(math.log(total) - cosine / temperature)
    answers.append(np.mean(terms))
  return answers


def _cosine(left, right):
  return left @ right / math.sqrt((left @ left) * (right @ right))
