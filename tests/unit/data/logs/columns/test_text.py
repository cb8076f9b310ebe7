"""Cleaning, cutting and joining of field values."""

import math

import pytest

from calrec_jax.data.logs.columns import text


class Words:
  """A tokeniser whose tokens are words."""

  def __init__(self):
    self.words = []

  def encode(self, value):
    self.words = value.split()
    return list(range(len(self.words)))

  def decode(self, ids):
    return " ".join(self.words[i] for i in ids)


@pytest.mark.parametrize(
  ("raw", "expected"),
  [
    (2.99, "2.99"),
    (69.0, "69.00"),
    (3, "3.00"),
    ("$1,299.5", "1299.50"),
    ("$5.99 - $9.99", "5.99 - 9.99"),
    ("", ""),
    (None, ""),
    (math.nan, ""),
    (-1.0, None),
    (math.inf, None),
    ("9" * 400, None),
    (".a-box-inner{background-color:#fff}", None),
    ("from 5.99", None),
  ],
)
def test_price(raw, expected):
  assert text.price_text(raw) == expected


def test_item_text_writes_unknown_and_one_full_stop():
  fields = [text.Field(label, label.lower()) for label in ("Title", "Brand")]
  assert (
    text.item_text(fields, ["Ice, 22 LB", ""])
    == "Title: Ice, 22 LB. Brand: Unknown."
  )
  assert (
    text.item_text(fields, ["Tape", "Acme Inc."])
    == "Title: Tape. Brand: Acme Inc."
  )


def test_a_text_is_cut_by_words_across_its_fields():
  fields = [text.Field(label, label.lower()) for label in ("Title", "Brand")]
  values = ["Ice, 22 LB", "Acme"]
  assert text.item_text(fields, values, 3) == "Title: Ice, 22"
  assert text.item_text(fields, values, 5) == "Title: Ice, 22 LB. Brand:"
  assert text.item_text(fields, values, 9) == text.item_text(fields, values)


def test_cut_by_words_then_by_tokens():
  field = text.Field("Title", "title", max_words=4, max_tokens=2)
  assert text.cut("a b c d e f", field) == "a b c d"
  assert text.cut("a b c d e f", field, Words()) == "a b"
  assert text.cut("a b", field, Words()) == "a b"


def test_a_cut_inside_a_character_leaves_no_replacement_character():
  class Bytes:
    def encode(self, value):
      return list(value.encode())

    def decode(self, ids):
      return bytes(ids).decode(errors="replace")

  field = text.Field("Title", "title", max_tokens=5)
  assert text.cut("abcé", field, Bytes()) == "abc"


def test_unreadable_prices_are_reported_by_row():
  column = text.column_texts(
    text.Field("Price", "price"), ["$5", "see page", None], None
  )
  assert column.texts == ["5.00", "", ""]
  assert column.unreadable == [1]


@pytest.mark.parametrize(
  "written", ["15%", "15 %", "-15 %", "10% off", "10 - 15%", "15 ‰", "15 pct"]
)
def test_a_percentage_is_no_price(written):
  column = text.column_texts(
    text.Field("Price", "price"), ["3.50", written, "15"], None
  )
  assert column.texts == ["3.50", "", "15.00"]
  assert column.unreadable == [1]


def test_fields_from_gin():
  assert text.as_field("title") == text.Field("Title", "title")
  assert text.as_field(("T", "name", 9)) == text.Field("T", "name", 9)
  with pytest.raises(ValueError, match=r"Domain\.fields"):
    text.as_field(("only",))
  with pytest.raises(ValueError, match="max_words"):
    text.as_field(("T", "name", 0))
