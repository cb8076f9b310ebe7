"""JSON values as Arrow columns: nothing lost, nothing rounded."""

import datetime

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calrec_jax.data.logs.json import json_values

BIG = 12345678901234567890123


@pytest.mark.parametrize(
  ("values", "expected"),
  [
    ([1, "a"], ["1", "a"]),
    ([True, 1], ["true", "1"]),
    ([1, 2.5], [1.0, 2.5]),
    ([BIG, 1], [str(BIG), "1"]),
    ([2**60 + 1, 1.5], [str(2**60 + 1), "1.5"]),
    ([2**53 + 1, float("nan")], [str(2**53 + 1), None]),
    ([15.0, "x"], ["15", "x"]),
    ([[1], ["a"], None], [["1"], ["a"], None]),
    ([["a"], "b"], [["a"], ["b"]]),
    ([{"a": 1}, {"a": "x"}, None], [{"a": "1"}, {"a": "x"}, None]),
    ([{"a": 1}, "x"], ['{"a": 1}', "x"]),
    ([None, None], [None, None]),
    ([], []),
    ([{}, {}], [{}, {}]),
  ],
)
def test_mixtures(values, expected):
  assert json_values.column(values).to_pylist() == expected


@pytest.mark.parametrize(
  ("value", "expected"),
  [
    ({"$oid": "5f"}, "5f"),
    ({"$numberLong": "12345678901234567"}, 12345678901234567),
    ({"$numberInt": "5"}, 5),
    ({"$numberDouble": "2.5"}, 2.5),
    ({"$numberDecimal": "1.10"}, "1.10"),
    ({"$numberLong": "x"}, "x"),
    ({"a": [{"$oid": "1"}]}, {"a": ["1"]}),
    ({"$oid": "1", "b": 2}, {"$oid": "1", "b": 2}),
    ({"$date": "no date"}, "no date"),
    ({"$date": 10**20}, 10**20),
  ],
)
def test_extended_json(value, expected):
  assert json_values.plain(value) == expected


@pytest.mark.parametrize(
  "value",
  [1600060726000, {"$numberLong": "1600060726000"}, "2020-09-14T05:18:46Z"],
)
def test_dates_of_extended_json(value):
  time = datetime.datetime(2020, 9, 14, 5, 18, 46, tzinfo=datetime.UTC)
  assert json_values.plain({"$date": value}) == time
  array = json_values.column([json_values.plain({"$date": value})])
  assert pa.types.is_timestamp(array.type)


SCALARS = st.none() | st.booleans() | st.integers() | st.text(max_size=5)
VALUES = st.recursive(
  SCALARS | st.floats(allow_nan=False),
  lambda inner: (
    st.lists(inner, max_size=3)
    | st.dictionaries(st.text("ab", max_size=2), inner, max_size=2)
  ),
  max_leaves=8,
)


@given(st.lists(VALUES, max_size=6))
def test_any_values_give_a_row_each(values):
  array = json_values.column(values)
  assert len(array) == len(values)
  for value, read in zip(values, array.to_pylist(), strict=True):
    assert (value is None) == (read is None)
    if isinstance(value, int) and not isinstance(value, bool):
      while isinstance(read, list):
        (read,) = read
      assert int(read) == value


@given(st.lists(st.lists(SCALARS, min_size=1, max_size=4), min_size=1))
def test_pieces_join_like_one(pieces):
  arrays = list(map(json_values.column, pieces))
  joined = json_values.joined(arrays).to_pylist()
  flat = [value for piece in pieces for value in piece]
  assert len(joined) == len(flat)
  for value, read in zip(flat, joined, strict=True):
    if isinstance(value, int) and not isinstance(value, bool):
      assert int(read) == value
