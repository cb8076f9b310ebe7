"""A limit on the characters of texts that are counted in words.

Some scripts have no blanks between words, and some texts are no words at all.
"""

from __future__ import annotations

import re
import unicodedata

# Far above what words need, so that ordinary texts stay as they are.
_CHARACTERS, _SPARE = 20, 80  # For each word, and in addition.
_UNSPACED = re.compile(
  "[\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u2e80-\u9fff"
  "\ua000-\ua4cf\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff]"
)
_COST = 5  # A character of these counts as so many others.
_JOINER = "\u200d"
_MOST_BACK = 64


def cut(text: str, max_words: int) -> str:
  """A text without the characters that are too many for its words."""
  limit = max_words * _CHARACTERS + _SPARE
  if len(text) * _COST <= limit:
    return text
  end = min(len(text), limit)
  if not text.isascii():
    left = limit
    for place, character in enumerate(text[:end]):
      left -= _COST if _UNSPACED.match(character) else 1
      if left < 0:
        end = place
        break
  if end == len(text):
    return text
  return text[: _boundary(text, end)].rstrip(" ")


def _boundary(text: str, end: int) -> int:
  """The last place up to `end` where a character as people see it ends."""
  for place in range(end, max(0, end - _MOST_BACK), -1):
    if not _continues(text, place):
      return place
  return end


def _continues(text: str, place: int) -> bool:
  """Whether the character at `place` belongs to those before it."""
  before, after = text[place - 1], text[place]
  if _is_flag(after) and _is_flag(before):
    flags = place
    while flags and _is_flag(text[flags - 1]):
      flags -= 1
    return (place - flags) % 2 == 1  # Two letters are one flag.
  return (
    unicodedata.category(after).startswith("M")
    or _JOINER in (before, after)
    or "\U0001f3fb" <= after <= "\U0001f3ff"  # Skin tones.
    or after == "\u0e33"  # Thai's vowel that stands on the letter before it.
    or "\u0e40" <= before <= "\u0e44"  # Thai's vowels before their letter.
  )


def _is_flag(character: str) -> bool:
  return "\U0001f1e6" <= character <= "\U0001f1ff"
