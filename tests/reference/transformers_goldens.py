"""Tiny models in the published layout, and their logits by Transformers.

    python -m tests.reference.transformers_goldens

writes `goldens/transformers_*.npz` anew, which needs PyTorch and Transformers
(the logits here are those of 2.13.0 and 4.57.6). The tests need neither: they
make the same folders and compare with the files.

Nothing of calrec_jax is used, so that a wrong name or shape cannot hide.
"""

import json
import pathlib
import tempfile

import numpy as np
import safetensors.numpy

from tests.fixtures import transformers_logits

GOLDENS = pathlib.Path(__file__).parent / "goldens"
ROWS, LENGTH, VOCAB = 2, 40, 64

_SHAPE = {
  "vocab_size": VOCAB,
  "hidden_size": 32,
  "intermediate_size": 48,
  "num_attention_heads": 4,
  "num_key_value_heads": 2,
  "head_dim": 16,
  "bos_token_id": 2,
  "eos_token_id": 1,
  "pad_token_id": 0,
  # Larger than in any published model, so that it shows.
  "rms_norm_eps": 0.01,
  "attention_bias": False,
  "torch_dtype": "float32",
}
_LLAMA = _SHAPE | {
  "architectures": ["LlamaForCausalLM"],
  "model_type": "llama",
  "num_hidden_layers": 3,
  "hidden_act": "silu",
  "mlp_bias": False,
  "rope_theta": 10_000.0,
  "max_position_embeddings": 256,
}
# Rows are longer than the window and than the length before the stretching,
# and the features have all three kinds of wave length of "llama3".
CONFIGS = {
  "gemma3": _SHAPE
  | {
    "architectures": ["Gemma3ForCausalLM"],
    "model_type": "gemma3_text",
    "num_hidden_layers": 7,
    "hidden_activation": "gelu_pytorch_tanh",
    "rope_theta": 1_000_000.0,
    "rope_local_base_freq": 10_000.0,
    "rope_scaling": {"rope_type": "linear", "factor": 8.0},
    "sliding_window": 8,
    "sliding_window_pattern": 3,
    "layer_types": [
      "full_attention" if layer % 3 == 2 else "sliding_attention"
      for layer in range(7)
    ],
    "query_pre_attn_scalar": 24,
    "attn_logit_softcapping": None,
    "final_logit_softcapping": None,
    "tie_word_embeddings": True,
    "max_position_embeddings": 256,
  },
  "llama3": _LLAMA
  | {
    "rope_scaling": {
      "rope_type": "llama3",
      "factor": 8.0,
      "low_freq_factor": 1.0,
      "high_freq_factor": 4.0,
      "original_max_position_embeddings": 32,
    },
    "tie_word_embeddings": False,
  },
  "smollm2": _LLAMA | {"rope_theta": 100_000.0, "tie_word_embeddings": True},
}


def write_folder(folder, name):
  """A model of a family in Hugging Face's layout; Llama's in two files."""
  folder.mkdir(parents=True)
  (folder / "config.json").write_text(json.dumps(CONFIGS[name]))
  tensors = _tensors(CONFIGS[name])
  if name != "llama3":
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")
    return
  names = sorted(tensors)
  places = {}
  for number, half in enumerate((names[::2], names[1::2]), 1):
    file = f"model-{number:05d}-of-00002.safetensors"
    safetensors.numpy.save_file({n: tensors[n] for n in half}, folder / file)
    places |= dict.fromkeys(half, file)
  (folder / "model.safetensors.index.json").write_text(
    json.dumps({"metadata": {}, "weight_map": places})
  )


def golden(name):
  """Tokens int32[R, L] and logits float32[R, L, V]."""
  with np.load(GOLDENS / f"transformers_{name}.npz") as file:
    return file["tokens"], file["logits"]


def tokens(name):
  """int32[R, L], other ones for each family."""
  draw = _uniform(list(CONFIGS).index(name) + 100, (ROWS, LENGTH))
  return ((draw + 0.5) * VOCAB).astype(np.int32)


def _tensors(config):
  width, hidden = config["hidden_size"], config["intermediate_size"]
  queries, keys = (
    config[f"num_{kind}_heads"] * config["head_dim"]
    for kind in ("attention", "key_value")
  )
  shapes = {
    "self_attn.q_proj": (queries, width),
    "self_attn.k_proj": (keys, width),
    "self_attn.v_proj": (keys, width),
    "self_attn.o_proj": (width, queries),
    "mlp.gate_proj": (hidden, width),
    "mlp.up_proj": (hidden, width),
    "mlp.down_proj": (width, hidden),
    "input_layernorm": (width,),
    "post_attention_layernorm": (width,),
  }
  gemma = config["model_type"] == "gemma3_text"
  if gemma:
    shapes["pre_feedforward_layernorm"] = (width,)
    shapes["post_feedforward_layernorm"] = (width,)
    shapes["self_attn.q_norm"] = (config["head_dim"],)
    shapes["self_attn.k_norm"] = (config["head_dim"],)
  shapes = {
    f"model.layers.{layer}.{tensor}.weight": shape
    for layer in range(config["num_hidden_layers"])
    for tensor, shape in shapes.items()
  }
  shapes["model.embed_tokens.weight"] = (VOCAB, width)
  shapes["model.norm.weight"] = (width,)
  if not config["tie_word_embeddings"]:
    shapes["lm_head.weight"] = (VOCAB, width)
  made = {}
  for seed, (name, shape) in enumerate(sorted(shapes.items())):
    values = _uniform(seed, shape)
    if len(shape) == 1:
      # Gemma stores what is added to 1.
      made[name] = values if gemma else values + 1
    elif name == "model.embed_tokens.weight":
      made[name] = values
    else:
      # Large enough that softmaxes are sharp and every part shows.
      made[name] = values * np.float32(6 * shape[1] ** -0.5)
  return made


def _uniform(seed, shape):
  """float32 in [-0.5, 0.5): NumPy keeps raw streams over its versions."""
  raw = np.random.PCG64(seed).random_raw(int(np.prod(shape)))
  draws = (raw >> np.uint64(40)).astype(np.float32) / np.float32(2**24)
  return (draws - np.float32(0.5)).reshape(shape)


def main():
  GOLDENS.mkdir(exist_ok=True)
  with tempfile.TemporaryDirectory() as scratch:
    models = []
    for name in CONFIGS:
      write_folder(pathlib.Path(scratch, name), name)
      models.append((pathlib.Path(scratch, name), tokens(name)))
    answers = transformers_logits.logits(models, pathlib.Path(scratch, "torch"))
    for (folder, ids), logits in zip(models, answers, strict=True):
      path = GOLDENS / f"transformers_{folder.name}.npz"
      np.savez_compressed(path, tokens=ids, logits=np.array(logits))
      print(f"{path.name}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
  main()
