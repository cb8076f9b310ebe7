"""Documents as serialised `tf.train.Example` messages, by Arrow.

TFDS makes one message at a time in Python, which takes a millisecond for a
long history. A message is its fields' bytes one behind another, so those of
thousands of documents can be joined at once: texts are encoded once an item,
numbers once an event. The encoding is protobuf's
(https://protobuf.dev/programming-guides/encoding).
Needs nothing of TensorFlow. Tested by `tests/unit/data/test_examples.py`
against TFDS's own serializer.
"""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute makes its functions at run time.)

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_BYTES = pa.large_binary()  # Plain binary arrays end at 2 GiB.

# Tags: field number and wire type, of the messages of tensorflow/core/example.
_FIELD_1, _FIELD_2 = b"\x0a", b"\x12"
_BYTES_LIST, _INT64_LIST = b"\x0a", b"\x1a"


@dataclasses.dataclass(frozen=True, eq=False)
class _Payloads:
  """The values of one feature, encoded, one entry a document."""

  tag: bytes
  content: pa.LargeBinaryArray


class Texts:
  """Texts that are encoded once and put into many documents."""

  def __init__(self, texts: Sequence[str] | pa.LargeStringArray):
    if not isinstance(texts, pa.LargeStringArray):
      texts = pa.array(texts, pa.large_string())
    content = texts.cast(_BYTES)
    self._pieces = _joined(_FIELD_1, _sizes(content), content)

  def __len__(self) -> int:
    return len(self._pieces)

  def lengths(self) -> np.ndarray:
    """Bytes of each text as a message holds it, int64[N]."""
    return _lengths(self._pieces)

  def at(self, rows: np.ndarray, offsets: np.ndarray) -> _Payloads:
    """A list of texts for each document.

    Args:
      rows: int[E], which texts.
      offsets: int64[D + 1], document d has `rows[offsets[d]:offsets[d + 1]]`.
    """
    pieces = self._pieces.take(pa.array(rows))
    return _Payloads(_BYTES_LIST, _grouped(pieces, offsets))


def numbers(values: np.ndarray, offsets: np.ndarray) -> _Payloads:
  """A list of whole numbers for each document.

  Args:
    values: int[E].
    offsets: int64[D + 1], document d has `values[offsets[d]:offsets[d + 1]]`.
  """
  packed = _grouped(_varints(values.astype(np.int64)), offsets)
  whole = _joined(_FIELD_1, _sizes(packed), packed)
  empty = pa.array(offsets[1:] == offsets[:-1])
  return _Payloads(
    _INT64_LIST, pc.if_else(empty, pa.scalar(b"", _BYTES), whole)
  )


def serialise(features: Mapping[str, _Payloads]) -> pa.LargeBinaryArray:
  """One message for each document.

  Args:
    features: `Texts.at` or `numbers` by the feature's name, for the same
      documents.

  Returns:
    The messages; the features are in the order of their names.
  """
  parts: list[pa.Array | bytes] = []
  total = np.int64(0)
  for name in sorted(features):
    tag, content = features[name].tag, features[name].content
    lists = _lengths(content)
    feature = 1 + _varint_lengths(lists) + lists
    key = _FIELD_1 + bytes([len(name)]) + name.encode() + _FIELD_2
    entry = len(key) + _varint_lengths(feature) + feature
    total = total + 1 + _varint_lengths(entry) + entry
    parts += [_FIELD_1, _varints(entry), key, _varints(feature), tag]
    parts += [_varints(lists), content]
  return _joined(_FIELD_1, _varints(np.asarray(total)), *parts)


def _joined(*parts: pa.Array | bytes) -> pa.LargeBinaryArray:
  parts = tuple(
    pa.scalar(part, _BYTES) if isinstance(part, bytes) else part
    for part in parts
  )
  return pc.binary_join_element_wise(*parts, pa.scalar(b"", _BYTES))


def _sizes(content: pa.LargeBinaryArray) -> pa.LargeBinaryArray:
  """The length of each value, as it stands before the value."""
  return _varints(_lengths(content))


def _lengths(content: pa.LargeBinaryArray) -> np.ndarray:
  return pc.binary_length(content).to_numpy(zero_copy_only=False)


def _grouped(
  pieces: pa.LargeBinaryArray, offsets: np.ndarray
) -> pa.LargeBinaryArray:
  """Neighbouring values as one value; a view of the same bytes."""
  ends = np.frombuffer(pieces.buffers()[1], np.int64)[pieces.offset :]
  cuts = np.ascontiguousarray(ends[offsets])
  return pa.LargeBinaryArray.from_buffers(
    _BYTES,
    len(offsets) - 1,
    [None, pa.py_buffer(cuts), pieces.buffers()[2] or pa.py_buffer(b"")],
  )


def _varint_lengths(values: np.ndarray) -> np.ndarray:
  """Bytes that each number takes, int64[n]; 7 of its bits go into a byte."""
  left = np.asarray(values).astype(np.int64).view(np.uint64) >> np.uint64(7)
  lengths = np.ones(left.shape, np.int64)
  while left.any():
    lengths += left > 0
    left >>= np.uint64(7)
  return lengths


def _varints(values: np.ndarray) -> pa.LargeBinaryArray:
  """Each number as a varint: its low bits first, all but the last marked."""
  left = values.astype(np.int64).view(np.uint64)
  lengths = _varint_lengths(values)
  width = int(lengths.max(initial=1))
  text = np.empty((len(values), width), np.uint8)
  for at in range(width):
    text[:, at] = (left & np.uint64(127)).astype(np.uint8)
    text[:, at] |= (lengths > at + 1).astype(np.uint8) << 7
    left = left >> np.uint64(7)
  kept = text[np.arange(width) < lengths[:, None]]
  ends = np.concatenate([[0], np.cumsum(lengths)])
  return pa.LargeBinaryArray.from_buffers(
    _BYTES, len(values), [None, pa.py_buffer(ends), pa.py_buffer(kept)]
  )
