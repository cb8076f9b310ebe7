"""The dialect of a CSV file, told by its first lines.

What the user says is taken. For the rest each candidate reads the sample with
the parser that will read the file, and is judged by its damage: lines that are
malformed, have another number of fields than most, are swallowed by a field
that looks like rows, or keep quotes that enclose a whole field.
"""

from __future__ import annotations

import collections
import csv
import dataclasses
import itertools
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from calrec_jax.data.logs.csv import csv_header, csv_lines, csv_rows
from calrec_jax.data.logs.csv.csv_rows import Dialect
from calrec_jax.data.logs.files.read_options import ReadOptions
from calrec_jax.errors import InputError

SAMPLE_CHARACTERS = 1 << 18

_DELIMITERS = (",", ";", "\t", "|", "::", "\x01", ", ", "; ")
# Characters that are hardly ever part of a text.
_STRONG = ("\t", "::", "\x01")
_USUAL = {
  ".tsv": "\t",
  ".tab": "\t",
  ".psv": "|",
  ".dat": "::",
  ".inter": "\t",
  ".item": "\t",
  ".user": "\t",
}
_NAMES = {"\t": "a tab", "\x01": r"\x01", csv_lines.BLANKS: "runs of blanks"}
_SEP_LINE = re.compile(r'\ufeff?"?sep=(.|\\t)"?\s*', re.IGNORECASE)
BREAKS = re.compile(r"\r\n|\r|\n")
_ENCLOSED = re.compile(r'".*"')
_NUMBER = re.compile(r"[-+]?\d+(\.\d+)?")
_SEEN = 200  # Lines that show whether others stand before the header.
_FEWEST = 4  # Of them, so that most are rows.
_MOST_BEFORE = 20
_DELIMITING = re.compile(r"[,;\t|]")
_COMMENTS = ("#", "//", "--", "%", "*")
_FEW = 50  # Lines that a field cut by the end of the sample may span.


def sep_line(line: str) -> str | None:
  """The delimiter that Excel's first line `sep=;` names, or None."""
  found = _SEP_LINE.fullmatch(line)
  return None if found is None else found[1].replace(r"\t", "\t")


def detect(sample: str, *, suffix: str, options: ReadOptions) -> Dialect:
  r"""The dialect of a file.

  Args:
    sample: First whole lines of the file, as text; a few hundred thousand
      characters suffice.
    suffix: Suffix of the file without that of a compression, such as ".csv";
      may be empty.
    options: Options that the user gave; None and "auto" are detected.

  Raises:
    InputError: If the options contradict each other.
  """
  _check(options)
  lines = [line for line in _lines(sample) if line.strip("\r\n")]
  said = sep_line(lines[0]) if lines else None
  if said is not None:
    lines = lines[1:]
  if options.delimiter is not None:
    delimiters, reason = [options.delimiter], "LogFiles.delimiter"
  elif said is not None:
    delimiters, reason = [said], "the first line says so"
  else:
    delimiters, reason = _present(lines, options), ""
  trials = [_best_quoting(lines, each, options) for each in delimiters]
  usual = _USUAL.get(suffix.lower(), ",")
  if not reason:
    trials = [trial for trial in trials if trial.acceptable]
    trials.sort(key=lambda trial: _rank(trial, lines, usual, options))
    blanks = None if trials else _blanks(lines)
    if blanks is not None:
      trials, reason = [_best_quoting(lines, blanks, options)], "no other fits"
    elif not trials:
      trials = [_best_quoting(lines, usual, options)]
      reason = "no delimiter splits all lines alike; this is the usual one"
  chosen = trials[-1]
  said_of_fields = reason or (
    f"{chosen.share:.1%} of the first {len(lines):,} lines have "
    f"{chosen.num_fields} fields"
  )
  return dataclasses.replace(
    chosen.dialect,
    reasons=(
      f"delimiter {name(chosen.dialect.delimiter)}: {said_of_fields}",
      _quoting_reason(chosen, options),
    ),
  )


def before_header(sample: str, options: ReadOptions) -> int:
  """Number of lines before the names of the columns: titles and comments.

  They have no delimiter, or begin like a comment and have fewer than a row, or
  only their first field is filled.

  Args:
    sample: First whole lines of the file.
    options: Options that the user gave.
  """
  lines = list(itertools.islice(_lines(sample), _SEEN))
  if options.columns or not lines or sep_line(lines[0]) is not None:
    return 0
  given = options.delimiter
  for delimiter in (given,) if given else ("\t", ";", "|", ","):
    counts = [line.count(delimiter) for line in lines if line.strip()]
    [(count, same)] = collections.Counter(counts).most_common(1) or [(0, 0)]
    # A title in a table of two columns may be the only name of a header.
    if count < 2 or same < 0.5 * len(counts) or len(counts) < _FEWEST:
      continue
    number = 0
    while number < len(lines) and _is_before(lines[number], delimiter, count):
      number += 1
    if 0 < number <= _MOST_BEFORE and number < len(lines):
      is_data = csv_header.looks_like_data(lines[number].split(delimiter))
      return 0 if is_data else number
  return 0


