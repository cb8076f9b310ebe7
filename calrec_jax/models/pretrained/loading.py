"""Reads a pretrained model directly into the decoder's sharded parameters.

Tensors are read one at a time and a host retains only the shards of its own
devices, so that no host holds more of the model than it trains.
Tested in `tests/unit/models/pretrained/test_loading.py` and, against
Transformers, in `tests/reference` and `tests/pretrained`.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import flax.traverse_util
import jax
import numpy as np
import tqdm

from calrec_jax.models import decoder as decoders
from calrec_jax.models import families
from calrec_jax.models.decoder_config import DecoderConfig
from calrec_jax.models.pretrained import parameters, pieces
from calrec_jax.models.pretrained.parameters import Parameter
from calrec_jax.models.pretrained.sources import Source
from calrec_jax.runtime import partitioning
from calrec_jax.weights.packages import WeightsError

# Rows of a vocabulary read at once: 64 MiB of float32 at width 2048.
_ROWS = 8192

# Fields that change how a decoder runs, or what is added, not what it computes.
_FREE = (
  "vocab_size", "dropout", "dtype", "param_dtype", "remat", "attention_blocks",
  "scan_unroll", "lora", "user_tokens",
)  # fmt: skip


def abstract_params(config: DecoderConfig) -> Any:
  """Shapes and dtypes of a decoder's parameters; nothing is allocated."""
  return partitioning.unbox(families.abstract_params(decoders.Decoder(config)))


def load_params(
  source: Source,
  config: DecoderConfig,
  shardings: Any = None,
  *,
  abstract: Any = None,
  row_map: np.ndarray | None = None,
  progress: bool = False,
) -> Any:
  """Loads the parameters of a pretrained model onto their devices.

  Args:
    source: Opened model.
    config: Shape of the decoder; must match the model's.
    shardings: `NamedSharding` of each parameter; None is the first device.
    abstract: Shapes and dtypes of the parameters; None takes them from
      `config`. Parameters that no published model has (LoRA's) are omitted.
    row_map: int32[V], row of each token in the source's vocabulary; None takes
      the first V rows.
    progress: Whether to show a progress bar in bytes.

  Returns:
    The tree of arrays.

  Raises:
    WeightsError: If the shape does not match, with every difference.
  """
  check_shape(source, config)
  shapes: dict[str, Any] = flax.traverse_util.flatten_dict(
    abstract_params(config) if abstract is None else abstract, sep="/"
  )
  chosen = parameters.of(config)
  _check_tensors(source, config, chosen, shapes, row_map)
  device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  placements: dict[str, Any] = dict.fromkeys(shapes, device)
  if shardings is not None:
    placements = flax.traverse_util.flatten_dict(shardings, sep="/")
  bar = tqdm.tqdm(
    desc=f"load {source.path.name}",
    total=sum(_nbytes(shapes[parameter.path]) for parameter in chosen),
    unit="B",
    unit_scale=True,
    disable=not progress or jax.process_index() != 0,
    leave=False,
  )
  loaded = {}
  with bar, concurrent.futures.ThreadPoolExecutor(pieces.THREADS) as pool:
    for parameter in chosen:
      path, shape = parameter.path, shapes[parameter.path]
      parts = read_pieces(source, parameter, shape.shape, row_map)
      parts = pieces.in_parallel(pool, parts)
      loaded[path] = pieces.assemble(shape, placements[path], parts)
      bar.update(_nbytes(shape))
  return flax.traverse_util.unflatten_dict(loaded, sep="/")


