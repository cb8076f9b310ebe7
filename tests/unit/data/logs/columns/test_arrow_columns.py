"""Tables whose columns have other types in each block."""

import pyarrow as pa
import pytest

from calrec_jax.data.logs.columns import arrow_columns


@pytest.mark.parametrize(
  ("first", "second", "expected"),
  [
    ([1, 2], ["x", None], ["1", "2", "x", None]),
    ([2.0, 2.5], ["x"], ["2", "2.5", "x"]),
    ([None], ["x"], [None, "x"]),
    ([2**60], [2.5], [str(2**60), "2.5"]),
    # An empty list says nothing of its type.
    ([[], None], [["a"], ["b", "c"]], [[], None, ["a"], ["b", "c"]]),
    ([[[]]], [[["x"]]], [[[]], [["x"]]]),
    ([[1]], [["a"]], [["1"], ["a"]]),
    ([["a"]], ["x"], [["a"], ["x"]]),
    (
      [{"a": 1}],
      [{"a": "x", "b": [2]}],
      [{"a": "1", "b": None}, {"a": "x", "b": [2]}],
    ),
  ],
)
def test_blocks_of_several_types_are_one_column(first, second, expected):
  for one, other in ((first, second), (second, first)):
    tables = [pa.table({"x": pa.array(part)}) for part in (one, other)]
    tables.append(pa.table({"y": [0]}))
    whole = arrow_columns.concatenated(tables)
    if one is first:
      assert whole["x"].to_pylist() == [*expected, None]
    else:
      cut = len(first)
      assert whole["x"].to_pylist() == [*expected[cut:], *expected[:cut], None]
