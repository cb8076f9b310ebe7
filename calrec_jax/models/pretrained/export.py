"""Writes a decoder as a Hugging Face folder that Transformers loads.

Parameters are read one at a time and written in files of limited size, so that
at most one parameter and one file are in memory. Tested in
`tests/unit/models/pretrained/test_export.py` and against Transformers in
`tests/reference`.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import safetensors.numpy

from calrec_jax.models.decoder_config import DecoderConfig
from calrec_jax.models.pretrained import huggingface, parameters
from calrec_jax.models.pretrained.parameters import Parameter
from calrec_jax.models.pretrained.sources import Source
from calrec_jax.storage import atomic
from calrec_jax.weights import safetensors_files
from calrec_jax.weights.packages import WeightsError

_FILE_BYTES = 2 * 10**9
_DTYPES = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16}


def write_folder(
  folder: pathlib.Path,
  config: DecoderConfig,
  read: Callable[[str], np.ndarray],
  *,
  row_map: np.ndarray | None = None,
  base: Source | None = None,
  dtype: str = "float32",
  special: Mapping[str, int | None] | None = None,
  files: Sequence[tuple[str, bytes]] = (),
  file_bytes: int = _FILE_BYTES,
) -> pathlib.Path:
  """Writes the folder atomically.

  Args:
    folder: Folder to create; must not exist.
    config: Shape of the decoder, LoRA merged.
    read: Function from a parameter's path to its value.
    row_map: int32[V], row in the full vocabulary of each row of a pruned one.
    base: Model whose vocabulary was pruned; required with `row_map`.
    dtype: Dtype of the tensors, "float32" or "bfloat16".
    special: Ids of "bos", "eos" and "pad" in the full vocabulary.
    files: Names and contents of extra files, such as the tokenizer's.
    file_bytes: Size at which a file of tensors is closed.

  Returns:
    The folder.

  Raises:
    WeightsError: If the folder exists, Hugging Face has no model of this shape,
      or a pruned vocabulary cannot be restored.
  """
  if folder.exists():
    raise WeightsError(f"{folder} already exists; choose another folder.")
  if dtype not in _DTYPES:
    raise WeightsError(f"--dtype={dtype}: choose one of {', '.join(_DTYPES)}.")
  if row_map is not None and base is None:
    raise WeightsError(
      "The vocabulary is pruned, and its missing rows come from the model it "
      "was pruned from. Name that model with --base."
    )
  rows = config.vocab_size or 0
  if row_map is not None and base is not None:
    rows = base.num_tokens
  described = huggingface.config_json(
    config, tokens=rows, special=special or {}
  ) | {"torch_dtype": dtype}
  norm_offset = 1.0 if huggingface.family(described) == "gemma3" else 0.0
  with atomic.new_folder(folder) as partial:
    tensors = _tensors(config, read, norm_offset, row_map, base)
    _write_tensors(partial, tensors, np.dtype(_DTYPES[dtype]), file_bytes)
    for name, content in (
      ("config.json", _json(described)),
      ("README.md", _recipe(config).encode()),
      *files,
    ):
      (partial / name).write_bytes(content)
  return folder


def _tensors(
  config: DecoderConfig,
  read: Callable[[str], np.ndarray],
  norm_offset: float,
  row_map: np.ndarray | None,
  base: Source | None,
) -> Iterator[tuple[str, np.ndarray]]:
  for parameter in parameters.of(config):
    value = read(parameter.path)
    for layer, part in enumerate(value if parameter.layered else [value]):
      tensor = parameter.to_tensor(part, norm_offset)
      if parameter.kind == "vocabulary" and row_map is not None:
        assert base is not None  # Checked by `write_folder`.
        tensor = _restore_rows(parameter, tensor, row_map, base)
      yield parameter.tensor.format(layer=layer), tensor


def _restore_rows(
  parameter: Parameter, tensor: np.ndarray, row_map: np.ndarray, base: Source
) -> np.ndarray:
  """The full vocabulary, with the pruned rows taken from the base model."""
  if parameter.tensor not in base.shapes:
    raise WeightsError(f"{base.path} has no {parameter.tensor}.")
  full = np.array(base.read(parameter.tensor))
  if full.shape[1] != tensor.shape[1] or len(full) <= row_map.max():
    raise WeightsError(
      f"{base.path} is not the model the vocabulary was pruned from: its "
      f"{parameter.tensor} is {full.shape}, but the pruned vocabulary has row "
      f"{row_map.max()} of width {tensor.shape[1]}."
    )
  full[row_map] = tensor
  return full


def _write_tensors(
  folder: pathlib.Path,
  tensors: Iterator[tuple[str, np.ndarray]],
  dtype: np.dtype,
  file_bytes: int,
) -> None:
  """Writes one file, or several and their index, under Hugging Face's names."""
  written: list[tuple[pathlib.Path, list[str]]] = []
  waiting: dict[str, np.ndarray] = {}
  total = 0

  def close() -> None:
    path = folder / f".part-{len(written)}"
    safetensors.numpy.save_file(waiting, path, metadata={"format": "pt"})
    path.chmod(0o644)  # The library makes files readable to their owner only.
    written.append((path, list(waiting)))
    waiting.clear()

  for name, tensor in tensors:
    waiting[name] = np.ascontiguousarray(tensor.astype(dtype, copy=False))
    total += waiting[name].nbytes
    if sum(part.nbytes for part in waiting.values()) >= file_bytes:
      close()
  if waiting:
    close()
  if len(written) == 1:
    written[0][0].rename(folder / safetensors_files.SINGLE)
    return
  index: dict[str, str] = {}
  for number, (path, names) in enumerate(written, 1):
    final = f"model-{number:05d}-of-{len(written):05d}.safetensors"
    path.rename(folder / final)
    index |= dict.fromkeys(names, final)
  (folder / safetensors_files.INDEX).write_bytes(
    _json({"metadata": {"total_size": total}, "weight_map": index})
  )


