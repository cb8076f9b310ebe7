"""Bad rows, counted by kind with the location of the first of each.

Nothing is dropped in silence: a row that cannot be used is counted here and
shown on the card, and `Domain.strict` turns any of it into an error.
"""

from __future__ import annotations

import dataclasses
import os

import numpy as np

from calrec_jax.errors import CalrecError

KINDS = {
  "malformed_row": "not a row of this format; skipped",
  "broken_encoding": "bytes that are not text in the file's encoding; skipped",
  "missing_user": "no user id; skipped",
  "missing_item": "no item id; skipped",
  "bad_timestamp": "a time that cannot be read; skipped",
  "unknown_item": "an event whose item is not in the catalogue; skipped",
  "duplicate_event": "the same user, item and time again; first one kept",
  "empty_text": "an item without any text; skipped with its events",
  "event_without_text": "an event of an item without any text; skipped",
  "conflicting_item": "an item described again, differently; first one kept",
  "wrong_type": "a value that is no text or number; read as missing",
  "web_page": "a piece of a web page's program as text; written as Unknown",
  "unreadable_price": "a price that is not a number; written as Unknown",
}


class BadRowsError(CalrecError, ValueError):
  """The input holds bad rows, and the domain is strict."""


@dataclasses.dataclass
class Problem:
  """One kind of bad row.

  Attributes:
    kind: Key in `KINDS`.
    count: Number of rows of this kind.
    first: Location of the first one, `file:line`.
  """

  kind: str
  count: int
  first: str


class Problems:
  """Counts bad rows while a source is read."""

  def __init__(self) -> None:
    self._found: dict[str, Problem] = {}

  def add(self, kind: str, first: str, count: int = 1) -> None:
    """Counts `count` rows of a kind; the first call's location is saved."""
    if kind not in KINDS:
      raise KeyError(f"unknown kind of problem: {kind!r}")
    if count <= 0:
      return
    if kind in self._found:
      self._found[kind].count += count
    else:
      self._found[kind] = Problem(kind, count, first)

  def add_rows(self, kind: str, file: str, lines: np.ndarray) -> None:
    """Counts the rows of a file that start at `lines`."""
    if len(lines):
      self.add(kind, location(file, int(np.min(lines))), len(lines))

  def __len__(self) -> int:
    return len(self._found)

  def count(self, kind: str) -> int:
    """Rows of one kind."""
    return self._found[kind].count if kind in self._found else 0

  def as_list(self) -> list[dict]:
    """The problems as plain records, in the order of `KINDS`."""
    found = [self._found[kind] for kind in KINDS if kind in self._found]
    return [
      dataclasses.asdict(problem) | {"meaning": KINDS[problem.kind]}
      for problem in found
    ]

  def table(self) -> str:
    """One line per kind: count, kind, first location, fate of the rows."""
    return "\n".join(
      f"  {row['count']:>9,}  {row['kind']:<19} first {row['first']}"
      f"  ({row['meaning']})"
      for row in self.as_list()
    )

  def refuse(self, domain: str) -> None:
    """Raises `BadRowsError` where anything was counted."""
    if self._found:
      raise BadRowsError(
        f"The input of domain {domain!r} has bad rows:\n{self.table()}\n"
        "Mend the files, or set Domain.strict = False to skip and count them."
      )


def location(file: str, line: int, last: int | None = None) -> str:
  """`file:line`, or `file:line-last` for a row that spans several lines."""
  name = os.path.basename(file)
  return f"{name}:{line}" if last in (None, line) else f"{name}:{line}-{last}"
