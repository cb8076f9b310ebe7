"""Raw values as one line of clean text."""

import datetime
import math
import uuid
from decimal import Decimal

import pytest

from calrec_jax.data.logs.columns.clean_text import clean, value_text


@pytest.mark.parametrize(
  ("raw", "expected"),
  [
    ("  A \t B\n\nC ", "A B C"),
    ("Salt &amp; Pepper &quot;XL&quot;", 'Salt & Pepper "XL"'),
    ("&amp;lt;b&amp;gt;", "&lt;b&gt;"),  # Unescaped once, not until it ends.
    ("a&#10;b&#9;c", "a b c"),
    ("a\x00b\x7fc\x85d", "a b c d"),
    ("soft\u00adhyphen\u200b\ufeff", "softhyphen"),
    ("non\u00a0breaking\u2028line", "non breaking line"),
    ("می\u200cخواهم", "می\u200cخواهم"),  # A joiner that spells the word.
    ("Café ☕", "Café ☕"),
    ("\x00\x01", ""),
  ],
)
def test_clean(raw, expected):
  assert clean(raw) == expected


@pytest.mark.parametrize(
  ("raw", "expected"),
  [
    (None, ""),
    ("", ""),
    (7, "7"),
    (2.5, "2.50"),
    (math.nan, ""),
    (math.inf, ""),
    (["Gift Cards", "Gift Cards"], "Gift Cards"),
    (
      [["Toys & Games", "Puzzles"], ["Puzzles"]],
      "Toys & Games, Puzzles, Puzzles",
    ),
    ([], ""),
    ({"a": "x", "b": None}, "x"),
    ("<b>Tea</b>", "Tea"),
    (b"Tea \xe2\x98\x95", "Tea ☕"),
    (b"\xff", ""),
    (uuid.UUID(int=1 << 127).bytes, str(uuid.UUID(int=1 << 127))),
    (datetime.date(2001, 1, 2), "2001-01-02"),
    (datetime.datetime(2001, 1, 2), "2001-01-02"),
    (datetime.datetime(2001, 1, 2, 3, 4), "2001-01-02 03:04"),
    (datetime.time(3, 4, 5), "03:04:05"),
    (Decimal("1E+3"), "1000"),
    (Decimal("NaN"), ""),
  ],
)
def test_value_text(raw, expected):
  assert value_text(raw) == expected


def test_whole_numbers_of_a_whole_column():
  assert value_text(1995.0, whole=True) == "1995"
  assert value_text(2.5, whole=True) == "2.50"
