"""Scanning JSON: values one after another, and damage between them."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calrec_jax.data.logs.json import json_scan

GOOD = ['{"a": 1}', '{"a": "}, {x"}', '{"a": [{"b": 2}]}', '{"a": {"a": 3}}']
BAD = ['{"a": ', '{"a": 1,, "b": 2}', '{"a": "x}', "x", '{"a": tru}', '"a": 1}']


def scanner(text, size=1 << 20):
  pieces = [text[i : i + size] for i in range(0, len(text), size)]
  return json_scan.Scanner(iter(pieces), "a.json")


def outcome(found):
  """Lines that were read, and lines that were counted as damaged."""
  read, damaged = [], set()
  for one in found:
    if one.value is json_scan.DAMAGED or not isinstance(one.value, dict):
      damaged |= {*range(one.first, one.last + 1)}
    else:
      read.append(one.first)
  return read, damaged


LINES = st.lists(
  st.sampled_from([(text, True) for text in GOOD])
  | st.sampled_from([(text, False) for text in BAD]),
  max_size=12,
)


@given(LINES, st.integers(1, 50), st.booleans())
def test_each_line_is_read_or_counted(lines, size, in_list):
  lines = [(GOOD[0], True), *lines, (GOOD[0], True)]
  texts = [text for text, _ in lines]
  text = ",\n".join(texts) if in_list else "\n".join(texts)
  found = scanner(f"[{text}\n]\n" if in_list else text, size).at_top()
  read, damaged = outcome(found)
  assert read == [i for i, (_, good) in enumerate(lines, start=1) if good]
  bad = {i for i, (_, good) in enumerate(lines, start=1) if not good}
  assert damaged == bad


VALUES = st.recursive(
  st.none() | st.integers() | st.text(max_size=4) | st.booleans(),
  lambda inner: (
    st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner)
  ),
  max_leaves=6,
)


@given(
  st.lists(st.dictionaries(st.text(max_size=3), VALUES), max_size=5),
  st.sampled_from([None, 1]),
  st.integers(1, 30),
)
def test_any_objects_in_any_pieces(rows, indent, size):
  text = json.dumps({"x": {"y": [1], "rows": rows}}, indent=indent)
  scan = scanner(text, size)
  scan.enter(("x", "rows"))
  assert [one.value for one in scan.in_list()] == rows
  assert scan.finish() == text.count("\n") + 1
  text = "\n".join(json.dumps(row, indent=indent) for row in rows)
  assert [one.value for one in scanner(text, size).at_top()] == rows


def test_numbers_are_not_cut_at_the_end_of_a_piece():
  scan = scanner("12345 678", 3)
  assert [scan.value(), scan.value()] == [12345, 678]


def test_members():
  text = '{"u": [1],\n"v": [2, 3]}'
  found = [(key, one.value, one.first) for key, one in scanner(text).members()]
  assert found == [("u", [1], 1), ("v", [2, 3], 2)]
  with pytest.raises(ValueError, match="the end of the object"):
    list(scanner(text[:-1]).members())


@pytest.mark.parametrize("text", ["[" * 100_000, "9" * 10_000])
def test_what_python_cannot_hold_is_damage(text):
  (found,) = scanner(f'{{"a": {text}}}').at_top()
  assert found.value is json_scan.DAMAGED


def test_a_long_damaged_stretch_takes_no_square_of_time():
  text = '{"a": 1}\n' + '"' * 300_000 + "\n" + '{"a": 2}\n'
  read, damaged = outcome(scanner(text, 1 << 16).at_top())
  assert read == [1, 3]
  assert damaged == {2}


def test_a_way_that_leads_nowhere():
  for text in ('{"a": 1}', "[]", '{"rows": 5}', ""):
    with pytest.raises(ValueError):  # noqa: PT011
      scanner(text).enter(("rows",))
