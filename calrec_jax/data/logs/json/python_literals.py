"""Converts lines of Python literals to JSON, without evaluating anything.

Amazon's metadata of 2014 are printed Python dictionaries. `eval` would run any
code in them, and `ast.literal_eval` builds a syntax tree, in which deep nesting
can crash the interpreter. Printed literals differ from JSON only in strings,
three names and tuples: these are rewritten here, in one pass, and a JSON parser
checks the rest.
"""

from __future__ import annotations

import contextlib
import functools
import json
import re

# Strings. The last alternative matches an unterminated one up to the end of its
# line: without it, every later quote would be tried as a start.
_STRING = re.compile(
  r"""(
  [uU]?'[^'\\\n]*+(?:\\[^\n][^'\\\n]*+)*+'
  | [uU]?"[^"\\\n]*+(?:\\[^\n][^"\\\n]*+)*+"
  | ['"][^\n]*
  )""",
  flags=re.VERBOSE,
)
_WORD = re.compile(r"\b(?:None|True|False|nan|inf)\b|[()]")
# What differs in a JSON string: escapes, quotes, control characters. A run of
# non-ASCII bytes is one escape: Python 2 prints a string without `u` as its
# encoded bytes, Python 3 does not.
_SPECIAL = re.compile(
  r"""
  \\(?:
    (?P<bytes>x[89a-fA-F][0-9a-fA-F](?:\\x[89a-fA-F][0-9a-fA-F])*)
    | x(?P<two>[0-9a-fA-F]{2})
    | u(?P<four>[0-9a-fA-F]{4})
    | U(?P<eight>[0-9a-fA-F]{8})
    | (?P<octal>[0-7]{1,3})
    | (?P<other>.)
  )
  | ["\x00-\x1f]
  """,
  flags=re.DOTALL | re.VERBOSE,
)
_SIMPLE = dict(zip("'\"\\abfnrtv", "'\"\\\a\b\f\n\r\t\v", strict=True))
_WORDS = {
  **{"None": "null", "True": "true", "False": "false"},
  **{"nan": "null", "inf": "null", "(": "[", ")": "]"},
}
_USUAL = frozenset((": ", ", ", "{", "}", ": {", ": [", "}, ", "], "))
_USUAL_SPECIALS = {
  **{'"': '\\"', "\\'": "'", '\\"': '\\"'},
  **{text: text for text in ("\\\\", "\\n", "\\t")},
}
_NOT_JSON = "?"  # Makes the parser refuse the line.


def to_json(data: bytes) -> bytes:
  r"""Rewrites lines of literals as lines of JSON.

  A line that is not a literal becomes one that is not JSON. Lines of JSON keep
  their meaning, unless they escape `/` as `\/`. Non-UTF-8 bytes are unchanged.

  Args:
    data: Complete lines.

  Returns:
    The same number of lines.
  """
  text = data.decode("utf-8", errors="surrogateescape")
  pieces = _STRING.split(text)
  pieces[::2] = map(_between, pieces[::2])
  pieces[1::2] = map(_string, pieces[1::2])
  return "".join(pieces).encode("utf-8", errors="surrogateescape")


def _between(text: str) -> str:
  """Rewrites the text between strings, mostly a comma or a colon."""
  return text if text in _USUAL else _WORD.sub(lambda w: _WORDS[w[0]], text)


def _string(literal: str) -> str:
  """Rewrites a string, with its quotes, as a JSON string."""
  quote, text = literal[0], literal[1:-1]
  of_bytes = quote in "'\""
  if not of_bytes:
    quote, text = literal[1], literal[2:-1]
  if len(literal) < 2 or literal[-1] != quote:
    return _NOT_JSON
  if "\\" not in text and '"' not in text and text.isprintable():
    return f'"{text}"'
  try:
    written = _SPECIAL.sub(_WRITTEN[of_bytes], text)
  except (ValueError, OverflowError):  # Beyond the last code point.
    return _NOT_JSON
  return f'"{written}"'


def _written(special: re.Match[str], *, of_bytes: bool) -> str:
  """Rewrites an escape, or a character that needs one, for JSON."""
  if special[0] in _USUAL_SPECIALS:
    return _USUAL_SPECIALS[special[0]]
  # Both halves of a surrogate pair may be present as separate escapes.
  return json.dumps(_meaning(special, of_bytes))[1:-1]


# By whether a string is one of bytes.
_WRITTEN = {
  of_bytes: functools.partial(_written, of_bytes=of_bytes)
  for of_bytes in (False, True)
}


def _meaning(special: re.Match[str], of_bytes: bool) -> str:
  """The text that an escape, or a character that needs one, represents."""
  kind = special.lastgroup
  digits = special[kind] if kind else ""
  if kind is None:
    return special[0]
  if kind == "bytes":
    spelled = bytes.fromhex(digits.replace("\\", "").replace("x", ""))
    if of_bytes:
      with contextlib.suppress(UnicodeDecodeError):
        return spelled.decode("utf-8")
    return spelled.decode("latin-1")  # A byte is the code point of its value.
  if kind == "other":
    # A backslash before any other character is literal.
    return _SIMPLE.get(digits, f"\\{digits}")
  return chr(int(digits, 8 if kind == "octal" else 16))
