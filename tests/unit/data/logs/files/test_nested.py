"""Columns inside columns, on Arrow arrays."""

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calrec_jax.data.logs.files import nested

ORDERS = pa.array(
  [
    [{"s": "a", "t": [1, 2]}, {"s": "b", "t": [3]}],
    [],
    None,
    [{"s": "c", "t": None}],
  ]
)
TOPS = {
  "id": pa.array([1, 2, 3, 4]),
  "o": ORDERS,
  "p": pa.array([[1, 2], [], None, [4]]),
  "user": pa.array([{"id": 7}, {"id": 8}, None, {"id": None}]),
  "a.b": pa.array([5, 6, 7, 8]),
}


def flatten(*names):
  ways = {name: nested.steps(name, TOPS) for name in names}
  flat = nested.flatten(TOPS, ways, 4)
  columns = {name: array.to_pylist() for name, array in flat.columns.items()}
  return columns, flat


@pytest.mark.parametrize(
  ("name", "keys", "steps"),
  [
    ("orders[].user.id", [], ("orders", "[]", "user", "id")),
    ("items[]", ["items"], ("items", "[]")),
    ("a.b", ["a.b", "a"], ("a.b",)),
    ("a.b", ["a"], ("a", "b")),
    ("a.b.c", ["a.b", "a"], ("a.b", "c")),
    ("m[][].x", [], ("m", "[]", "[]", "x")),
    ("items[]", ["items[]"], ("items[]",)),
    ("plain", [], ("plain",)),
  ],
)
def test_steps(name, keys, steps):
  assert nested.steps(name, keys) == steps


def test_fields_of_objects():
  columns, flat = flatten("user.id", "a.b", "id", "user.no", "no", "id.x")
  assert columns == {
    "user.id": [7, 8, None, None],
    "a.b": [5, 6, 7, 8],
    "id": [1, 2, 3, 4],
    **{name: [None] * 4 for name in ("user.no", "no", "id.x")},
  }
  assert flat.rows is None


def test_columns_of_one_list_stay_together():
  columns, flat = flatten("id", "o[].s", "user.id")
  assert columns == {
    "id": [1, 1, 3, 4],
    "o[].s": ["a", "b", None, "c"],
    "user.id": [7, 7, None, None],
  }
  assert flat.rows.tolist() == [0, 0, 2, 3]


def test_a_list_in_a_list():
  columns, flat = flatten("id", "o[].s", "o[].t[]")
  assert columns["o[].s"] == ["a", "a", "b", None, "c"]
  assert columns["o[].t[]"] == [1, 2, 3, None, None]
  assert columns["id"] == [1, 1, 1, 3, 4]
  assert flat.rows.tolist() == [0, 0, 0, 2, 3]


def test_lists_beside_each_other_are_parallel():
  columns, flat = flatten("p[]", "o[].s")
  assert columns == {
    "p[]": [1, 2, None, 4],
    "o[].s": ["a", "b", None, "c"],
  }
  assert not len(flat.uneven)
  tops = {"a": pa.array([[1], [2, 3]]), "b": pa.array([[4], [5]])}
  ways = {name: nested.steps(name, tops) for name in ("a[]", "b[]")}
  flat = nested.flatten(tops, ways, 2)
  assert flat.columns["b[]"].to_pylist() == [4]
  assert flat.uneven.tolist() == [1]


def test_what_is_no_list_is_one_part():
  columns, _ = flatten("id[]", "a.b")
  assert columns == {"id[]": [1, 2, 3, 4], "a.b": [5, 6, 7, 8]}


@given(
  st.lists(st.none() | st.lists(st.none() | st.integers(0, 9), max_size=3)),
  st.sampled_from(
    [pa.list_(pa.int64()), pa.large_list(pa.int64())],
  ),
  st.integers(0, 3),
)
def test_any_lists_also_sliced(lists, kind, start):
  array = pa.array(lists, kind)[start:]
  ids = pa.array(range(len(lists)))[start:]
  ways = {"i": ("i",), "x[]": ("x", "[]")}
  flat = nested.flatten({"i": ids, "x": array}, ways, len(array))
  expected = [
    (i, part)
    for i, parts in enumerate(lists)
    if i >= start
    for part in (parts if parts is not None else [None])
  ]
  found = zip(
    flat.columns["i"].to_pylist(), flat.columns["x[]"].to_pylist(), strict=True
  )
  assert list(found) == expected


def test_names():
  assert nested.names_of_value("o", [{"u": {"id": 1}, "t": []}]) == [
    "o",
    "o[]",
    "o[].u",
    "o[].u.id",
    "o[].t",
    "o[].t[]",
  ]
  assert nested.names_of_value("d", {"$date": 1}) == ["d"]
  kind = pa.list_(pa.struct({"s": pa.string()}))
  assert nested.names_of_type("o", kind) == ["o", "o[]", "o[].s"]
