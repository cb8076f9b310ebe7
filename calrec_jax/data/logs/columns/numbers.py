"""Numbers as people write them: `€ 1.299,00`, `$1,299.00`, `1'299.-`.

Whether a comma or a point begins the decimals is a question about a whole
column: `1,234` may be either, `12,99` and `1,299.00` may not.
"""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute creates its functions at run time.)

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from calrec_jax.data.logs.columns import arrow_columns

SIGNS = (".", ",")
_CODES = (
  "AED ARS AUD BAM BDT BGN BHD BRL CAD CHF CLP CNY COP CRC CZK DKK DOP EGP "
  "EUR GBP GEL GHS HKD HRK HUF IDR ILS INR ISK JOD JPY KES KRW KWD KZT LBP "
  "LKR MAD MXN MYR NGN NOK NZD OMR PEN PHP PKR PLN QAR RMB RON RSD RUB SAR "
  "SEK SGD THB TND TRY TWD UAH USD UYU VND XAF XOF ZAR"
)
_NAMES = (
  "kr Kr Rs Fr SFr zł Kč Ft lei Lei TL RM руб р лв грн ден дин Rp Bs EURO "
  "Euro euro 元 円 원 eur usd gbp chf Lek Ksh KSh R S/"
)
# Every sign of Unicode's category Sc, also with letters before: US$, R$.
_SIGNS = "[A-Z]{0,3}[$¢£¤¥֏؋৲৳৻૱௹฿៛\u20a0-\u20cf﷼﹩＄￠￡￥￦]"
_WORDS = "|".join(f"{_CODES} {_NAMES}".split())
_CURRENCY = rf"(?:{_SIGNS}|(?:{_WORDS})(?![^\W\d_])\.?)"
_GROUPS = "[ .,'\u2019\u00a0\u2007\u2009\u202f]"
_BLANK = "[ \u00a0\u2007\u2009\u202f]"
_MINUS = "[-\u2212]"
# A number, whatever its signs mean; `5,-` and `5.--` have no cents.
_CORE = (
  rf"(?P<core>\d+(?:{_GROUPS}\d+)*|[.,]\d+)"
  r"(?P<none>[.,][-\u2013\u2014]{1,2})?"
)
_NUMBER = re.compile(
  rf"(?P<open>\()?(?P<minus>{_MINUS})?{_BLANK}*{_CURRENCY}?{_BLANK}*"
  rf"(?P<minus2>{_MINUS})?{_CORE}{_BLANK}*{_CURRENCY}?(?P<close>\))?"
)
_RANGE = re.compile(r"(?<=[\w.,\u20a0-\u20cf$£¥-])\s*[-\u2013\u2014]\s*(?=\S)")
_EXPONENT = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)[eE][+-]?\d+")


class Evidence(NamedTuple):
  """How many numbers of a column say which sign begins the decimals.

  Attributes:
    comma: Number of those that say that a comma does.
    point: Number of those that say that a point does.
    unclear: Number of those with one sign before three digits, `1,234`.
    example: The first number with a comma that decides, or else is unclear.
  """

  comma: int = 0
  point: int = 0
  unclear: int = 0
  example: str = ""

  @property
  def decimal(self) -> str | None:
    """The sign that most say; None without evidence."""
    if not self.comma and not self.point:
      return None
    return "," if self.comma > self.point else "."

  def merged(self, other: Evidence) -> Evidence:
    """The evidence of two blocks of a column."""
    return Evidence(
      self.comma + other.comma,
      self.point + other.point,
      self.unclear + other.unclear,
      self.example or other.example,
    )


def evidence(column: Any) -> Evidence:
  """What a column of texts says on its decimal sign; others say nothing.

  Args:
    column: Arrow column, or Python values.
  """
  array = arrow_columns.array(column, _text)
  if not arrow_columns.is_text(array.type):
    return Evidence()
  comma = point = unclear = 0
  example = ""
  for entry in pc.value_counts(array).to_pylist():
    said = _said(entry["values"])
    comma += entry["counts"] * (said == ",")
    point += entry["counts"] * (said == ".")
    unclear += entry["counts"] * (said == "?")
    if said in (",", "?") and not example:
      example = entry["values"]
  return Evidence(comma, point, unclear, example[:80])


def style(column: Any) -> str | None:
  """The decimal sign of a column, "." or ","; None without evidence."""
  return evidence(column).decimal


