r"""The dialect is the one that the file is written in, or the user's."""

import random

import pytest

from calrec_jax.data.logs.csv import csv_dialect, csv_lines
from calrec_jax.data.logs.files.read_options import ReadOptions
from calrec_jax.errors import InputError


def detect(sample, suffix=".csv", **options):
  return csv_dialect.detect(
    sample, suffix=suffix, options=ReadOptions(**options)
  )


def facts(dialect):
  return dialect.delimiter, dialect.quote, dialect.escape


def lines(pattern, count=30):
  return "".join(
    pattern.format(i=i, t=1_600_000_000 + 77 * i) + "\n" for i in range(count)
  )


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|", "::", "\x01"])
@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".dat", ".txt", ""])
@pytest.mark.parametrize("header", [True, False])
def test_delimiters_are_found_whatever_the_suffix(delimiter, suffix, header):
  names = "user_id,item_id,timestamp,title\n" if header else ""
  text = names + lines("u{i},{i},{t},Tea {i}")
  text = text.replace(",", delimiter)
  assert detect(text, suffix).delimiter == delimiter


@pytest.mark.parametrize(
  ("text", "suffix", "delimiter"),
  [
    ("Kunde;Preis;Datum\n" + lines("{i};3,{i};14.09.2020"), ".csv", ";"),
    (lines("{i};3,{i}"), ".csv", ";"),
    (lines("{i};3,{i};x;4,5;z"), ".csv", ";"),
    ("movieId,title,genres\n" + lines('{i},"Tea, {i}",A|B|C'), ".csv", ","),
    ("user\tposition\n" + lines("{i}\t1.5,2.5,{i}"), ".csv", "\t"),
    (lines("{i}\t1.5,2.5,{i}"), ".txt", "\t"),
    ("id|text\n" + lines("{i}|one, two, three {i}"), ".csv", "|"),
    ("id,tags\n" + lines("{i},a;b"), ".csv", ","),
    (lines("{i}::Tea {i} (1995)::A|B"), ".dat", "::"),
    (lines("{i} {t}"), ".txt", " "),
    (lines(" {i}   {t}"), ".txt", csv_lines.BLANKS),
    ("title\n" + lines("Tea; green, {i}"), ".csv", ","),
    ("title\n" + lines("Tea | {i}"), ".tsv", "\t"),
    ("title\n" + lines("Green tea"), ".csv", ","),
    ("", ".csv", ","),
    ("\n\n", ".tsv", "\t"),
    ("sep=;\na;b,c\n1;2,3\n", ".csv", ";"),
    ('"sep=|"\r\na|b,c\r\n1|2,3\r\n', ".csv", "|"),
  ],
)
def test_delimiter(text, suffix, delimiter):
  dialect = detect(text, suffix)
  assert dialect.delimiter == delimiter
  assert all(dialect.reasons)


def test_one_column_is_not_broken_up():
  rng = random.Random(0)
  for mark in ",;|\t":
    rows = [f"word{mark * rng.randrange(3)}other {i}" for i in range(40)]
    dialect = detect("title\n" + "\n".join(rows), ".csv")
    assert dialect.delimiter == ","


@pytest.mark.parametrize(
  ("text", "expected"),
  [
    (lines("{i},Tea {i},x"), (",", '"', None)),
    (lines('{i},"Tea, {i}",x'), (",", '"', None)),
    (lines('{i},"5"" {i}",x'), (",", '"', None)),
    (lines('"{i}","{i}","x"'), (",", '"', None)),
    (lines('{i},"one\ntwo",x'), (",", '"', None)),
    # One damaged row does not make quotes text.
    (lines('"{i}","{i}","x"') + '"1","a"b","x"\n', (",", '"', None)),
    (lines('{i},"Tea, {i}",x') + '1,"Tea,x\n', (",", '"', None)),
    # Spark, also where no delimiter is in quotes.
    (lines('{i},"{i}\\"",x'), (",", '"', "\\")),
    (lines('{i},"3/4\\" bolt, {i}",x'), (",", '"', "\\")),
    (lines('{i},5\\" nail,x'), (",", '"', "\\")),
    # A folder's backslash at the end of a field is text.
    (lines('{i},"C:\\dir\\",x'), (",", '"', None)),
    # MySQL's.
    (lines("{i},\\N,x"), (",", '"', None)),
    (lines("{i},a\\,b,x") + lines("{i},c,x"), (",", '"', "\\")),
    # Bare quotes.
    (lines('{i}\t"Stand, wide\tx\n{i}\tDisplay 32"\tx'), ("\t", None, None)),
    (lines('{i}::"Great" Cats::x'), ("::", None, None)),
    (lines("{i}::Cats::x"), ("::", None, None)),
  ],
)
def test_quoting(text, expected):
  assert facts(detect("a,b,c\n".replace(",", expected[0]) + text)) == expected


def test_what_the_user_says_is_taken():
  text = "a;b\n" + lines('{i};"x"')
  assert facts(detect(text, delimiter=",")) == (",", '"', None)
  assert facts(detect(text, quoting="none")) == (";", None, None)
  assert facts(detect(text, escape="\\")) == (";", '"', "\\")
  assert facts(detect(text, quote="'")) == (";", "'", None)
  bare = "a\tb\n" + lines('{i}\t"x\n{i}\ty"')
  assert detect(bare, quoting="quoted").trusted
  assert facts(detect(bare, quoting="quoted")) == ("\t", '"', None)
  spark = "a,b\n" + lines('{i},"\\""')
  assert facts(detect(spark, escape="")) == (
    ",",
    detect(spark, escape="").quote,
    None,
  )
  assert "LogFiles.delimiter" in detect(text, delimiter=";").reasons[0]


@pytest.mark.parametrize(
  "options",
  [
    {"delimiter": '"'},
    {"delimiter": ""},
    {"delimiter": ":\n"},
    {"quote": ""},
    {"quote": "''"},
    {"quote": "«"},
    {"escape": "\\\\"},
    {"escape": ",", "delimiter": ","},
  ],
)
def test_options_that_cannot_be_are_refused(options):
  with pytest.raises(InputError, match=rf"LogFiles\.{next(iter(options))}"):
    detect("a,b\n1,2\n", **options)


def test_a_quote_that_the_sample_cuts_is_no_damage():
  text = "a,b\n" + lines('{i},"Tea, {i}"') + '1,"begun\nand not ended\n'
  assert facts(detect(text)) == (",", '"', None)
