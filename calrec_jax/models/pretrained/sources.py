"""Pretrained models in all file formats, behind one interface.

`open_source` opens a path or a packaged model by name. In every format tensors
have Hugging Face's names and shapes, and are read lazily as float32 rows.
"""

from __future__ import annotations

import abc
import hashlib
import json
import os
import pathlib
import re
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import numpy as np

from calrec_jax.models.pretrained import gguf_names, huggingface, parameters
from calrec_jax.weights import packages
from calrec_jax.weights.gguf_file import GgufFile
from calrec_jax.weights.packages import WeightsError
from calrec_jax.weights.safetensors_files import SafetensorsFiles

_SAMPLE = 1 << 20


class Source(abc.ABC):
  """An opened model.

  Attributes:
    path: File or folder of the model.
    kind: Human-readable file format.
    num_tokens: Rows of the embedding.
    norm_offset: Offset from stored norms to their multipliers.
    shapes: Shapes of the text decoder's tensors, by name.
    ignored: Names of tensors that the decoder does not use, such as those of
      an image tower.
  """

  kind: ClassVar[str]
  norm_offset = 0.0

  def __init__(
    self,
    path: pathlib.Path,
    tensors: SafetensorsFiles | GgufFile,
    shapes: Mapping[str, tuple[int, ...]],
    names: Mapping[str, str],
  ):
    """Maps the stored names.

    Args:
      path: File or folder of the model.
      tensors: Opened files of the weights.
      shapes: Shapes by stored name.
      names: Stored names of the text decoder's tensors, by Hugging Face's.
    """
    self.path, self._tensors, self._names = path, tensors, names
    self.shapes = {name: shapes[stored] for name, stored in names.items()}
    self.ignored = sorted(shapes.keys() - set(names.values()))
    if parameters.EMBEDDING not in self.shapes:
      raise WeightsError(
        f"{path} has no token embedding, so it is not a language model of the "
        f"supported families ({', '.join(huggingface.FAMILIES)})."
      )
    self.num_tokens = self.shapes[parameters.EMBEDDING][0]

  @abc.abstractmethod
  def decoder_fields(self) -> dict[str, Any]:
    """Fields of `DecoderConfig` that the model determines."""

  @abc.abstractmethod
  def files(self) -> list[pathlib.Path]:
    """The files that hold the weights and their description."""

  def read(
    self, name: str, start: int = 0, stop: int | None = None
  ) -> np.ndarray:
    """Rows of a tensor, float32."""
    return self._tensors.read(self._names[name], start, stop)


class HuggingFaceSource(Source):
  """A folder with config.json and safetensors."""

  kind = "Hugging Face folder"

  def __init__(self, path: pathlib.Path):
    config_file = path / "config.json"
    try:
      self.config = json.loads(config_file.read_text("utf-8"))
    except ValueError as error:
      raise WeightsError(f"{config_file} is not JSON: {error}") from error
    if huggingface.family(self.config) == "gemma3":
      self.norm_offset = 1.0
    opened = SafetensorsFiles(path)
    names = _text_tensors(opened.shapes)
    super().__init__(path, opened, opened.shapes, names)
    self._files = [config_file, *opened.files]

  def decoder_fields(self) -> dict[str, Any]:
    """See `Source`; the tensors tell whether embeddings are tied."""
    fields = huggingface.decoder_fields(self.config)
    return fields | {"tied_embeddings": parameters.OUTPUT not in self.shapes}

  def files(self) -> list[pathlib.Path]:
    """See `Source`."""
    return self._files


class GgufSource(Source):
  """A GGUF file; llama.cpp stores Gemma's norms as multipliers."""

  kind = "GGUF file"

  def __init__(self, path: pathlib.Path):
    self.file = GgufFile(path)
    shapes = {name: info.shape for name, info in self.file.tensors.items()}
    shapes.pop(gguf_names.FREQUENCIES, None)
    super().__init__(path, self.file, shapes, gguf_names.tensors(self.file))

  def decoder_fields(self) -> dict[str, Any]:
    """See `Source`."""
    return gguf_names.decoder_fields(self.file)

  def read(
    self, name: str, start: int = 0, stop: int | None = None
  ) -> np.ndarray:
    """See `Source`; rotated rows are in Hugging Face's order."""
    rows = super().read(name, start, stop)
    return gguf_names.reorder(self.file, self._names[name], rows)

  def files(self) -> list[pathlib.Path]:
    """See `Source`."""
    return [self.path]


