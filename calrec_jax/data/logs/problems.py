"""Bad rows, counted by kind, and notes on input that looks wrong.

Nothing is dropped silently: a row that cannot be used is counted here with the
location of the first of its kind and shown on the card, and `Domain.strict`
turns any of them into an error. A note is about input that was read, but may
not mean what it was read as; it names the setting that mends it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np

from calrec_jax.errors import CalrecError

KINDS = {
  "malformed_row": "not a row of this format; skipped",
  "swallowed_rows": "lines in quotes that look like rows of their own; skipped",
  "repeated_header": "the header again, between rows; skipped",
  "broken_encoding": "bytes that are not text in the file's encoding; skipped",
  "missing_user": "no user id; skipped",
  "missing_item": "no item id; skipped",
  "bad_timestamp": "a time that cannot be read; skipped",
  "missing_kind": "no kind of event; skipped",
  "missing_order": "an order without an id; skipped",
  "conflicting_order": "an order again, differently; first one kept",
  "unknown_order": "a row whose order is not in LogFiles.orders; skipped",
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


Severity = Literal["wrong", "suspect", "info"]
SEVERITIES: tuple[Severity, ...] = ("wrong", "suspect", "info")


class Note(NamedTuple):
  """Something about the input that a person should look at.

  Attributes:
    severity: "wrong" if the data are very likely misread, "suspect" if they may
      be, "info" for a choice that was made for the user.
    message: What was seen, with an example and its place.
    remedy: The gin binding that changes it, such as `LogFiles.decimal = ","`;
      empty if there is none.
    about: Kind of bad rows that it explains, or empty.
  """

  severity: Severity
  message: str
  remedy: str = ""
  about: str = ""


class Problems:
  """Counts bad rows while a source is read, and collects notes.

  Attributes:
    reading: How each file was read, as JSON: its format, dialect and counts.
    excluded: Number of rows that each condition left out on purpose.
    times: How times were read, in words.
  """

  def __init__(self) -> None:
    self._found: dict[str, dict[str, Any]] = {}
    self._notes: dict[Note, None] = {}
    self.reading: list[dict[str, Any]] = []
    self.excluded: dict[str, int] = {}
    self.times = ""

  def note(
    self, severity: Severity, message: str, remedy: str = "", about: str = ""
  ) -> None:
    """Adds a note; the same one twice counts once."""
    self._notes[Note(severity, message, remedy, about)] = None

  def notes(self) -> list[Note]:
    """The notes, worst first; of two about the same rows that with a remedy."""
    mended = {note.about for note in self._notes if note.about and note.remedy}
    found = [n for n in self._notes if n.remedy or n.about not in mended]
    return sorted(found, key=lambda note: SEVERITIES.index(note.severity))

  def exclude(self, condition: str, count: int) -> None:
    """Counts rows that a condition of the user's leaves out."""
    if count:
      self.excluded[condition] = self.excluded.get(condition, 0) + count

  def add(self, kind: str, first: str, count: int = 1) -> None:
    """Counts `count` rows of a kind; the first call's location is saved."""
    meaning = KINDS[kind]
    if count > 0:
      new = {"kind": kind, "count": 0, "first": first, "meaning": meaning}
      self._found.setdefault(kind, new)["count"] += count

  def add_rows(self, kind: str, file: str, lines: np.ndarray) -> None:
    """Counts the rows of a file that start at `lines`."""
    if len(lines):
      self.add(kind, location(file, int(np.min(lines))), len(lines))

  def __len__(self) -> int:
    return len(self._found)

  def count(self, kind: str) -> int:
    """Number of rows of one kind."""
    return self._found[kind]["count"] if kind in self._found else 0

  def as_list(self) -> list[dict[str, Any]]:
    """`kind`, `count`, `first` and `meaning`, in the order of `KINDS`."""
    return [dict(self._found[kind]) for kind in KINDS if kind in self._found]

  def table(self) -> str:
    """One `line` per kind."""
    return "\n".join(map(line, self.as_list()))

  def refuse(self, domain: str) -> None:
    """Raises `BadRowsError` if anything was counted."""
    if self._found:
      raise BadRowsError(
        f"The input of domain {domain!r} has bad rows:\n{self.table()}\n"
        "Fix the files, or set Domain.strict = False to skip and count them."
      )


def line(row: Mapping[str, Any]) -> str:
  """Count, kind, first location and treatment of one kind of bad row."""
  return (
    f"  {row['count']:>9,}  {row['kind']:<19} first at {row['first']}"
    f"  ({row['meaning']})"
  )


def base_name(file: str) -> str:
  """A file's name without its folder, so that cards do not tell places."""
  return os.path.basename(file)


def location(file: str, line: int, last: int | None = None) -> str:
  """`file:line`, or `file:line-last` for a row that spans several lines."""
  name = base_name(file)
  return f"{name}:{line}" if last in (None, line) else f"{name}:{line}-{last}"
