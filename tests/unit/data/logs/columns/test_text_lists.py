"""Lists in texts, and texts that are none."""

import pyarrow as pa
import pytest

from calrec_jax.data.logs.columns import text_lists


def split(*texts):
  return text_lists.Splitter().split(pa.array(texts, pa.large_string()))


@pytest.mark.parametrize(
  ("text", "parts"),
  [
    ("1 2 3", ["1", "2", "3"]),
    ("a|b |c|", ["a", "b", "c"]),
    ("1,2", ["1", "2"]),
    ("1; 2", ["1", "2"]),
    ("red tea|green tea", ["red tea", "green tea"]),
    ("[1, 2, 10000000000000000001]", ["1", "2", "10000000000000000001"]),
    ('["a,b", "c"]', ["a,b", "c"]),
    ("['a,b', 'c']", ["a,b", "c"]),
    ("['a' 'b']", ["a", "b"]),
    ("[7 8  9]", ["7", "8", "9"]),
    ("[a, b]", ["a", "b"]),
    ("[]", []),
    ("one", ["one"]),
  ],
)
def test_parts(text, parts):
  assert split(text).to_pylist() == [parts]


def test_what_is_no_list_is_none():
  texts = (None, "", '[{"sku": 1}]', "[[1], [2]]", "['a", "['a' x'b]")
  assert split(*texts[:4], texts[5]).to_pylist() == [None] * 5


def test_the_separator_is_that_of_the_column():
  splitter = text_lists.Splitter()
  first = pa.array(["red tea|milk", "green tea"], pa.large_string())
  later = pa.array(["black tea"], pa.large_string())
  assert splitter.split(first).to_pylist()[1] == ["green tea"]
  assert splitter.split(later).to_pylist() == [["black tea"]]


@pytest.mark.parametrize(
  ("texts", "are_lists"),
  [
    (["1 2 3", "4 5", "6"], True),
    (["[1, 2]", "[3]"], True),
    (["a|b|c", "a|b"], True),
    (["red tea", "green tea", "milk"], False),
    (["Tea, green", "Milk", "Tea, black, small"], False),
    (["A-1", "B-2"], False),
    (["1 2", "3 4"], False),  # Two numbers each may be one id.
    ([], False),
  ],
)
def test_columns_of_lists_are_told(texts, are_lists):
  assert text_lists.look_like(pa.array(texts, pa.large_string())) == are_lists
