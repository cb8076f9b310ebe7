"""New histories out of a file, in any format that a log may have.

A row is a whole history, `{"user_id": "anna", "items": ["id-1", "id-2"]}`, or
one event, `user_id,item_id,timestamp`. A history that cannot be used becomes a
request without items that says why and where; the others are answered.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from calrec_jax.data.cache.token_cache import TokenCache
from calrec_jax.data.logs import log_files
from calrec_jax.data.logs import problems as problems_lib
from calrec_jax.data.logs.columns import id_rules, text_lists
from calrec_jax.data.logs.columns import times as times_lib
from calrec_jax.data.logs.columns import values as values_lib
from calrec_jax.data.logs.files import nested, read_options
from calrec_jax.data.logs.reading import tables
from calrec_jax.data.logs.reading.tables import Table
from calrec_jax.errors import InputError, nearest
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
    kind: Name of the column of kinds of event, or None.
    id_rules: Rules that spell ids alike, as of `LogFiles`.
    options: How files are written.
  """

  user: str = "user_id"
  item: str = "item_id"
  time: str | None = "timestamp"
  time_unit: str | None = None
  time_format: str | None = None
  kind: str | None = None
  id_rules: tuple[str, ...] = ()
  options: read_options.ReadOptions = read_options.ReadOptions()

  @property
  def lists(self) -> tuple[str, ...]:
    """Names of the column of whole histories."""
    own = self.item.removesuffix(nested.EACH)
    return (own, *_LISTS) if own != self.item and _is_key(own) else _LISTS

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
      source.event_column,
      tuple(source.id_rules),
      read_options.ReadOptions(missing=tuple(source.missing)),
    )


class _Located(problems_lib.Problems):
  """Problems that also keep the place of every bad row."""

  def __init__(self) -> None:
    super().__init__()
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
    path: CSV, JSON lines or Parquet file, or a folder or a glob of such files;
      see `tables.read`.
    cache: Token cache of the domain.
    skip_unknown: Whether items outside the catalogue are left out without
      saying so in the answers.
    columns: How the domain's own log is written.

  Raises:
    InputError: For a file that is not there, or holds no histories at all.
  """
  _require_file(path)
  problems = _Located()
  table = _read_table(path, columns, problems)
  users = _present(table, (columns.user, *_USERS))
  lists, items = (
    _present(table, columns.lists),
    _present(table, (columns.item, *_ITEMS)),
  )
  as_json = any(each.get("format") == "json" for each in problems.reading)
  reader = _Reader(cache, skip_unknown, columns, as_json)
  if not len(table.lines) and not problems.places:
    raise InputError(f"{path} holds no history. {_EXAMPLE}")
  if len(table.lines) and (users is None or not (lists or items)):
    raise InputError(
      f"{path}: its columns are {', '.join(map(repr, table.available))}. "
      f"{_EXAMPLE}"
    )
  requests = []
  if len(table.lines) and lists is not None:
    for row, user, values in zip(
      range(len(table.lines)),
      reader.ids(table, str(users)),
      _lists(table.columns[lists], columns, as_json),
      strict=True,
    ):
      requests.append(reader.of_list(table.place(row), user, values))
  elif len(table.lines):
    requests = reader.of_events(table, str(users), str(items))
  # A line that is no row cannot say whose it is.
  requests += [
    nobody(None, f"{BAD_HISTORY}: {place}: {what}")
    for place, what in problems.places
  ]
  return requests


def _require_file(path: pathlib.Path) -> None:
  """Refuses a missing file in the words of who asks for recommendations."""
  folder = path.expanduser().absolute().parent
  if path.expanduser().exists() or not folder.is_dir():
    return  # Or a member of an archive, or a URL, which the reader explains.
  if "*" in path.name or "?" in path.name:
    return
  files = [each.name for each in folder.iterdir() if each.is_file()]
  raise InputError(
    f"--histories={path}: there is no such file in {folder}."
    f"{nearest(path.name, files)}"
  )


def _read_table(
  path: pathlib.Path, columns: Columns, problems: problems_lib.Problems
) -> Table:
  """The columns that a file of histories may have; the log's own reader."""
  ids = [columns.user, *_USERS, *_ITEMS]
  if not columns.item.endswith(nested.EACH):  # A row is a whole history.
    ids.append(columns.item)
  wanted = [*ids, *columns.lists, *_TIMES]
  wanted += [name for name in (columns.time, columns.kind) if name]
  # In JSON one history may be a list, the next by mistake a text; and an id
  # that is none must not change the type of the others.
  apart = (*columns.lists, *filter(_is_key, ids))
  options = dataclasses.replace(columns.options, as_json=apart)
  return tables.read(str(path), wanted, problems, options)


def _lists(values: Sequence[Any], columns: Columns, as_json: bool) -> list[Any]:
  """The items of each history; what is no list stays as it is."""
  if as_json:
    return list(map(_parsed, values))
  values = list(values)
  if columns.item.endswith(nested.EACH):
    texts = [value if isinstance(value, str) else None for value in values]
    separator = text_lists.separator(texts)
    return [
      value if text is None else text_lists.parts(text, separator) or value
      for value, text in zip(values, texts, strict=True)
    ]
  return list(map(_list_of_text, values))


