"""Compressed streams, told by their first bytes and never by their name.

Nothing is written to disk, and a stream is read in pieces: what unpacks to much
more than its size needs no more memory than anything else. A stream that ends
too early, or has something after its end, is an error and never a short file.
"""

from __future__ import annotations

import bz2
import io
import lzma
import re
import zlib
from collections.abc import Callable, Iterator
from typing import IO, Any

import pyarrow as pa

from calrec_jax.errors import InputError

PIECE_BYTES = 4 << 20

_GZIP_WBITS = 31  # Makes zlib check gzip's header and checksum.
_PACKED_BYTES = 1 << 18
_MAGIC = {
  "gzip": b"\x1f\x8b",
  "bz2": b"BZh",
  "xz": b"\xfd7zXZ\x00",
  "zstd": b"\x28\xb5\x2f\xfd",
}
_BZ2 = re.compile(rb"BZh[1-9](?:1A|\x17r)")
_SKIPPABLE = b"\x2a\x4d\x18"  # Of a zstd frame, after a byte of 0x50 to 0x5f.
HEAD_BYTES = 6
SUFFIXES = frozenset((".gz", ".gzip", ".bz2", ".xz", ".zst", ".zstd"))


class DamagedError(InputError):
  """Compressed data that are damaged or end too early."""


def kind(head: bytes) -> str | None:
  """How a stream is compressed: "gzip", "bz2", "xz", "zstd", or None.

  Args:
    head: First `HEAD_BYTES` bytes of the stream.
  """
  for name, magic in _MAGIC.items():
    if head.startswith(magic):
      # A text may begin with the three letters of bz2.
      return name if name != "bz2" or _BZ2.match(head) else None
  if head[1:4] == _SKIPPABLE and 0x50 <= head[0] <= 0x5F:
    return "zstd"
  return None


def unpack(
  raw: Any, path: str, *, size: int = PIECE_BYTES
) -> tuple[io.BufferedReader, str | None]:
  """Opens a stream that may be compressed.

  Args:
    raw: Stored bytes, at their start; the result takes it over.
    path: Path of the file, for messages.
    size: Approximate number of unpacked bytes that are held at a time.

  Returns:
    The unpacked bytes, and how they are compressed, see `kind`. Reading raises
    `DamagedError` where the compressed data are damaged.
  """
  head = read_up_to(raw, HEAD_BYTES)
  method = kind(head)
  stored = Prefixed(head, raw)
  if method is None:
    return io.BufferedReader(stored, size), None
  parts = _located(pieces(stored, method, size), path)
  return io.BufferedReader(Pieces(parts, raw.close), size), method


def pieces(raw: Any, method: str | None, size: int) -> Iterator[bytes]:
  """A stream in pieces of at most `size` bytes, unpacked.

  Args:
    raw: Stored bytes, at their start.
    method: How they are compressed, see `kind`.
    size: Largest number of bytes of a piece.

  Yields:
    Pieces, none of them empty.

  Raises:
    ValueError: If the compressed data are damaged or end too early.
  """
  if method is None:
    while piece := raw.read(size):
      yield piece
  elif method == "zstd":
    yield from _of_zstd(raw, size)
  elif method == "gzip":
    yield from _of_gzip(raw, size)
  else:
    opened = bz2.BZ2Decompressor if method == "bz2" else lzma.LZMADecompressor
    yield from _of_frames(raw, opened, size)


def _of_gzip(raw: IO[bytes], size: int) -> Iterator[bytes]:
  # Python's gzip reads 32 KiB at a time and computes the checksum in Python,
  # but decompression is the bottleneck of a parallel reader.
  unpacker = None
  packed = b""
  while packed or (packed := raw.read(_PACKED_BYTES)):
    if unpacker is None:  # The next member; zeros may precede it.
      packed = packed.lstrip(b"\0")
      if not packed:
        continue
      unpacker = zlib.decompressobj(wbits=_GZIP_WBITS)
    try:
      piece = unpacker.decompress(packed, size)
    except zlib.error as error:
      raise ValueError(str(error)) from error
    packed = unpacker.unconsumed_tail
    if piece:
      yield piece
    if unpacker.eof:
      packed, unpacker = unpacker.unused_data, None
  if unpacker is not None:
    raise ValueError("the end of the compressed data is missing")


