"""Text files as a stream of blocks of whole lines, compressed or plain.

A file of any size is read in pieces of a few megabytes. A truncated file is an
error that says where; it is never mistaken for a complete one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from calrec_jax.data.logs.files import containers
from calrec_jax.errors import InputError

BLOCK_BYTES = 4 << 20
# A longer line is damage rather than a row, such as a hole of zeros.
MAX_LINE_BYTES = 64 << 20

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
  with open(path, "rb") as raw:
    method = containers.kind(raw.read(containers.HEAD_BYTES))
    raw.seek(0)
    reported = 0

    def pieces() -> Iterator[bytes]:
      nonlocal reported
      for piece in containers.pieces(raw, method, block_bytes):
        at = raw.tell()
        on_bytes(at - reported)
        reported = at
        yield piece
      on_bytes(raw.tell() - reported)

    yield from of_pieces(pieces(), path)


def of_pieces(pieces: Iterator[bytes], path: str) -> Iterator[Block]:
  """Cuts text into blocks of whole lines.

  Args:
    pieces: The text in order; one that raises ValueError is damaged.
    path: Path of the file, for messages.

  Yields:
    The blocks, without a byte order mark.

  Raises:
    InputError: As `read`.
  """
  line, rest = 1, b""
  while True:
    try:
      piece = next(pieces, b"")
    except InputError:
      raise
    except ValueError as error:
      raise containers.damaged(path, line, error) from error
    if line == 1 and not rest:
      if piece == _BYTE_ORDER_MARK:
        continue
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
