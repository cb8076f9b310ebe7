"""One file of a log, opened: its format, its encoding and its rows."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, Any, Protocol

from calrec_jax.data.logs import problems as problems_lib
from calrec_jax.data.logs import progress
from calrec_jax.data.logs.files import (
  containers,
  encodings,
  formats,
  log_paths,
  read_options,
  row_blocks,
)
from calrec_jax.data.logs.json import json_files, sequences
from calrec_jax.data.logs.reading import columnar_files, spreadsheets
from calrec_jax.errors import InputError

_IN_MEMORY = 1 << 30  # Bytes of a packed file whose reader has to seek.
_PIECE = 1 << 20
_HEAD = 1 << 16  # Bytes by whose text the format is told.
_ZIP = b"PK\x03\x04"


class LogSource(Protocol):
  """The rows of a file, of any format."""

  @property
  def available(self) -> tuple[str, ...]:
    """Names of the columns; all of them only after the rows were read."""
    ...

  @property
  def num_lines(self) -> int:
    """Number of physical lines that were read so far; of rows, if binary."""
    ...

  def describe(self) -> dict[str, Any]:
    """How the file is read, as JSON."""
    ...

  def rows(self, wanted: Sequence[str]) -> Iterator[row_blocks.Rows]:
    """The rows, in the file's order; bad ones are counted already."""
    ...


# Opens a CSV file: its text, or its bytes if they are UTF-8.
CsvSource = Callable[
  [log_paths.LogPath, IO[Any], read_options.ReadOptions, problems_lib.Problems],
  LogSource,
]


@contextlib.contextmanager
def open_file(
  file: log_paths.LogPath,
  options: read_options.ReadOptions,
  problems: problems_lib.Problems,
  *,
  csv_source: CsvSource,
) -> Iterator[LogSource]:
  """Opens a file of any format; its first bytes tell it, not its name.

  Args:
    file: The file.
    options: Settings that say what is not to be detected.
    problems: Counter of bad rows, and receiver of notes.
    csv_source: Function that opens the text of a CSV file.

  Yields:
    The source of its rows.

  Raises:
    InputError: If it is of a format that is not read, or damaged.
  """
  formats.refuse_unread(file.path, file.suffix)
  name = os.path.basename(file.path)
  with contextlib.ExitStack() as stack:
    bar = stack.enter_context(progress.of_bytes(f"read {name}", file.size))
    raw = _Watched(stack.enter_context(contextlib.closing(file.open())), bar)
    stream, packed = containers.unpack(raw, file.path)
    stack.enter_context(contextlib.closing(stream))
    sample = containers.read_up_to(stream, encodings.SAMPLE_BYTES)
    if not sample:
      raise InputError(f"{file.path} is empty.")
    said = {"compression": packed} if packed else {}
    whole = io.BufferedReader(containers.Prefixed(sample, stream), _PIECE)
    stack.enter_context(contextlib.closing(whole))
    if kind := _binary_format(sample, file, options):
      stored = _seekable(whole, kind, file, packed, stack)
      formats.note_suffix(kind, name, file.suffix, problems)
      if kind == "xlsx":
        source: LogSource = spreadsheets.Sheet(
          stored, file.stored, file.sheet, options, problems
        )
      else:
        source = columnar_files.ColumnarFile(
          stored,
          file.path,
          kind,
          problems,
          lambda part: bar.update(round(part * (file.size or 0))),
        )
      yield _Described(source, said)
      return
    samples = [sample, *_probes(file, packed)]
    encoding = encodings.choose(options.encoding, samples)
    encodings.note(encoding, name, problems)
    head = sample[len(encoding.mark) :][:_HEAD].decode(encoding.name, "replace")
    kind = options.format or formats.of_text(head, file.suffix)
    if options.format is None:
      formats.note_suffix(kind, name, file.suffix, problems)
    if kind == "json":
      utf8 = encodings.utf8(whole, encoding)
      source = json_files.JsonFile(utf8, file.path, options, problems)
    elif kind == "sequences":
      text = encodings.text(whole, encoding)
      source = sequences.SequencesFile(text, file.path, options, problems)
    else:
      if sequences.look_like(head):
        problems.note(
          "suspect",
          f"{name} looks like a user and items in each row, of as many "
          "fields as the user has items",
          'LogFiles.format = "sequences"',
        )
      # The reader of CSV decodes UTF-8 itself, a column at a time.
      plain = encoding.name in ("utf-8", "ascii")
      open_ = encodings.utf8 if plain else encodings.text
      source = csv_source(file, open_(whole, encoding), options, problems)
    before = problems.count("broken_encoding")

    def ended() -> None:
      broken = problems.count("broken_encoding") - before
      encodings.note_broken(encoding, name, broken, problems)

    yield _Described(source, said | {"encoding": encoding.name}, ended)


def _binary_format(
  sample: bytes, file: log_paths.LogPath, options: read_options.ReadOptions
) -> str | None:
  """The format of a file that is not text, or None."""
  found = formats.of_bytes(sample, file.path)
  if found is None and sample.startswith(_ZIP):
    found = "xlsx"  # `log_paths` names the members of other archives.
  wanted = options.format
  if (
    wanted is not None
    and wanted != found
    and (found or wanted in formats.SEEKING)
  ):
    raise InputError(
      f"{file.path} cannot be read as LogFiles.format = {wanted!r}: its first "
      f"bytes are those of {found or 'a text'}."
    )
  return found


def _seekable(
  whole: IO[bytes],
  kind: str,
  file: log_paths.LogPath,
  packed: str | None,
  stack: contextlib.ExitStack,
) -> Any:
  """A file whose reader goes back and forth: its path or a stream."""
  if file.is_local and packed is None and kind != "xlsx":
    return file.stored
  if file.member is None and packed is None:
    again = stack.enter_context(contextlib.closing(file.open()))
    if again.seekable():
      return again
  return columnar_files.in_memory(whole, file.path, _IN_MEMORY)


def _probes(file: log_paths.LogPath, packed: str | None) -> Iterator[bytes]:
  """Pieces from further in, of a file in which one can go there."""
  size = file.size or 0
  if packed is None and file.is_local and size > encodings.SAMPLE_BYTES:
    with open(file.stored, "rb") as stream:
      for i in range(1, encodings.PROBES + 1):
        stream.seek(size * i // (encodings.PROBES + 1))
        yield stream.read(encodings.PROBE_BYTES)


class _Described:
  """A source that also tells the encoding and the compression."""

  def __init__(
    self,
    source: LogSource,
    said: Mapping[str, Any],
    ended: Callable[[], object] = lambda: None,
  ) -> None:
    self._source, self._said, self._ended = source, said, ended

  @property
  def available(self) -> tuple[str, ...]:
    return self._source.available

  @property
  def num_lines(self) -> int:
    return self._source.num_lines

  def describe(self) -> dict[str, Any]:
    return {**self._source.describe(), **self._said}

  def rows(self, wanted: Sequence[str]) -> Iterator[row_blocks.Rows]:
    yield from self._source.rows(wanted)
    self._ended()


class _Watched(io.RawIOBase):
  """A stream whose bytes move a progress bar."""

  def __init__(self, raw: IO[bytes], bar: Any) -> None:
    self._raw, self._bar = raw, bar

  def readable(self) -> bool:
    return True

  def readinto(self, buffer: Any) -> int:
    size = self._raw.readinto(buffer)  # type: ignore
    self._bar.update(size)
    return size

  def close(self) -> None:
    if not self.closed:
      self._raw.close()
    super().close()
