"""JSON files of any layout as columns.

Plain lines of objects are parsed by PyArrow, whole blocks at a time, in the
types of the first rows. Pieces of a block with odd rows, and other layouts, are
read by Python.
"""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute creates its functions at run time.)

from __future__ import annotations

import codecs
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from calrec_jax.data.logs import (
  containers,
  json_blocks,
  json_layout,
  json_scan,
  json_values,
  line_blocks,
  nested,
  python_literals,
  read_options,
  row_stream,
  sequences,
)
from calrec_jax.data.logs import problems as problems_lib
from calrec_jax.errors import InputError

_SAMPLE_BYTES = 4 << 20
_BATCH = 8192
_FEW, _PIECES = 32, 16  # Rows of a piece of a block, and number of pieces.
_MAX_SCHEMAS = 4
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

  def rows(self, wanted: Sequence[str]) -> Iterator[json_blocks.Rows]:
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
      records = (
        json_layout.unwrap(layout.first[0], ()) if layout.first else None
      )
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

  def _of_lines(self, wanted: Sequence[str]) -> Iterator[json_blocks.Rows]:
    layout = self._layout
    ways = self._ways(wanted, layout.first)
    parser = _Lines(ways, layout.first, literals=layout.literals)
    pieces = iter(lambda: self._stream.read(line_blocks.BLOCK_BYTES), b"")

    def blocks() -> Iterator[line_blocks.Block]:
      for block in line_blocks.of_pieces(_nonempty(pieces), self._path):
        count = block.data.count(b"\n") + (not block.data.endswith(b"\n"))
        self.num_lines = block.first_line + count - 1
        yield block

    for rows in row_stream.in_order(parser.parse, blocks()):
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
  ) -> Iterator[json_blocks.Rows]:
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
  ) -> Iterator[json_blocks.Rows]:
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
      rows = _of_values(values, lines, ways)
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
  ) -> Iterator[json_blocks.Rows]:
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
  ) -> Iterator[json_blocks.Rows]:
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
  ) -> json_blocks.Rows:
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

  def _of_object(self, wanted: Sequence[str]) -> Iterator[json_blocks.Rows]:
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
        yield _of_values(rows, numbers, ways)
      self.num_lines = self._scanner().finish()


def _at(value: Any, way: Sequence[str]) -> Any:
  for key in way:
    value = value[key]
  return value


def _nonempty(pieces: Iterator[bytes]) -> Iterator[bytes]:
  return (piece for piece in pieces if piece)


def _of_values(
  values: Sequence[Mapping[str, Any]],
  lines: np.ndarray,
  ways: Mapping[str, nested.Steps],
) -> json_blocks.Rows:
  """Objects as rows."""
  tops, lines, broken = _tops(values, lines, ways)
  return _flat(tops, lines, ways)._replace(broken=broken)


def _tops(
  values: Sequence[Mapping[str, Any]],
  lines: np.ndarray,
  ways: Mapping[str, nested.Steps],
) -> tuple[dict[str, pa.Array], np.ndarray, np.ndarray]:
  """Top columns, the lines of their rows, and the lines of broken rows."""
  keys = list(dict.fromkeys(way[0] for way in ways.values()))
  try:
    tops = {key: _column(values, key) for key in keys}
    return tops, lines, np.empty(0, np.int64)
  except UnicodeEncodeError:
    good = np.array(
      [json_blocks.encodes([row.get(key) for key in keys]) for row in values],
      bool,
    )
    values = [values[i] for i in np.flatnonzero(good)]
    tops = {key: _column(values, key) for key in keys}
    return tops, lines[good], lines[~good]


def _column(values: Sequence[Mapping[str, Any]], key: str) -> pa.Array:
  parts = [row.get(key) for row in values]
  if any(isinstance(part, dict | list) for part in parts):
    parts = list(map(json_values.plain, parts))
  return json_values.column(parts)


def _flat(
  tops: Mapping[str, pa.Array],
  lines: np.ndarray,
  ways: Mapping[str, nested.Steps],
) -> json_blocks.Rows:
  """The wanted columns of top columns."""
  flat = nested.flatten(tops, ways, len(lines))
  rows = lines if flat.rows is None else lines[flat.rows]
  return json_blocks.Rows(pa.table(flat.columns), rows, lines[flat.uneven])


