"""Sequences in a row: a user and then the items, oldest first."""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute creates its functions at run time.)

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, TextIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from calrec_jax.data.logs import problems as problems_lib
from calrec_jax.data.logs.files import read_options, row_blocks
from calrec_jax.data.logs.json import json_blocks
from calrec_jax.errors import InputError

NAMES = ("user_id", "item_id", "position")

_BLOCK_CHARACTERS = 4 << 20
_LINES = 50  # Looked at to tell sequences from tables.
_ID = re.compile(r"\d+|[A-Z0-9]{6,}")


def columns(options: read_options.ReadOptions) -> tuple[str, str, str]:
  """Names of the columns of the user, the item and its position.

  Raises:
    InputError: If the settings name fewer than two or more than three.
  """
  names = options.columns or NAMES
  if not 2 <= len(names) <= len(NAMES):
    raise InputError(
      f"LogFiles.columns = {options.columns!r}: sequences have a user, an item "
      "and, if named, its position."
    )
  return tuple((*names, *NAMES[len(names) :]))  # type: ignore


def look_like(text: str) -> bool:
  """Whether a text looks like sequences of ids rather than like a table."""
  lines = [line.split() for line in text.split("\n")[:-1][:_LINES]]
  lines = [line for line in lines if line]
  lengths = {len(line) for line in lines}
  return (
    len(lengths) > 2
    and min(lengths) > 1
    and all(_ID.fullmatch(word) for line in lines for word in line)
  )


class SequencesFile:
  """Reads lines of a user's id and the ids of items.

  Attributes:
    available: Names of the columns.
    num_lines: Number of the lines that were read so far.
  """

  def __init__(
    self,
    stream: TextIO,
    path: str,
    options: read_options.ReadOptions,
    problems: problems_lib.Problems,
  ) -> None:
    """Reads nothing yet.

    Args:
      stream: Text of the file.
      path: Path of the file, for messages.
      options: Delimiter (None is any white space), and names of the columns.
      problems: Counter of the lines without an item and of broken encodings.
    """
    self.available = columns(options)
    self.num_lines = 0
    self._stream, self._path, self._problems = stream, path, problems
    self._delimiter = options.delimiter

  def describe(self) -> dict[str, Any]:
    """How the file is read."""
    delimiter = self._delimiter or "white space"
    return {"format": "sequences", "delimiter": delimiter}

  def rows(self, wanted: Sequence[str]) -> Iterator[row_blocks.Rows]:
    """A row for each item; bad lines are counted already."""
    while True:
      text = self._stream.read(_BLOCK_CHARACTERS) + self._stream.readline()
      if not text:
        return
      text = text.replace("\r\n", "\n").replace("\r", "\n")
      lines = text.removesuffix("\n").split("\n")
      numbers = np.arange(len(lines)) + self.num_lines + 1
      self.num_lines += len(lines)
      filled = [
        i for i, line in enumerate(lines) if line and not line.isspace()
      ]
      lines, numbers = [lines[i] for i in filled], numbers[filled]
      good = np.ones(len(lines), bool)
      try:
        texts = pa.array(lines, pa.large_string())
      except UnicodeEncodeError:
        good = np.array(list(map(json_blocks.encodes, lines)), bool)
        texts = pa.array(
          [lines[i] for i in np.flatnonzero(good)], pa.large_string()
        )
      yield self._block(texts, numbers[good], numbers[~good], wanted)

  def _block(
    self,
    texts: pa.Array,
    lines: np.ndarray,
    broken: np.ndarray,
    wanted: Sequence[str],
  ) -> row_blocks.Rows:
    texts = pc.utf8_trim_whitespace(texts)
    if self._delimiter and not self._delimiter.isspace():
      words = pc.split_pattern(texts, self._delimiter)
    else:
      words = pc.utf8_split_whitespace(texts)
    lengths = pc.list_value_length(words).to_numpy().astype(np.int64)
    parts = pc.list_flatten(words)
    short = lengths < 2
    rows = exploded(parts, lengths, lines, self.available, wanted)
    rows = rows._replace(malformed=lines[short], broken=broken)
    self._problems.add_rows("malformed_row", self._path, rows.malformed)
    self._problems.add_rows("broken_encoding", self._path, broken)
    return rows


def exploded(
  parts: pa.Array,
  lengths: np.ndarray,
  lines: np.ndarray,
  names: Sequence[str],
  wanted: Sequence[str],
) -> row_blocks.Rows:
  """Sequences as rows.

  Args:
    parts: The user and the items of each sequence, all after another.
    lengths: int64[n], number of parts of each, its user included.
    lines: int64[n], line of each.
    names: Names of the columns of user, item and position.
    wanted: Names of the requested columns.
  """
  ends = np.cumsum(lengths)
  starts = ends - lengths
  positions = np.arange(len(parts)) - np.repeat(starts, lengths)
  items = np.flatnonzero(positions)
  users = np.repeat(starts, lengths)[items]
  values = {
    names[0]: parts.take(pa.array(users)),
    names[1]: parts.take(pa.array(items)),
    names[2]: pa.array(positions[items]),
  }
  table = {name: values.get(name, pa.nulls(len(items))) for name in wanted}
  return row_blocks.Rows(pa.table(table), np.repeat(lines, lengths)[items])
