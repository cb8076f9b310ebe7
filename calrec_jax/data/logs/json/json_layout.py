"""How a JSON file is laid out: lines, lists, objects, or printed Python."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from calrec_jax.data.logs.files import nested
from calrec_jax.data.logs.json import json_scan, python_literals
from calrec_jax.errors import InputError

Kind = Literal["lines", "values", "lists", "inside", "object", "sequences"]

_ROWS = 1000  # Rows whose names and types are looked at.
_NAMES = 300  # In messages; a wanted column is found all the same.
_DEPTH = 3


class Layout(NamedTuple):
  """Where the rows of a file are.

  Attributes:
    kind: "lines" if each line is a row, "values" if rows are objects in lists
      or below each other, "lists" if they are lists of values, "inside" if they
      are a list in an object, "object" if the file is one object, "sequences"
      if that holds a list of items for each user.
    literals: Whether it is printed Python rather than JSON.
    way: Keys that lead to the list, of "inside".
    first: First values: rows, or the one object.
  """

  kind: Kind
  literals: bool
  way: tuple[str, ...] = ()
  first: tuple[Any, ...] = ()


def sniff(head: bytes, path: str, *, whole: bool) -> Layout:
  """Tells the layout.

  Args:
    head: First bytes of the file in UTF-8.
    path: Path of the file, for messages.
    whole: Whether they are all.
  """
  head = head.lstrip()
  lines = head.split(b"\n")
  if not whole:
    lines = lines[:-1]
  lines = [line for line in lines[:_ROWS] if line.strip()]
  if lines and not head.startswith(b"["):
    for literals in (False, True):
      rows = _rows(lines, literals)
      if len(rows) * 2 <= len(lines) - 1 or (
        whole and len(lines) == 1 == len(rows)
      ):
        continue
      return Layout("lines", literals, first=tuple(rows))
  for literals in (False, True):
    text = python_literals.to_json(head) if literals else head
    found = _of_text(text.decode("utf-8", "surrogateescape"), path, whole)
    if found is not None:
      return found._replace(literals=literals)
  return Layout("lines" if head.startswith(b"{") else "values", False)


def _rows(lines: Iterable[bytes], literals: bool) -> list[dict[str, Any]]:
  """The lines that are objects."""
  rows = []
  for line in lines:
    text = python_literals.to_json(line) if literals else line
    try:
      row = json.loads(text.decode("utf-8", "surrogateescape"))
    except (ValueError, RecursionError):
      continue
    if isinstance(row, dict):
      rows.append(row)
  return rows


def _of_text(text: str, path: str, whole: bool) -> Layout | None:
  """The layout of a text that is not lines of objects; None if it is none."""
  if text.startswith("["):
    return _of_list(text, path)
  scanner = json_scan.Scanner(iter([text]), path)
  try:
    first = scanner.value()
  except ValueError:
    return None if whole else _of_large(text)
  if not isinstance(first, dict):
    return None
  if not scanner.peek():
    if whole:
      return Layout("object", False, first=(first,))
    return _of_large(text)
  rows = [first]
  for found in scanner.at_top():
    if isinstance(found.value, dict):
      rows.append(found.value)
    if len(rows) == _ROWS:
      break
  return Layout("values", False, first=tuple(rows))


def _of_list(text: str, path: str) -> Layout | None:
  scanner = json_scan.Scanner(iter([text]), path)
  scanner.peek()
  values = []
  try:
    for found in scanner.in_list():
      if found.value is not json_scan.DAMAGED:
        values.append(found.value)
      if len(values) == _ROWS:
        break
  except InputError:  # The list goes on after the text.
    pass
  if not values:
    return Layout("values", False) if text[1:].lstrip()[:1] == "]" else None
  if isinstance(values[0], dict):
    rows = [value for value in values if isinstance(value, dict)]
    return Layout("values", False, first=tuple(rows))
  if isinstance(values[0], list):
    return Layout("lists", False, ("",), tuple(values))
  return Layout("lists", False, (), (values,))


def _of_large(text: str) -> Layout | None:
  """The layout of one object that goes on after the text."""
  way, sequences = _way(text, 0)
  if sequences:
    return Layout("sequences", False)
  if way is None:
    return Layout("object", False)
  scanner = json_scan.Scanner(iter([text]), "")
  rows = []
  try:
    scanner.enter(way)
    for found in scanner.in_list():
      if isinstance(found.value, dict):
        rows.append(found.value)
      if len(rows) == _ROWS:
        break
  except (InputError, ValueError):
    pass
  return Layout("inside", False, way, tuple(rows)) if rows else None


def _way(
  text: str, at: int, depth: int = _DEPTH
) -> tuple[tuple[str, ...] | None, bool]:
  """Keys to the first list of objects; and whether values are plain lists."""
  decode = json.JSONDecoder().raw_decode
  at, plain = at + 1, False
  while True:
    try:
      key, at = decode(text, _filled(text, at))
    except ValueError:
      return None, plain
    at = _filled(text, at)
    if text[at : at + 1] != ":":
      return None, plain
    at = _filled(text, at + 1)
    opening = text[at : at + 1]
    if opening == "[":
      inner = _filled(text, at + 1)
      if text[inner : inner + 1] == "{":
        return (key,), False
      plain = True
    try:
      _, at = decode(text, at)
    except (ValueError, RecursionError):
      if opening == "{" and depth > 1:
        way, _ = _way(text, at, depth - 1)
        return ((key, *way) if way else None), False
      return None, plain


def _filled(text: str, at: int) -> int:
  """Position of the next character that is neither white space nor a comma."""
  match = json_scan.SPACE.match(text, at)
  return match.end() if match else at


def names(rows: Sequence[Any]) -> tuple[str, ...]:
  """Names of the columns of some rows, those inside others after all."""
  top: dict[str, None] = {}
  inner: dict[str, None] = {}
  for row in rows:
    if isinstance(row, dict):
      top.update(dict.fromkeys(row))
      for key, value in row.items():
        if isinstance(value, dict | list):
          inner.update(dict.fromkeys(nested.names_of_value(key, value)))
  return tuple(top | inner)[:_NAMES]


class Records(NamedTuple):
  """The rows that one object holds.

  Attributes:
    rows: The rows; None if they are at `way`.
    way: Keys that lead to the list of the rows.
  """

  rows: Sequence[Mapping[str, Any]] | None
  way: tuple[str, ...] = ()


def unwrap(whole: dict[str, Any], wanted: Sequence[str]) -> Records | None:
  """Finds the rows in an object that is a whole file.

  Args:
    whole: The object.
    wanted: Names of the wanted columns, which tell which list is meant.

  Returns:
    The rows; None if it holds a list of plain values for each key.
  """
  explicit = [name for name in wanted if nested.EACH in name]
  if any(nested.steps(name, whole)[0] in whole for name in explicit):
    return Records([whole])
  if (rows := _of_columns(whole, wanted)) is not None:
    return Records(rows)
  ways = _lists(whole, (), _DEPTH)
  if ways:
    hits = {
      way: len({*names(records[:_ROWS])} & {*wanted})
      for way, records in ways.items()
    }
    best = max(hits, key=lambda way: hits[way])
    if hits[best] >= len({*wanted} & {*whole}):
      return Records(None, best)
  values = list(whole.values())
  if values and not {*wanted} & {*whole}:
    if all(isinstance(value, list) for value in values):
      return None
    if all(isinstance(value, dict) for value in values):
      return Records(values)
  return Records([whole])


def is_by_columns(whole: Mapping[str, Any]) -> bool:
  """Whether an object holds columns, each an object by the rows' labels."""
  columns = list(whole.values())
  return (
    len(columns) > 1
    and all(isinstance(column, dict) and column for column in columns)
    and all(column.keys() == columns[0].keys() for column in columns)
    and all(label.isdecimal() for label in columns[0])
  )


