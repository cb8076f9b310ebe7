"""What looks wrong with ids, and with words that stand for none, as notes."""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute creates its functions at run time.)

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from calrec_jax.data.logs import problems as problems_lib
from calrec_jax.data.logs.columns import arrow_columns, id_codes, id_rules
from calrec_jax.data.logs.guessing import log_checks

# Words that are never ids, and those that may be one.
_NONE = {
  *("n/a", "#n/a", "na", "null", "none", "nil", "nan", "nat", "(null)"),
  *("[null]", "<null>", "undefined", "(not set)", "(none)", "''", '""'),
  *("-", "--", "\u2013", "\u2014", ".", "?"),
}
_MAYBE_NONE = {
  *("0", "-1", "unknown", "unbekannt", "missing", "guest", "gast"),
  *("anonymous", "anonym", "anon", "desconocido", "inconnu", "onbekend"),
}
_MANY = 0.1  # Share of rows with one value that then means none.
_SOME = 0.01  # Share of ids that are hardly alike by chance.
_SHORTENED = r"^[0-9](?:[.,][0-9]+)?E\+[0-9]+$"
_SHOWN = 4  # Words in a note.
_EXACT = 2**53  # Floating-point numbers from here on skip integers.


def note(
  column: str,
  codes: np.ndarray,
  ids: pa.Array,
  missing: Sequence[str],
  problems: problems_lib.Problems,
) -> None:
  """Notes on the ids of events.

  Args:
    column: Name of the column.
    codes: int32[E], the id of each event.
    ids: Distinct ids by code, some of which may have no event.
    missing: Words that mean a missing value already.
    problems: Receives the notes.
  """
  there = np.zeros(len(ids), bool)
  there[codes] = True
  if len(codes):
    _note_missing(column, codes, ids, missing, problems)
    ids = ids.filter(pa.array(there))
    if id_codes.whole_numbers(ids) is None:  # Those have one spelling only.
      _note_shortened(column, ids, problems)
      _note_spelling(column, ids, problems)


def note_floats(
  column: str, values: pa.Array, problems: problems_lib.Problems
) -> None:
  """A note if ids are numbers of a type that cannot tell neighbours apart."""
  if not pa.types.is_floating(values.type) or not len(values):
    return
  largest = pc.max(pc.abs(values)).as_py() or 0
  limit = 2**24 if pa.types.is_float32(values.type) else _EXACT
  if limit <= largest < float("inf"):
    problems.note(
      "wrong",
      f"ids of the column {column!r} are floating-point numbers above "
      f"{limit:,}, and neighbours may have become one; write them as integers "
      "or text",
    )


def note_words(
  column: str,
  texts: pa.Array,
  missing: Sequence[str],
  problems: problems_lib.Problems,
) -> None:
  """A note if texts of items are words for a missing value.

  Args:
    column: Name of the column.
    texts: Values, one per item, of any type.
    missing: Words that mean a missing value already.
    problems: Receives the note.
  """
  if pa.types.is_dictionary(texts.type):
    texts = texts.cast(texts.type.value_type)
  if not arrow_columns.is_text(texts.type):
    return
  texts = pc.utf8_trim_whitespace(texts)
  texts = texts.filter(pc.fill_null(_are_words(texts, _NONE), False))
  if len(texts):
    words = sorted(set(texts.to_pylist()))
    problems.note(
      "suspect",
      f"the {column} of {len(texts):,} items is a word that may stand for no "
      f"value: {_listed(words)}",
      _missing_too(missing, words),
    )


def _are_words(texts: pa.Array, words: set[str]) -> pa.Array:
  found = pa.array(sorted(words), texts.type)
  return pc.is_in(pc.utf8_lower(texts), value_set=found)


def _listed(words: Sequence[str]) -> str:
  more = f" and {len(words) - _SHOWN} more" if len(words) > _SHOWN else ""
  return ", ".join(map(repr, words[:_SHOWN])) + more


def _missing_too(missing: Sequence[str], words: Sequence[str]) -> str:
  return f"LogFiles.missing = {(*missing, *words)!r}"


def _note_missing(
  column: str,
  codes: np.ndarray,
  ids: pa.Array,
  missing: Sequence[str],
  problems: problems_lib.Problems,
) -> None:
  def found(words: set[str]) -> dict[str, int]:
    rows = np.flatnonzero(arrow_columns.to_numpy(_are_words(ids, words)))
    counts = {
      ids[row].as_py(): int(np.count_nonzero(codes == row))
      for row in rows.tolist()
    }
    return {word: count for word, count in counts.items() if count}

  if sure := found(_NONE):
    words = list(sure)
    problems.note(
      "suspect",
      f"{_listed(words)} in the column {column!r} may stand for no value; the "
      f"{sum(sure.values()):,} events count as those of one id",
      _missing_too(missing, words),
    )
  for word, count in found(_MAYBE_NONE).items():
    if count <= _MANY * len(codes):
      continue
    counts = np.bincount(codes)
    counts = counts[counts > 0]
    if count < 2 * np.median(counts) or len(counts) < 3:
      continue
    condition = f"{log_checks.quoted(column)} != {log_checks.text(word)}"
    problems.note(
      "suspect",
      f"{word!r} in the column {column!r} may stand for no value; its "
      f"{count:,} events count as those of one id",
      f"LogFiles.where = {condition!r}",
    )


def _note_shortened(
  column: str, ids: pa.Array, problems: problems_lib.Problems
) -> None:
  short = ids.filter(pc.match_substring(ids, "E+"))
  short = short.filter(pc.match_substring_regex(short, _SHORTENED))
  if len(short):
    problems.note(
      "wrong",
      f"{len(short):,} ids of the column {column!r}, such as "
      f"{short[0].as_py()!r}, were shortened by a spreadsheet program, and "
      "different ones may have become one; export the column as text",
    )


def _may_apply(rule: str, ids: pa.Array) -> bool:
  """Whether a rule may change some id; quick, since most ids are numbers."""
  ascii_ = pc.string_is_ascii(ids)
  if rule == "leading_zeros":
    found = pc.starts_with(ids, "0")
  elif rule == "decimals":
    found = pc.match_substring(ids, ".0")
  elif rule == "accents":
    found = pc.invert(ascii_)
  else:
    pattern = "[A-Z]" if rule == "case" else r"\s"
    found = pc.match_substring_regex(ids, pattern)
    found = pc.or_(found, pc.invert(ascii_))
  return bool(pc.any(found).as_py())


def _note_spelling(
  column: str, ids: pa.Array, problems: problems_lib.Problems
) -> None:
  """A note if ids differ only in how they are written."""
  examples, rules = [], []
  for rule in filter(lambda rule: _may_apply(rule, ids), id_rules.RULES):
    written = id_rules.normalise(ids, [rule])
    alike = written.dictionary_encode()
    merged = len(ids) - len(alike.dictionary)
    if merged > 0:
      codes = alike.indices.to_numpy()
      first = np.unique(codes, return_index=True)[1]
      later = np.setdiff1d(np.arange(len(ids)), first)[0]
      pair = ids[int(first[codes[later]])], ids[int(later)]
      here, there = (each.as_py() for each in pair)
      examples.append((merged, f"{merged:,} by {rule}: {here!r} and {there!r}"))
      rules.append(f'"{rule}"')
  if rules:
    many = sum(count for count, _ in examples) >= _SOME * len(ids)
    problems.note(
      "suspect" if many else "info",
      f"ids of the column {column!r} differ from others only in spelling, "
      + "; ".join(text for _, text in examples),
      f"LogFiles.id_rules = ({', '.join(rules)},)",
    )
