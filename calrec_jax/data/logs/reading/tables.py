"""Files of any format as blocks of named columns.

One place decides which columns a file must have, adds the columns that its
folders name, and records how each file was read.
"""

from __future__ import annotations

import bisect
import contextlib
import dataclasses
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from calrec_jax.data.logs import problems as problems_lib
from calrec_jax.data.logs.columns import arrow_columns, column_names, id_codes
from calrec_jax.data.logs.csv import csv_blocks, csv_header
from calrec_jax.data.logs.files import (
  log_paths,
  nested,
  read_options,
  row_blocks,
)
from calrec_jax.data.logs.reading import lists_in_texts, log_source
from calrec_jax.errors import InputError, nearest

_IN_SINGLE_QUOTES = re.compile("'.*'")
_SHOWN = 16  # Names of columns in a message.


class Block(NamedTuple):
  """Some rows of one file.

  Attributes:
    file: Path of the file.
    rows: The rows, with the requested columns that there are.
    available: Names of all columns of the file, as far as they are known.
  """

  file: str
  rows: row_blocks.Rows
  available: tuple[str, ...]


class Sample(NamedTuple):
  """The first rows of a file.

  Attributes:
    table: The columns.
    how: How the file was read, in words.
    available: Names of all columns of the file.
    headless: Whether the first row looks like data rather than names.
    sequences: Whether the file holds, or seems to hold, sequences of items.
  """

  table: pa.Table
  how: str
  available: tuple[str, ...]
  headless: bool
  sequences: bool


@dataclasses.dataclass(frozen=True, eq=False)
class Table:
  """Some columns of one file, or of the files of a folder, whole.

  Attributes:
    file: Path of the file or folder.
    columns: Values by column name.
    lines: int64[n], the line where each row starts; its number in Parquet.
    available: Names of all columns of the files.
    num_rows: Number of rows in the files, unreadable ones included.
    starts: First row and file of each block.
  """

  file: str
  columns: dict[str, id_codes.Column]
  lines: np.ndarray
  available: tuple[str, ...]
  num_rows: int
  starts: tuple[tuple[int, str], ...] = ()

  def place(self, row: int) -> str:
    """Where a row stands, `file:line`."""
    block = bisect.bisect(self.starts, row, key=lambda start: start[0]) - 1
    file = self.starts[block][1]
    return problems_lib.location(file, int(self.lines[row]))


def blocks(
  paths: Sequence[log_paths.LogPath],
  required: Mapping[str, str],
  wanted: Sequence[str] = (),
  *,
  options: read_options.ReadOptions,
  problems: problems_lib.Problems,
) -> Iterator[Block]:
  """Reads some columns of files, one file after another.

  Args:
    paths: The files.
    required: Gin binding by name, of the columns that each file must have.
    wanted: Names of further columns, which a file may lack.
    options: How the files are written.
    problems: Counter of bad rows; receives how each file was read.

  Raises:
    InputError: If a file cannot be read or lacks a required column.
  """
  columns: tuple[str, ...] = ()
  for path in paths:
    with _opened(path, options, problems, columns) as source:
      if source.describe().get("format") == "csv":
        columns = columns or source.available
      yield from _of_one(path, source, required, wanted, options)
      problems.reading.append(_reading(path, source))


def read(
  path: str,
  wanted: Sequence[str],
  problems: problems_lib.Problems,
  options: read_options.ReadOptions | None = None,
) -> Table:
  """Reads some columns of a file or a folder whole; absent ones are left out.

  Raises:
    InputError: If a file cannot be read.
  """
  parts = list(
    blocks(
      log_paths.expand(path, None),
      {},
      wanted,
      options=options or read_options.ReadOptions(),
      problems=problems,
    )
  )
  tables = [part.rows.table for part in parts]
  whole = arrow_columns.concatenated(tables or [pa.table({})])
  lines = [part.rows.lines for part in parts]
  ends = itertools.accumulate(map(len, lines), initial=0)
  names = itertools.chain.from_iterable(part.available for part in parts)
  return Table(
    file=path,
    columns={name: id_codes.Column(whole[name]) for name in whole.column_names},
    lines=np.concatenate([np.empty(0, np.int64), *lines]),
    available=tuple(dict.fromkeys(names)),
    num_rows=sum(part.rows.num_rows for part in parts),
    starts=tuple(
      (start, part.file) for start, part in zip(ends, parts, strict=False)
    ),
  )


