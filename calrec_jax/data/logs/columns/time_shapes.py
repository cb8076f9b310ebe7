"""The shapes of texts such as `14.09.2020 05:18`, found for whole columns.

A shape has one character per token: the width of a number in hexadecimal, a
class of words (`M` for a month's name), one blank for any run of blanks, and
other characters as they are. `14.09.2020 05:18` has the shape `2.2.4 2:2`. A
column has few shapes, so a layout of times is a regular expression that is
matched once per shape, and the numbers of all its rows are computed by NumPy.
"""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute creates its functions at run time.)

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from calrec_jax.data.logs.columns import time_words

_BLANKS = "[\u00a0\u2007\u2009\u202f]"
_ACCENTS = r"\p{Mn}"
_MAX_BYTES = 64  # Longer texts are no times.
_MAX_SHAPES = 4096  # Of one block; the rarest are no times, either.
_WORDS = time_words.by_word()
_BLANK, _DIGIT, _LETTER = 1, 2, 3  # Kinds of bytes; others are themselves.
_KINDS = np.arange(256, dtype=np.uint8)
_KINDS[:4] = ord("?")
_KINDS[[9, 32]] = _BLANK
_KINDS[ord("0") : ord("9") + 1] = _DIGIT
for _first in "aA":
  _KINDS[ord(_first) : ord(_first) + 26] = _LETTER
_WIDTHS = np.frombuffer(b"?123456789abcdef" + b"?" * 49, np.uint8)
# Odd multipliers of a hash of shapes, one for each place.
_MIX = np.random.default_rng(0).integers(
  1, 2**63, _MAX_BYTES + 1, np.uint64
) * np.uint64(2) + np.uint64(1)


class Group(NamedTuple):
  """The rows of one shape.

  Attributes:
    shape: Shape of their texts.
    rows: int64[r], their indices.
    values: int64[r, len(shape)], the number, or the value of the word, of each
      token; codes of other characters.
  """

  shape: str
  rows: np.ndarray
  values: np.ndarray


def groups(texts: pa.Array) -> Iterator[Group]:
  """The rows of a column by their shape; null and long texts are in none.

  Args:
    texts: LargeString[n] without white space around the texts.
  """
  length = pc.binary_length(texts).to_numpy(zero_copy_only=False)
  with np.errstate(invalid="ignore"):
    rows = np.flatnonzero((length > 0) & (length <= _MAX_BYTES))
  if not len(rows):
    return
  if len(rows) < len(texts):
    texts = texts.take(pa.array(rows))
  starts, data = _bytes(_plain(texts))
  kinds = _KINDS[data]
  begins = np.ones(len(data), bool)
  begins[1:] = (kinds[1:] != kinds[:-1]) | (kinds[1:] > _LETTER)
  begins[starts] = True
  at = np.flatnonzero(begins)
  first = np.searchsorted(at, starts)  # The first token of each row.
  codes, values = _tokens(data, kinds[at], at)
  counts = np.diff(first, append=len(at))
  place = np.arange(len(at)) - np.repeat(first, counts)
  mixed = codes.astype(np.uint64) * _MIX[place]
  hashes = np.add.reduceat(mixed, first)
  by_shape = np.argsort(hashes, kind="stable")
  cuts = np.flatnonzero(np.diff(hashes[by_shape])) + 1
  bounds = np.concatenate([[0], cuts, [len(rows)]])
  largest = np.argsort(-np.diff(bounds), kind="stable")[:_MAX_SHAPES]
  for start, stop in zip(bounds[largest], bounds[largest + 1], strict=True):
    part = by_shape[start:stop]
    one, width = int(first[part[0]]), int(counts[part[0]])
    shape = codes[one : one + width].tobytes().decode("latin-1")
    columns = first[part][:, None] + np.arange(width)
    yield Group(shape, rows[part], values[columns])


def _plain(texts: pa.Array) -> pa.Array:
  """Texts with ordinary blanks and without accents, `aout` for `août`."""
  if pc.all(pc.string_is_ascii(texts)).as_py():
    return texts
  texts = pc.replace_substring_regex(texts, _BLANKS, " ")
  texts = pc.utf8_normalize(texts, form="NFD")
  return pc.replace_substring_regex(texts, _ACCENTS, "")


def _bytes(texts: pa.Array) -> tuple[np.ndarray, np.ndarray]:
  """int64[n], the start of each text, and the bytes of all."""
  _, offsets, data = texts.buffers()
  offsets = np.frombuffer(offsets, np.int64)[
    texts.offset : texts.offset + len(texts) + 1
  ]
  data = np.frombuffer(data, np.uint8)[offsets[0] : offsets[-1]]
  return offsets[:-1] - offsets[0], data


def _tokens(
  data: np.ndarray, kinds: np.ndarray, at: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Codes in the shape, and values, of the tokens that begin at `at`."""
  widths = np.diff(at, append=len(data))
  codes = kinds.copy()
  values = kinds.astype(np.int64)
  codes[kinds == _BLANK] = ord(" ")
  numbers = np.flatnonzero(kinds == _DIGIT)
  codes[numbers] = _WIDTHS[widths[numbers]]
  values[numbers] = 0
  for place in range(15):
    numbers = numbers[widths[numbers] > place]
    digits = data[at[numbers] + place] - np.uint8(ord("0"))
    values[numbers] = values[numbers] * 10 + digits
  words = np.flatnonzero(kinds == _LETTER)
  if len(words):
    codes[words], values[words] = _meanings(data, at[words], widths[words])
  return codes, values


def _meanings(
  data: np.ndarray, at: np.ndarray, widths: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Classes and values of words; `?` if unknown."""
  keys = np.zeros(len(at), np.uint64)
  for place in range(int(min(widths.max(), _LONGEST))):
    inside = widths > place
    letters = data[np.where(inside, at + place, at)] | np.uint8(32)
    keys = np.where(inside, keys * np.uint64(27) + (letters - 96), keys)
  keys[widths > _LONGEST] = 0
  place = np.searchsorted(_KEYS, keys).clip(max=len(_KEYS) - 1)
  known = _KEYS[place] == keys
  return (
    np.where(known, _CLASSES[place], np.uint8(ord("?"))),
    np.where(known, _VALUES[place], 0),
  )


def _key(word: str) -> int:
  key = 0
  for letter in word:
    key = key * 27 + ord(letter) - 96
  return key


_LONGEST = max(map(len, _WORDS))  # At most 13, of which 64 bits are a key.
_SORTED = sorted(_WORDS, key=_key)
_KEYS = np.array([_key(word) for word in _SORTED], np.uint64)
_CLASSES = np.array([ord(_WORDS[word][0]) for word in _SORTED], np.uint8)
_VALUES = np.array([_WORDS[word][1] for word in _SORTED], np.int64)
