"""Logits of models as Transformers computes them, in a process of its own.

    python -m tests.transformers_logits FOLDER TOKENS.npy LOGITS.npy GGUF ...

by fours; GGUF is the name of a file in the folder, or -. PyTorch and JAX then
share neither threads nor memory, and what the former warns of does not fail a
test. Weights are float32, attention is the plain one.
"""

import importlib.util
import os
import pathlib
import subprocess
import sys

import numpy as np

ROOT = pathlib.Path(__file__).parents[1]
INSTALL = "launch/test.sh --pretrained, or pip install 'calrec_jax[reference]'"


def importable():
  """Whether PyTorch and Transformers are installed."""
  return all(map(importlib.util.find_spec, ("torch", "transformers")))


def logits(models, scratch):
  """float32[R, L, V] of each model, mapped from a file.

  Args:
    models: (path, tokens int[R, L]) of each; the path is a folder in Hugging
      Face's layout or a GGUF file.
    scratch: a folder for the exchange, new.
  """
  scratch.mkdir()
  command = [sys.executable, "-m", "tests.transformers_logits"]
  for number, (path, tokens) in enumerate(models):
    asked, answered = (
      scratch / f"{number}.tokens.npy",
      scratch / f"{number}.npy",
    )
    np.save(asked, np.asarray(tokens, np.int64))
    folder, gguf = (path.parent, path.name) if path.is_file() else (path, "-")
    command += [str(folder), str(asked), str(answered), gguf]
  done = subprocess.run(
    command,
    cwd=ROOT,
    # Nothing is fetched, and TensorFlow, if it is there, not imported.
    env=os.environ | {"HF_HUB_OFFLINE": "1", "USE_TF": "0", "USE_FLAX": "0"},
    capture_output=True,
    text=True,
    check=False,
  )
  if done.returncode:
    raise RuntimeError(f"Transformers failed:\n{done.stderr[-4000:]}")
  return [
    np.load(scratch / f"{number}.npy", mmap_mode="r")
    for number in range(len(models))
  ]


def main(arguments):
  import torch
  import transformers

  torch.set_num_threads(len(os.sched_getaffinity(0)))
  while arguments:
    folder, asked, answered, gguf, *arguments = arguments
    model = transformers.AutoModelForCausalLM.from_pretrained(
      folder,
      dtype=torch.float32,
      attn_implementation="eager",
      **({} if gguf == "-" else {"gguf_file": gguf}),
    )
    with torch.no_grad():
      result = model.eval()(torch.from_numpy(np.load(asked)), use_cache=False)
    np.save(answered, result.logits.numpy())


if __name__ == "__main__":
  main(sys.argv[1:])