def read_pieces(
  source: Source,
  parameter: Parameter,
  shape: tuple[int, ...],
  row_map: np.ndarray | None = None,
) -> Iterator[Callable[[], pieces.Piece]]:
  """Splits a parameter into pieces of at most one tensor, read lazily.

  Args:
    source: Opened model.
    parameter: Parameter to read.
    shape: Shape of the parameter.
    row_map: See `load_params`.
  """

  def convert(tensor: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return parameter.from_tensor(tensor, shape, source.norm_offset)

  name = parameter.tensor
  if parameter.layered:
    for layer in range(shape[0]):
      of_layer = name.format(layer=layer)
      yield lambda layer=layer, of_layer=of_layer: pieces.Piece(
        0, layer, convert(source.read(of_layer), shape[1:])[None]
      )
  elif parameter.kind == "vocabulary":
    axis = 1 if parameter.transposed_vocabulary else 0
    rows = np.arange(shape[axis]) if row_map is None else row_map
    for start in range(0, len(rows), _ROWS):
      part = rows[start : start + _ROWS]
      yield lambda start=start, part=part: pieces.Piece(
        axis, start, convert(_read_rows(source, name, part), shape)
      )
  else:
    yield lambda: pieces.Piece(0, 0, convert(source.read(name), shape))


def check_shape(source: Source, config: DecoderConfig) -> None:
  """Raises a WeightsError with every field that does not match the model."""
  wanted = {
    field.name: field.default
    for field in dataclasses.fields(DecoderConfig)
    if field.name not in _FREE
  } | source.decoder_fields()
  faults = [
    f"DecoderConfig.{name} is {getattr(config, name)!r}, the model has "
    f"{value!r}"
    for name, value in wanted.items()
    if not _same(name, getattr(config, name), value, config)
  ]
  if faults:
    raise WeightsError(
      f"{source.path} does not match the configuration:\n  "
      + "\n  ".join(faults)
      + "\nInclude the model's file from gin/models, such as "
      "models/gemma3_270m.gin, or bind these values."
    )


def _same(name: str, ours: Any, theirs: Any, config: DecoderConfig) -> bool:
  if name == "attention_scale":
    ours, theirs = (x or config.head_dim**-0.5 for x in (ours, theirs))
  if name in ("rope_theta_local", "global_every") and config.window is None:
    return True
  if isinstance(ours, float) and isinstance(theirs, int | float):
    return math.isclose(ours, theirs, rel_tol=1e-6)
  return ours == theirs


def _check_tensors(
  source: Source,
  config: DecoderConfig,
  chosen: list[Parameter],
  shapes: dict[str, Any],
  row_map: np.ndarray | None,
) -> None:
  faults = []
  used = set()
  for parameter in chosen:
    for layer in range(config.layers if parameter.layered else 1):
      name = parameter.tensor.format(layer=layer)
      used.add(name)
      if name not in source.shapes:
        faults.append(f"missing {name}")
        continue
      stored = source.shapes[name]
      shape = shapes[parameter.path].shape
      faults += _shape_faults(parameter, name, stored, shape, row_map)
  unexpected = sorted(source.shapes.keys() - used)
  # A copy of a tied embedding is harmless.
  faults += [
    f"unexpected {name}" for name in unexpected if name != parameters.OUTPUT
  ]
  if faults:
    raise WeightsError(
      f"The tensors in {source.path} do not match the decoder: "
      + "; ".join(faults[:8])
      + (f"; and {len(faults) - 8} more" if len(faults) > 8 else "")
    )


def _shape_faults(
  parameter: Parameter,
  name: str,
  stored: tuple[int, ...],
  shape: tuple[int, ...],
  row_map: np.ndarray | None,
) -> list[str]:
  if parameter.kind == "vocabulary":
    rows = shape[1] if parameter.transposed_vocabulary else shape[0]
    if row_map is not None and len(row_map) != rows:
      return [
        f"{name}: the pruned vocabulary has {len(row_map)} tokens, the decoder "
        f"{rows} rows"
      ]
    needed = rows if row_map is None else int(row_map.max()) + 1
    if needed > stored[0]:
      return [
        f"{name} has {stored[0]} rows, but the vocabulary needs {needed}: "
        "Dataset.vocabulary is not this model's"
      ]
    return []
  inside = shape[1:] if parameter.layered else shape
  if math.prod(inside) != math.prod(stored):
    return [f"{name} is {stored}, the decoder expects {inside}"]
  return []


def _read_rows(source: Source, name: str, rows: np.ndarray) -> np.ndarray:
  """Rows of a tensor, read as one range where they are close together."""
  low, high = int(rows.min()), int(rows.max()) + 1
  if high - low == len(rows):
    return source.read(name, low, high)
  parts = np.split(rows, np.flatnonzero(np.diff(rows) > _GAP) + 1)
  return np.concatenate(
    [
      source.read(name, int(part[0]), int(part[-1]) + 1)[part - part[0]]
      for part in parts
    ]
  )


# Reading this many unneeded rows is cheaper than another read.
_GAP = 32


def _nbytes(shape: jax.ShapeDtypeStruct) -> int:
  return math.prod(shape.shape) * np.dtype(shape.dtype).itemsize