def sample(
  path: log_paths.LogPath,
  options: read_options.ReadOptions,
  count: int,
  names: Sequence[str] | None = None,
) -> Sample:
  """Reads about the first rows of a file.

  Args:
    path: The file.
    options: How it is written.
    count: Number of rows that suffice.
    names: Names of the columns; None takes all of which a row has one value.
  """
  problems = problems_lib.Problems()
  with _opened(path, options, problems) as source:
    folders = [n for n in path.partitions if n not in source.available]
    available = (*source.available, *folders)
    if names is None:
      names = [n for n in plain_names(available) if available.count(n) < 2]
    found, rows = [], 0
    for block in _of_one(path, source, {}, names, options):
      found.append(block.rows.table)
      rows += len(block.rows.lines)
      if rows >= count:
        break
    described = source.describe()
    kind = described.get("format")
    return Sample(
      table=arrow_columns.concatenated(found or [pa.table({})]).slice(0, count),
      how=in_words(described),
      available=available,
      headless=kind == "csv"
      and not options.columns
      and csv_header.looks_like_data(source.available),
      sequences=kind == "sequences"
      or any('"sequences"' in note.remedy for note in problems.notes()),
    )


def plain_names(names: Sequence[str], within: str = "") -> list[str]:
  """The columns of which a row has one value, without those that hold others.

  Args:
    names: Names of columns and of what is inside them.
    within: List, such as `items[]`, of whose parts there is a row each.
  """
  lists = {n[: -len(nested.EACH)] for n in names if n.endswith(nested.EACH)}
  records = {name for name in lists if are_rows(name + nested.EACH, names)}
  kept = [
    name
    for name in names
    if name
    and name.startswith(within)
    and nested.EACH not in name[len(within) :]
    and name not in records
  ]
  around = {
    name[:i] for name in kept for i, letter in enumerate(name) if letter == "."
  }
  return [name for name in dict.fromkeys(kept) if name not in around]


def are_rows(part: str, names: Sequence[str]) -> bool:
  """Whether the parts of a list, such as `orders[]`, are the rows already."""
  known = {*names}
  inside = [name for name in names if name.startswith(f"{part}.")]
  return bool(inside) and all(n[len(part) + 1 :] in known for n in inside)


def in_words(reading: Mapping[str, Any]) -> str:
  """How a file was read, such as "csv, utf-8, delimiter ';'"."""
  words = [str(reading.get("format", ""))]
  words += [
    str(reading[k]) for k in ("compression", "encoding") if k in reading
  ]
  if "delimiter" in reading:
    words.append(f"delimiter {reading['delimiter']!r}")
    words.append(
      f"quotes {reading['quote']}" if reading.get("quote") else "no quotes"
    )
    if reading.get("escape"):
      words.append(f"escaped by {reading['escape']}")
  if "layout" in reading:
    words.append(str(reading["layout"]))
  words += [f"{name}: {how}" for name, how in reading.get("lists", {}).items()]
  return ", ".join(filter(None, words))


def listed(names: Sequence[str]) -> str:
  """Names of columns for a message."""
  shown = [repr(name) for name in names if name]
  if len(shown) > _SHOWN:
    shown[_SHOWN:] = [f"{len(shown) - _SHOWN} more"]
  return ", ".join(shown) or "no columns"


@contextlib.contextmanager
def _opened(
  path: log_paths.LogPath,
  options: read_options.ReadOptions,
  problems: problems_lib.Problems,
  columns: tuple[str, ...] = (),
) -> Iterator[log_source.LogSource]:
  """A file, opened; `columns` are those of the file before it, if any."""
  with contextlib.ExitStack() as stack:
    try:
      source = stack.enter_context(_open(path, options, problems))
      if not options.columns and _continues(source, columns):
        stack.pop_all().close()
        problems.note(
          "info",
          f"{problems_lib.base_name(path.path)} has no header; its columns are "
          "those of the file before it",
        )
        options = dataclasses.replace(options, columns=columns)
        source = stack.enter_context(_open(path, options, problems))
      if source.describe().get("format") in lists_in_texts.FORMATS:
        source = lists_in_texts.ListsInTexts(source, path.path, problems)
      yield source
    except (EOFError, pa.ArrowInvalid, UnicodeError) as error:
      raise InputError(
        f"{path.path} is damaged or is not what its suffix says: {error}"
      ) from error


def _open(
  path: log_paths.LogPath,
  options: read_options.ReadOptions,
  problems: problems_lib.Problems,
) -> contextlib.AbstractContextManager[log_source.LogSource]:
  return log_source.open_file(path, options, problems, csv_source=_csv_source)


def _continues(source: log_source.LogSource, columns: tuple[str, ...]) -> bool:
  """Whether a file is a later part of a table, cut without its header."""
  return (
    len(source.available) == len(columns)
    and source.available != columns
    and source.describe().get("format") == "csv"
    and csv_header.looks_like_data(source.available)
  )


