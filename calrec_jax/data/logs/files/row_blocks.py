"""Some rows of a file, as its reader gives them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa

_NONE = np.empty(0, np.int64)


class Rows(NamedTuple):
  """Some rows of a file.

  Attributes:
    table: Requested columns, in the schema's types; null where missing.
    lines: int64[n], the line of each row.
    malformed: int64[m], lines that are not rows; they are not in the table.
    broken: int64[m], lines whose requested text is not UTF-8; likewise.
    wrong_type: int64[m], lines with a value that its column's type cannot
      hold; they are in the table, without the value.
  """

  table: pa.Table
  lines: np.ndarray
  malformed: np.ndarray = _NONE
  broken: np.ndarray = _NONE
  wrong_type: np.ndarray = _NONE

  @property
  def num_rows(self) -> int:
    """Number of rows of the file, unreadable ones included."""
    return len(self.lines) + len(self.malformed) + len(self.broken)
