"""Text files as a stream of blocks of whole lines, gzip or plain.

A file of any size is read in pieces of a few megabytes. Its first bytes, not
its name, tell whether it is gzip. A truncated file is an error that says where;
it is never mistaken for a complete one.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from typing import IO, NamedTuple

from calrec_jax.errors import InputError

BLOCK_BYTES = 4 << 20
# A longer line is damage rather than a row, such as a hole of zeros.
MAX_LINE_BYTES = 64 << 20

_GZIP = b"\x1f\x8b"
_GZIP_WBITS = 31  # Makes zlib check gzip's header and checksum.
_PACKED_BYTES = 1 << 18
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Block(NamedTuple):
  """Some whole lines of a file.

  Attributes:
    data: Bytes of the lines; only the file's last may have no line break.
    first_line: Number of the first line, from 1.
  """

  data: bytes
  first_line: int


def read(
  path: str,
  *,
  block_bytes: int = BLOCK_BYTES,
  on_bytes: Callable[[int], object] = lambda count: None,
) -> Iterator[Block]:
  """Reads a file in blocks of whole lines.

  Args:
    path: Path of the file.
    block_bytes: Approximate size of a block; a longer line is a block of its
      own.
    on_bytes: Function called with the number of bytes of the file itself that
      were read since the last call, for a progress bar.

  Yields:
    The blocks in order, without a byte order mark.

  Raises:
    InputError: If the compressed data are damaged or truncated, or a line is
      longer than `MAX_LINE_BYTES`; the message names the line.
    OSError: If the file cannot be read.
  """
  line, rest = 1, b""
  with open(path, "rb") as raw:
    pieces = _pieces(raw, block_bytes)
    reported = 0
    while True:
      try:
        piece = next(pieces, b"")
      except (EOFError, zlib.error) as error:
        raise InputError(
          f"{path}:{line}: the compressed data are damaged or end too early, "
          f"in this line or soon after it ({error}). Fetch the file again."
        ) from error
      at = raw.tell()
      on_bytes(at - reported)
      reported = at
      if line == 1 and not rest:
        piece = piece.removeprefix(_BYTE_ORDER_MARK)
      end = piece.rfind(b"\n") + 1
      if end or not piece:
        data = rest + piece[:end]
        if data:
          yield Block(data, line)
          line += data.count(b"\n")
        if not piece:
          return
        rest = piece[end:]
      else:
        rest += piece
      if len(rest) > MAX_LINE_BYTES:
        raise InputError(
          f"{path}:{line}: this line is longer than {MAX_LINE_BYTES:,} bytes; "
          "the file is damaged or does not hold one row per line."
        )


def _pieces(raw: IO[bytes], size: int) -> Iterator[bytes]:
  """A file in pieces of at most `size` bytes, decompressed if it is gzip.

  Python's gzip reads 32 KiB at a time and computes the checksum in Python, but
  decompression is the bottleneck of a parallel reader.
  """
  magic = raw.read(len(_GZIP))
  raw.seek(0)
  if magic != _GZIP:
    while piece := raw.read(size):
      yield piece
    return
  unpack = None
  packed = b""
  while packed or (packed := raw.read(_PACKED_BYTES)):
    if unpack is None:  # The next member; zeros may precede it.
      packed = packed.lstrip(b"\0")
      if not packed:
        continue
      unpack = zlib.decompressobj(wbits=_GZIP_WBITS)
    piece = unpack.decompress(packed, size)
    packed = unpack.unconsumed_tail
    if piece:
      yield piece
    if unpack.eof:
      packed, unpack = unpack.unused_data, None
  if unpack is not None:
    raise EOFError("the end of the compressed data is missing")
