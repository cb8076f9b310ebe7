"""Sequences: a user and items in each row."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calrec_jax.data.logs import problems as problems_lib
from calrec_jax.data.logs.files import read_options
from calrec_jax.data.logs.json import sequences


def read(text, *wanted, **options):
  problems = problems_lib.Problems()
  file = sequences.SequencesFile(
    io.StringIO(text, newline=""),
    "a.txt",
    read_options.ReadOptions(**options),
    problems,
  )
  blocks = list(file.rows(wanted or file.available))
  rows = [tuple(row.values()) for b in blocks for row in b.table.to_pylist()]
  lines = [line for block in blocks for line in block.lines.tolist()]
  found = {p["kind"]: (p["count"], p["first"]) for p in problems.as_list()}
  return rows, lines, found, file


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_users_and_items(newline):
  text = newline.join(["1 10 11\t12 ", "", "  ", "2 10"])
  for end in ("", newline):
    rows, lines, bad, file = read(text + end)
    assert rows == [
      ("1", "10", 1),
      ("1", "11", 2),
      ("1", "12", 3),
      ("2", "10", 1),
    ]
    assert lines == [1, 1, 1, 4]
    assert not bad
    assert file.num_lines == 4
  assert file.available == ("user_id", "item_id", "position")


def test_users_without_an_item_and_broken_bytes_are_counted():
  rows, lines, bad, _ = read("1 2\n3\n4 \udce9\n5 6\n")
  assert rows == [("1", "2", 1), ("5", "6", 1)]
  assert lines == [1, 4]
  assert bad == {
    "malformed_row": (1, "a.txt:2"),
    "broken_encoding": (1, "a.txt:3"),
  }


def test_delimiter_and_names():
  rows, _, _, file = read(
    "a,b c,d\n", "item", "user", delimiter=",", columns=("user", "item")
  )
  assert rows == [("b c", "a"), ("d", "a")]
  assert file.available == ("user", "item", "position")
  assert file.describe() == {"format": "sequences", "delimiter": ","}
  with pytest.raises(ValueError, match=r"LogFiles\.columns"):
    read("a b", columns=("u",))


def test_wanted_columns_that_are_not_there_are_null():
  assert read("a b\n", "user_id", "x")[0] == [("a", None)]


@given(
  st.lists(
    st.lists(st.from_regex(r"\A[a-z0-9]{1,4}\Z"), min_size=2, max_size=5)
  ),
  st.sampled_from([" ", "\t", "  "]),
)
def test_any_sequences(users, space):
  rows, _lines, bad, file = read("".join(space.join(u) + "\n" for u in users))
  assert rows == [
    (user, item, position)
    for user, *items in users
    for position, item in enumerate(items, start=1)
  ]
  assert file.num_lines == len(users)
  assert not bad


@pytest.mark.parametrize(
  ("text", "expected"),
  [
    ("1 4 5\n2 3\n3 1 2 3 4\n", True),
    ("1 1\n1 2\n2 5\n", False),
    ("a title of words\nanother one\nthird\n", False),
    ("user,item\n1,2\n", False),
    ("", False),
  ],
)
def test_what_looks_like_sequences(text, expected):
  assert sequences.look_like(text) is expected