def _of_frames(
  raw: IO[bytes], opened: Callable[[], Any], size: int
) -> Iterator[bytes]:
  """Unpacks bz2 and xz, which may be several streams in a row."""
  unpacker = None
  packed = b""
  while packed or (packed := raw.read(_PACKED_BYTES)):
    if unpacker is None:
      packed = packed.lstrip(b"\0")  # Padding of xz.
      if not packed:
        continue
      unpacker = opened()
    try:
      piece = unpacker.decompress(packed, size)
      packed = b""
      while piece:
        yield piece
        done = unpacker.eof or unpacker.needs_input
        piece = b"" if done else unpacker.decompress(b"", size)
    except (OSError, lzma.LZMAError) as error:
      raise ValueError(str(error)) from error
    if unpacker.eof:
      packed, unpacker = unpacker.unused_data, None
  if unpacker is not None:
    raise ValueError("the end of the compressed data is missing")


def _of_zstd(raw: IO[bytes], size: int) -> Iterator[bytes]:
  try:
    stream = pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), "zstd")
    while piece := stream.read(size):
      yield piece
  except (pa.ArrowInvalid, OSError) as error:
    raise ValueError(str(error)) from error


def damaged(path: str, line: int, error: Exception) -> DamagedError:
  """The error of compressed data that break off in or after a line."""
  return DamagedError(
    f"{path}:{line}: the compressed data are damaged or end too early, in "
    f"this line or soon after it ({error}). Fetch the file again."
  )


def read_up_to(raw: IO[bytes], size: int) -> bytes:
  """Reads `size` bytes, fewer only at the end; one read may return fewer."""
  parts = []
  while size and (part := raw.read(size)):
    parts.append(part)
    size -= len(part)
  return b"".join(parts)


class Prefixed(io.RawIOBase):
  """A stream whose first bytes have been read already."""

  def __init__(self, head: bytes, rest: IO[bytes]) -> None:
    """Takes over the stream.

    Args:
      head: Bytes that were read from it.
      rest: The stream after them.
    """
    self._head, self._rest = memoryview(head), rest

  def readable(self) -> bool:
    """Whether it can be read: always."""
    return True

  def readinto(self, buffer: Any) -> int:
    """Reads the next bytes."""
    if not self._head:
      return self._rest.readinto(buffer)  # type: ignore
    size = min(len(buffer), len(self._head))
    buffer[:size] = self._head[:size]
    self._head = self._head[size:]
    return size

  def close(self) -> None:
    """Closes the stream."""
    if not self.closed:
      self._rest.close()
    super().close()


class Pieces(io.RawIOBase):
  """Pieces of bytes, none of them empty, as a stream."""

  def __init__(
    self, parts: Iterator[bytes], close: Callable[[], object]
  ) -> None:
    """Starts before the first piece.

    Args:
      parts: The pieces, in order.
      close: Function that closes what they come from.
    """
    self._parts, self._close = parts, close
    self._part = memoryview(b"")

  def readable(self) -> bool:
    """Whether it can be read: always."""
    return True

  def readinto(self, buffer: Any) -> int:
    """Reads the next bytes."""
    if not self._part:
      self._part = memoryview(next(self._parts, b""))
    size = min(len(buffer), len(self._part))
    buffer[:size] = self._part[:size]
    self._part = self._part[size:]
    return size

  def close(self) -> None:
    """Closes the stream."""
    if not self.closed:
      self._close()
    super().close()


def _located(parts: Iterator[bytes], path: str) -> Iterator[bytes]:
  """The pieces; damage is an error that names the line."""
  line = 1
  while True:
    try:
      part = next(parts, b"")
    except ValueError as error:
      raise damaged(path, line, error) from error
    if not part:
      return
    line += part.count(b"\n")
    yield part
