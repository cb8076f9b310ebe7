"""From raw field values to the text of an item.

`Title: T. Category: C. Brand: B. Price: P.`, with `Unknown` for missing values.
Cleaned text never contains a control character, so that a newline can end an
item.
"""

from __future__ import annotations

import dataclasses
import decimal as decimals
import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Protocol

from calrec_jax.data.logs.columns import long_words, numbers
from calrec_jax.data.logs.columns import values as values_lib
from calrec_jax.data.logs.columns.clean_text import clean, value_text
from calrec_jax.errors import InputError, at_least, check, optional

UNKNOWN = "Unknown"

_NUMBERS = (int, float, decimals.Decimal)


class Tokenizer(Protocol):
  """The part of a vocabulary that truncates text by tokens."""

  def encode(self, text: str) -> list[int]:
    """Token ids of a text."""
    ...

  def decode(self, ids: Iterable[int]) -> str:
    """The text of token ids."""
    ...


@dataclasses.dataclass(frozen=True)
class Field:
  """One field of an item's text.

  Attributes:
    label: Name of the field in the text, "Title".
    column: Column of the source that holds it.
    max_words: Maximum number of words; longer values are truncated.
    max_tokens: Maximum number of tokens, likewise.
  """

  label: str
  column: str
  max_words: int | None = None
  max_tokens: int | None = None

  def __post_init__(self) -> None:
    """Refuses limits below 1."""
    limit = optional(at_least(1))
    check(self, max_words=limit, max_tokens=limit)


DEFAULT_FIELDS = (
  Field("Title", "title", max_words=40),
  Field("Category", "category", max_words=20),
  Field("Brand", "brand", max_words=10),
  Field("Price", "price"),
)


def as_field(value: Field | str | Sequence[Any]) -> Field:
  """A field from gin: `"title"`, `("Title", "title")`, `(…, max_words)`."""
  if isinstance(value, Field):
    return value
  if isinstance(value, str):
    return Field(value.capitalize(), value)
  try:
    return Field(*value)
  except TypeError as error:
    raise InputError(
      f"Domain.fields holds {value!r}; a field is (label, column), "
      "(label, column, max_words) or (label, column, max_words, max_tokens)."
    ) from error


def price_text(value: Any, decimal: str = ".") -> str | None:
  """A price as `2.99` or `2.99 - 5.99`; empty if missing, None if unreadable.

  Shops' exports hold numbers, `$1,299.00`, ranges, and pieces of web pages.

  Args:
    value: Raw value.
    decimal: Sign that begins the decimals of texts, "." or ",".
  """
  if isinstance(value, decimals.Decimal):
    value = float(value)
  if isinstance(value, (int, float)) and not isinstance(value, bool):
    if math.isnan(value):
      return ""
    return f"{value:.2f}" if 0 <= value < math.inf else None
  text = value_text(value)
  if not text:
    return ""
  amounts = numbers.amounts(text, decimal)
  if amounts is None or min(amounts) < 0:
    return None
  return " - ".join(f"{amount:.2f}" for amount in amounts)


def cut(text: str, field: Field, tokenizer: Tokenizer | None = None) -> str:
  """A text truncated to its field's limits on words and tokens."""
  if field.max_words is not None:
    text = _first_words(text, field.max_words)
  if field.max_tokens is not None and tokenizer is not None:
    ids = tokenizer.encode(" " + text)  # As it follows its label.
    if len(ids) > field.max_tokens:
      # A cut inside a character's bytes leaves a replacement character.
      text = clean(tokenizer.decode(ids[: field.max_tokens])).rstrip("\ufffd")
  return text


def _first_words(text: str, count: int) -> str:
  words = text.split(" ", count)
  return long_words.cut(" ".join(words[:count]), count)


def item_text(
  fields: Sequence[Field], values: Sequence[str], max_words: int | None = None
) -> str:
  """The text of one item from its cleaned field values, in their order.

  A value that ends with a full stop, such as `Inc.`, gets no second one.

  Args:
    fields: Fields of the text.
    values: Value of each; empty if missing.
    max_words: Maximum number of words of the text; None cuts nothing.
  """
  sentences = []
  for field, value in zip(fields, values, strict=True):
    stop = "" if value.endswith(".") else "."
    sentences.append(f"{field.label}: {value or UNKNOWN}{stop}")
  text = " ".join(sentences)
  return text if max_words is None else _first_words(text, max_words)


class ColumnTexts(NamedTuple):
  """The texts of one field.

  Attributes:
    texts: Text of each item; empty if missing.
    unreadable: Rows of unreadable prices.
    decimal: Sign that begins the decimals of prices; None if they have none.
    evidence: What the prices say on it.
  """

  texts: list[str]
  unreadable: list[int]
  decimal: str | None = None
  evidence: numbers.Evidence = numbers.Evidence()


def column_texts(
  field: Field,
  values: Sequence[Any],
  tokenizer: Tokenizer | None,
  *,
  missing: Sequence[str] = (),
  decimal: str | None = None,
) -> ColumnTexts:
  """The cleaned and truncated text of one field per item.

  Args:
    field: Field of the texts.
    values: Raw values, one per item, in Arrow or not.
    tokenizer: Tokenizer that truncates by tokens; None applies no such limit.
    missing: Words that mean a missing value.
    decimal: Sign that begins the decimals of prices; None finds it.
  """
  if field.column != "price":
    texts = values_lib.texts(values, missing)
    return ColumnTexts([cut(t, field, tokenizer) for t in texts], [])
  values = [
    value if isinstance(value, _NUMBERS) else value_text(value)
    for value in values_lib.present(values, missing)
  ]
  evidence = numbers.evidence([v for v in values if isinstance(v, str)])
  decimal = decimal or evidence.decimal
  prices = [price_text(value, decimal or ".") for value in values]
  return ColumnTexts(
    [cut(price, field, tokenizer) if price else "" for price in prices],
    [row for row, price in enumerate(prices) if price is None],
    decimal,
    evidence,
  )
