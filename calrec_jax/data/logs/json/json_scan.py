"""JSON values one after another in a text of any size and any layout.

Values may be in a list, one below the other or over several lines. A damaged
one is skipped up to the next that begins as its neighbours do, and the lines in
between are reported.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from calrec_jax.errors import InputError

MAX_VALUE = 64 << 20  # Characters; a longer object is damage.
_MAX_STRING = 16 << 20
_TAIL = 16  # Characters at the end of a buffer that may be cut in a token.
_OVERLAP = 1 << 12
SPACE = re.compile(r"[\s,]*")
_KEY = re.compile(r"\{\s*(\"(?:[^\"\\]|\\.)*\")\s*:")


class Found(NamedTuple):
  """A value, or damage.

  Attributes:
    value: The value; `DAMAGED` for what is none.
    first: Line where it starts, from 1.
    last: Line where it ends.
  """

  value: Any
  first: int
  last: int


class _Damaged:
  """The type of `DAMAGED`."""


DAMAGED = _Damaged()


class _MalformedError(ValueError):
  """Text that is no JSON."""


class Scanner:
  """Reads values of a text that comes in pieces."""

  def __init__(self, pieces: Iterator[str], path: str) -> None:
    """Starts at the beginning.

    Args:
      pieces: The text in order, none of them empty.
      path: Path of the file, for messages.
    """
    self._pieces, self._path = pieces, path
    self._text, self._at = "", 0
    self._line, self._counted = 1, 0
    self._last = ""  # Last character that was taken from the pieces.
    self._ended = False
    self._decode = json.JSONDecoder().raw_decode

  def line(self) -> int:
    """Line of the next character, from 1."""
    self._line += self._text.count("\n", self._counted, self._at)
    self._counted = self._at
    return self._line

  def finish(self) -> int:
    """Reads to the end, and returns the number of lines."""
    while True:
      self._at = len(self._text)
      if not self._more():
        return self.line() - (self._last == "\n")

  def _more(self, at_least: int = 1) -> bool:
    """Reads more text; whether there was any."""
    self.line()
    self._last = self._text[-1:] or self._last
    parts, size = [self._text[self._at :]], 0
    while size < at_least and (piece := next(self._pieces, "")):
      parts.append(piece)
      size += len(piece)
      self._last = piece[-1]
    self._text, self._at, self._counted = "".join(parts), 0, 0
    self._ended = size < at_least
    return size > 0

  def peek(self) -> str:
    """The next character that is neither white space nor a comma, or ""."""
    while True:
      match = SPACE.match(self._text, self._at)
      self._at = match.end() if match else self._at
      if self._at < len(self._text):
        return self._text[self._at]
      if not self._more():
        return ""

  def skip(self) -> None:
    """Skips one character."""
    self._at += 1

  def value(self) -> Any:
    """Reads the next value.

    Raises:
      ValueError: If it is no JSON; then the position is where it was.
    """
    self.peek()
    while True:
      size = len(self._text)
      try:
        value, end = self._decode(self._text, self._at)
        if end < size or self._ended or isinstance(value, dict | list | str):
          self._at = end
          return value
      except json.JSONDecodeError as error:
        string = "Unterminated string" in error.msg
        cut = (
          size - error.pos < _MAX_STRING
          if string
          else error.pos >= size - _TAIL
        )
        if not cut or self._ended or size - self._at > MAX_VALUE:
          raise _MalformedError(str(error)) from error
      except (ValueError, RecursionError) as error:  # Endless numbers, depth.
        raise _MalformedError(str(error)) from error
      self._more(max(size - self._at, 1))

  def enter(self, way: Sequence[str]) -> None:
    """Goes into objects, up to the list that a way of keys leads to.

    Raises:
      ValueError: If the way does not lead to a list.
    """
    for key in way:
      if self.peek() != "{":
        raise _MalformedError(f"no object with the key {key!r}")
      self.skip()
      while self.value() != key:
        self._colon()
        self.value()
      self._colon()
    if self.peek() != "[":
      raise _MalformedError("no list")

  def _colon(self) -> None:
    if self.peek() != ":":
      raise _MalformedError("no colon after a key")
    self.skip()

  def in_list(self) -> Iterator[Found]:
    """The values of the list that begins here, up to its end.

    Raises:
      InputError: If the list never ends.
    """
    start = self._start()
    self.skip()
    while (char := self.peek()) != "]":
      if not char:
        raise InputError(
          f"{self._path}:{self.line()}: the file ends within its list of "
          "records, so its end is missing. Fetch it again."
        )
      yield self._next(start, closing=True)
    self.skip()

  def at_top(self) -> Iterator[Found]:
    """The values to the end of the file, and those of lists among them."""
    start = self._start()
    while char := self.peek():
      if char == "[":
        yield from self.in_list()
      else:
        yield self._next(start, closing=False)

  def lists_at_top(self) -> Iterator[Found]:
    """The values to the end of the file, lists as they are."""
    start = re.compile(r"(?=\[)")
    while self.peek():
      yield self._next(start, closing=False)

  def members(self) -> Iterator[tuple[str, Found]]:
    """Keys and values of the object that begins here.

    Raises:
      ValueError: If it is damaged or never ends.
    """
    self.peek()
    self.skip()
    while (char := self.peek()) != "}":
      if not char:
        raise _MalformedError("the end of the object is missing")
      key = self.value()
      self._colon()
      self.peek()
      first = self.line()
      yield key, Found(self.value(), first, self.line())
    self.skip()

  def _next(self, start: re.Pattern[str], *, closing: bool) -> Found:
    first = self.line()
    try:
      value = self.value()
      return Found(value, first, self.line())
    except ValueError:
      return Found(DAMAGED, first, self._resume(start, first, closing))

  def _resume(self, start: re.Pattern[str], first: int, closing: bool) -> int:
    """Goes to the next value after damage; returns the last damaged line."""
    self._at += 1
    while True:
      match = start.search(self._text, self._at)
      if match:
        self._at = match.end()
        line = self.line()
        before = self._text.rfind("\n", 0, match.end())
        alone = not self._text[before + 1 : match.end()].strip(" \t\r,[")
        return max(first, line - 1 if alone else line)
      self._at = max(self._at, len(self._text) - _OVERLAP)
      if self._ended or not self._more():
        end = self._text.rstrip().rstrip("}")
        if closing and end.endswith("]"):  # The list's own end.
          self._at = len(end) - 1
          return max(first, self.line() - (end[-2:-1] == "\n"))
        self._at = len(self._text)
        return max(first, self.line() - (self._text[-1:] == "\n"))

  def _start(self) -> re.Pattern[str]:
    """What the values here begin with, to find the next one after damage."""
    self.peek()
    if len(self._text) - self._at < _OVERLAP:
      self._more(_OVERLAP)
    match = _KEY.search(self._text, self._at)
    key = re.escape(match[1]) if match else r"\""
    return re.compile(rf"(?=\{{\s*{key})")
