"""Numbers as people write them, and the decimal sign of a column."""

import decimal
import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calrec_jax.data.logs.columns import numbers, text


@pytest.mark.parametrize(
  ("written", "sign", "expected"),
  [
    ("12,99", ",", 12.99),
    ("0,99", ",", 0.99),
    (",5", ",", 0.5),
    ("1.003,99", ",", 1003.99),
    ("1.234.567", ",", 1_234_567),
    ("1 299,00", ",", 1299),
    ("1\u00a0299,00", ",", 1299),
    ("1\u202f299,00 €", ",", 1299),
    ("€ 12,99", ",", 12.99),
    ("12,99€", ",", 12.99),
    ("R$ 12,90", ",", 12.9),
    ("5,-", ",", 5),
    ("99 kr.", ",", 99),
    ("1,299.00", ".", 1299),
    ("1'299.00", ".", 1299),
    ("CHF 1’299.–", ".", 1299),
    ("1,23,456.00", ".", 123_456),
    ("₹1,299", ".", 1299),
    ("US$ 5", ".", 5),
    ("12.99 USD", ".", 12.99),
    ("Rs. 5", ".", 5),
    ("kr 99", ".", 99),
    ("(5.00)", ".", -5),
    ("-3", ".", -3),
    ("$-5", ".", -5),
    ("-$5.00", ".", -5),
    ("\u22125", ".", -5),
  ],
)
def test_amounts(written, sign, expected):
  assert numbers.amount(written, sign) == pytest.approx(expected)


@pytest.mark.parametrize(
  ("written", "sign"),
  [
    *(("12,99", "."), ("2,5", "."), ("0,999", "."), ("1.003,99", ".")),
    *(("12.99", ","), ("1,299.00", ","), ("1,2,3", "."), ("1,2,3", ",")),
    *(("from 5.99", "."), ("ISO 100", "."), ("(5", "."), ("5)", ".")),
    *(("", "."), ("1.2.3", "."), ("9" * 400, "."), ("€", "."), ("5 x", ".")),
  ],
)
def test_what_is_no_amount(written, sign):
  assert numbers.amount(written, sign) is None


@pytest.mark.parametrize(
  ("column", "expected"),
  [
    (["12,99", "1,234"], ","),
    (["2,5"], ","),
    (["1.003,99"], ","),
    (["€ 5", "1.234.567"], ","),
    (["0,999"], ","),
    (["2,99 - 5,99"], ","),
    (["1,299.00"], "."),
    (["12.99", "1,234"], "."),
    (["12.99", "3.50", "3,98"], "."),
    (["12,99", "3,50", "3.98"], ","),
    (["1,234"], None),
    (["1.234"], None),
    (["5", "", None, "see page"], None),
    ([1.5, 2.5], None),
  ],
)
def test_the_style_of_a_column(column, expected):
  assert numbers.style(column) == expected


def test_evidence_adds_up_over_blocks():
  found = numbers.signs([["1,234"], ["12,99", "2,5"], ["3.50"]])
  assert (found.comma, found.point, found.unclear) == (2, 1, 1)
  assert found.decimal == ","
  assert found.example == "1,234"


@pytest.mark.parametrize(
  "column",
  [
    ["1", "2,5", "x", None, " 4 ", "-1"],
    pa.array(["1", "2,5", "x", None, " 4 ", "-1"]).dictionary_encode(),
    pa.array([b"1", b"2,5", b"\xff", None, b" 4 ", b"-1"]),
  ],
)
def test_parse_texts(column):
  values, readable = numbers.parse(column)
  assert readable.tolist() == [True, True, False, False, True, True]
  assert values[readable].tolist() == [1, 2.5, 4, -1]
  assert np.isnan(values[~readable]).all()


@pytest.mark.parametrize(
  "column",
  [
    pa.array([1, None, 3], pa.int8()),
    pa.array([1, math.nan, 3], pa.float32()),
    pa.array([decimal.Decimal("1.00"), None, decimal.Decimal(3)]),
    pa.chunked_array([["1.0"], ["nan", "3e0"]]),
    ["1", True, 3],
  ],
)
def test_parse_numbers_of_any_type(column):
  values, readable = numbers.parse(column)
  assert readable.tolist() == [True, False, True]
  assert values[readable].tolist() == [1, 3]


def test_types_that_hold_no_numbers_are_unreadable():
  for column in (pa.array([[1]]), pa.array([True]), pa.nulls(1)):
    assert not numbers.parse(column)[1].any()


@given(
  st.lists(st.integers(0, 10**9), min_size=1, max_size=20),
  st.sampled_from([(",", "."), (".", ","), (".", "'"), (",", " "), (",", "")]),
  st.sampled_from(["{}", "€ {}", "{} €", "{} EUR", "$ {}", "CHF {}"]),
)
def test_written_columns_are_read_back(cents, signs, form):
  point, group = signs
  written = [
    form.format(f"{c / 100:,.2f}".translate({44: group, 46: point}))
    for c in cents
  ]
  values, readable = numbers.parse(written)
  assert readable.all()
  assert np.round(values * 100).tolist() == cents
  column = text.column_texts(text.Field("Price", "price"), written, None)
  assert column.texts == [f"{c / 100:.2f}" for c in cents]
  assert column.decimal == point
  assert not column.unreadable


@given(st.lists(st.text("0123456789.,'- €$", max_size=9), max_size=6))
def test_blocks_are_read_as_their_values_are(written):
  for sign in numbers.SIGNS:
    values, readable = numbers.parse(written, sign)
    for one, value, good in zip(written, values, readable, strict=True):
      amount = numbers.amount(one, sign)
      if amount is not None:
        assert good
        assert value == amount
      else:  # Arrow takes `5.` for a number.
        assert not good or one.strip().rstrip(".").lstrip("-.").isdigit()


PRICE = text.Field("Price", "price")


def test_a_decimal_comma_is_never_lost():
  column = text.column_texts(
    PRICE, ["3,98", "€ 12,99", "0,99", "1.003,99"], None
  )
  assert column.texts == ["3.98", "12.99", "0.99", "1003.99"]
  forced = text.column_texts(PRICE, ["3,98", "1,299.00"], None, decimal=".")
  assert forced.texts == ["", "1299.00"]
  assert forced.unreadable == [0]


def test_the_minority_is_unreadable():
  column = text.column_texts(PRICE, ["3,98", "4,97", "12.99", "x", None], None)
  assert column.texts == ["3.98", "4.97", "", "", ""]
  assert column.unreadable == [2, 3]
  assert (column.evidence.comma, column.evidence.point) == (2, 1)


def test_decimals_need_no_sign():
  values = pa.array([decimal.Decimal("12.50"), None])
  column = text.column_texts(PRICE, values, None, decimal=",")
  assert column.texts == ["12.50", ""]