def parse(
  column: Any, decimal: str | None = None
) -> tuple[np.ndarray, np.ndarray]:
  """A column of numbers of any type, or of texts with numbers.

  Args:
    column: Arrow column, or Python values.
    decimal: Sign that begins the decimals; None takes the column's `style`, or
      a point.

  Returns:
    float64[n], not a number if unreadable, and bool[n]: whether readable.
  """
  array = arrow_columns.array(column, _text)
  kind, types = array.type, pa.types
  if arrow_columns.is_binary(kind):
    array, _ = arrow_columns.decoded(array)
    kind = array.type
  if (
    types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind)
  ):
    numbers = array.cast(pa.float64(), safe=False)
    numbers = numbers.to_numpy(zero_copy_only=False)
  elif arrow_columns.is_text(kind):
    numbers = _parse_texts(array, decimal)
  else:
    numbers = np.full(len(array), np.nan)
  readable = np.isfinite(numbers)
  return np.where(readable, numbers, np.nan), readable


def amount(written: str, decimal: str = ".") -> float | None:
  """One number in a text, maybe with a currency; None if it is none."""
  match = _NUMBER.fullmatch(written.strip())
  if match is None or bool(match["open"]) != bool(match["close"]):
    return None
  number = _plain(match["core"], decimal)
  if number is None or not math.isfinite(number):
    return None
  negative = match["minus"] or match["minus2"] or match["open"]
  return -number if negative else number


def amounts(written: str, decimal: str = ".") -> list[float] | None:
  """The number in a text, or the two of a range `2.99 - 5.99`."""
  one = amount(written, decimal)
  if one is not None:
    return [one]
  for match in _RANGE.finditer(written):
    low = amount(written[: match.start()], decimal)
    high = amount(written[match.end() :], decimal)
    if low is not None and high is not None:
      return [low, high]
  return None


def _parse_texts(texts: pa.Array, decimal: str | None) -> np.ndarray:
  texts = arrow_columns.trimmed(texts)
  if decimal is None:
    decimal = style(texts) or "."
  if decimal == ".":
    try:
      texts.slice(0, 8).cast(pa.float64())  # A failure takes long.
      return texts.cast(pa.float64()).to_numpy(zero_copy_only=False)
    except pa.ArrowInvalid:
      pass
  encoded = texts.dictionary_encode()
  known = [_number(text, decimal) for text in encoded.dictionary.to_pylist()]
  codes = pc.fill_null(encoded.indices, len(known)).to_numpy()
  return np.array([*known, np.nan], np.float64)[codes]


def _number(written: str, decimal: str) -> float:
  number = amount(written.removeprefix("+"), decimal)
  if number is None and decimal == "." and _EXPONENT.fullmatch(written):
    number = float(written)
  return math.nan if number is None else number


@functools.lru_cache(maxsize=4)
def _forms(decimal: str) -> re.Pattern[str]:
  """Numbers with one decimal sign: plain, in thousands, or as in India."""
  other = re.escape("," if decimal == "." else ".")
  group = rf"(?P<g>{other}|['\u2019]|{_BLANK})"
  whole = (
    rf"\d+|[1-9]\d{{0,2}}{group}\d{{3}}(?:(?P=g)\d{{3}})*"
    rf"|[1-9]\d?(?P<i>{other})(?:\d\d(?P=i))+\d{{3}}"
  )
  point = re.escape(decimal)
  return re.compile(rf"(?P<whole>{whole})?(?:{point}(?P<part>\d+))?")


def _plain(core: str, decimal: str) -> float | None:
  match = _forms(decimal).fullmatch(core)
  if match is None:
    return None
  whole = re.sub(r"\D", "", match["whole"] or "0")
  return float(f"{whole}.{match['part'] or 0}")


def _said(written: Any) -> str:
  """The decimal sign that a text says, `?` if one is unclear, or nothing."""
  if not isinstance(written, str):
    return ""
  for part in (written, *_RANGE.split(written)):
    match = _NUMBER.fullmatch(part.strip())
    if match is None:
      continue
    core = match["core"] + ("" if not match["none"] else match["none"][0] + "0")
    point, comma = (_plain(core, sign) for sign in SIGNS)
    if point == comma:  # A whole number, or none.
      continue
    if point is None or comma is None:
      return "," if point is None else "."
    return "?"
  return ""


def _text(value: Any) -> str | None:
  """A Python value among others of several types as text."""
  if isinstance(value, (bool, bytes)):
    return None
  return str(value) if isinstance(value, (str, int, float)) else None


def signs(columns: Iterable[Any]) -> Evidence:
  """The evidence of several blocks of one column."""
  return functools.reduce(Evidence.merged, map(evidence, columns), Evidence())
