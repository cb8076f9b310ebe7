"""The places and the ids of all rows of a log, block by block."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from calrec_jax.data.logs import problems as problems_lib
from calrec_jax.data.logs.columns import id_codes
from calrec_jax.data.logs.files import row_blocks


class Rows:
  """The file and line of every row.

  Attributes:
    num_rows: Number of rows, unreadable ones included.
  """

  def __init__(self) -> None:
    self._files: list[str] = []
    self._lines: list[np.ndarray] = []
    self.num_rows = 0

  def add(self, file: str, rows: row_blocks.Rows) -> None:
    """Adds a block of a file."""
    self._files.append(file)
    self._lines.append(rows.lines)
    self.num_rows += rows.num_rows

  def finish(self) -> None:
    """Prepares the look-up of rows."""
    self._starts = np.cumsum([0, *map(len, self._lines)])

  def __len__(self) -> int:
    return int(self._starts[-1])

  def location(self, row: int) -> str:
    """The `file:line` of a row."""
    block = int(np.searchsorted(self._starts, row, "right")) - 1
    line = int(self._lines[block][row - self._starts[block]])
    return problems_lib.location(self._files[block], line)

  def count(
    self, problems: problems_lib.Problems, kind: str, bad: np.ndarray
  ) -> None:
    """Counts bad rows, bool[n], as one kind of problem."""
    if bad.any():
      first = self.location(int(np.argmax(bad)))
      problems.add(kind, first, int(np.count_nonzero(bad)))


class Ids:
  """Ids of all blocks as codes by first appearance, -1 where missing."""

  def __init__(self) -> None:
    self._codes = id_codes.IdCodes()
    self._reserved = 0

  def reserve(self, ids: pa.Array) -> None:
    """Gives distinct ids the first codes."""
    self._codes.add(ids)
    self._reserved = len(ids)

  def add(self, ids: id_codes.Ids) -> None:
    """Adds the ids of a block."""
    self._codes.add(ids)

  def start(self) -> None:
    """Lets a thread number the ids; `finish` waits for it."""
    self._codes.start()

  def finish(self) -> tuple[np.ndarray, pa.LargeStringArray]:
    """int32[n] codes, and the ids by code."""
    codes, ids = self._codes.finish()
    return codes[self._reserved :], ids


def joined(parts: list[np.ndarray]) -> np.ndarray:
  """Arrays of blocks as one; empty without blocks."""
  return np.concatenate(parts) if parts else np.empty(0, bool)
