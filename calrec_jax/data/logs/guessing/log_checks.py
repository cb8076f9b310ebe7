"""Questions about a log that was read: columns that nothing reads, and more.

Each becomes a note with the setting that answers it. None of them changes what
was read.
"""

from __future__ import annotations

import keyword
import os
from collections.abc import Mapping

import numpy as np

from calrec_jax.data.logs import events as events_lib
from calrec_jax.data.logs import problems as problems_lib
from calrec_jax.data.logs.columns import text_lists
from calrec_jax.data.logs.files import nested
from calrec_jax.data.logs.guessing import profile as profile_lib
from calrec_jax.data.logs.guessing.profile import Profile

_SHOWN = 4  # Values of a column in a note.


def review(
  profiles: Mapping[str, Profile],
  bindings: Mapping[str, str],
  described: set[str],
  time_column: str | None,
  problems: problems_lib.Problems,
  file: str,
) -> None:
  """Notes what a person should look at.

  Args:
    profiles: Columns of a sample of the purchases.
    bindings: The gin name by which each column of events is chosen.
    described: Names of further columns that some setting names.
    time_column: Column of the time, or None.
    problems: Where the notes are added.
    file: Path of the sampled file.
  """
  notes = _OfFile(problems, os.path.basename(file))
  for name, profile in profiles.items():
    if name in bindings and name not in described:
      _note_missing(name, bindings[name], profile, profiles, notes)
      _note_lists(name, bindings[name], profile, notes)
    if name in bindings or name in described:
      continue
    if kinds := profile.kinds():
      _note_kinds(name, kinds, notes)
    elif profile.is_codes():
      _note_codes(name, profile, notes)
    elif profile.is_rating():
      _note_rating(name, profile, notes)
    elif profile.is_quantity() and np.any(profile.numbers <= 0):
      share = float(np.mean(profile.numbers <= 0))
      notes.note(
        "suspect",
        f"the column {name!r} looks like quantities, and {share:.1%} of a "
        "sample are not positive: returns count as purchases",
        _where(f"{quoted(name)} > 0"),
      )
    if time_column is None and profile_lib.may_be_time(profile):
      _note_time(name, profile, notes)


class _OfFile:
  """Adds the file to the notes on its columns."""

  def __init__(self, problems: problems_lib.Problems, file: str) -> None:
    self._problems, self._file = problems, file

  def note(
    self,
    severity: problems_lib.Severity,
    message: str,
    remedy: str = "",
    about: str = "",
  ) -> None:
    message = f"{self._file}: {message}"
    self._problems.note(severity, message, remedy, about)


def _note_missing(
  name: str,
  binding: str,
  profile: Profile,
  profiles: Mapping[str, Profile],
  problems: _OfFile,
) -> None:
  key = profile_lib.written_once(profile, profiles)
  if key is not None:
    problems.note(
      "wrong",
      f"the column {name!r} is only in the first row of each {key!r}: "
      f"{profile.missing:.1%} of a sample have no value, and are lost",
      f"LogFiles.fill_down = ({text(name)},)",
      "bad_timestamp" if binding == "LogFiles.time_column" else "missing_user",
    )


def _note_codes(name: str, profile: Profile, problems: _OfFile) -> None:
  shown = ", ".join(value for value, _ in profile.distinct[:_SHOWN])
  problems.note(
    "info",
    f"the column {name!r} may be kinds of event as numbers ({shown}), and is "
    "not used: all of them count as purchases",
    _where(f"{quoted(name)} == {profile.distinct[-1][0]}"),
  )


def _note_lists(
  name: str, binding: str, profile: Profile, problems: _OfFile
) -> None:
  if binding == "LogFiles.item_column" and text_lists.look_like(profile.column):
    problems.note(
      "wrong",
      f"the column {name!r} looks like lists of items in texts, such as "
      f"{profile.texts[0].as_py()[:80]!r}, and each is read as the id of one "
      "item",
      f"LogFiles.item_column = {text(name + nested.EACH)}",
    )


def _note_kinds(
  name: str, kinds: list[tuple[str, int]], problems: _OfFile
) -> None:
  total = sum(count for _, count in kinds)
  shown = ", ".join(
    f"{value} {count / total:.1%}" for value, count in kinds[:_SHOWN]
  )
  problems.note(
    "suspect",
    f"the column {name!r} looks like kinds of event ({shown}), and is not "
    "used: all kinds count as purchases",
    _where(purchase_condition(name, kinds)),
  )


def purchase_condition(name: str, kinds: list[tuple[str, int]]) -> str:
  """The condition that leaves only purchases of a column of kinds."""
  values = [value for value, _ in kinds]
  bought = [value for value in values if profile_lib.is_purchase(value)]
  undone = [value for value in values if profile_lib.is_undone(value)]
  if undone and len(undone) < len(values) and not _has_views(values):
    texts = ", ".join(map(text, undone))
    if len(undone) == 1:
      return f"{quoted(name)} != {texts}"
    return f"{quoted(name)} not in ({texts})"
  if len(bought) > 1:
    return f"{quoted(name)} in ({', '.join(map(text, bought))})"
  return f"{quoted(name)} == {text((bought or values[-1:])[0])}"


def _has_views(values: list[str]) -> bool:
  """Whether some kinds are neither purchases nor taken back."""
  return any(profile_lib.is_view(value) for value in values)


def _note_rating(name: str, profile: Profile, problems: _OfFile) -> None:
  low, high = float(np.min(profile.numbers)), float(np.max(profile.numbers))
  limit = _good_rating(profile)
  share = float(np.mean(profile.numbers < limit))
  problems.note(
    "info",
    f"the column {name!r} looks like ratings from {low:g} to {high:g}, and is "
    f"not used: the {share:.1%} of a sample below {limit:g} count as purchases",
    _where(rating_condition(name, profile)),
  )


def rating_condition(name: str, profile: Profile) -> str:
  """The condition that leaves only good ratings."""
  return f"{quoted(name)} >= {_good_rating(profile):g}"


def _good_rating(profile: Profile) -> float:
  """The lowest good rating: 4 of 1 to 5, 8 of 0 to 10."""
  grades = np.unique(profile.numbers)
  low, high = max(float(grades[0]), 0.0), float(grades[-1])
  return float(grades[grades >= low + 0.75 * (high - low) - 1e-9][0])


def _note_time(name: str, profile: Profile, problems: _OfFile) -> None:
  problems.note(
    "suspect",
    f"the column {name!r} looks like times ({profile.time}), but "
    "LogFiles.time_column is None; if the file is not sorted by time, oldest "
    "first, the targets are the wrong purchases",
    f"LogFiles.time_column = {text(name)}",
    "order_of_rows",
  )


def note_order_of_rows(
  events: events_lib.Events, problems: problems_lib.Problems
) -> None:
  """A reminder that nothing in the file tells the order of time."""
  if not events.by_time and len(events):
    problems.note(
      "info",
      "without times, a user's purchases are in the order of the rows: the "
      "last row is taken as the newest. In a file with the newest first all "
      "targets would be wrong: sort it, or name a column of times",
      about="order_of_rows",
    )


def quoted(name: str) -> str:
  """A column's name as conditions write it."""
  plain = name.isidentifier() and name.isascii()
  return name if plain and not keyword.iskeyword(name) else f"`{name}`"


def text(value: str) -> str:
  """A text as conditions write it, in double quotes if possible."""
  shown = repr(value)
  if shown.startswith("'") and '"' not in shown:
    return f'"{shown[1:-1]}"'
  return shown


def _where(condition: str) -> str:
  """The gin binding of a condition."""
  return f"LogFiles.where = {condition!r}"
