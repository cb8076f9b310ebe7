"""New histories out of a file, in any format that a log may have.

A row is a whole history, `{"user_id": "anna", "items": ["id-1", "id-2"]}`, or
one event, `user_id,item_id,timestamp`. A history that cannot be used becomes a
request without items that says why and where; the others are answered.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from calrec_jax.data.cache.token_cache import TokenCache
from calrec_jax.data.logs import id_codes, log_files, read_options, tables
from calrec_jax.data.logs import problems as problems_lib
from calrec_jax.data.logs import times as times_lib
from calrec_jax.data.logs import values as values_lib
from calrec_jax.data.logs.tables import Table
from calrec_jax.errors import InputError
from calrec_jax.recommend.requests import NO_KNOWN_ITEM, Request, nobody

BAD_HISTORY = "bad history"
UNKNOWN_ITEMS = "unknown items"
_USERS, _ITEMS, _LISTS = ("user_id", "user"), ("item_id", "item"), ("items",)
_TIMES = ("timestamp", "time")
_EXAMPLE = (
  'A row is a history, such as {"user_id": "anna", "items": ["id-1", "id-2"]}, '
  "or an event with the columns user_id, item_id and perhaps timestamp."
)


class Columns(NamedTuple):
  """How the log of the domain is written; a file of histories may be alike.

  Attributes:
    user: Name of the column of users.
    item: Name of the column of items.
    time: Name of the column of times, or None.
    time_unit: Unit of times, as of `LogFiles`.
    time_format: Pattern of times, or None.
    options: How files are written.
  """

  user: str = "user_id"
  item: str = "item_id"
  time: str | None = "timestamp"
  time_unit: str | None = None
  time_format: str | None = None
  options: read_options.ReadOptions = read_options.ReadOptions()

  @classmethod
  def of_source(cls, source: Any) -> Columns:
    """Those of a domain's source; the usual ones if it is no `LogFiles`."""
    if not isinstance(source, log_files.LogFiles):
      return cls()
    return cls(
      source.user_column,
      source.item_column,
      source.time_column,
      source.time_unit,
      source.time_format,
      read_options.ReadOptions(missing=tuple(source.missing)),
    )


class _Located(problems_lib.Problems):
  """Problems that also keep the place of every bad row."""

  def __init__(self, file: str) -> None:
    super().__init__()
    self._file = file
    self.places: list[tuple[str, str]] = []

  def add(self, kind: str, first: str, count: int = 1) -> None:
    super().add(kind, first, count)
    meaning = problems_lib.KINDS[kind]
    if "skipped" in meaning:  # Others are about values of rows that are read.
      self.places.append((first, meaning))

  def add_rows(self, kind: str, file: str, lines: np.ndarray) -> None:
    for line in np.asarray(lines).tolist():
      self.add(kind, problems_lib.location(file, line))


def read(
  path: pathlib.Path,
  cache: TokenCache,
  skip_unknown: bool,
  columns: Columns,
) -> list[Request]:
  """Reads histories by item id.

  Args:
    path: CSV, JSON lines or Parquet file; see `tables.read`.
    cache: Token cache of the domain.
    skip_unknown: Whether items outside the catalogue are left out without
      saying so in the answers.
    columns: How the domain's own log is written.

  Raises:
    InputError: for a file that holds no histories at all.
  """
  problems = _Located(str(path))
  table = _read_table(path, columns, problems)
  users = _present(table, (columns.user, *_USERS))
  lists, items = (
    _present(table, _LISTS),
    _present(table, (columns.item, *_ITEMS)),
  )
  reader = _Reader(path, cache, skip_unknown)
  if not len(table.lines) and not problems.places:
    raise InputError(f"{path} holds no history. {_EXAMPLE}")
  if len(table.lines) and (users is None or not (lists or items)):
    raise InputError(
      f"{path}: its columns are {', '.join(map(repr, table.available))}. "
      f"{_EXAMPLE}"
    )
  requests = []
  if len(table.lines) and lists is not None:
    for line, user, values in zip(
      table.lines.tolist(),
      _ids(table.columns[str(users)]),
      _lists(table.columns[lists], problems),
      strict=True,
    ):
      requests.append(reader.of_list(line, user, values))
  elif len(table.lines):
    requests = reader.of_events(table, str(users), str(items), columns)
  # A line that is no row cannot say whose it is.
  requests += [
    nobody(None, f"{BAD_HISTORY}: {place}: {what}")
    for place, what in problems.places
  ]
  return requests


def _read_table(
  path: pathlib.Path, columns: Columns, problems: problems_lib.Problems
) -> Table:
  """The columns that a file of histories may have; the log's own reader."""
  wanted = [columns.user, *_USERS, *_LISTS, columns.item, *_ITEMS, *_TIMES]
  if columns.time:
    wanted.append(columns.time)
  # In JSON one history may be a list, the next by mistake a text.
  options = dataclasses.replace(columns.options, as_json=_LISTS)
  return tables.read(str(path), wanted, problems, options)


