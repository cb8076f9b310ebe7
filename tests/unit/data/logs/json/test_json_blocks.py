"""Rows of JSON: a block gives what each of its lines gives alone."""

import json

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from calrec_jax.data.logs.files.line_blocks import Block
from calrec_jax.data.logs.json import json_blocks

SCHEMA = pa.schema(
  [
    ("id", pa.string()),
    ("time", pa.int64()),
    ("names", pa.list_(pa.string())),
    ("more", pa.struct([("brand", pa.string())])),
  ]
)
GOOD = b'{"id":"a","time":1,"names":["x"],"more":{"brand":"b","z":[1]},"q":{}}'


def values(rows):
  return rows.table.to_pylist()


def test_whole_blocks_and_their_lines():
  rows = json_blocks.parse(Block(b"\n".join([GOOD] * 3), 7), SCHEMA)
  assert (
    values(rows)
    == [{"id": "a", "time": 1, "names": ["x"], "more": {"brand": "b"}}] * 3
  )
  assert rows.lines.tolist() == [7, 8, 9]
  assert rows.num_rows == 3


@pytest.mark.parametrize(
  ("line", "id_"),
  [
    (b'{"id": 3}', "3"),
    (b'{"id": 3.0}', "3"),
    (b'{"id": "x", "id": "y"}', "y"),
    (b'{"id": "x", "text": "\\ud800"}', "x"),
    (b'{"id": "x", "text": "\xff"}', "x"),
    (b'  {"id": "x"}\t', "x"),
    (b'{"id": "x", "text": ' + b"[" * 5000 + b"]" * 5000 + b"}", "x"),
    (b'{"id": "x"}\r', "x"),
    (b'{"id": null}', None),
    (b"{}", None),
  ],
)
@pytest.mark.parametrize("neighbours", [0, 100])
def test_odd_rows_are_read(line, id_, neighbours):
  block = b"\n".join([GOOD] * neighbours + [line] + [GOOD] * neighbours)
  rows = json_blocks.parse(Block(block, 1), SCHEMA)
  assert rows.num_rows == len(rows.lines) == 2 * neighbours + 1
  assert values(rows)[neighbours]["id"] == id_
  assert not len(rows.malformed)
  assert not len(rows.broken)


@pytest.mark.parametrize(
  ("line", "kind"),
  [
    (b"[1]", "malformed"),
    (b"3", "malformed"),
    (b'{"id": "x"} {"id": "y"}', "malformed"),
    (b'{"id": "x"', "malformed"),
    (b"{'id': 'x'}", "malformed"),
    (b"\x00" * 9, "malformed"),
    (b'{"id": "\xff"}', "broken"),
    (b'{"id": "\\ud800"}', "broken"),
    (b'{"id": ["x"]}', "wrong_type"),
    (b'{"time": "soon"}', "wrong_type"),
    (b'{"time": 1e999}', "wrong_type"),
    (b'{"more": "x"}', "wrong_type"),
  ],
)
@pytest.mark.parametrize("neighbours", [0, 100])
def test_bad_rows_are_counted_with_their_line(line, kind, neighbours):
  block = b"\n\n".join([GOOD] * neighbours + [line] + [GOOD] * neighbours)
  rows = json_blocks.parse(Block(block, 1), SCHEMA)
  assert getattr(rows, kind).tolist() == [2 * neighbours + 1]
  assert rows.num_rows == 2 * neighbours + 1
  assert (2 * neighbours + 1 in rows.lines) == (kind == "wrong_type")


def test_an_object_over_two_lines_is_no_row():
  rows = json_blocks.parse(Block(b'{"id":\n"x"}\n' + GOOD, 1), SCHEMA)
  assert rows.malformed.tolist() == [1, 2]
  assert rows.lines.tolist() == [3]


@pytest.mark.parametrize("neighbours", [0, 100])
def test_nulls_in_lists_are_left_out_whatever_is_beside_them(neighbours):
  line = b'{"id": "x", "names": [null, "y", null]}'
  block = b"\n".join([GOOD] * neighbours + [line])
  rows = json_blocks.parse(Block(block, 1), SCHEMA)
  assert values(rows)[neighbours]["names"] == ["y"]


def test_nulls_in_lists_of_objects_are_seen():
  schema = pa.schema([("more", pa.struct([("names", pa.list_(pa.string()))]))])
  for line, odd in ((b'{"more": {"names": [null]}}', True), (b"{}", False)):
    table = pa.table(
      {"more": [json.loads(line).get("more", {"names": ["x"]})]}, schema
    )
    assert json_blocks._has_null_parts(table["more"]) == odd


def test_columns_of_another_type_as_a_whole():
  schema = pa.schema([("price", pa.string())])
  numbers = pa.schema([("price", pa.float64())])
  block = b'{"price":12.5}\n{"price":null}\n' * 40 + b'{"price":"$3"}\n' * 40
  rows = json_blocks.parse(Block(block, 1), schema, [numbers])
  prices = rows.table["price"].to_pylist()
  assert [p and float(p.strip("$")) for p in prices] == [12.5, None] * 40 + [
    3.0
  ] * 40
  assert not len(rows.wrong_type)


JUNK = st.recursive(
  st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
  lambda part: (
    st.lists(part, max_size=3)
    | st.dictionaries(
      st.sampled_from(["id", "time", "names", "more", "brand", "z"]), part
    )
  ),
  max_leaves=8,
)


@example([b"", b'{"names": [null]}'])
@given(
  st.lists(
    st.binary(max_size=30).map(lambda line: line.replace(b"\n", b""))
    | JUNK.map(lambda value: json.dumps(value).encode())
    | st.just(GOOD),
    max_size=80,
  )
)
def test_any_block_is_the_sum_of_its_lines(lines):
  block = b"\n".join(lines)
  rows = json_blocks.parse(Block(block, 1), SCHEMA)
  alone = [
    json_blocks.parse(Block(line, i), SCHEMA)
    for i, line in enumerate(lines, start=1)
    if line
  ]
  assert values(rows) == [value for one in alone for value in values(one)]
  for name in ("lines", "malformed", "broken", "wrong_type"):
    together = getattr(rows, name).tolist()
    assert together == [n for one in alone for n in getattr(one, name).tolist()]
  assert rows.num_rows == sum(one.num_rows for one in alone)
  assert rows.num_rows == sum(bool(line.strip()) for line in lines)