def _is_before(line: str, delimiter: str, count: int) -> bool:
  """Whether a line is a title, a comment or blank; rows have `count`."""
  first, *others = (
    field.strip(' "') for field in line.strip("\r\n").split(delimiter)
  )
  if others:
    is_comment = len(others) < count and first.startswith(_COMMENTS)
    return is_comment or not any(others)
  # The names of the columns have some delimiter, if not that of lists in rows.
  return first.startswith(_COMMENTS) or not _DELIMITING.search(first)


def name(delimiter: str) -> str:
  """A delimiter in words or in quotes."""
  return _NAMES.get(delimiter, repr(delimiter))


class _Trial(NamedTuple):
  """What a dialect makes of the sample.

  Attributes:
    dialect: The dialect.
    share: Share of the lines that are good.
    num_fields: Number of fields of most rows.
    head: Number of fields of the first row.
    lost: Number of lines that are bad.
    several: Number of good lines of rows of several lines.
    enclosed: Number of good lines with a field that keeps quotes around it.
    standard_lost: The same number with standard quoting.
  """

  dialect: Dialect
  share: float
  num_fields: int
  head: int
  lost: int
  several: int = 0
  enclosed: int = 0
  standard_lost: int = 0

  @property
  def acceptable(self) -> bool:
    return self.num_fields > 1 and self.head > 1 and self.share >= 0.5


def _check(options: ReadOptions) -> None:
  delimiter, quote, escape = options.delimiter, options.quote, options.escape
  quoted = options.quoting != "none"
  if delimiter is not None and (
    not delimiter
    or any(letter in "\r\n" for letter in delimiter)
    or (quoted and quote in delimiter)
  ):
    raise InputError(
      f"LogFiles.delimiter is {delimiter!r}; quotes and line breaks cannot "
      "part fields."
    )
  if quoted and (len(quote) != 1 or not quote.isascii() or quote in "\r\n\0"):
    raise InputError(
      f"LogFiles.quote is {quote!r}; it must be one ASCII character. Set "
      'LogFiles.quoting = "none" if no character encloses fields.'
    )
  if escape and (
    len(escape) != 1
    or not escape.isascii()
    or escape in "\r\n\0"
    or escape == delimiter
  ):
    raise InputError(
      f"LogFiles.escape is {escape!r}; it must be one ASCII character other "
      "than the delimiter."
    )


def _lines(sample: str) -> Iterator[str]:
  start = 0
  for found in BREAKS.finditer(sample):
    yield sample[start : found.end()]
    start = found.end()
  if start < len(sample):
    yield sample[start:]


def _present(lines: Sequence[str], options: ReadOptions) -> list[str]:
  """Delimiters that the first line has, and many of the others."""
  found = []
  for delimiter in _DELIMITERS:
    many = sum(delimiter in line for line in lines[1:])
    if delimiter.endswith(" ") and not any(
      f'{delimiter}"' in line for line in lines
    ):
      continue  # The blank only matters where it keeps quotes from enclosing.
    # Rows may span lines, most of which then have no delimiter.
    if lines and delimiter in lines[0] and many >= 0.05 * (len(lines) - 1):
      found.append(delimiter)
  return found


def _best_quoting(
  lines: Sequence[str], delimiter: str, options: ReadOptions
) -> _Trial:
  """The trial of the quoting that loses the fewest lines."""
  trials = [
    _try(lines, dialect)
    for dialect in _quotings("".join(lines), delimiter, options)
  ]
  quoted = [trial for trial in trials if trial.dialect.quote is not None]
  if quoted:
    # Where quotes are text, fields keep those around them, or are torn.
    torn = min(quoted, key=lambda trial: trial.lost).several
    trials = [
      trial
      if trial.dialect.quote is not None
      else trial._replace(lost=trial.lost + trial.enclosed + torn)
      for trial in trials
    ]
  best = min(trials, key=lambda trial: trial.lost)  # The first of equals.
  standard = [trial for trial in trials if trial.dialect.escape is None]
  return best._replace(standard_lost=(standard or trials)[0].lost)


