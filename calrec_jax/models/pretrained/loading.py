"""Reads a pretrained model straight into the decoder's sharded parameters.

Tensors are read one after another and only the part of this host's devices is
kept, so that no host holds more of the model than it trains.
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

# Rows of a vocabulary that are read at once: 64 MiB of float32 at width 2048.
_ROWS = 8192

# What changes how a decoder is run, or what is added to it, not what it is.
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
  kept: np.ndarray | None = None,
  progress: bool = False,
) -> Any:
  """The parameters of a pretrained model, where they are to live.

  Args:
    source: an opened model.
    config: the decoder's shape, which must be the model's.
    shardings: a `NamedSharding` for each parameter; None is the first device.
    abstract: shapes and dtypes of the parameters; None takes them from
      `config`. Parameters that no published model has (LoRA's) are left out.
    kept: int32[V], the row of the source's vocabulary of each token; None
      takes the first V.
    progress: shows a bar of the bytes.

  Returns:
    The tree of arrays.

  Raises:
    WeightsError: if the model has another shape, with every difference.
  """
  refuse_other_shape(source, config)
  shapes = flax.traverse_util.flatten_dict(
    abstract_params(config) if abstract is None else abstract, sep="/"
  )
  chosen = parameters.of(config)
  _refuse_other_tensors(source, config, chosen, shapes, kept)
  if shardings is None:
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    places = dict.fromkeys(shapes, device)
  else:
    places = flax.traverse_util.flatten_dict(shardings, sep="/")
  bar = tqdm.tqdm(
    desc=f"load {source.path.name}",
    total=sum(_nbytes(shapes[parameter.path]) for parameter in chosen),
    unit="B",
    unit_scale=True,
    disable=not progress or jax.process_index() != 0,
    leave=False,
  )
  with bar, concurrent.futures.ThreadPoolExecutor(pieces.threads()) as pool:
    loaded = {}
    for parameter in chosen:
      shape = shapes[parameter.path]
      parts = pieces.in_parallel(
        pool, read_pieces(source, parameter, shape.shape, kept)
      )
      loaded[parameter.path] = pieces.assemble(
        shape, places[parameter.path], parts
      )
      bar.update(_nbytes(shape))
  return flax.traverse_util.unflatten_dict(loaded, sep="/")


def read_pieces(
  source: Source,
  parameter: Parameter,
  shape: tuple[int, ...],
  kept: np.ndarray | None = None,
) -> Iterator[Callable[[], pieces.Piece]]:
  """A parameter in parts of at most one tensor, each read when it is called.

  Args:
    source: an opened model.
    parameter: which of its parameters.
    shape: of the parameter.
    kept: see `load_params`.
  """
  if parameter.layered:
    for layer in range(shape[0]):
      yield lambda layer=layer: pieces.Piece(
        0,
        layer,
        parameter.from_tensor(
          source.read(parameter.tensor.format(layer=layer)),
          shape[1:],
          source.norm_offset,
        )[None],
      )
    return
  if parameter.kind != "vocabulary":
    yield lambda: pieces.Piece(
      0,
      0,
      parameter.from_tensor(
        source.read(parameter.tensor), shape, source.norm_offset
      ),
    )
    return
  axis = 1 if parameter.transposed_vocabulary else 0
  rows = np.arange(shape[axis]) if kept is None else kept
  for start in range(0, len(rows), _ROWS):
    yield lambda start=start: pieces.Piece(
      axis,
      start,
      parameter.from_tensor(
        _read_rows(source, parameter.tensor, rows[start : start + _ROWS]),
        shape,
        0.0,
      ),
    )


def refuse_other_shape(source: Source, config: DecoderConfig) -> None:
  """Refuses a configuration that computes something else than the model.

  Raises:
    WeightsError: with every field that differs.
  """
  defaults = {
    field.name: field.default for field in dataclasses.fields(DecoderConfig)
  }
  wanted = {
    name: value for name, value in defaults.items() if name not in _FREE
  } | source.decoder_fields()
  faults = [
    f"DecoderConfig.{name} is {getattr(config, name)!r}, the model has "
    f"{value!r}"
    for name, value in wanted.items()
    if not _same(name, getattr(config, name), value, config)
  ]
  if faults:
    raise WeightsError(
      f"{source.path} is a model of another shape:\n  "
      + "\n  ".join(faults)
      + "\nInclude the model's file of gin/models, such as "
      "models/gemma3_270m.gin, or bind these values."
    )


def _same(name: str, ours: Any, theirs: Any, config: DecoderConfig) -> bool:
  if name == "attention_scale":
    ours, theirs = (x or config.head_dim**-0.5 for x in (ours, theirs))
  if name == "rope_theta_local" and config.window is None:
    return True
  if name == "global_every" and config.window is None:
    return True
  if isinstance(ours, float) and isinstance(theirs, int | float):
    return math.isclose(ours, theirs, rel_tol=1e-6)
  return ours == theirs


def _refuse_other_tensors(
  source: Source,
  config: DecoderConfig,
  chosen: list[Parameter],
  shapes: dict[str, Any],
  kept: np.ndarray | None,
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
      faults += _shape_faults(parameter, name, stored, shape, kept)
  further = sorted(source.shapes.keys() - used)
  # A copy of a tied embedding does no harm.
  faults += [f"further {name}" for name in further if name != parameters.OUTPUT]
  if faults:
    raise WeightsError(
      f"{source.path} does not hold this decoder's tensors: "
      + "; ".join(faults[:8])
      + (f"; and {len(faults) - 8} more" if len(faults) > 8 else "")
    )


def _shape_faults(
  parameter: Parameter,
  name: str,
  stored: tuple[int, ...],
  shape: tuple[int, ...],
  kept: np.ndarray | None,
) -> list[str]:
  if parameter.kind == "vocabulary":
    rows = shape[1] if parameter.transposed_vocabulary else shape[0]
    if kept is not None and len(kept) != rows:
      return [f"{name}: {len(kept)} tokens are kept, the model has {rows} rows"]
    needed = rows if kept is None else int(kept.max()) + 1
    if needed > stored[0]:
      return [
        f"{name} has {stored[0]} rows, the vocabulary needs {needed}: it is "
        "another vocabulary (Dataset.vocabulary)"
      ]
    return []
  inside = shape[1:] if parameter.layered else shape
  if math.prod(inside) != math.prod(stored):
    return [f"{name} is {stored}, the decoder wants {inside}"]
  return []


def _read_rows(source: Source, name: str, rows: np.ndarray) -> np.ndarray:
  """Rows of a tensor, read as one range where they lie close together."""
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


# Reading so many rows for nothing is cheaper than another read.
_GAP = 32


def _nbytes(shape: jax.ShapeDtypeStruct) -> int:
  return math.prod(shape.shape) * np.dtype(shape.dtype).itemsize
