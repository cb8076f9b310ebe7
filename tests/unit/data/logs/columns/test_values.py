"""Columns of any Arrow type as ids and texts."""

import datetime
import math
import uuid
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calrec_jax.data.logs.columns import id_codes, text, values
from calrec_jax.data.logs.columns.values import ids, texts

UUID = uuid.UUID("12345678-1234-4678-9abc-123456789abc")


def test_ids_keep_leading_zeros_and_lose_blanks():
  assert ids([" 007 ", "", "  ", None]).to_pylist() == ["007", None, None, None]
  assert ids([7, 7.0, "7", 7.5, True]).to_pylist() == [
    *("7", "7", "7", None, None)
  ]


@pytest.mark.parametrize(
  ("column", "expected"),
  [
    (pa.array(["a", " b", None]).dictionary_encode(), ["a", "b", None]),
    (pa.array(["a"], pa.string_view()), ["a"]),
    (pa.array(["ä".encode(), b"\xff", None]), ["ä", None, None]),
    (pa.array([b"ab"], pa.binary_view()), ["ab"]),
    (pa.array([UUID.bytes], pa.binary(16)), [str(UUID)]),
    (pa.array([b"abcdefghijklmnop"], pa.binary(16)), ["abcdefghijklmnop"]),
    (pa.array([b"ab "], pa.binary(3)), ["ab"]),
    (pa.array([UUID.bytes], pa.uuid()), [str(UUID)]),
    (pa.array([-1, 2**62, None]), ["-1", str(2**62), None]),
    (pa.array([2**64 - 1], pa.uint64()), [str(2**64 - 1)]),
    (
      pa.array([15.0, 1.5, math.nan, math.inf, None, -0.0, 1e16]),
      ["15", None, None, None, None, "0", "10000000000000000"],
    ),
    (pa.array([1e20]), ["100000000000000000000"]),
    (pa.array([15], pa.float32()), ["15"]),
    (pa.array([Decimal(15), None], pa.decimal128(38, 0)), ["15", None]),
    (pa.array([Decimal("15.00"), Decimal("1.50")]), ["15", "1.5"]),
    (pa.array([Decimal("150.00")], pa.decimal256(50, 9)), ["150"]),
    (pa.array([Decimal("0.00")], pa.decimal128(9, 9)), ["0"]),
    (pa.array([Decimal(1500)], pa.decimal128(9, -2)), ["1500"]),
    (pa.array([{"$oid": "5f5e"}, None]), ["5f5e", None]),
    (pa.array(['{"$oid": "5f5e"}', '{"$numberLong":"7"}']), ["5f5e", "7"]),
    (pa.array([datetime.date(2020, 9, 14)]), ["2020-09-14"]),
    (pa.array([True]), [None]),
    (pa.array([["a"]]), [None]),
    (pa.array([{"id": "a"}]), [None]),
    (pa.nulls(2), [None, None]),
    (pa.chunked_array([["a"], [" b "]]), ["a", "b"]),
    (pa.chunked_array([], pa.int64()), []),
    (id_codes.Column(pa.array(["a", ""])), ["a", None]),
    ([10**30, "x"], [str(10**30), "x"]),
  ],
)
def test_ids_of_every_type(column, expected):
  found = ids(column)
  assert isinstance(found, pa.LargeStringArray)
  assert found.to_pylist() == expected


def test_missing_words_are_no_ids():
  words = ["NULL", "\\N", " NaN ", "None", "<NA>", "null", "0"]
  assert ids(words).to_pylist() == [*[None] * 5, "null", "0"]
  assert ids(pa.array([b"NULL"])).to_pylist() == [None]
  assert ids(words, missing=("0",)).to_pylist()[-1] is None
  assert ids(["NULL"], missing=()).to_pylist() == ["NULL"]


def test_broken_bytes_are_counted():
  column = pa.chunked_array([[b"a", b"\xff", None], [b"\xc3"]])
  assert values.broken(column).tolist() == [False, True, False, True]
  assert not values.broken(pa.array(["a"])).any()
  assert not values.broken(pa.array([UUID.bytes], pa.binary(16))).any()


@given(st.lists(st.none() | st.integers(-(2**53), 2**53), max_size=9))
def test_integers_are_the_same_id_in_every_type(numbers):
  expected = [None if n is None else str(n) for n in numbers]
  for kind in (pa.int64(), pa.float64(), pa.decimal128(38, 0)):
    assert ids(pa.array(numbers, kind)).to_pylist() == expected
  assert ids(pa.array(expected, pa.string())).to_pylist() == expected
  column = pa.array(numbers, pa.decimal128(38, 2))
  assert ids(column).to_pylist() == expected


