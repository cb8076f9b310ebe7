"""Tensors of one safetensors file or a folder of several, read by rows.

Files are memory-mapped, so only requested rows are read. Pickled weights are
refused: reading them can run code.
Tested by `tests/unit/weights/test_safetensors_files.py`.
"""

from __future__ import annotations

import json
import os
import pathlib
from typing import Any

import numpy as np
import safetensors

from calrec_jax.weights.packages import WeightsError

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
_FLOATS = ("F64", "F32", "F16", "BF16")


class SafetensorsFiles:
  """The tensors of a folder, or of one file.

  Attributes:
    files: Files, in order.
    shapes: Shapes of the tensors, by name.
  """

  def __init__(self, path: str | os.PathLike[str]):
    """Reads the headers."""
    path = pathlib.Path(path)
    self.files = [path] if path.is_file() else _files(path)
    self._slices: dict[str, Any] = {}
    for file in self.files:
      try:
        opened = safetensors.safe_open(file, framework="numpy")
        # `keys` reads nothing: the handle keeps its file open.
        for name in opened.keys():  # noqa: SIM118
          if name in self._slices:
            raise WeightsError(f"{file}: {name} is also in another file.")
          self._slices[name] = opened.get_slice(name)
      except (safetensors.SafetensorError, OSError) as error:
        raise WeightsError(
          f"{file} is truncated or damaged ({error}). Download it again."
        ) from error
    self.shapes = {
      name: tuple(part.get_shape()) for name, part in self._slices.items()
    }
    index = path / INDEX
    missing = []
    if index.exists():
      missing = sorted(_weight_map(index).keys() - self.shapes.keys())
    if missing:
      raise WeightsError(
        f"{path}: {missing[0]} ({len(missing)} in all) is listed in {INDEX}, "
        "but no file has it. Download the whole folder again."
      )

  def read(
    self, name: str, start: int = 0, stop: int | None = None
  ) -> np.ndarray:
    """Rows `start` to `stop` (exclusive) of a tensor's first axis, float32."""
    part = self._slices[name]
    if part.get_dtype() not in _FLOATS:
      raise WeightsError(
        f"{name} is stored as {part.get_dtype()}, which is not among "
        f"{', '.join(_FLOATS)}. Save the model in bfloat16 or float32."
      )
    stop = self.shapes[name][0] if stop is None else stop
    return np.asarray(part[start:stop]).astype(np.float32, copy=False)


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
  index = folder / INDEX
  if index.exists():
    names = sorted(set(_weight_map(index).values()))
    # A name in the file must not lead out of the folder.
    if any(pathlib.PurePath(name).name != name for name in names):
      raise WeightsError(f"{index} names files outside of its folder.")
    missing = [name for name in names if not (folder / name).exists()]
    if missing:
      raise WeightsError(
        f"{folder}: {', '.join(missing)} from {INDEX} is missing. Download the "
        "whole folder again."
      )
    return [folder / name for name in names]
  if (folder / SINGLE).exists():
    return [folder / SINGLE]
  found = sorted(folder.glob("*.safetensors"))
  if found:
    return found
  pickled = sorted(
    file.name for end in ("*.bin", "*.pt", "*.pth") for file in folder.glob(end)
  )
  if pickled:
    raise WeightsError(
      f"{folder} has its weights as pickle files ({pickled[0]}), which can run "
      "code when read and are refused. If you trust them, convert them to "
      "safetensors: AutoModelForCausalLM.from_pretrained(FOLDER)"
      ".save_pretrained(NEW, safe_serialization=True)."
    )
  raise WeightsError(f"{folder} has no *.safetensors file.")


def _weight_map(index: pathlib.Path) -> dict[str, str]:
  try:
    return json.loads(index.read_text("utf-8"))["weight_map"]
  except (ValueError, KeyError, TypeError) as error:
    raise WeightsError(f"{index} is damaged ({error!r}).") from error
