"""Values that are written on the first of several rows only."""

import itertools
import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calrec_jax.data.logs.files import row_blocks
from calrec_jax.data.logs.reading import tables
from calrec_jax.data.logs.rows import fill_down


def filled(*blocks, columns=("user",)):
  """The column of users after filling (file, values) blocks."""
  made = [
    tables.Block(
      file,
      row_blocks.Rows(
        pa.table({"user": values, "other": values}), np.arange(len(values))
      ),
      ("user", "other"),
    )
    for file, values in blocks
  ]
  found, same = [], []
  for block in fill_down.fill_down(iter(made), columns, ("", "NULL")):
    found += block.rows.table["user"].to_pylist()
    same += block.rows.table["other"].to_pylist()
    assert block.rows.table.column_names == ["user", "other"]
  assert str(same) == str(
    [v for _, c in blocks for v in pa.array(c).to_pylist()]
  )
  return found


def test_missing_values_are_those_of_the_row_above():
  column = ["", "a", None, " NULL ", "b", " "]
  assert filled(("a.csv", column)) == [None, "a", "a", "a", "b", "b"]


def test_values_go_over_blocks_but_not_over_files():
  assert filled(
    ("a.csv", ["a", ""]),
    ("a.csv", pa.array([], pa.string())),
    ("a.csv", [""]),
    ("b.csv", ["", "c"]),
    ("b.csv", [""]),
  ) == ["a", "a", "a", None, "c", "c"]


@pytest.mark.parametrize(
  ("blocks", "expected"),
  [
    ([pa.array([1.0, math.nan]), pa.array([None, 2.0])], [1.0, 1.0, 1.0, 2.0]),
    ([["a"], pa.nulls(2), [None, "b"]], ["a", "a", "a", "a", "b"]),
    ([pa.nulls(1), ["a", None]], [None, "a", "a"]),
    ([[7], pa.array([None, "b"])], [7, "7", "b"]),
    (
      [pa.array(["a", None, "b"]).dictionary_encode(), [None]],
      ["a", "a", "b", "b"],
    ),
    ([pa.array([b"a", None])], ["a", "a"]),
  ],
)
def test_columns_of_any_type(blocks, expected):
  assert filled(*(("a", column) for column in blocks)) == expected


@settings(max_examples=60, deadline=None)
@given(
  st.lists(st.sampled_from(["a", "b", "", "NULL", None]), max_size=9),
  st.lists(st.integers(0, 9), max_size=3),
)
def test_it_does_not_matter_how_long_blocks_are(column, cuts):
  expected, above = [], None
  for value in column:
    above = value if value not in ("", "NULL", None) else above
    expected.append(above)
  edges = [0, *sorted(min(cut, len(column)) for cut in cuts), len(column)]
  blocks = [
    ("a", pa.array(column[i:j], pa.string()))
    for i, j in itertools.pairwise(edges)
  ]
  assert filled(*blocks) == expected