def _lists(
  values: id_codes.Column, problems: problems_lib.Problems
) -> Iterable[Any]:
  """The values of a column of lists, each as it is in the file."""
  [reading] = problems.reading
  if reading.get("format") != "json":
    return values
  return (None if each is None else json.loads(each) for each in values)


def _present(table: Table, names: Sequence[str]) -> str | None:
  return next((name for name in names if name in table.available), None)


def _ids(values: id_codes.Column) -> list[str | None]:
  return values_lib.ids(values.values).to_pylist()


class _Reader:
  """Histories of one file as requests."""

  def __init__(
    self, path: pathlib.Path, cache: TokenCache, skip_unknown: bool
  ) -> None:
    self._path, self._cache = path, cache
    self._rows = cache.catalogue.rows
    self._skip_unknown = skip_unknown

  def of_list(self, line: int, user: str | None, values: Any) -> Request:
    """The request of a row that holds a whole history."""
    place = problems_lib.location(str(self._path), line)
    if user is None:
      return nobody(None, f"{BAD_HISTORY}: {place}: no user id")
    if isinstance(values, str):
      fault = f"items is the text {values[:40]!r}; it must be a list of ids"
    elif values is None:
      fault = "items is missing; give a list of ids"
    elif not isinstance(values, (list, tuple, np.ndarray)):
      fault = f"items is {str(values)[:40]}; it must be a list of ids"
    else:
      ids = [_item_id(value) for value in values]
      if None not in ids:
        return self._request(place, user, ids)
      wrong = values[ids.index(None)]
      fault = f"items holds {str(wrong)[:40]}, which is no id"
    return nobody(user, f"{BAD_HISTORY}: {place}: {fault}")

  def of_events(
    self, table: Table, user: str, item: str, columns: Columns
  ) -> list[Request]:
    """The requests of rows that hold one event each, by user."""
    users, items = _ids(table.columns[user]), _ids(table.columns[item])
    times, readable = _times(table, columns)
    lines = table.lines.tolist()
    events: dict[str | None, list[int]] = {}
    for row, user_id in enumerate(users):
      events.setdefault(user_id, []).append(row)
    requests = []
    for user_id, rows in events.items():
      place = problems_lib.location(str(self._path), lines[rows[0]])
      if user_id is None:
        requests += [
          nobody(
            None,
            f"{BAD_HISTORY}: "
            f"{problems_lib.location(str(self._path), lines[row])}: no user id",
          )
          for row in rows
        ]
        continue
      bad = [row for row in rows if items[row] is None or not readable[row]]
      rows = [row for row in rows if items[row] is not None and readable[row]]
      rows.sort(key=lambda row: times[row])  # Stable: ties as in the file.
      request = self._request(place, user_id, [items[row] for row in rows])
      if bad:
        at = problems_lib.location(str(self._path), lines[bad[0]])
        what = "no item id" if items[bad[0]] is None else "no readable time"
        said = f"{BAD_HISTORY}: {at}: {what}; {len(bad)} events left out"
        request = request._replace(reason=request.reason or said)
      requests.append(request)
    return requests

  def _request(
    self, place: str, user: str, ids: Sequence[str | None]
  ) -> Request:
    known = [self._rows[str(i)] for i in ids if i in self._rows]
    unknown = [i for i in ids if i not in self._rows]
    if not known:
      held = (
        f"the catalogue does not hold {unknown[0]!r}" if ids else "it is empty"
      )
      return nobody(user, f"{NO_KNOWN_ITEM}: {place}: {held}")
    reason = None
    if unknown and not self._skip_unknown:
      reason = (
        f"{UNKNOWN_ITEMS}: {place}: the catalogue does not hold "
        f"{unknown[0]!r}; {len(unknown)} of {len(ids)} left out"
      )
    items = self._cache.plain_history(np.array(known, np.int32))
    return Request(user, items, reason)


def _times(table: Table, columns: Columns) -> tuple[np.ndarray, np.ndarray]:
  """Time of each row, and whether it could be read; else the row's number."""
  own = (columns.time,) if columns.time else ()
  name = _present(table, (*own, *_TIMES))
  rows = len(table.lines)
  if name is None:
    return np.arange(rows), np.ones(rows, bool)
  reader = times_lib.TimeReader(columns.time_unit, columns.time_format)
  reader.add(table.columns[name].values)
  found = reader.finish()
  if not found.readable.any():
    raise InputError(
      f"{table.file}: no time of the column {name!r} can be read as those of "
      f"the log; the first is {table.columns[name][0]!r}. Leave the column out "
      "if the rows are in order."
    )
  return found.values, found.readable


def _item_id(value: Any) -> str | None:
  """An id as the log's readers read it; None for what is none."""
  if isinstance(value, bool):
    return None
  if isinstance(value, np.generic):
    value = value.item()
  if isinstance(value, float):
    return str(int(value)) if value.is_integer() else None
  if isinstance(value, (int, str)):
    return str(value).strip() or None
  return None