def _csv_source(
  path: log_paths.LogPath,
  stream: Any,
  options: read_options.ReadOptions,
  problems: problems_lib.Problems,
) -> log_source.LogSource:
  return csv_blocks.open_csv(
    path.path, stream, problems, suffix=path.suffix, options=options
  )


def _of_one(
  path: log_paths.LogPath,
  source: log_source.LogSource,
  required: Mapping[str, str],
  wanted: Sequence[str],
  options: read_options.ReadOptions,
) -> Iterator[Block]:
  """The blocks of one opened file."""
  names = list(dict.fromkeys([*required, *wanted]))
  partitions = [
    name
    for name in names
    if name in path.partitions and name not in source.available
  ]
  names = [name for name in names if name not in partitions]
  known = source.describe().get("format") != "json"
  needed = {n: b for n, b in required.items() if n in names}
  if known:  # JSON shows its columns only as it is read.
    _require(path, source, needed, options)
    repeated = [n for n in names if source.available.count(n) > 1]
    if repeated:
      raise InputError(
        f"{path.path}:1: two columns are called {repeated[0]!r}. Rename one."
      )
  stored = {name: _stored(name, source.available) for name in names}
  asked = [real for real in stored.values() if not known or _has(source, real)]
  for rows in source.rows(list(dict.fromkeys(asked))):
    table = rows.table
    columns = {
      name: table[real]
      for name, real in stored.items()
      if real in table.column_names
    }
    for name in partitions:
      value = path.partitions[name]
      columns[name] = pa.array([value] * len(rows.lines), pa.large_string())
    if columns:
      table = pa.table(columns)
    available = (*source.available, *path.partitions)
    yield Block(path.path, rows._replace(table=table), available)
  if not known:
    _require(path, source, needed, options)


def _has(source: log_source.LogSource, name: str) -> bool:
  return name in source.available or _is_inside(name, source.available)


def _is_inside(name: str, available: Sequence[str]) -> bool:
  """Whether a name leads into a struct or list, such as `user.id`."""
  return any(
    name.startswith((f"{each}.", f"{each}[]")) for each in available if each
  )


def _stored(name: str, available: Sequence[str]) -> str:
  """The name of a column in the file, which may have had its type there."""
  plain = name.partition(":")[0]
  return plain if name not in available and plain in available else name


def _require(
  path: log_paths.LogPath,
  source: log_source.LogSource,
  required: Mapping[str, str],
  options: read_options.ReadOptions,
) -> None:
  available = source.available
  for name, binding in required.items():
    if _has(source, _stored(name, available)):
      continue
    described = source.describe()
    hint = nearest(name, available)
    if described.get("format") == "csv":
      hint += _csv_hint(path, name, available, options)
    elif described.get("format") == "json" and not available:
      hint += " It holds no objects with names."
    if orders := _orders_hint(name, binding, available):
      hint = orders
    elif binding == "LogFiles.time_column":
      hint += " If rows are in the order of time: LogFiles.time_column = None."
    raise InputError(
      f"{path.path} has no column {name!r} ({binding}). It has "
      f"{listed(available)} ({in_words(described)}).{hint}"
    )


def _csv_hint(
  path: log_paths.LogPath,
  name: str,
  available: Sequence[str],
  options: read_options.ReadOptions,
) -> str:
  """Why a CSV file may lack a column that is thought to be there."""
  if csv_header.looks_like_data(available):
    return (
      " Its first row looks like data: without a header, name the columns by "
      f"{options.columns_binding}, in order. `calrec data guess {path.path}` "
      "suggests how."
    )
  if len(available) == 1 and nearest(name, re.split(r"\W+", available[0])):
    return (
      " If quotes enclose whole lines, remove those; else set "
      "LogFiles.delimiter."
    )
  if all(_IN_SINGLE_QUOTES.fullmatch(each) for each in available):
    return """ Set LogFiles.quote = "'"."""
  return " Is LogFiles.delimiter right?" if len(available) == 1 else ""


def _orders_hint(name: str, binding: str, available: Sequence[str]) -> str:
  """How users or times are found that another file has by order."""
  if binding not in ("LogFiles.user_column", "LogFiles.time_column"):
    return ""
  ids = [n for n in available if column_names.rank("order", n) is not None]
  if not ids:
    return ""
  how = f' LogFiles.order_id_column = "{ids[0]}",'
  how = "" if ids[0] == "order_id" else how
  return (
    f" If a file of orders has {ids[0]!r} and {name!r}, set{how} "
    "LogFiles.orders to it."
  )


def _reading(
  path: log_paths.LogPath, source: log_source.LogSource
) -> dict[str, Any]:
  described = {"lines": source.num_lines} | source.describe()
  return described | {"file": problems_lib.base_name(path.path)}