def _quotings(text: str, delimiter: str, options: ReadOptions) -> list[Dialect]:
  """Candidates, the preferred ones first."""
  quote, escape = options.quote, options.escape
  # Without quotes, only an escape that the user gives joins lines.
  trusted = options.quoting == "quoted" or (
    options.quoting == "none" and bool(escape)
  )
  quotes: list[str | None] = [quote, None]
  if options.quoting == "none" or delimiter == csv_lines.BLANKS:
    quotes = [None]
  elif options.quoting == "quoted" or quote != '"':
    quotes = [quote]
  elif quote not in text:
    quotes = [None, quote] if len(delimiter) > 1 else [quote]
  escapes: list[str | None] = [escape or None]
  if escape is None and "\\" in text and "\\" not in (quote, delimiter):
    escapes = [None, "\\"]
    if _escapes_quotes(text, delimiter, quote):
      escapes.reverse()
  return [
    Dialect(delimiter, one, other, doubled=True, trusted=trusted)
    for one in quotes
    for other in escapes
  ]


def _escapes_quotes(text: str, delimiter: str, quote: str) -> bool:
  """Whether a backslash is before a quote that is not doubled."""
  one, two = re.escape(quote), re.escape(delimiter)
  backslash = r"(?<!\\)(?:\\\\)*\\"  # An odd number of them.
  after = rf"(?!{one})|(?={one}(?:{two}|[\r\n]|\Z))"
  return re.search(rf"{backslash}{one}(?:{after})", text) is not None


def _try(lines: Sequence[str], dialect: Dialect) -> _Trial:
  """Reads the sample in a dialect."""
  data = dialect.translation("".join(lines).encode(*csv_lines.ENCODING))
  translated = list(_lines(data.decode(*csv_lines.ENCODING)))
  delimiter = dialect.translation.delimiter
  of_size: collections.Counter[int] = collections.Counter()  # Lines by fields.
  reader = csv.reader(iter(translated), **dialect.python)
  head, bad, several, enclosed, at = None, 0, 0, 0, 0
  while at < len(translated):
    row = None
    try:
      row = next(reader, None)
    except csv.Error as error:
      if "unexpected end" in str(error):
        tail = translated[at:]
        break
    covered, at = reader.line_num - at, reader.line_num
    head = len(row or ()) if head is None else head
    if row is None or (
      covered > 1
      and not dialect.trusted
      and csv_rows.swallows(row, delimiter, head)
    ):
      bad += covered
    elif row:
      of_size[len(row)] += covered
      several += covered if covered > 1 else 0
      enclosed += dialect.quote is None and any(map(_ENCLOSED.fullmatch, row))
  else:
    tail = []
  num_fields, good = max(
    of_size.items(), key=lambda pair: (pair[1], pair[0]), default=(0, 0)
  )
  if len(tail) > _FEW or any(
    csv_rows.looks_like_row(line, num_fields, delimiter) for line in tail[1:]
  ):
    bad += len(tail)
  lost = bad + of_size.total() - good
  share = good / max(good + lost, 1)
  return _Trial(dialect, share, num_fields, head or 0, lost, several, enclosed)


def _rank(
  trial: _Trial, lines: Sequence[str], usual: str, options: ReadOptions
) -> tuple[object, ...]:
  delimiter = trial.dialect.delimiter
  return (
    trial.num_fields == len(options.columns),
    trial.head == trial.num_fields,
    round(trial.share, 1),
    delimiter.endswith(" "),
    delimiter in _STRONG,
    trial.num_fields,
    delimiter == ";" and _only_decimal_commas(lines),
    delimiter == usual,
    -_DELIMITERS.index(delimiter),
  )


def _only_decimal_commas(lines: Sequence[str]) -> bool:
  return not any(re.search(r"(?<!\d),|,(?!\d)", line) for line in lines)


def _blanks(lines: Sequence[str]) -> str | None:
  """A blank, or any run of blanks, if they part columns with numbers."""
  rows = [line.split() for line in lines]
  if len(rows) < 2 or len({len(row) for row in rows}) > 1 or len(rows[0]) < 2:
    return None
  columns = zip(*rows[1:], strict=True)
  if not any(all(map(_NUMBER.fullmatch, column)) for column in columns):
    return None
  single = all(
    line.strip("\r\n") == " ".join(row)
    for line, row in zip(lines, rows, strict=True)
  )
  return " " if single else csv_lines.BLANKS


def _quoting_reason(trial: _Trial, options: ReadOptions) -> str:
  dialect = trial.dialect
  if dialect.quote is None:
    text = "quotes are text"
  else:
    text = f"{dialect.quote} encloses fields"
  if dialect.escape is not None:
    text += f", {dialect.escape} escapes"
  if options.quoting != "auto":
    return f"{text}: LogFiles.quoting"
  if trial.lost < trial.standard_lost:
    return (
      f"{text}: {trial.lost:,} of the first lines are damaged, "
      f"{trial.standard_lost:,} otherwise"
    )
  return text
