"""Numbers of columns that conditions compare, and what is said about them."""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute creates its functions at run time.)

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from calrec_jax.data.logs import problems as problems_lib
from calrec_jax.data.logs.columns import arrow_columns, numbers, values

_SHOWN = 40  # Characters of an example.


class AmountColumns:
  """Reads columns of numbers, block by block, whose decimal sign is known."""

  def __init__(
    self,
    evidence: Mapping[str, numbers.Evidence],
    decimal: str | None,
    missing: Sequence[str],
  ) -> None:
    """Takes what the first rows of the columns show.

    Args:
      evidence: Evidence by column.
      decimal: Decimal sign of all columns; None takes that of the evidence.
      missing: Words that mean a missing value.
    """
    self._evidence = dict(evidence)
    self._decimal, self._missing = decimal, missing
    self._unreadable: dict[str, tuple[int, str]] = {}

  def sign(self, name: str) -> str:
    """The decimal sign of a column."""
    return self._decimal or self._evidence[name].decimal or "."

  def parse(self, name: str, column: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """A block as float64[n], and bool[n]: which values are numbers."""
    known = self._evidence[name]
    if self._decimal is None and known.decimal is None:
      # Whole numbers before the first sign are the same either way.
      self._evidence[name] = known.merged(numbers.evidence(column))
    found, readable = numbers.parse(column, self.sign(name))
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
      other = "," if self.sign(name) == "." else "."
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
