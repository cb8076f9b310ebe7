"""Conversion of models between formats: `calrec checkpoint convert`.

Reads checkpoints of calrec_jax, t5x checkpoints in Orbax's format, Hugging Face
folders and GGUF files; writes checkpoints and Hugging Face folders. Parameters
are read one at a time, into files if they are written together, so that no
model has to fit into memory.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import json
import os
import pathlib
import tempfile
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from calrec_jax.checkpoint import initial_parameters, store, tokenizer_export
from calrec_jax.data.vocabulary.files import Vocabulary
from calrec_jax.models import lora as loras
from calrec_jax.models.decoder_config import DecoderConfig
from calrec_jax.models.pretrained import (
  export,
  loading,
  parameters,
  pieces,
  sources,
)
from calrec_jax.models.pretrained.t5x_names import T5xTree
from calrec_jax.storage import identity, lineage
from calrec_jax.weights.packages import WeightsError

# File of a Hugging Face folder that ranking by two towers needs.
TOWERS_FILE = "calrec.json"


class Cut(NamedTuple):
  """A pruned vocabulary of a published model.

  Attributes:
    vocabulary: Vocabulary of a dataset, pruned from that model's.
    record: Its `initial_parameters.vocabulary_record`.
  """

  vocabulary: Vocabulary
  record: Mapping[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
  """A model of any format, opened.

  Attributes:
    path: Path of the model.
    config: Shape, without LoRA, which is merged while reading.
    parts: Function from a parameter's path to its parts, each read when called.
    record: Lineage of a checkpoint made from it.
    vocabulary: Record of `initial_parameters.vocabulary_record`.
    source: Published model; None for a checkpoint.
  """

  path: pathlib.Path
  config: DecoderConfig
  parts: Callable[[str], Iterator[Callable[[], pieces.Piece]]]
  record: Mapping[str, Any]
  vocabulary: Mapping[str, Any]
  source: sources.Source | None = None

  def fill(self, path: str, buffer: np.ndarray) -> None:
    """Reads a parameter into an array of its shape."""
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
      for piece in pieces.in_parallel(pool, self.parts(path)):
        at = [slice(None)] * buffer.ndim
        size = piece.values.shape[piece.axis]
        at[piece.axis] = slice(piece.start, piece.start + size)
        buffer[tuple(at)] = piece.values


def open_model(
  path: str | os.PathLike[str],
  config: DecoderConfig | None = None,
  *,
  cut: Cut | None = None,
  layers: int | None = None,
) -> Model:
  """Opens a model of any format.

  Args:
    path: Path or name, see `initial_parameters.open_source`.
    config: Shape of a t5x checkpoint's model, which it does not record.
    cut: Vocabulary that a published model is pruned to.
    layers: Number of first layers read from a published model; None reads all.

  Raises:
    CheckpointError: for a vocabulary that is not the model's.
    WeightsError: for more layers than the model has, and for a `cut` or
      `layers` of a checkpoint.
  """
  source = initial_parameters.open_source(path)
  if isinstance(source, initial_parameters.PretrainedSource):
    return _published(source, cut, layers)
  if cut is not None or layers is not None:
    raise WeightsError(
      f"{source} is a checkpoint: only a published model is cut to a "
      "vocabulary or to its first layers."
    )
  if isinstance(source, initial_parameters.T5xSource):
    return _t5x(source, config)
  assert isinstance(source, initial_parameters.CheckpointSource)
  return _ours(source.checkpoint)


def to_checkpoint(
  model: Model,
  folder: pathlib.Path,
  *,
  dtype: str = "float32",
  progress: bool = True,
) -> pathlib.Path:
  """Writes `folder/checkpoint_0`, from which a stage can start; returns it.

  Args:
    model: Opened model.
    folder: Folder without a checkpoint.
    dtype: Dtype of the arrays, "float32" or "bfloat16"; a stage converts them
      to its own.
    progress: Whether a bar is shown.
  """
  folder.mkdir(parents=True, exist_ok=True)
  # On the checkpoint's disk: the parameters pass through files.
  with tempfile.TemporaryDirectory(dir=folder, prefix=".convert-") as scratch:
    params = {}
    shapes = _shapes(model.config)
    for number, path in enumerate(_bar(model, shapes, progress)):
      params[path] = np.memmap(
        pathlib.Path(scratch, str(number)),
        dtype=jnp.dtype(dtype),
        mode="w+",
        shape=shapes[path].shape,
      )
      model.fill(path, params[path])
      params[path].flush()
    return store.write_params(
      folder, params, lineage=model.record, vocabulary=model.vocabulary
    )


def to_huggingface(
  model: Model,
  folder: pathlib.Path,
  *,
  base: str | None = None,
  dtype: str = "float32",
  progress: bool = True,
) -> pathlib.Path:
  """Writes a Hugging Face folder with the full vocabulary; returns it.

  Args:
    model: Opened model.
    folder: Folder that does not exist yet.
    base: Model that a pruned vocabulary was taken from; None is the one
      that the checkpoint names.
    dtype: Dtype of the tensors, "float32" or "bfloat16".
    progress: Whether a bar is shown.
  """
  row_map = model.vocabulary.get("kept")
  source = model.source
  if source is None and (base or model.vocabulary.get("source")):
    source = sources.open_source(base or model.vocabulary["source"])
  files, special = tokenizer_export.collect(
    model.path, model.vocabulary, source
  )
  if (temperature := lineage.temperature(model.record)) is not None:
    text = json.dumps({"temperature": temperature}) + "\n"
    files = [*files, (TOWERS_FILE, text.encode())]
  shapes = _shapes(model.config)
  reading = _bar(model, shapes, progress)

  def read(path: str) -> np.ndarray:
    next(reading, None)
    buffer = np.empty(shapes[path].shape, shapes[path].dtype)
    model.fill(path, buffer)
    return buffer

  with contextlib.closing(reading):
    return export.write_folder(
      folder,
      model.config,
      read,
      row_map=None if row_map is None else np.array(row_map, np.int64),
      base=source,
      dtype=dtype,
      special=special,
      files=files,
    )


def _shapes(config: DecoderConfig) -> dict[str, jax.ShapeDtypeStruct]:
  return store.flatten(loading.abstract_params(config))


def _bar(
  model: Model, shapes: Mapping[str, jax.ShapeDtypeStruct], progress: bool
) -> Generator[str, None, None]:
  """Paths of the parameters, with a bar that advances when one is done."""
  sizes = {
    parameter.path: shapes[parameter.path].size
    * shapes[parameter.path].dtype.itemsize
    for parameter in parameters.of(model.config)
  }
  bar = tqdm.tqdm(
    desc=f"convert {model.path.name}",
    total=sum(sizes.values()),
    unit="B",
    unit_scale=True,
    disable=not progress,
    leave=False,
  )
  with bar:
    for path, size in sizes.items():
      yield path
      bar.update(size)


def _published(
  published: initial_parameters.PretrainedSource,
  cut: Cut | None,
  layers: int | None,
) -> Model:
  source = published.source
  if cut is None:
    vocabulary = {"size": source.num_tokens, "kept": None, "pretrained": True}
  else:
    published.require_vocabulary(cut.vocabulary)
    vocabulary = cut.record
  config = DecoderConfig(
    **source.decoder_fields(), vocab_size=vocabulary["size"]
  )
  loading.check_shape(source, config)
  if layers is not None:
    if not 1 <= layers <= config.layers:
      raise WeightsError(
        f"{published} has {config.layers} layers: its first {layers} cannot be "
        "taken."
      )
    config = dataclasses.replace(config, layers=layers)
  shapes = _shapes(config)
  by_path = {parameter.path: parameter for parameter in parameters.of(config)}
  row_map = vocabulary["kept"]
  rows = None if row_map is None else np.array(row_map, np.int32)
  temperature = _temperature(source.path)
  return Model(
    path=source.path,
    config=config,
    parts=lambda path: loading.read_pieces(
      source, by_path[path], shapes[path].shape, rows
    ),
    record=_record("pretrained", published.describe(), config, temperature),
    vocabulary=vocabulary,
    source=source,
  )


def _ours(checkpoint: pathlib.Path) -> Model:
  record = store.read_json(checkpoint, "lineage")
  try:
    config = DecoderConfig.from_record(record["training"]["DecoderConfig"])
  except (KeyError, TypeError) as error:
    raise store.CheckpointError(
      f"{checkpoint}: its lineage does not record the shape of its model "
      f"({error})."
    ) from error
  plain = dataclasses.replace(config, lora=None)
  described = {"DecoderConfig": identity.plain(dataclasses.asdict(plain))}
  return Model(
    path=checkpoint,
    config=plain,
    parts=lambda path: iter(
      [lambda: pieces.Piece(0, 0, _read_merged(checkpoint, path, config))]
    ),
    record={**record, "training": record["training"] | described},
    vocabulary=initial_parameters.stored_vocabulary(checkpoint),
  )


def _read_merged(
  checkpoint: pathlib.Path, path: str, config: DecoderConfig
) -> np.ndarray:
  def read(name: str) -> np.ndarray:
    return store.read_array(checkpoint, f"target/{name}")

  value = read(path)
  module, _, leaf = path.rpartition("/")
  targets = () if config.lora is None else config.lora.targets
  if leaf != "kernel" or module.split("/")[-1] not in targets:
    return value
  leaves = {"kernel": value}
  leaves |= {name: read(f"{module}/{name}") for name in loras.LEAVES}
  leaves = jax.tree.map(jnp.asarray, leaves)
  return np.asarray(loras.merge_lora(leaves, config)["kernel"])


def _t5x(
  source: initial_parameters.T5xSource, config: DecoderConfig | None
) -> Model:
  if config is None:
    raise WeightsError(
      f"{source.checkpoint} is a t5x checkpoint, which does not record the "
      "shape of its model. Give it: --gin_file=models/NAME.gin, or "
      "--gin.DecoderConfig.NAME=VALUE."
    )
  stored = source.stored()
  tree = T5xTree(stored)
  if config.vocab_size is None:
    embedding = tree.arrays["token_embedder/embedding"]
    assert isinstance(embedding, str)  # Not one per layer.
    rows = stored[embedding].shape[0]
    config = dataclasses.replace(config, vocab_size=rows)
  shapes = _shapes(config)
  tree.check_parameters(shapes)
  return Model(
    path=source.checkpoint,
    config=config,
    parts=lambda path: tree.pieces(path, shapes[path].shape, source.read),
    record=_record("t5x", source.describe(), config),
    vocabulary={},
  )


def _temperature(folder: pathlib.Path) -> float | None:
  """The temperature of the two towers in a folder of `to_huggingface`."""
  path = folder / TOWERS_FILE
  if not path.is_file():
    return None
  try:
    return float(json.loads(path.read_text("utf-8"))["temperature"])
  except (ValueError, KeyError, TypeError) as error:
    raise WeightsError(
      f"{path} gives no temperature ({error!r}). Remove it to rank without the "
      "prior of purchases."
    ) from error


def _record(
  stage: str,
  parent: Mapping[str, Any],
  config: DecoderConfig,
  temperature: float | None = None,
) -> dict[str, Any]:
  """The lineage of a model that was trained elsewhere."""
  training: dict[str, Any] = {
    "task": "–",
    "DecoderConfig": identity.plain(dataclasses.asdict(config)),
  }
  if temperature is not None:
    training["Objective"] = {"temperature": temperature}
  return lineage.describe(
    stage=stage, parent=parent, data={}, training=training, configuration="{}"
  )
