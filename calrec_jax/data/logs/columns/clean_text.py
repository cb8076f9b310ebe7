"""Raw values as one line of clean text.

Cleaned text never contains a control character, so that a newline can end an
item.
"""

from __future__ import annotations

import datetime
import decimal
import html
import math
import re
import uuid
from collections.abc import Iterable
from typing import Any

from calrec_jax.data.logs.columns import markup

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
# Soft hyphen, zero-width space, direction marks, joiners, byte order mark.
# Zero-width (non-)joiners stay: scripts and emoji are spelled with them.
_INVISIBLE = re.compile(
  "[\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\ufeff]"
)


def clean(text: str) -> str:
  """Text without HTML, control characters and extra white space.

  Entities are decoded once: `&amp;lt;` becomes `&lt;`. Text that was markup
  before it was escaped, such as `&lt;b&gt;tea&lt;/b&gt;`, is read as markup.
  """
  if "<" in text:
    text = markup.without_tags(text)
  if "&" in text:
    escaped = "<" not in text
    text = html.unescape(text)
    if escaped and markup.is_markup(text):
      text = markup.without_tags(text)
  if not text.isprintable():
    text = _CONTROL.sub(" ", _INVISIBLE.sub("", text))
  return " ".join(text.split())


def value_text(value: Any, *, whole: bool = False) -> str:
  """A raw value as clean text; empty if missing.

  Nested lists are joined by commas, each value once; integers are written
  without decimals and other numbers with two, like prices. Of mappings only the
  values count.

  Args:
    value: Value as Arrow or JSON give it.
    whole: Whether numbers without a fraction are written without decimals,
      because all of their column have none.
  """
  if value is None or isinstance(value, bool):
    return "" if value is None else str(value)
  if isinstance(value, str):
    return clean(value)
  if isinstance(value, int):
    return str(value)
  if isinstance(value, float):
    form = ".0f" if whole and value.is_integer() else ".2f"
    return format(value, form) if math.isfinite(value) else ""
  if isinstance(value, bytes):
    return _bytes_text(value)
  if isinstance(value, dict):
    return ", ".join(_distinct(value.values()))
  if isinstance(value, (datetime.date, datetime.time)):
    return _moment_text(value)
  if isinstance(value, decimal.Decimal):
    return format(value, "f") if value.is_finite() else ""
  if isinstance(value, Iterable):
    return ", ".join(_distinct(value))
  return clean(str(value))


def _distinct(values: Iterable[Any]) -> list[str]:
  texts = [value_text(value) for value in values]
  return list(dict.fromkeys(text for text in texts if text))


def _bytes_text(value: bytes) -> str:
  """UTF-8, or else a UUID."""
  try:
    return clean(value.decode())
  except UnicodeDecodeError:
    return str(uuid.UUID(bytes=value)) if len(value) == 16 else ""


def _moment_text(value: datetime.date | datetime.time) -> str:
  """A date, a time of day, or both; seconds only if there are any."""
  if not isinstance(value, (datetime.datetime, datetime.time)):
    return value.isoformat()
  seconds = value.second or value.microsecond
  clock = value.strftime("%H:%M:%S" if seconds else "%H:%M")
  if isinstance(value, datetime.time):
    return clock
  day = value.date().isoformat()
  return day if clock == "00:00" else f"{day} {clock}"