def _list_of_text(value: Any) -> Any:
  """A list that a file without lists, such as CSV, holds as JSON."""
  if not isinstance(value, str):
    return value
  text = value.strip()
  if not text:
    return None
  if text.startswith("["):
    with contextlib.suppress(ValueError, RecursionError):
      return json.loads(text)
  return value


def _parsed(value: str | None) -> Any:
  return None if value is None else json.loads(value)


def _is_key(name: str) -> bool:
  """Whether a column can only be a key of objects, not a part of a value."""
  return "." not in name and "[" not in name


def _present(table: Table, names: Sequence[str]) -> str | None:
  return next((name for name in names if name in table.available), None)


class _Reader:
  """Histories of a table as requests."""

  def __init__(
    self,
    cache: TokenCache,
    skip_unknown: bool,
    columns: Columns,
    as_json: bool,
  ) -> None:
    self._cache, self._columns = cache, columns
    self._as_json = as_json
    self._rows = cache.catalogue.rows
    self._skip_unknown = skip_unknown

  def ids(self, table: Table, name: str) -> list[str | None]:
    """The ids of a column, spelt as those of the log are."""
    values = table.columns[name].values
    if self._as_json and _is_key(name):
      found = [_id(_parsed(value)) for value in values.to_pylist()]
      values = pa.array(found, pa.large_string())
    return self._spelt(values_lib.ids(values, self._columns.options.missing))

  def _spelt(self, ids: pa.Array) -> list[str | None]:
    return id_rules.normalise(ids, self._columns.id_rules).to_pylist()

  def of_list(self, place: str, user: str | None, values: Any) -> Request:
    """The request of a row that holds a whole history, at a `file:line`."""
    if user is None:
      return nobody(None, f"{BAD_HISTORY}: {place}: no user id")
    if isinstance(values, str):
      fault = f"items is the text {values[:40]!r}; it must be a list of ids"
      if not self._as_json:
        fault += ', as JSON writes it: ["id-1", "id-2"]'
    elif values is None:
      fault = "items is missing; give a list of ids"
    elif not isinstance(values, (list, tuple, np.ndarray)):
      fault = f"items is {str(values)[:40]}; it must be a list of ids"
    else:
      ids = [_id(value) for value in values]
      if None not in ids:
        spelt = self._spelt(pa.array(ids, pa.large_string()))
        return self._request(place, user, spelt)
      wrong = values[ids.index(None)]
      shown = str(wrong)[:40] or "an empty text"
      fault = f"items holds {shown}, which is no id"
    return nobody(user, f"{BAD_HISTORY}: {place}: {fault}")

  def of_events(self, table: Table, user: str, item: str) -> list[Request]:
    """The requests of rows that hold one event each, by user."""
    users, items = self.ids(table, user), self.ids(table, item)
    times, readable = _times(table, self._columns)
    kinds = self._kinds(table)
    place = table.place

    def fault(row: int) -> str | None:
      if items[row] is None:
        return "no item id"
      if not readable[row]:
        return "no readable time"
      return None if kinds is None else self._fault_of_kind(kinds[row])

    events: dict[str | None, list[int]] = {}
    for row, user_id in enumerate(users):
      events.setdefault(user_id, []).append(row)
    requests = []
    for user_id, rows in events.items():
      if user_id is None:
        requests += [
          nobody(None, f"{BAD_HISTORY}: {place(row)}: no user id")
          for row in rows
        ]
        continue
      bad = [(row, why) for row in rows if (why := fault(row)) is not None]
      left_out = {row for row, _ in bad}
      good = [row for row in rows if row not in left_out]
      good.sort(key=lambda row: times[row])  # Stable: ties as in the file.
      said = ""
      if bad:
        said = (
          f"{BAD_HISTORY}: {place(bad[0][0])}: {bad[0][1]}; "
          f"{len(bad)} events left out"
        )
      if not good:
        requests.append(nobody(user_id, said))
        continue
      request = self._request(
        place(good[0]),
        user_id,
        [items[row] for row in good],
        None if kinds is None else [str(kinds[row]) for row in good],
      )
      reasons = [each for each in (request.reason, said) if each]
      requests.append(request._replace(reason="; ".join(reasons) or None))
    return requests

  def _kinds(self, table: Table) -> list[str | None] | None:
    """The kind of each event; None where all are what is asked for."""
    name = self._columns.kind
    if self._cache.kinds is None or name is None:
      return None
    if name not in table.available:
      return None
    missing = self._columns.options.missing
    return values_lib.ids(table.columns[name].values, missing).to_pylist()

  def _fault_of_kind(self, kind: str | None) -> str | None:
    known = self._cache.kinds
    assert known is not None
    if kind is None:
      return "no kind of event"
    if kind in known.names:
      return None
    return f"the model knows no event {kind!r}, but {', '.join(known.names)}"

  def _request(
    self,
    place: str,
    user: str,
    ids: Sequence[str | None],
    kinds: Sequence[str] | None = None,
  ) -> Request:
    places = [n for n, i in enumerate(ids) if i in self._rows]
    known = [self._rows[str(ids[n])] for n in places]
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
    items = self._cache.plain_history(
      np.array(known, np.int32),
      None if kinds is None else [kinds[n] for n in places],
    )
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


def _id(value: Any) -> str | None:
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
