"""Lists that a text holds: `[1, 2]`, `['a', 'b']`, `1|2`, `1 2`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

import pyarrow as pa

from calrec_jax.data.logs.columns import arrow_columns

_SEPARATORS = ("|", ";", ",", " ")
# Parts of lists as Python and NumPy write them.
_PART = re.compile(
  r"""'((?:[^'\\]|\\.)*)'|"((?:[^"\\]|\\.)*)"|([^\s,'"\[\]{}()]+)"""
)
_BETWEEN = re.compile(r"[\s,]*")
_ID = re.compile(r"\d+|[A-Z0-9]{6,}")
_SEEN = 1000  # Texts that show whether they are lists.
_MOST = 0.9
_TYPE = pa.large_list(pa.large_string())


class Splitter:
  """Splits the texts of a column, block by block.

  Attributes:
    separator: Text between the parts, as the first block that has one shows;
      empty before.
  """

  def __init__(self) -> None:
    self.separator = ""

  def split(self, texts: pa.Array) -> pa.Array:
    """LargeList[n] of LargeString[n]; null if a text is missing or no list."""
    texts = arrow_columns.trimmed(texts).to_pylist()
    self.separator = self.separator or separator(texts)
    found = [
      None if text is None else parts(text, self.separator) for text in texts
    ]
    return pa.array(found, _TYPE)


def separator(texts: Iterable[str | None]) -> str:
  """The text between the parts of lists that have no brackets, or ""."""
  bare = [text for text in texts if text and not _is_bracketed(text)]
  counts = {s: sum(s in text for text in bare) for s in _SEPARATORS}
  most = max(counts.values())
  # Blanks are in names, too, and behind commas.
  return next((s for s in _SEPARATORS if most and 2 * counts[s] >= most), "")


def parts(text: str, between: str) -> list[str] | None:
  """The parts of a list in a text; None if the text is empty or no list."""
  if not text:
    return None
  if _is_bracketed(text):
    return _in_brackets(text)
  if not between:
    return [text]
  found = (part.strip() for part in text.split(between))
  return [part for part in found if part] or None


def look_like(column: pa.Array | pa.ChunkedArray) -> bool:
  """Whether the texts of a column of ids are lists of several ids."""
  if not arrow_columns.is_text(column.type):
    return False
  texts = column.slice(0, _SEEN).to_pylist()
  texts = [text.strip() for text in texts if text and text.strip()]
  between = separator(texts)
  lists = [found for text in texts if (found := parts(text, between))]
  lengths = {len(found) for found in lists}
  if not lists or len(lists) < _MOST * len(texts) or max(lengths) < 2:
    return False
  if all(map(_is_bracketed, texts)):
    return True
  several = sum(len(found) > 1 for found in lists)
  if len(lengths) < 2 or 2 * several < len(lists):
    return False
  return between in "|;" or all(
    _ID.fullmatch(part) for found in lists for part in found
  )


def _is_bracketed(text: str) -> bool:
  return text.startswith("[") and text.endswith("]")


def _in_brackets(text: str) -> list[str] | None:
  try:
    found = json.loads(text, parse_int=str, parse_float=str)
  except (ValueError, RecursionError):
    inside = text[1:-1]
    if _BETWEEN.fullmatch(_PART.sub("", inside)) is None:
      return None
    return ["".join(groups) for groups in _PART.findall(inside)]
  return found if all(isinstance(part, str) for part in found) else None
