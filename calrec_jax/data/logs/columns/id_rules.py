"""Ids that differ between two files by how they are written."""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute creates its functions at run time.)

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from calrec_jax.data.logs.columns import id_codes
from calrec_jax.errors import InputError

# In the order in which they are tried, the mildest first.
RULES = ("leading_zeros", "case", "blanks", "decimals", "accents")
_BLANKS = r"[\s\p{Z}\x{feff}\x{200b}]+"
# A decimal point must be gone before zeros are, and blanks before both.
_APPLIED = ("accents", "blanks", "decimals", "leading_zeros", "case")


class Spelling(NamedTuple):
  """What makes ids that are not in a catalogue match its ids.

  Attributes:
    rules: Rules that do, from `RULES`.
    matched: Number of distinct unknown ids that match.
    unknown: Number of distinct unknown ids.
    example: An unknown id, and the known id that it matches.
    merged: Number of known ids that are the same as another by these rules.
  """

  rules: tuple[str, ...]
  matched: int
  unknown: int
  example: tuple[str, str]
  merged: int

  @property
  def binding(self) -> str:
    """The gin binding that applies the rules."""
    rules = ", ".join(f'"{rule}"' for rule in self.rules)
    return f"LogFiles.id_rules = ({rules},)"


def check_rules(rules: Sequence[str]) -> None:
  """Refuses names that are not in `RULES`."""
  if isinstance(rules, str) or not set(rules) <= set(RULES):
    raise InputError(
      f"LogFiles.id_rules = {rules!r}: must be a list of some of "
      f"{', '.join(map(repr, RULES))}."
    )


def normalise(
  ids: pa.Array | pa.ChunkedArray, rules: Sequence[str]
) -> pa.Array | pa.ChunkedArray:
  """Ids by rules, applied to both files.

  Args:
    ids: Ids as text; null stays null.
    rules: Some of `RULES`: "leading_zeros" removes them, "case" makes letters
      small, "blanks" removes white space inside, "decimals" makes `15.0` `15`,
      "accents" makes a letter and its accent one character.
  """
  check_rules(rules)
  for rule in _APPLIED:
    if rule not in rules:
      continue
    if rule == "accents":
      ids = pc.utf8_normalize(ids, form="NFC")
    elif rule == "blanks":
      ids = pc.replace_substring_regex(ids, _BLANKS, "")
    elif rule == "decimals":
      ids = pc.replace_substring_regex(ids, r"^(-?[0-9]+)\.0*$", r"\1")
    elif rule == "leading_zeros":
      ids = pc.replace_substring_regex(ids, "^0+([^0].*|0)$", r"\1")
    else:
      ids = pc.utf8_lower(ids)
  return ids


def spelling(
  unknown: Sequence[str] | pa.Array, known: Sequence[str] | pa.Array
) -> Spelling | None:
  """The rules by which ids match a catalogue's; None if none match.

  Args:
    unknown: Ids of events that are not in the catalogue.
    known: Ids of the catalogue.
  """
  unknown, known = (_distinct(ids) for ids in (unknown, known))
  chosen: tuple[str, ...] = ()
  best = np.full(len(unknown), -1)
  while len(chosen) < len(RULES) and np.any(best < 0):
    found = {
      rule: _matches(unknown, known, (*chosen, rule))
      for rule in RULES
      if rule not in chosen
    }
    rule = max(found, key=lambda rule: np.count_nonzero(found[rule] >= 0))
    if np.count_nonzero(found[rule] >= 0) <= np.count_nonzero(best >= 0):
      if chosen:
        break
      return _pair(unknown, known)
    chosen, best = (*chosen, rule), found[rule]
  return _described(unknown, known, chosen, best)


def _pair(unknown: pa.Array, known: pa.Array) -> Spelling | None:
  """All rules together, for ids that no single rule matches."""
  if not len(unknown):
    return None
  best = _matches(unknown, known, RULES)
  rules = RULES
  for rule in RULES:  # Without those that are not needed.
    fewer = tuple(name for name in rules if name != rule)
    if fewer and np.array_equal(
      _matches(unknown, known, fewer) >= 0, best >= 0
    ):
      rules = fewer
  return _described(unknown, known, rules, best) if np.any(best >= 0) else None


def _described(
  unknown: pa.Array,
  known: pa.Array,
  rules: tuple[str, ...],
  found: np.ndarray,
) -> Spelling | None:
  rows = np.flatnonzero(found >= 0)
  if not len(rows):
    return None
  row = int(rows[0])
  different = len(pc.unique(normalise(known, rules)))
  return Spelling(
    rules=tuple(rule for rule in RULES if rule in rules),
    matched=len(rows),
    unknown=len(unknown),
    example=(unknown[row].as_py(), known[int(found[row])].as_py()),
    merged=len(known) - different,
  )


def _matches(
  unknown: pa.Array, known: pa.Array, rules: Sequence[str]
) -> np.ndarray:
  """int64[n], the row of `known` that each of `unknown` matches, or -1."""
  values = normalise(known, rules)
  found = pc.index_in(normalise(unknown, rules), value_set=values)
  return pc.fill_null(found, -1).to_numpy(zero_copy_only=False)


def _distinct(ids: Sequence[str] | pa.Array) -> pa.Array:
  if not isinstance(ids, (pa.Array, pa.ChunkedArray)):
    ids = id_codes.strings(ids)
  return pc.unique(ids.cast(pa.large_string())).drop_null()
