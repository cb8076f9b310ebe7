"""The lines of a CSV file, a block at a time, as parsers can take them.

PyArrow and Python's `csv` know delimiters of one character, and take an escape
before any character for none. `Translation` rewrites a block so that they read
it as it is meant, and turns their values back.
"""

from __future__ import annotations

import functools
import io
import re
from collections.abc import Callable, Iterator
from typing import IO, Any

import numpy as np

BLOCK_CHARACTERS = 4 << 20
# Bytes that could not be decoded are surrogates in text; encoded again they are
# invalid UTF-8, which is found where values become text.
ENCODING: tuple[str, str] = ("utf-8", "surrogatepass")
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
BLANKS = r"\s+"  # The delimiter that is any run of blanks and tabs.
NEW_LINE, RETURN = b"\n\r"

_SEPARATOR = b"\x1f"  # ASCII calls it the unit separator.
_OF_THE_TEXT = "\U0010fffe".encode()  # A separator of the text itself.
_MARGINS = re.compile(rb"(?m)^[ \t]+|[ \t]+(?=\r?$)")
_RUNS = re.compile(rb"[ \t]+")


class Translation:
  """Text with a delimiter of one character, and escapes that mean something.

  An escape counts before a quote even if quotes are text: writers that enclose
  nothing escape quotes nevertheless.

  Attributes:
    delimiter: Delimiter of the translated text, one ASCII character.
  """

  def __init__(
    self, delimiter: str, quote: str | None, escape: str | None
  ) -> None:
    self._written = delimiter.encode(*ENCODING)
    self._blanks = delimiter == BLANKS
    whole = len(self._written) == 1 and self._written != b"\0"
    self.delimiter = delimiter if whole else _SEPARATOR.decode()
    self._escapes = None
    if escape:
      special = "".join({escape, self.delimiter, quote or '"'}) + "\r\n"
      mark = re.escape(escape.encode())
      self._escapes = re.compile(
        b"(%b[%b])|%b" % (mark, re.escape(special.encode()), mark)
      )
      self._escape = escape.encode()
      self._special = np.frombuffer(special.encode(), np.uint8)

  def __call__(self, data: bytes) -> bytes:
    """Translates whole lines."""
    if self.delimiter.encode() != self._written:
      data = data.replace(_SEPARATOR, _OF_THE_TEXT)
      if self._blanks:
        data = _RUNS.sub(_SEPARATOR, _MARGINS.sub(b"", data))
      else:
        data = data.replace(self._written, _SEPARATOR)
    if self._escapes is not None and self._lone_escapes(data):
      # Before other characters an escape is text, as in MySQL's \N.
      literal = self._escape * 2
      data = self._escapes.sub(lambda found: found[1] or literal, data)
    return data

  def _lone_escapes(self, data: bytes) -> bool:
    """Whether there are escapes before characters that need none."""
    if self._escape not in data:
      return False
    codes = np.frombuffer(data, np.uint8)
    at = escapes(codes, ord(self._escape))
    if at[-1] + 1 == len(codes):
      return True
    return not bool(np.isin(codes[at + 1], self._special).all())

  @functools.cached_property
  def changed(self) -> tuple[tuple[str, str], ...]:
    """What stands for what in values: pairs of the new and the old text."""
    if self.delimiter.encode() == self._written:
      return ()
    old = " " if self._blanks else self._written.decode(*ENCODING)
    return (
      (self.delimiter, old),
      (_OF_THE_TEXT.decode(), _SEPARATOR.decode()),
    )

  def restore(self, value: str) -> str:
    """A value as it was before the translation."""
    for new, old in self.changed:
      value = value.replace(new, old)
    return value