def _json(value: Any) -> bytes:
  return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def _recipe(config: DecoderConfig) -> str:
  """The README of an export, which defines its vectors."""
  last = config.user_tokens
  which = "all" if last is None else f"the last {last}"
  skip = "0" if last is None else f"max(0, len(ids) - {last})"
  return _RECIPE.replace("{WHICH}", which).replace("{SKIP}", skip)


_RECIPE = """\
# A next-item recommender

A decoder fine-tuned by calrec_jax. As a language model it continues a purchase
history with the text of the next item. As two towers it computes vectors whose
cosine tells how well an item follows a history.

The item's vector is the mean of the last hidden states (after the final norm)
over the item's tokens, with its end marker and without the begin token. The
history's vector is the mean over {WHICH} of the prompt's tokens, with the begin
token.

Texts are tokenised separately and concatenated as tokens: begin token (if the
vocabulary has one), prefix, then `first ITEM`, `next ITEM`, ..., and `next` at
the end of a prompt, where every ITEM ends with the end marker. `prompt.json`,
if present, has these parts as token ids.

```python
import json
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "."
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder).eval()
prompt = json.load(open(f"{folder}/prompt.json"))
begin = [] if prompt["begin"] is None else [prompt["begin"]]


def item(text):
  ids = tokenizer(text, add_special_tokens=False).input_ids
  return ids + [prompt["end"]]


@torch.no_grad()
def mean(ids, skip):
  hidden = model.model(torch.tensor([ids])).last_hidden_state[0, skip:]
  return torch.nn.functional.normalize(hidden.float().mean(0), dim=0)


def item_vector(text):
  return mean(begin + item(text), skip=len(begin))


def history_vector(texts):
  ids = begin + prompt["prefix"] + prompt["first"]
  for text in texts:
    ids = ids + item(text) + prompt["next"]
  return mean(ids, skip={SKIP})
```
"""