DAY = datetime.datetime(2001, 1, 2)
EVENING = datetime.datetime(2001, 1, 2, 20, 15)


@pytest.mark.parametrize(
  ("column", "expected"),
  [
    (pa.array([" A &amp; B ", "NULL", None]), ["A & B", "", ""]),
    (pa.array(["a", None, "a"]).dictionary_encode(), ["a", "", "a"]),
    (pa.array([b"<b>tea</b>", b"\xff", None]), ["tea", "", ""]),
    (pa.array([UUID.bytes], pa.uuid()), [str(UUID)]),
    (pa.array([DAY.date(), None], pa.date32()), ["2001-01-02", ""]),
    (pa.array([DAY.date()], pa.date64()), ["2001-01-02"]),
    (pa.array([DAY, EVENING]), ["2001-01-02", "2001-01-02 20:15"]),
    (pa.array([DAY], pa.timestamp("ns", "UTC")), ["2001-01-02"]),
    (
      pa.array([EVENING + datetime.timedelta(seconds=5)]),
      ["2001-01-02 20:15:05"],
    ),
    (pa.array([73_800], pa.time32("s")), ["20:30"]),
    (pa.array([73_805 * 10**6], pa.time64("us")), ["20:30:05"]),
    (pa.array([1995.0, None, 2001.0]), ["1995", "", "2001"]),
    (pa.array([1995.0, 2.5, math.nan]), ["1995.00", "2.50", ""]),
    (pa.array([1995, None]), ["1995", ""]),
    (pa.array([Decimal("12.50"), None]), ["12.50", ""]),
    (pa.array([Decimal(7)], pa.decimal128(38, 0)), ["7"]),
    (pa.array([Decimal("7.00")]), ["7"]),
    (pa.array([True, None]), ["True", ""]),
    (pa.array([["Tea", "NULL", "Tea", "Mug"], None]), ["Tea, Mug", ""]),
    (pa.array([[["a"], ["b"]]]), ["a, b"]),
    (pa.array([{"a": "x", "b": None, "c": "y"}]), ["x, y"]),
    (pa.array([[b"tea"]]), ["tea"]),
    (
      pa.array([[("k", "v"), ("l", "w")]], pa.map_(pa.string(), pa.string())),
      ["v, w"],
    ),
    (pa.chunked_array([["a"], ["b"]]), ["a", "b"]),
    (pa.chunked_array([], pa.string()), []),
    ([1995.0, None], ["1995", ""]),
    ([1995.0, 2.5], ["1995.00", "2.50"]),
    ([1, 2.5, "x", ["y"], {"a": "z"}], ["1", "2.50", "x", "y", "z"]),
    (["NULL", "tea"], ["", "tea"]),
  ],
)
def test_texts_of_every_type(column, expected):
  assert texts(column) == expected
  if isinstance(column, (pa.Array, pa.ChunkedArray)):
    assert texts(id_codes.Column(column)) == expected


def test_prices_keep_their_decimals():
  column = pa.array([5.0, 6.0])
  assert texts(column, price=True) == ["5.00", "6.00"]
  prices = text.column_texts(text.Field("Price", "price"), column, None)
  assert prices.texts == ["5.00", "6.00"]
  years = text.column_texts(text.Field("Year", "year"), column, None)
  assert years.texts == ["5", "6"]


def test_tidy_keeps_raw_values():
  column = pa.array([b"&amp;amp;", b"NULL", b"\xff"])
  assert values.tidy(column).to_pylist() == ["&amp;amp;", None, None]
  assert values.tidy(pa.array([1.5, None])).to_pylist() == [1.5, None]
  lists = pa.array([["a", "NULL"], None, []]).slice(0)
  assert values.tidy(lists).to_pylist() == [["a", None], None, []]


@given(st.lists(st.none() | st.text(max_size=8), max_size=6))
def test_slices_are_read_as_copies_are(rows):
  whole = pa.array(["x", *rows, "y"], pa.large_string())
  part = whole.slice(1, len(rows))
  assert ids(part).equals(ids(rows or pa.array([], pa.string())))
  assert texts(part) == texts(rows)
  nested = pa.array([["q"], *[[row] for row in rows]]).slice(1)
  assert texts(nested) == texts(rows)


def test_dictionaries_are_decoded_once():
  column = pa.DictionaryArray.from_arrays(
    pa.array(np.tile([0, 1], 50_000)), pa.array([" a ", "NULL"])
  )
  assert ids(column).to_pylist()[:2] == ["a", None]
  assert texts(column)[-2:] == ["a", ""]
