"""Months, days and zones in several languages, and zones that stay unread."""

import numpy as np
import pytest

from calrec_jax.data.logs.columns import time_shapes, time_words
from calrec_jax.data.logs.columns.times import TimeReader


def read(values, **settings):
  reader = TimeReader(**settings)
  reader.add(values)
  return reader.finish()


def milliseconds(moment):
  return int(np.datetime64(moment, "ms").astype(np.int64))


@pytest.mark.parametrize(
  ("text", "moment"),
  [
    ("3. Mai 2021", "2021-05-03"),
    ("12. März 2020", "2020-03-12"),
    ("Montag, 3. Mai 2021 10:00 Uhr", "2021-05-03T10:00"),
    ("Donnerstag, 31. Dezember 2020 um 10:00", "2020-12-31T10:00"),
    ("3. Okt. 2020 10:00", "2020-10-03T10:00"),
    ("12 mars 2020", "2020-03-12"),
    ("lundi 3 mai 2021 à 10:00", "2021-05-03T10:00"),
    ("1er janvier 2021", "2021-01-01"),
    ("le 12 août 2020", "2020-08-12"),
    ("12 de\u0301c. 2020", "2020-12-12"),  # Written with a combining accent.
    ("12-févr.-2020", "2020-02-12"),
    ("5 de mayo de 2020", "2020-05-05"),
    ("miércoles, 16 de septiembre de 2020", "2020-09-16"),
    ("10 ene 2020 10:00:01", "2020-01-10T10:00:01"),
    ("4 maart 2020", "2020-03-04"),
    ("2021-05-03 10:00:00 CET", "2021-05-03T09:00"),
    ("2021-05-03 10:00 CEST", "2021-05-03T08:00"),
    ("03.05.2021 10:00 MESZ", "2021-05-03T08:00"),
    ("Sun Mar 01 10:00:00 CET 2020", "2020-03-01T09:00"),
    ("Mon, 03 May 2021 10:00:00 EST", "2021-05-03T15:00"),
    ("2020-01-01 10:00 JST", "2020-01-01T01:00"),
    ("2020-01-01T10:00:00+01:00[Europe/Berlin]", "2020-01-01T09:00"),
    ("2020-01-01T10:00:00Z[UTC]", "2020-01-01T10:00"),
  ],
)
def test_words_of_other_languages_and_zones_are_read(text, moment):
  found = read([text, text])
  assert found.readable.all()
  assert found.values.tolist() == [milliseconds(moment)] * 2


def test_a_pattern_reads_them_too():
  found = read(["3. März 2021"], pattern="%d. %B %Y")
  assert found.values.tolist() == [milliseconds("2021-03-03")]


@pytest.mark.parametrize(
  ("text", "zone", "pattern"),
  [
    ("2020-05-03 10:00 IST", "IST", "%Y-%m-%d %H:%M IST"),
    ("31.05.2020 10:00:05 BST", "BST", "%d.%m.%Y %H:%M:%S BST"),
    ("2020-05-03 10:00 Asia/Kolkata", "Asia/Kolkata", "%Y-%m-%d %H:%M"),
  ],
)
def test_a_zone_that_may_be_two_is_named_with_a_way_out(text, zone, pattern):
  found = read([text] * 3)
  assert not found.readable.any()
  [note] = found.notes
  assert f"time zone {zone!r} is unknown or ambiguous" in note.message
  assert f'LogFiles.time_format = "{pattern}' in note.remedy
  bound = note.remedy.partition('"')[2].rstrip('"')
  again = read([text] * 3, pattern=bound)
  assert again.readable.all()


def test_no_pattern_is_named_where_two_would_read_the_day():
  [note] = read(["03/05/2020 10:00 IST"] * 3).notes
  assert "'IST'" in note.message
  assert "IST" not in note.remedy


def test_no_word_means_two_things():
  words = time_words.by_word()
  for names in time_words._MONTHS:
    for number, name in enumerate(names.split(), start=1):
      assert words[name] == ("M", number)
  for name in time_words._ZONES:
    assert words[name][0] == "Z"
  assert time_shapes._LONGEST <= 13
