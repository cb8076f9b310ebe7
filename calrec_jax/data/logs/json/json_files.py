"""JSON files of any layout as columns.

Lines of objects are parsed in blocks, by threads; other layouts are scanned
value by value.
"""

from __future__ import annotations

import codecs
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any

import numpy as np
import pyarrow as pa

from calrec_jax.data.logs import problems as problems_lib
from calrec_jax.data.logs.files import (
  ahead,
  containers,
  line_blocks,
  nested,
  read_options,
  row_blocks,
)
from calrec_jax.data.logs.json import (
  json_blocks,
  json_layout,
  json_rows,
  json_scan,
  json_values,
  python_literals,
  sequences,
)
from calrec_jax.errors import InputError

_SAMPLE_BYTES = 4 << 20
_BATCH = 8192
_SAID = {
  "lines": "a row per line",
  "values": "records",
  "lists": "lists of values",
  "inside": "records inside an object",
  "object": "one object",
  "sequences": "a list of items per user",
}


class JsonFile:
  """Reads a JSON file, or one of printed Python.

  Attributes:
    num_lines: Number of the lines that were read so far.
  """

  def __init__(
    self,
    stream: IO[bytes],
    path: str,
    options: read_options.ReadOptions,
    problems: problems_lib.Problems,
  ) -> None:
    """Looks at the first rows.

    Args:
      stream: The file in UTF-8, without a byte order mark.
      path: Path of the file, for messages.
      options: Names of the columns of rows that are lists.
      problems: Counter of the malformed rows and of broken encodings.
    """
    head = containers.read_up_to(stream, _SAMPLE_BYTES)
    self._stream = containers.Prefixed(head, stream)
    self._path, self._options, self._problems = path, options, problems
    whole = len(head) < _SAMPLE_BYTES
    self._layout = json_layout.sniff(head, path, whole=whole)
    self._found: dict[str, None] = {}
    self.num_lines = 0
    self._set_names()

  @property
  def available(self) -> tuple[str, ...]:
    """Names of the columns, of the first rows until all are read."""
    return (*self._found,)

  def describe(self) -> dict[str, Any]:
    """How the file is read."""
    kind = self._layout.kind
    written = "printed Python" if self._layout.literals else "JSON"
    said = {"format": "json", "layout": _SAID[kind], "written": written}
    if self._layout.way and kind == "inside":
      said["records"] = ".".join(self._layout.way)
    return said

  def rows(self, wanted: Sequence[str]) -> Iterator[row_blocks.Rows]:
    """The rows in the file's order, with all wanted columns.

    Columns have the type of their values in a block, null where it has none.
    Bad rows are counted already.

    Raises:
      InputError: If the file holds no rows, or ends too early.
    """
    layout = self._layout
    if layout.kind == "lines":
      stream = self._of_lines(wanted)
    elif layout.kind == "object" or (
      layout.kind == "sequences" and not {*wanted} & {*self._found}
    ):
      stream = self._of_object(wanted)
    else:
      stream = self._of_scan(layout.kind, layout.way, wanted)
    for rows in stream:
      self._problems.add_rows("malformed_row", self._path, rows.malformed)
      self._problems.add_rows("broken_encoding", self._path, rows.broken)
      yield rows

  def _set_names(self) -> None:
    layout = self._layout
    found = json_layout.names(layout.first)
    if layout.kind == "lists":
      found = self._options.columns
    elif layout.kind == "sequences":
      found = sequences.columns(self._options)
    elif layout.kind == "object":
      whole = layout.first[0] if layout.first else {}
      wanted = tuple(whole) if json_layout.is_by_columns(whole) else ()
      records = json_layout.unwrap(whole, wanted) if layout.first else None
      if wanted:
        self._found = dict.fromkeys(wanted)
        return
      if layout.first and records is None:
        found = (*found, *sequences.columns(self._options))
      elif records is not None and records.rows is None:
        found = (*json_layout.names(_at(layout.first[0], records.way)), *found)
      elif records is not None:
        top = json_layout.names([dict.fromkeys(layout.first[0])])
        found = (*top, *json_layout.names(records.rows or ()), *found)
    elif layout.kind == "inside":
      prefix = ".".join(layout.way) + nested.EACH
      found = (*found, *(f"{prefix}.{name}" for name in found))
    self._found = dict.fromkeys(found)

  # Lines.

  def _of_lines(self, wanted: Sequence[str]) -> Iterator[row_blocks.Rows]:
    layout = self._layout
    ways = self._ways(wanted, layout.first)
    parser = json_rows.Lines(
      ways,
      layout.first,
      literals=layout.literals,
      as_json=self._options.as_json,
    )
    pieces = iter(lambda: self._stream.read(line_blocks.BLOCK_BYTES), b"")

    def blocks() -> Iterator[line_blocks.Block]:
      for block in line_blocks.of_pieces(_nonempty(pieces), self._path):
        count = block.data.count(b"\n") + (not block.data.endswith(b"\n"))
        self.num_lines = block.first_line + count - 1
        yield block

    for rows in ahead.in_order(parser.parse, blocks()):
      self._found |= dict.fromkeys(
        name for name in wanted if ways[name][0] in parser.seen
      )
      yield rows

  def _ways(
    self, wanted: Sequence[str], first: Sequence[Any]
  ) -> dict[str, nested.Steps]:
    keys = {key for row in first if isinstance(row, dict) for key in row}
    return {name: nested.steps(name, keys) for name in wanted}

  # Records anywhere.

  def _scanner(self) -> json_scan.Scanner:
    read = iter(lambda: self._stream.read(line_blocks.BLOCK_BYTES), b"")
    if self._layout.literals:
      lines = line_blocks.of_pieces(_nonempty(read), self._path)
      read = (python_literals.to_json(block.data) for block in lines)
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    texts = (
      decoder.decode(data, final=not data)
      for data in itertools.chain(read, [b""])
    )
    return json_scan.Scanner(filter(None, texts), self._path)

  def _of_scan(
    self, kind: str, way: tuple[str, ...], wanted: Sequence[str]
  ) -> Iterator[row_blocks.Rows]:
    scanner = self._scanner()
    if kind == "sequences":
      yield from self._of_members(scanner, wanted)
    elif kind == "inside":
      scanner.enter(way)
      yield from self._of_records(scanner.in_list(), wanted, way)
    elif kind == "lists":
      yield from self._of_lists(scanner, nest=bool(way), wanted=wanted)
    else:
      yield from self._of_records(scanner.at_top(), wanted, ())
    self.num_lines = scanner.finish()

  def _of_records(
    self,
    found: Iterator[json_scan.Found],
    wanted: Sequence[str],
    way: tuple[str, ...],
  ) -> Iterator[row_blocks.Rows]:
    prefix = ".".join(way) + nested.EACH + "." if way else ""
    ways = None
    while batch := list(itertools.islice(found, _BATCH)):
      good = [one for one in batch if isinstance(one.value, dict)]
      values = [one.value for one in good]
      if ways is None:
        keys = {key for row in values for key in row}
        ways = {
          name: nested.steps(name.removeprefix(prefix), keys) for name in wanted
        }
      bad = [
        np.arange(one.first, one.last + 1)
        for one in batch
        if not isinstance(one.value, dict)
      ]
      self._see(values, ways)
      lines = np.array([one.first for one in good], np.int64)
      rows = json_rows.of_values(values, lines, ways, self._options.as_json)
      malformed = np.concatenate([rows.malformed, *bad]).astype(np.int64)
      yield rows._replace(malformed=np.unique(malformed))

  def _see(
    self, rows: Sequence[Mapping[str, Any]], ways: Mapping[str, nested.Steps]
  ) -> None:
    """Notes which wanted columns there are after all."""
    for name, way in ways.items():
      if name not in self._found and any(way[0] in row for row in rows):
        self._found[name] = None

  def _of_lists(
    self, scanner: json_scan.Scanner, *, nest: bool, wanted: Sequence[str]
  ) -> Iterator[row_blocks.Rows]:
    names = self._options.columns
    if not names:
      raise InputError(
        f"{self._path} holds lists of values without names. Name them with "
        "LogFiles.columns = (...), or write objects."
      )
    found = scanner.in_list() if nest else scanner.lists_at_top()
    named = (
      one._replace(value=dict(zip(names, one.value, strict=True)))
      if isinstance(one.value, list) and len(one.value) == len(names)
      else one._replace(value=json_scan.DAMAGED)
      for one in found
    )
    yield from self._of_records(named, wanted, ())

  def _of_members(
    self, scanner: json_scan.Scanner, wanted: Sequence[str]
  ) -> Iterator[row_blocks.Rows]:
    names = sequences.columns(self._options)
    scanner.peek()
    members = scanner.members()
    try:
      while batch := list(itertools.islice(members, _BATCH)):
        yield self._sequences(batch, names, wanted)
    except ValueError as error:
      if isinstance(error, InputError):
        raise
      raise InputError(
        f"{self._path}:{scanner.line()}: this is no list of items for a user "
        f"({error})."
      ) from error

  def _sequences(
    self,
    batch: Sequence[tuple[str, json_scan.Found]],
    names: Sequence[str],
    wanted: Sequence[str],
  ) -> row_blocks.Rows:
    good, malformed, broken = [], [], []
    for user, found in batch:
      if not isinstance(found.value, list) or not found.value:
        malformed += range(found.first, found.last + 1)
      elif not json_blocks.encodes([user, found.value]):
        broken.append(found.first)
      else:
        good.append((found.first, [user, *map(json_values.text, found.value)]))
    rows = sequences.exploded(
      pa.array([part for _, parts in good for part in parts], pa.string()),
      np.array([len(parts) for _, parts in good], np.int64),
      np.array([line for line, _ in good], np.int64),
      names,
      wanted,
    )
    return rows._replace(
      malformed=np.unique(np.array(malformed, np.int64)),
      broken=np.array(broken, np.int64),
    )

  # One object.

  def _of_object(self, wanted: Sequence[str]) -> Iterator[row_blocks.Rows]:
    if self._layout.first:
      whole = self._layout.first[0]
    else:
      try:
        whole = self._scanner().value()
      except ValueError as error:
        raise InputError(
          f"{self._path} is one JSON object without a list of records ({error})"
          ". Write one object per line."
        ) from error
    records = json_layout.unwrap(whole, wanted)
    if records is None and not self._layout.first:
      records = json_layout.Records([whole])
    if records is None:
      yield from self._of_scan("sequences", (), wanted)
    elif records.rows is None:
      yield from self._of_scan("inside", records.way, wanted)
    else:  # Their lines are unknown.
      self._found |= dict.fromkeys(json_layout.names(records.rows[:_BATCH]))
      for start in range(0, len(records.rows), _BATCH):
        rows = [
          row if isinstance(row, dict) else {}
          for row in records.rows[start : start + _BATCH]
        ]
        ways = self._ways(wanted, records.rows[:_BATCH])
        self._see(rows, ways)
        numbers = np.arange(len(rows)) + start + 1
        yield json_rows.of_values(rows, numbers, ways, self._options.as_json)
      self.num_lines = self._scanner().finish()


def _at(value: Any, way: Sequence[str]) -> Any:
  for key in way:
    value = value[key]
  return value


def _nonempty(pieces: Iterator[bytes]) -> Iterator[bytes]:
  return (piece for piece in pieces if piece)