def _of_columns(
  whole: dict[str, Any], wanted: Sequence[str]
) -> list[dict[str, Any]] | None:
  """The rows of pandas' `to_json` by columns, or split; else None."""
  if {"columns", "data"} <= {*whole} and isinstance(whole["columns"], list):
    rows = whole["data"]
    if isinstance(rows, list) and all(isinstance(row, list) for row in rows):
      return [dict(zip(whole["columns"], row, strict=False)) for row in rows]
  columns = list(whole.values())
  if not columns or not {*wanted} & {*whole}:
    return None
  if all(isinstance(column, dict) for column in columns):
    labels = dict.fromkeys(label for column in columns for label in column)
    return [
      {name: whole[name].get(label) for name in whole} for label in labels
    ]
  if all(isinstance(column, list) for column in columns):
    lengths = {len(column) for column in columns}
    if len(lengths) == 1:
      parts = zip(*columns, strict=True)
      return [dict(zip(whole, part, strict=True)) for part in parts]
  return None


def _lists(
  value: dict[str, Any], way: tuple[str, ...], depth: int
) -> dict[tuple[str, ...], list[Any]]:
  """Lists of objects in an object, by the keys that lead to them."""
  found = {}
  for key, part in value.items():
    if isinstance(part, list) and part and isinstance(part[0], dict):
      found[*way, key] = part
    elif isinstance(part, dict) and depth > 1:
      found |= _lists(part, (*way, key), depth - 1)
  return found
