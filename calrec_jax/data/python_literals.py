"""Lines of Python literals to JSON, without evaluating anything.

Amazon's metadata of 2014 are printed dictionaries of Python. `eval` would run
whatever they hold, and `ast.literal_eval` builds a syntax tree, which deep
nesting can bring down together with the interpreter. Printed literals differ
from JSON only in their strings, in three names and in tuples: those are
rewritten here, in one pass, and a JSON parser decides about the rest.
"""

from __future__ import annotations

import json
import re

# The last alternative takes a string that never ends up to the end of its
# line: without it, every later quote would be tried as the beginning of one.
_TOKEN = re.compile(
  r"""
  [uU]?'(?P<single>(?:[^'\\\n]|\\[^\n])*+)'
  | [uU]?"(?P<double>(?:[^"\\\n]|\\[^\n])*+)"
  | \b(?P<name>None|True|False|nan|inf)\b
  | (?P<tuple>[()])
  | (?P<open>['"][^\n]*)
  """,
  flags=re.VERBOSE,
)
_ESCAPE = re.compile(
  r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})"
  r"|([0-7]{1,3})|(.))",
  flags=re.DOTALL,
)
_SIMPLE = {
  "a": "\a",
  "b": "\b",
  "f": "\f",
  "n": "\n",
  "r": "\r",
  "t": "\t",
  "v": "\v",
}
_NAMES = {
  "None": "null",
  "True": "true",
  "False": "false",
  "nan": "null",
  "inf": "null",
}
_NOT_JSON = "?"  # Makes the parser refuse the line.


def to_json(data: bytes) -> bytes:
  """Rewrites lines of literals as lines of JSON.

  A line that is no literal becomes one that is no JSON. Lines of JSON stay
  what they are. Bytes that are not UTF-8 stay, too.

  Args:
    data: whole lines.

  Returns:
    As many lines.
  """
  text = data.decode("utf-8", errors="surrogateescape")
  return _TOKEN.sub(_rewrite, text).encode("utf-8", errors="surrogateescape")


def _rewrite(match: re.Match[str]) -> str:
  kind = match.lastgroup
  text = match[kind] if kind else ""
  if kind == "name":
    return _NAMES[text]
  if kind == "tuple":
    return "[" if text == "(" else "]"
  if kind == "open":
    return _NOT_JSON
  if "\\" not in text and '"' not in text and text.isprintable():
    return f'"{text}"'
  try:
    value = _ESCAPE.sub(_unescape, text)
  except (ValueError, OverflowError):  # Beyond the last character there is.
    return _NOT_JSON
  written = json.dumps(value, ensure_ascii=False)
  # Escapes may spell half a character; the bytes of the file may not.
  return re.sub(
    "[\ud800-\udc7f\udd00-\udfff]",
    lambda half: f"\\u{ord(half[0]):04x}",
    written,
  )


def _unescape(match: re.Match[str]) -> str:
  for group, base in ((1, 16), (2, 16), (3, 16), (4, 8)):
    if match[group] is not None:
      return chr(int(match[group], base))
  other = match[5]
  # A backslash before any other character stands for itself.
  return _SIMPLE.get(other, other if other in "'\"\\" else f"\\{other}")