class Block:
  """Some whole lines of a file.

  Attributes:
    data: Their text as bytes, translated.
    first_line: Number of the first line, from 1.
    decoding: Encoding of the bytes and how it treats those that are not text.
  """

  def __init__(
    self, data: bytes, first_line: int, decoding: tuple[str, str] = ENCODING
  ) -> None:
    self.data, self.first_line, self.decoding = data, first_line, decoding

  @functools.cached_property
  def codes(self) -> np.ndarray:
    """uint8[b], the bytes."""
    return np.frombuffer(self.data, np.uint8)

  @functools.cached_property
  def simple_breaks(self) -> bool:
    """Whether each carriage return is part of a line break with a new line."""
    if b"\r" not in self.data:
      return True
    return self.data.count(b"\r") == self.data.count(b"\r\n")

  @functools.cached_property
  def _ends(self) -> np.ndarray:
    codes = self.codes
    ends = np.flatnonzero(codes == NEW_LINE)
    if not self.simple_breaks:  # A return is also a line break if alone.
      returns = np.flatnonzero(codes == RETURN)
      alone = codes.take(returns + 1, mode="clip") != NEW_LINE
      ends = np.sort(np.concatenate([ends, returns[alone]]))
    if len(codes) and (not len(ends) or ends[-1] + 1 < len(codes)):
      ends = np.append(ends, len(codes))
    return ends

  @functools.cached_property
  def bounds(self) -> np.ndarray:
    """int64[n + 1], the first byte of each line, and the end."""
    bounds = np.concatenate([[0], self._ends + 1])
    return np.minimum(bounds, len(self.codes))

  @functools.cached_property
  def stops(self) -> np.ndarray:
    """int64[n], the end of each line without its line break."""
    ends = self._ends
    if RETURN not in self.data:
      return ends
    pair = (ends > self.bounds[:-1]) & (self.codes.take(ends - 1) == RETURN)
    return ends - (pair & (self.codes.take(ends, mode="clip") == NEW_LINE))

  @functools.cached_property
  def blank(self) -> np.ndarray:
    """bool[n], whether a line is empty."""
    return self.stops == self.bounds[:-1]

  @functools.cached_property
  def _num_lines(self) -> int:
    if not self.simple_breaks:
      return len(self._ends)
    unfinished = bool(self.data) and not self.data.endswith(b"\n")
    return int(np.count_nonzero(self.codes == NEW_LINE)) + unfinished

  def __len__(self) -> int:
    return self._num_lines

  def line(self, index: int) -> str:
    """A line with its line break."""
    start, end = self.bounds[index : index + 2].tolist()
    return self.data[start:end].decode(*self.decoding)

  def content(self, index: int) -> bytes:
    """A line without its line break."""
    return self.data[self.bounds[index] : self.stops[index]]

  def rest(self, index: int) -> Block:
    """The lines from one on."""
    data = self.data[self.bounds[index] :]
    return Block(data, self.first_line + index, self.decoding)


class Lines(Iterator[str]):
  """The lines of a file, one after another, and the block they are in.

  Attributes:
    block: Block of the next line, or the last block at the end of the file.
    index: Index of the next line in it.
  """

  def __init__(
    self,
    stream: IO[Any],
    translation: Callable[[bytes], bytes],
    head: Any = None,
  ) -> None:
    """Reads nothing yet.

    Args:
      stream: Text of the file with its line breaks as they are, or its bytes if
        they are UTF-8.
      translation: Translation of each block.
      head: Whole lines that were taken from the stream already.
    """
    self._stream, self._translation, self._head = stream, translation, head
    self._started = False
    self.block, self.index = Block(b"", 1), 0

  @classmethod
  def of(cls, block: Block) -> Lines:
    """The lines of one block alone, which is translated already."""
    lines = cls(io.BytesIO(), lambda data: data)
    lines.block = block
    return lines

  @property
  def number(self) -> int:
    """Number of the next line in the file, from 1."""
    return self.block.first_line + self.index

  def more(self) -> bool:
    """Whether there is a next line; reads the next block when needed."""
    if self.index == len(self.block):
      head, self._head = self._head, None
      data, decoding = head or take(self._stream, BLOCK_CHARACTERS), ENCODING
      if not data:
        return False
      if isinstance(data, str):
        data = data.encode(*ENCODING)
      else:
        decoding = ("utf-8", "surrogateescape")
        if not self._started:
          data = data.removeprefix(BYTE_ORDER_MARK)
      self._started = True
      self.block = Block(self._translation(data), self.number, decoding)
      self.index = 0
      return self.more()  # Nothing but a mark may have been in it.
    return True

  def cut(self) -> Block:
    """The block without the lines that were read already."""
    if self.index:
      self.block, self.index = self.block.rest(self.index), 0
    return self.block

  def __next__(self) -> str:
    if not self.more():
      raise StopIteration
    self.index += 1
    return self.block.line(self.index - 1)


def escapes(codes: np.ndarray, escape: int) -> np.ndarray:
  """int64[n], the positions of escapes that are not escaped themselves.

  Args:
    codes: uint8[b], bytes of text.
    escape: Byte of the escape character.
  """
  at = np.flatnonzero(codes == escape)
  begins = np.diff(at, prepend=-2) != 1
  order = np.arange(len(at))
  since = order - np.maximum.accumulate(np.where(begins, order, 0))
  return at[since % 2 == 0]  # In a row of them, each other one is escaped.


def take(stream: IO[Any], size: int) -> Any:
  """About so many characters or bytes of a stream, up to the end of a line."""
  data = stream.read(size)
  return data + stream.readline() if data else data
