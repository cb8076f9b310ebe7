"""The encoding of text files: byte order marks, UTF-16, UTF-8 or cp1252.

A file of a few broken bytes remains UTF-8, and its broken rows are counted. A
file most of whose non-ASCII bytes are not UTF-8 was written by an older Western
program if they stand alone between ASCII letters; where they come in runs, it
is a script of its own, whose encoding cannot be guessed.
"""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Iterable, Iterator
from typing import IO, Any, NamedTuple

import numpy as np

from calrec_jax.data.logs import problems as problems_lib
from calrec_jax.data.logs.files import containers
from calrec_jax.errors import InputError

SAMPLE_BYTES = 4 << 20
PROBES, PROBE_BYTES = 16, 1 << 16

_PIECE = 1 << 20
_ZEROS_BYTES = 4096
_MARKS = (
  (codecs.BOM_UTF8, "utf-8"),
  # The mark of UTF-32 begins with that of UTF-16.
  (codecs.BOM_UTF32_LE, "utf-32-le"),
  (codecs.BOM_UTF32_BE, "utf-32-be"),
  (codecs.BOM_UTF16_LE, "utf-16-le"),
  (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_BINDING = 'LogFiles.encoding = "cp1252"'
# Bytes that cp1252 leaves undefined, and which no text in it has.
_NOT_CP1252 = re.compile(rb"[\x81\x8d\x8f\x90\x9d]")
_RUN = re.compile(rb"[\x80-\xff]{3,}")


class Encoding(NamedTuple):
  """How the text of a file is encoded.

  Attributes:
    name: Python's name of it, in lower case; "utf-8" where it is unknown.
    mark: Byte order mark at the start of the file, not part of its text.
    guess: "" if the file or the setting says it, "cp1252" if most bytes say it,
      "unknown" if most bytes are not UTF-8 and their encoding is unknown.
  """

  name: str
  mark: bytes = b""
  guess: str = ""


def detect(samples: Iterable[bytes]) -> Encoding:
  """The encoding that the bytes of a file show.

  Args:
    samples: The beginning of the file, and pieces from further in, each of
      which may begin and end within a character.
  """
  head, *probes = samples
  for mark, name in _MARKS:
    if head.startswith(mark):
      return Encoding(name, mark)
  if wide := _by_zeros(head[:_ZEROS_BYTES]):
    return Encoding(wide)
  probes = [probe.lstrip(bytes(range(0x80, 0xC0))) for probe in probes]
  parts = [part for part in (head, *probes) if not part.isascii()]
  counts = np.array([(0, 0), *map(_sequences, parts)])
  valid, invalid = counts.sum(0)
  if invalid <= valid:
    return Encoding("utf-8")
  text = b"\n".join(parts)
  high = int((np.frombuffer(text, np.uint8) >= 0x80).sum())
  in_runs = sum(map(len, _RUN.findall(text)))
  if _NOT_CP1252.search(text) or in_runs * 2 > high:
    return Encoding("utf-8", guess="unknown")
  return Encoding("cp1252", guess="cp1252")


def _by_zeros(head: bytes) -> str | None:
  """UTF-16 or UTF-32 without a mark, by the zeros of its ASCII characters."""
  codes = np.frombuffer(head[: len(head) // 4 * 4], np.uint8)
  if not len(codes):
    return None
  zeros = (codes.reshape(-1, 4) == 0).mean(0) > 0.4
  patterns = {
    (False, True, False, True): "utf-16-le",
    (True, False, True, False): "utf-16-be",
    (False, True, True, True): "utf-32-le",
    (True, True, True, False): "utf-32-be",
  }
  return patterns.get(tuple(zeros.tolist()))


def _sequences(data: bytes) -> tuple[int, int]:
  """Number of non-ASCII characters in UTF-8, and of bytes that are none."""
  decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
  text = decoder.decode(data)  # Without the start of a last character.
  points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
  broken = (points >= 0xDC80) & (points <= 0xDCFF)
  return int(((points >= 0x80) & ~broken).sum()), int(broken.sum())


def choose(setting: str | None, samples: Iterable[bytes]) -> Encoding:
  """The encoding of a setting, or else the one that `detect` finds.

  Args:
    setting: Name of the encoding (`LogFiles.encoding`); None detects it.
    samples: As of `detect`.

  Raises:
    InputError: If Python has no such encoding of text.
  """
  if setting is None:
    return detect(samples)
  try:
    info = codecs.lookup(setting)
    if not info._is_text_encoding:
      raise LookupError(f"{setting!r} is no encoding of text")
  except LookupError as error:
    raise InputError(
      f"LogFiles.encoding: {error}. Common ones are 'utf-8', 'utf-16', "
      "'cp1252', 'latin-1', 'cp1251', 'gb18030' and 'shift_jis'."
    ) from error
  name = info.name.removesuffix("-sig")
  head = next(iter(samples))
  for mark, marked in _MARKS:  # "utf-16" alone means the order of the mark.
    if head.startswith(mark) and marked.startswith(name):
      return Encoding(marked, mark)
  if name in ("utf-16", "utf-32"):
    found = _by_zeros(head[:_ZEROS_BYTES]) or ""
    return Encoding(found if found.startswith(name) else f"{name}-le")
  return Encoding(name)


def note(
  encoding: Encoding, path: str, problems: problems_lib.Problems
) -> None:
  """Says on the card how a guessed encoding is read."""
  name = problems_lib.base_name(path)
  if encoding.guess == "cp1252":
    problems.note(
      "info",
      f"{name} is not UTF-8 and is read as cp1252 "
      "(Western European); another encoding needs to be set",
      _BINDING,
    )
  elif encoding.guess == "unknown":
    problems.note(
      "wrong",
      f"most characters of {name} outside ASCII are not UTF-8; their encoding "
      "cannot be told, and their rows are skipped as broken_encoding",
      'LogFiles.encoding = "gb18030"  # or "shift_jis", "cp1251", "latin-1", …',
    )


def note_broken(
  encoding: Encoding, path: str, broken: int, problems: problems_lib.Problems
) -> None:
  """Names the setting for a file in which broken rows were found after all.

  Args:
    encoding: How the file was read.
    path: Path of the file.
    broken: Number of its rows that were counted as broken_encoding.
    problems: Receives the note.
  """
  name = problems_lib.base_name(path)
  if broken and not encoding.guess:
    problems.note(
      "suspect",
      f"{broken:,} rows of {name} are not text in {encoding.name} and were "
      "skipped; if the file has another encoding, set it",
      'LogFiles.encoding = "cp1252"  # or "latin-1", "gb18030", "shift_jis", …',
      "broken_encoding",
    )


def text(stream: IO[bytes], encoding: Encoding) -> io.TextIOWrapper:
  """The text of a stream, its line breaks as they are.

  Bytes that are not text are surrogates in it.

  Args:
    stream: Bytes of the file from its start.
    encoding: Their encoding.
  """
  _skip_mark(stream, encoding)
  wrapped: Any = io.TextIOWrapper(
    stream, encoding=encoding.name, errors=_ESCAPES, newline=""
  )
  wrapped._CHUNK_SIZE = _PIECE  # It would read 8 KiB at a time.
  return wrapped


def utf8(stream: IO[bytes], encoding: Encoding) -> IO[bytes]:
  """A stream in UTF-8; bytes that are not text are not UTF-8 in it, either.

  Args:
    stream: Bytes of the file from its start.
    encoding: Their encoding.
  """
  _skip_mark(stream, encoding)
  if encoding.name in ("utf-8", "ascii"):
    return stream
  parts = _in_utf8(stream, encoding.name)
  return io.BufferedReader(containers.Pieces(parts, stream.close), _PIECE)


def _skip_mark(stream: IO[bytes], encoding: Encoding) -> None:
  if encoding.mark:
    containers.read_up_to(stream, len(encoding.mark))


def _escape(error: UnicodeError) -> tuple[str, int]:
  """Decodes what is not text to surrogates, also ASCII bytes in UTF-16.

  The codecs' own handler refuses those.
  """
  if not isinstance(error, UnicodeDecodeError):
    raise error
  bad = error.object[error.start : error.end]
  return "".join(chr(0xDC00 + (code | 0x80)) for code in bad), error.end


_ESCAPES = "calrec_jax.surrogates"
codecs.register_error(_ESCAPES, _escape)


def _in_utf8(stream: IO[bytes], name: str) -> Iterator[bytes]:
  """The pieces of a stream of another encoding in UTF-8."""
  decoder = codecs.getincrementaldecoder(name)(_ESCAPES)
  ended = False
  while not ended:
    data = stream.read(_PIECE)
    ended = not data
    text = decoder.decode(data, final=ended)
    if text:
      yield text.encode("utf-8", "surrogatepass")
