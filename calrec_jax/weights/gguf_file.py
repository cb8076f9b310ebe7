"""GGUF files: metadata and tensors, read lazily.

The header is not read by `gguf.GGUFReader`, which creates an array for every
string of the tokenizer: 15 s instead of 0.25 s for Gemma's 262,144 pieces.
`gguf` decodes quantised blocks.
Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
Tested against `gguf`'s own reader in `tests/unit/weights/test_gguf_file.py`.
"""

from __future__ import annotations

import functools
import math
import os
import pathlib
import struct
from typing import Any, NamedTuple

import numpy as np
from gguf import constants, quants

from calrec_jax.weights.packages import WeightsError

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_STRING, _ARRAY = 8, 9
_SCALARS = {
  0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?",
  10: "<Q", 11: "<q", 12: "<d",
}  # fmt: skip
_MAX_DIMS = 4


class TensorInfo(NamedTuple):
  """Type and location of a tensor in a file.

  Attributes:
    shape: Shape in NumPy's order, slowest axis first.
    kind: GGML type of its elements.
    offset: Offset in bytes from the start of the file.
    row_bytes: Bytes of one row of the last axis.
  """

  shape: tuple[int, ...]
  kind: constants.GGMLQuantizationType
  offset: int
  row_bytes: int


class GgufFile:
  """An open GGUF file.

  Attributes:
    path: Path of the file.
    fields: Metadata by key: numbers, strings, lists.
    tensors: Tensors by name.
  """

  def __init__(self, path: str | os.PathLike[str]):
    """Reads the header."""
    self.path = pathlib.Path(path)
    if self.path.stat().st_size < 24:
      raise WeightsError(f"{path} is not a GGUF file: it is too short.")
    self._data = np.memmap(self.path, mode="r")
    try:
      cursor = _Cursor(self._data.data)
      self.fields, infos = _read_header(cursor)
      align = self.fields.get("general.alignment", 32)
      if not isinstance(align, int) or align < 1:
        raise WeightsError(f"its alignment {align!r} is invalid.")
      start = -(-cursor.at // align) * align
      self.tensors = {
        name: self._info(name, start, *info) for name, info in infos.items()
      }
    except (struct.error, UnicodeDecodeError, KeyError, ValueError) as error:
      if isinstance(error, WeightsError):
        raise WeightsError(f"{path}: {error}") from None
      raise WeightsError(
        f"{path} is truncated or damaged: its header cannot be read "
        f"({error!r}). Download it again."
      ) from error

  def read(
    self, name: str, start: int = 0, stop: int | None = None
  ) -> np.ndarray:
    """Rows `start` to `stop` (exclusive) of a tensor's first axis, float32."""
    info = self.tensors[name]
    stop = info.shape[0] if stop is None else stop
    # The rows of a vector are its elements, those of a matrix whole blocks.
    if len(info.shape) == 1:
      [values] = self._rows(info, 0, 1)
      return values[start:stop]
    per_row = math.prod(info.shape[1:-1])
    rows = self._rows(info, start * per_row, stop * per_row)
    return rows.reshape(stop - start, *info.shape[1:])

  def _rows(self, info: TensorInfo, start: int, stop: int) -> np.ndarray:
    first, end = (info.offset + row * info.row_bytes for row in (start, stop))
    raw = np.asarray(self._data[first:end]).reshape(-1, info.row_bytes)
    try:
      return quants.dequantize(raw, info.kind).astype(np.float32, copy=False)
    except NotImplementedError as error:
      raise WeightsError(
        f"The quantisation {info.kind.name} is not supported; use another one."
      ) from error

  def _info(
    self, name: str, start: int, dims: tuple[int, ...], kind: int, offset: int
  ) -> TensorInfo:
    kind = constants.GGMLQuantizationType(kind)
    block, nbytes = constants.GGML_QUANT_SIZES[kind]
    if dims[0] % block:
      raise WeightsError(
        f"the rows of {name} are not a multiple of its block size {block}."
      )
    row_bytes = dims[0] // block * nbytes
    end = start + offset + row_bytes * math.prod(dims[1:])
    if end > len(self._data):
      raise WeightsError(
        f"the file is truncated: {name} ends at byte {end:,} of "
        f"{len(self._data):,}. Download it again."
      )
    return TensorInfo(tuple(reversed(dims)), kind, start + offset, row_bytes)


class _Cursor:
  """Reads consecutive little-endian values of a file."""

  def __init__(self, data: memoryview):
    self._data, self.at = data, 0

  def scalar(self, kind: int) -> Any:
    layout = _scalar(kind)
    [value] = layout.unpack_from(self._data, self.at)
    self.at += layout.size
    return value

  def text(self) -> str:
    length = self.scalar(10)
    if length > len(self._data) - self.at:
      raise WeightsError("the file is truncated within a string.")
    text = bytes(self._data[self.at : self.at + length])
    self.at += length
    # Pieces of byte-level tokenizers are not always complete characters.
    return text.decode("utf-8", errors="surrogateescape")

  def value(self, kind: int, depth: int = 0) -> Any:
    if kind == _STRING:
      return self.text()
    if kind != _ARRAY:
      return self.scalar(kind)
    if depth:
      raise WeightsError("its header contains lists of lists.")
    inner, length = self.scalar(4), self.scalar(10)
    if length > len(self._data) - self.at:
      raise WeightsError("the file is truncated within a list.")
    if inner in (_STRING, _ARRAY):
      return [self.value(inner, depth + 1) for _ in range(length)]
    layout = np.dtype(_SCALARS[inner])
    if length * layout.itemsize > len(self._data) - self.at:
      raise WeightsError("the file is truncated within a list.")
    values = np.frombuffer(self._data, layout, length, self.at)
    self.at += values.nbytes
    return values.tolist()


def _read_header(
  cursor: _Cursor,
) -> tuple[dict[str, Any], dict[str, tuple[tuple[int, ...], int, int]]]:
  magic = bytes(cursor.scalar(0) for _ in range(4))
  if magic != _MAGIC:
    raise WeightsError("this is not a GGUF file.")
  version = cursor.scalar(4)
  if version not in _VERSIONS:
    raise WeightsError(
      f"GGUF version {version} is not supported; versions 2 and 3, "
      "little-endian, are. Convert the model again with a current llama.cpp."
    )
  num_tensors, num_fields = cursor.scalar(10), cursor.scalar(10)
  fields = {}
  for _ in range(num_fields):
    key = cursor.text()
    fields[key] = cursor.value(cursor.scalar(4))
  infos = {}
  for _ in range(num_tensors):
    name = cursor.text()
    num_dims = cursor.scalar(4)
    if not 1 <= num_dims <= _MAX_DIMS:
      raise WeightsError(f"{name} has {num_dims} axes, which is invalid.")
    dims = tuple(cursor.scalar(10) for _ in range(num_dims))
    infos[name] = (dims, cursor.scalar(4), cursor.scalar(10))
  return fields, infos


@functools.cache
def _scalar(kind: int) -> struct.Struct:
  if kind not in _SCALARS:
    raise WeightsError(f"its header has a value of unknown type {kind}.")
  return struct.Struct(_SCALARS[kind])
