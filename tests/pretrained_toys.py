"""Tiny published models, as files of every format."""

import dataclasses

import flax.traverse_util
import gguf
import model_toys
import numpy as np

from calrec_jax.models.pretrained import export, gguf_names, parameters
from calrec_jax.models.rope import RopeScaling

# What Gemma's files cannot say otherwise: llama.cpp knows it by heart.
GEMMA = model_toys.GEMMA | {
  "layers": 6,
  "global_every": 6,
  "attention_scale": None,
}
LLAMA = model_toys.LLAMA
SCALED = LLAMA | {
  "tied_embeddings": True,
  "rope_scaling": RopeScaling(kind="llama3", factor=8.0),
}
FAMILIES = {"gemma": GEMMA, "llama": LLAMA, "scaled": SCALED}


def model(family):
  """A configuration, and random float32 parameters by path."""
  config = model_toys.config(**FAMILIES[family])
  changes = {
    field.name: getattr(config, field.name)
    for field in dataclasses.fields(config)
  }
  scaling = changes.pop("rope_scaling")
  if scaling is not None:
    changes["rope_scaling"] = dataclasses.asdict(scaling)
  _, params = model_toys.decoder(**changes)
  flat = flax.traverse_util.flatten_dict(params, sep="/")
  return config, {path: np.asarray(leaf) for path, leaf in flat.items()}


def huggingface(folder, family, **options):
  """Writes a Hugging Face folder; returns the configuration and parameters."""
  config, params = model(family)
  export.write_folder(folder, config, params.__getitem__, **options)
  return config, params


def write_gguf(path, family):
  """Writes a GGUF file as llama.cpp would; returns what `model` does."""
  config, params = model(family)
  kind = "gemma3" if config.qk_norm else "llama"
  writer = gguf.GGUFWriter(path, kind)
  for name, value in {
    "embedding_length": config.width,
    "block_count": config.layers,
    "feed_forward_length": config.mlp_width,
    "attention.head_count": config.heads,
    "attention.head_count_kv": config.kv_heads,
    "attention.key_length": config.head_dim,
  }.items():
    writer.add_uint32(f"{kind}.{name}", value)
  writer.add_float32(f"{kind}.rope.freq_base", config.rope_theta)
  writer.add_float32(
    f"{kind}.attention.layer_norm_rms_epsilon", config.norm_eps
  )
  if config.window:
    writer.add_uint32(f"{kind}.attention.sliding_window", config.window)
  if config.rope_scaling is not None:
    writer.add_tensor(gguf_names.FREQUENCIES, _divisors(config))
  layer_names = gguf_names._LAYER | gguf_names._NORMS[kind]
  stored = {theirs: ours for ours, theirs in layer_names.items()}
  plain = {theirs: ours for ours, theirs in gguf_names._PLAIN.items()}
  for parameter in parameters.of(config):
    value = params[parameter.path]
    if not parameter.layered:
      tensor = parameter.to_tensor(value, 0.0)
      writer.add_tensor(plain[parameter.tensor], tensor)
      continue
    inner = parameter.tensor.removeprefix("model.layers.{layer}.")
    for layer, part in enumerate(value):
      tensor = parameter.to_tensor(part, 0.0)
      name = stored[inner.removesuffix(".weight")]
      if kind == "llama" and name in ("attn_q", "attn_k"):
        tensor = _paired(tensor, config.head_dim)
      writer.add_tensor(f"blk.{layer}.{name}.weight", tensor)
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()
  return config, params


def t5x_tree(params):
  """Llama's parameters as t5x names and shapes them, layer by layer."""
  stored = {}
  for path, value in params.items():
    if not path.startswith("layers/"):
      stored[f"decoder/{path}"] = value
      continue
    words = path.removeprefix("layers/")
    words = words.replace("attention/", "self_attention/")
    words = words.replace("pre_attention_norm", "pre_self_attention_layer_norm")
    words = words.replace("pre_mlp_norm", "pre_mlp_layer_norm")
    for layer, part in enumerate(value):
      if "self_attention" in words and words.endswith("kernel"):
        # Heads are joined with their features.
        part = (
          part.reshape(-1, part.shape[-1])
          if "/out/" in words
          else part.reshape(part.shape[0], -1)
        )
      stored[f"decoder/layers_{layer}/{words}"] = part
  return stored


def _paired(rows, head_dim):
  """Halves of a head, row by row, as neighbours."""
  halves = rows.reshape(-1, 2, head_dim // 2, rows.shape[-1])
  return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(rows.shape))


def _divisors(config):
  """Llama 3's divisors of the frequencies, by a loop of their own."""
  divisors = []
  for feature in range(0, config.head_dim, 2):
    wave = 2 * np.pi * config.rope_theta ** (feature / config.head_dim)
    if wave < 8192 / 4:
      divisors.append(1.0)
    elif wave > 8192:
      divisors.append(8.0)
    else:
      smooth = (8192 / wave - 1) / 3
      divisors.append(1 / ((1 - smooth) / 8 + smooth))
  return np.array(divisors, np.float32)
