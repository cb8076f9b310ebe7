"""From raw field values to the text of an item.

`Title: T. Category: C. Brand: B. Price: P.`, with `Unknown` for missing values.
Cleaned text never contains a control character, so that a newline can end an
item.
"""

from __future__ import annotations

import dataclasses
import html
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from calrec_jax.errors import InputError, at_least, check, optional

UNKNOWN = "Unknown"

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
# Soft hyphen, zero-width space, direction marks, joiners, byte order mark.
# Zero-width (non-)joiners stay: scripts and emoji are spelled with them.
_INVISIBLE = re.compile(
  "[\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\ufeff]"
)
_AMOUNT = r"[$€£]?\s*(\d[\d,]*(?:\.\d+)?|\.\d+)"
_PRICE = re.compile(rf"{_AMOUNT}(?:\s*-\s*{_AMOUNT})?")


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


def clean(text: str) -> str:
  """Text without HTML entities, control characters and extra white space.

  Entities are decoded once: `&amp;lt;` becomes `&lt;`.
  """
  if "&" in text:
    text = html.unescape(text)
  if not text.isprintable():
    text = _CONTROL.sub(" ", _INVISIBLE.sub("", text))
  return " ".join(text.split())


def value_text(value: Any) -> str:
  """A raw value as clean text; empty if missing.

  Nested lists are joined by commas, each value once; integers are written
  without decimals and other numbers with two, like prices.
  """
  if value is None or isinstance(value, bool):
    return "" if value is None else str(value)
  if isinstance(value, str):
    return clean(value)
  if isinstance(value, int):
    return str(value)
  if isinstance(value, float):
    return f"{value:.2f}" if math.isfinite(value) else ""
  if isinstance(value, dict):
    return ", ".join(_distinct(value.values()))
  if isinstance(value, Iterable):
    return ", ".join(_distinct(value))
  return clean(str(value))


def price_text(value: Any) -> str | None:
  """A price as `2.99` or `2.99 - 5.99`; empty if missing, None if unreadable.

  Shops' exports hold numbers, `$1,299.00`, ranges, and pieces of web pages.
  """
  if isinstance(value, (int, float)) and not isinstance(value, bool):
    if math.isnan(value):
      return ""
    return f"{value:.2f}" if 0 <= value < math.inf else None
  text = value_text(value)
  if not text:
    return ""
  match = _PRICE.fullmatch(text)
  if match is None:
    return None
  amounts = [float(x.replace(",", "")) for x in match.groups() if x]
  if not all(map(math.isfinite, amounts)):  # Hundreds of digits.
    return None
  return " - ".join(f"{amount:.2f}" for amount in amounts)


def cut(text: str, field: Field, tokenizer: Tokenizer | None = None) -> str:
  """A text truncated to its field's limits on words and tokens."""
  if field.max_words is not None:
    words = text.split(" ", field.max_words)
    text = " ".join(words[: field.max_words])
  if field.max_tokens is not None and tokenizer is not None:
    ids = tokenizer.encode(" " + text)  # As it follows its label.
    if len(ids) > field.max_tokens:
      # A cut inside a character's bytes leaves a replacement character.
      text = clean(tokenizer.decode(ids[: field.max_tokens])).rstrip("\ufffd")
  return text


def item_text(fields: Sequence[Field], values: Sequence[str]) -> str:
  """The text of one item from its cleaned field values, in their order.

  A value that ends with a full stop, such as `Inc.`, gets no second one.
  """
  sentences = []
  for field, value in zip(fields, values, strict=True):
    stop = "" if value.endswith(".") else "."
    sentences.append(f"{field.label}: {value or UNKNOWN}{stop}")
  return " ".join(sentences)


def column_texts(
  field: Field, values: Sequence[Any], tokenizer: Tokenizer | None
) -> tuple[list[str], list[int]]:
  """The cleaned and truncated text of one field per item; empty if missing.

  Args:
    field: Field of the texts.
    values: Raw values, one per item.
    tokenizer: Tokenizer that truncates by tokens; None applies no such limit.

  Returns:
    The texts, and the rows of unreadable prices.
  """
  texts, unreadable = [], []
  for row, value in enumerate(values):
    is_price = field.column == "price"
    text = price_text(value) if is_price else value_text(value)
    if text is None:
      unreadable.append(row)
    texts.append(cut(text, field, tokenizer) if text else "")
  return texts, unreadable


def _distinct(values: Iterable[Any]) -> list[str]:
  texts = [value_text(value) for value in values]
  return list(dict.fromkeys(text for text in texts if text))
