"""Printed Python to JSON: the same values as Python itself reads, or none."""

import ast
import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calrec_jax.data.logs.json import python_literals

PLAIN = st.none() | st.booleans() | st.integers() | st.text(max_size=20)
VALUES = PLAIN | st.floats(0, 1e9) | st.lists(st.lists(PLAIN, max_size=3))


def read(line):
  return json.loads(python_literals.to_json(line))


@given(st.dictionaries(st.text(max_size=9), VALUES, max_size=4))
def test_what_python_prints(value):
  line = repr(value).encode()
  assert read(line) == ast.literal_eval(line.decode()) == value


@pytest.mark.parametrize(
  "line",
  [
    rb"{'a': u'caf\xe9', 'b': 'caf\u00e9 \U0001f600', 'c': 'tab\there \101'}",
    rb"""{'a': "it's", 'b': 'say "so"', 'c': 'both \' and "', 'd': '\\'}""",
    rb"{'a': ('x', 1), 'b': None, 'c': [True, False], 'd': -1.5e3}",
    rb"{'None': 'True', 'a': 'u\'None\''}",
    rb"{'a': 'a \d b'}",
  ],
)
# A DeprecationWarning of Python 3.11, a SyntaxWarning of newer ones.
@pytest.mark.filterwarnings("ignore:invalid escape")
def test_escapes_and_names(line):
  expected = json.loads(json.dumps(ast.literal_eval(line.decode())))
  assert read(line) == expected


def test_bytes_that_python_2_printed():
  # In Python 2 a string without `u` holds bytes.
  line = rb"{'a': 'Pok\xc3\xa9mon \xe2\x84\xa2', 'b': u'\xc3\xa9', 'c': '\xe9'}"
  assert read(line) == {
    "a": "Pok\u00e9mon \u2122",
    "b": "\u00c3\u00a9",
    "c": "\u00e9",
  }
  # An escaped backslash in front makes it no escape.
  assert read(rb"{'a': '\\xc3\\xa9'}") == {"a": "\\xc3\\xa9"}
  assert read(rb"{'a': '\\xc3\xa9'}") == {"a": "\\xc3\u00a9"}


def test_json_stays():
  row = {
    "a": 'it\'s \\ "x" \n\x00',
    "b": [1, None, True],
    "c": "\u00e9 \U0001f480 \u2028",
  }
  for ascii_only in (True, False):
    line = json.dumps(row, ensure_ascii=ascii_only).encode()
    assert read(line) == row


@pytest.mark.parametrize(
  "line",
  [
    b"{'a': __import__('os').system('true')}",
    b"{'a': 1 + 1}",
    b"{'a': 'never closed}",
    b"{'a': b'bytes'}",
    b"{'a': x}",
    rb"{'a': '\UFFFFFFFF'}",
    b"{'a': 'x' 'y'}",
  ],
)
def test_lines_other_than_literals_are_not_json(line):
  with pytest.raises(ValueError):  # noqa: PT011 (of any message)
    read(line)


@given(st.binary(max_size=200) | st.text("'\"\\ux{}\n", max_size=200))
def test_lines_stay_lines(data):
  data = data.encode() if isinstance(data, str) else data
  assert python_literals.to_json(data).count(b"\n") == data.count(b"\n")


@pytest.mark.parametrize("piece", [b"'\\", b"'\"", b"\\'", b"u'", b"((", b"'a"])
def test_time_grows_with_the_length_alone(piece):
  began = time.process_time()
  python_literals.to_json(piece * 200_000)
  assert time.process_time() - began < 5