def open_source(source: str | os.PathLike[str]) -> Source:
  """Opens a pretrained model.

  Args:
    source: Hugging Face folder, GGUF file, or name of a packaged model
      (`calrec_jax.weights.packages.PACKAGES`).

  Raises:
    WeightsError: If it is none of these, with a remedy where there is one.
  """
  path = packages.resolve(source)
  if path.is_file():
    with path.open("rb") as file:
      if file.read(4) == b"GGUF":
        return GgufSource(path)
    raise WeightsError(f"{path} is not a GGUF file. {_remedy(path)}")
  if (path / "config.json").exists():
    return HuggingFaceSource(path)
  gguf = sorted(path.glob("*.gguf"))
  if len(gguf) == 1:
    return GgufSource(gguf[0])
  raise WeightsError(
    f"{path} is neither a Hugging Face folder (it has no config.json) nor a "
    f"GGUF file. {_remedy(path)}"
  )


def is_source(source: str | os.PathLike[str]) -> bool:
  """Whether a name or path looks like weights that `open_source` reads."""
  path = pathlib.Path(source).expanduser()
  return (
    os.fspath(source) in packages.PACKAGES
    or path.is_file()
    or (path / "config.json").is_file()
    or bool(list(path.glob("*.gguf")))
  )


def identity(source: Source) -> dict[str, Any]:
  """Identifies a model without reading all of it.

  Returns:
    Its format and name, and a sha256 over the sizes, first and last bytes of
    its files: hashing gigabytes at every start would take minutes.
  """
  digest = hashlib.sha256()
  for path in source.files():
    size = path.stat().st_size
    digest.update(f"{path.name} {size}\n".encode())
    with path.open("rb") as file:
      digest.update(file.read(_SAMPLE))
      file.seek(max(0, size - _SAMPLE))
      digest.update(file.read())
  return {
    "kind": source.kind,
    "name": source.path.name,
    "sampled_sha256": digest.hexdigest(),
  }


def _text_tensors(stored: Iterable[str]) -> dict[str, str]:
  """Stored names of the text decoder's tensors, by plain name."""
  prefixes = {
    "language_model.model.": "model.",
    "model.language_model.": "model.",
    "language_model.lm_head.": "lm_head.",
  }
  if not any(name.startswith(tuple(prefixes)) for name in stored):
    return {name: name for name in stored}
  return {
    plain + name.removeprefix(prefix): name
    for name in stored
    for prefix, plain in {**prefixes, "lm_head.": "lm_head."}.items()
    if name.startswith(prefix)
  }


def _remedy(path: pathlib.Path) -> str:
  """What to do with a format that is not supported."""
  folder = path.is_dir()
  names = [child.name for child in path.iterdir()] if folder else [path.name]
  if folder and "checkpoint" in names:
    return (
      "A file named `checkpoint` is t5x's old msgpack format or Mesh "
      "TensorFlow's: restore it in t5x and save it with Orbax "
      "(SaveCheckpointConfig with the Orbax checkpoint manager)."
    )
  for pattern, remedy in _REMEDIES.items():
    if any(re.search(pattern, name) for name in names):
      return remedy
  return (
    "Give a Hugging Face folder, a GGUF file, a checkpoint_<step> folder, or "
    f"one of {', '.join(packages.PACKAGES)}."
  )


_REMEDIES = {
  r"\.(msgpack|h5)$": (
    "Flax msgpack and Keras files are not supported: load the model in "
    "Transformers and write it with save_pretrained(NEW, "
    "safe_serialization=True)."
  ),
  r"\.(bin|pt|pth|ckpt)$": (
    "Pickle files can run code and are refused: if you trust them, load the "
    "model in Transformers and write it with save_pretrained(NEW, "
    "safe_serialization=True)."
  ),
  r"\.index|^model\.ckpt": (
    "TensorFlow checkpoints are not supported: convert them with t5x, then "
    "save them with Orbax."
  ),
}
