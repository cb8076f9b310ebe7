"""Numbers of columns that conditions compare, and what is said about them."""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute creates its functions at run time.)

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from calrec_jax.data.logs import arrow_columns, numbers, values
from calrec_jax.data.logs import problems as problems_lib

_SHOWN = 40  # Characters of an example.


class AmountColumns:
  """Reads columns of numbers, block by block.

  A comma or a point decides for its column from the first block that shows
  which of them begins the decimals; whole numbers before it are the same either
  way.
  """

  def __init__(self, decimal: str | None, missing: Sequence[str]) -> None:
    """Starts without columns.

    Args:
      decimal: Decimal sign of all columns; None finds that of each.
      missing: Words that mean a missing value.
    """
    self._decimal, self._missing = decimal, missing
    self._evidence: dict[str, numbers.Evidence] = {}
    self._unreadable: dict[str, tuple[int, str]] = {}

  def parse(self, name: str, column: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """A block as float64[n], and bool[n]: which values are numbers."""
    found, readable = numbers.parse(column, self._sign(name, column))
    if not readable.all():
      absent = values.ids(column, self._missing).is_null()
      self._count(name, column, ~readable & ~arrow_columns.to_numpy(absent))
    return found, readable

  def note(self, problems: problems_lib.Problems) -> None:
    """Says how numbers are written, and which values are none."""
    for name, evidence in self._evidence.items():
      if self._decimal is None:
        note_decimal(repr(name), evidence, problems)
    for name, (count, example) in self._unreadable.items():
      other = "," if self._chosen(name) == "." else "."
      is_one = numbers.amount(example, other) is not None
      problems.note(
        "suspect",
        f"{count:,} values of the column {name!r} are no numbers, such as "
        f"{example[:_SHOWN]!r}; no comparison with a number holds for them",
        f'LogFiles.decimal = "{other}"' if is_one else "",
      )

  def excuse(self) -> str:
    """Names a value that is no number, where no row satisfies a condition."""
    return "".join(
      f" The column {name!r} has {count:,} values that are no numbers, such as "
      f"{example[:_SHOWN]!r}."
      for name, (count, example) in self._unreadable.items()
    )

  def _chosen(self, name: str) -> str:
    evidence = self._evidence.get(name, numbers.Evidence())
    return self._decimal or evidence.decimal or "."

  def _sign(self, name: str, column: pa.Array) -> str:
    known = self._evidence.get(name, numbers.Evidence())
    if self._decimal is None and known.decimal is None and _has_sign(column):
      self._evidence[name] = known.merged(numbers.evidence(column))
    return self._chosen(name)

  def _count(self, name: str, column: pa.Array, bad: np.ndarray) -> None:
    if bad.any():
      first = column[int(np.argmax(bad))].as_py()
      count, example = self._unreadable.get(name, (0, str(first)))
      self._unreadable[name] = (count + int(np.count_nonzero(bad)), example)


def note_decimal(
  name: str, evidence: numbers.Evidence, problems: problems_lib.Problems
) -> None:
  """States how the decimals of a column are read, where it is a choice."""
  example = evidence.example
  if evidence.decimal == ",":
    problems.note(
      "info",
      f"{name}: a comma begins the decimals, as in {example!r}",
      'LogFiles.decimal = "."  # if it parts thousands',
    )
  elif evidence.decimal is None and evidence.unclear:
    sign, meaning = ("point", "beginning decimals")
    if "," in example:
      sign, meaning = ("comma", "parting thousands")
    problems.note(
      "suspect",
      f"{name}: the {sign} of {example!r} is read as {meaning}, but no other "
      "value shows that it does",
      'LogFiles.decimal = ","',
    )


def _has_sign(column: pa.Array) -> bool:
  """Whether texts have a comma or a point."""
  if not arrow_columns.is_text(column.type):
    return False
  return any(
    pc.any(pc.match_substring(column, sign)).as_py() for sign in numbers.SIGNS
  )