class _Lines:
  """Parses blocks of lines in the types of earlier rows.

  Attributes:
    seen: Top keys that Python found in rows.
  """

  def __init__(
    self,
    ways: Mapping[str, nested.Steps],
    first: Sequence[Mapping[str, Any]],
    *,
    literals: bool,
  ) -> None:
    self._ways, self._literals = ways, literals
    self._schemas: list[pa.Schema] = []
    self.seen = {key for row in first for key in row}
    self._learn(first)

  def _learn(self, rows: Sequence[Mapping[str, Any]]) -> bool:
    """Adds the types of some rows; whether they are new."""
    inner: dict[str, list[nested.Steps]] = {}
    for way in self._ways.values():
      inner.setdefault(way[0], []).append(way[1:])
    try:
      kinds = {
        key: _type([row.get(key) for row in rows], ways)
        for key, ways in inner.items()
      }
    except UnicodeEncodeError:
      return False
    if not kinds or any(kind is None for kind in kinds.values()):
      return False
    schema = pa.schema(list(kinds.items()))
    if schema in self._schemas or len(self._schemas) >= _MAX_SCHEMAS:
      return False
    self._schemas = [*self._schemas, schema]
    return True

  def parse(self, block: line_blocks.Block) -> json_blocks.Rows:
    """The rows of a block."""
    data = block.data
    if self._literals:
      data = python_literals.to_json(data)
    if b"\r" in data:  # In JSON itself it can only be white space.
      data = data.replace(b"\r\n", b"\n")
    count = data.count(b"\n") + (not data.endswith(b"\n"))
    lines = np.arange(block.first_line, block.first_line + count)
    tops = self._whole(data, count)
    if tops is not None:
      return _flat(tops, lines, self._ways)
    texts = [line.strip() for line in data.split(b"\n")]
    filled = [row for row, text in enumerate(texts) if text]
    texts, lines = [texts[row] for row in filled], lines[filled]
    step = max(len(texts) // 200, 1)
    sample = [row for text in texts[::step] if (row := _row(text)) is not None]
    self.seen.update(*sample)
    self._learn(sample)
    parts = list(self._pieces(texts, lines))
    tops = {
      key: json_values.joined([part[key] for part, *_ in parts])
      for key in parts[0][0]
    }
    good, malformed, broken = (
      np.concatenate([part[i] for part in parts]) for i in (1, 2, 3)
    )
    rows = _flat(tops, good, self._ways)
    malformed = np.sort(np.concatenate([rows.malformed, malformed]))
    return rows._replace(malformed=malformed, broken=broken)

  def _pieces(self, texts: list[bytes], lines: np.ndarray) -> Iterator[Any]:
    """The rows of a block that PyArrow rejects as a whole, piece by piece.

    Further halving would read the block once more for each halving, which takes
    longer than Python if there are many odd rows.
    """
    nothing = np.empty(0, np.int64)
    size = max(len(texts) // _PIECES + 1, _FEW)
    for start in range(0, max(len(texts), 1), size):
      piece, at = texts[start : start + size], lines[start : start + size]
      tops = self._whole(b"\n".join(piece), len(piece))
      if tops is not None:
        yield tops, at, nothing, nothing
        continue
      rows = list(map(_row, piece))
      good = np.array([row is not None for row in rows], bool)
      values = [row for row in rows if row is not None]
      self.seen.update(*values)
      tops, kept, broken = _tops(values, at[good], self._ways)
      yield tops, kept, at[~good], broken

  def _whole(self, data: bytes, count: int) -> dict[str, pa.Array] | None:
    """Top columns, if every line is a row of one of the schemas."""
    # PyArrow also takes several objects in a line, and one over several lines.
    # A line break between objects cannot be inside one, so as many of these
    # as lines mean one object a line.
    if (
      not data.startswith(b"{")
      or not data.endswith((b"}", b"}\n"))
      or data.count(b"}\n{") != count - 1
    ):
      return None
    for schema in self._schemas:
      table = json_blocks.whole(data, count, schema)
      if table is not None and not any(map(_is_rounded, table.columns)):
        return {name: table[name].combine_chunks() for name in schema.names}
    return None


def _row(text: bytes) -> dict[str, Any] | None:
  try:
    row = json.loads(text.decode("utf-8", "surrogateescape"))
  except (ValueError, RecursionError):
    return None
  return row if isinstance(row, dict) else None


def _type(
  values: Sequence[Any], ways: Sequence[nested.Steps]
) -> pa.DataType | None:
  """The type of values as far as ways lead into them; None has to be Python."""
  if () in ways:
    kind = json_values.column(values).type
    return kind if _is_flat(kind) else None
  present = [value for value in values if value is not None]
  if not present:
    return pa.null()
  if all(way[0] == nested.EACH for way in ways):
    if not all(isinstance(value, list) for value in present):
      return None
    parts = [part for value in present for part in value]
    kind = _type(parts, [way[1:] for way in ways])
    return pa.list_(kind) if kind is not None else None
  if any(way[0] == nested.EACH for way in ways) or not all(
    isinstance(value, dict) for value in present
  ):
    return None
  fields: dict[str, list[nested.Steps]] = {}
  for way in ways:
    fields.setdefault(way[0], []).append(way[1:])
  kinds = {
    key: _type([value.get(key) for value in present], inner)
    for key, inner in fields.items()
  }
  if any(kind is None for kind in kinds.values()):
    return None
  return pa.struct(list(kinds.items()))


def _is_flat(kind: pa.DataType) -> bool:
  """Whether PyArrow reads a type as Python does."""
  if pa.types.is_list(kind):
    return _is_flat(kind.value_type)
  return (
    pa.types.is_string(kind)
    or pa.types.is_int64(kind)
    or pa.types.is_float64(kind)
    or pa.types.is_boolean(kind)
    or pa.types.is_null(kind)
  )


def _is_rounded(column: pa.ChunkedArray) -> bool:
  """Whether a number in the column, at any depth, may have been rounded."""
  if pa.types.is_struct(column.type):
    return any(map(_is_rounded, column.flatten()))
  if pa.types.is_list(column.type):
    return _is_rounded(pc.list_flatten(column))
  if not pa.types.is_float64(column.type):
    return False
  largest = pc.max(pc.abs(column)).as_py()
  return largest is not None and largest >= json_values.EXACT
