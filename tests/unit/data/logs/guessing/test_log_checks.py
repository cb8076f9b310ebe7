"""Notes on columns that nothing reads, and the settings that they name."""

import ast

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calrec_jax.data.logs import problems as problems_lib
from calrec_jax.data.logs.guessing import log_checks, profile
from calrec_jax.data.logs.log_files import LogFiles
from calrec_jax.data.logs.rows import where

USED = {"user_id": "LogFiles.user_column", "item_id": "LogFiles.item_column"}
DAY = 86_400


def notes(columns, time_column="timestamp", bindings=USED):
  """Remedies by message, of a sample of rows."""
  problems = problems_lib.Problems()
  found = profile.profiles(pa.table(columns), ("", "NULL"))
  log_checks.review(
    found, bindings, set(), time_column, problems, "folder/log.csv"
  )
  return {note.message: note.remedy for note in problems.notes()}


def condition(remedy):
  """The condition that a gin binding sets."""
  name, _, value = remedy.partition(" = ")
  assert name == "LogFiles.where"
  return ast.literal_eval(value)


@pytest.mark.parametrize(
  ("name", "values", "expected"),
  [
    ("event_type", ["view", "view", "cart", "purchase"], ("==", "purchase")),
    ("Event Type", ["click", "buy", "click", "click"], ("==", "buy")),
  ],
)
def test_kinds_of_event_that_nothing_reads(name, values, expected):
  [(message, remedy)] = notes({name: values * 5}).items()
  assert repr(name) in message
  assert "all kinds count as purchases" in message
  [leaf] = where.parse(condition(remedy), "LogFiles.where").comparisons()
  assert leaf == where.Comparison(name, *expected)


def test_ratings_and_quantities_that_nothing_reads():
  found = notes({"rating": ["1", "2", "3", "4", "5"] * 4})
  [(message, remedy)] = found.items()
  assert "60.0% of a sample below 4 count as purchases" in message
  assert condition(remedy) == "rating >= 4"
  found = notes({"Quantity": ["1", "2", "-1", "7", "12"] * 4})
  [(message, remedy)] = found.items()
  assert "20.0% of a sample are not positive" in message
  assert condition(remedy) == "Quantity > 0"
  assert not notes({"Quantity": ["1", "2", "3"] * 4})


def test_columns_that_a_setting_names_raise_no_question():
  column = {"rating": ["1", "2", "3", "4", "5"] * 4}
  assert not notes(column, bindings={"rating": "LogFiles.where"})


def test_times_are_asked_for_only_without_a_column_of_them():
  columns = {"when": [str(1_700_000_000 + DAY * i) for i in range(9)]}
  assert not notes(columns)
  [(message, remedy)] = notes(columns, time_column=None).items()
  assert "looks like times (unix seconds)" in message
  assert remedy == 'LogFiles.time_column = "when"'


NAMES = st.text(
  st.characters(exclude_characters="`\n\r", exclude_categories=["Cs", "Cc"]),
  min_size=1,
  max_size=8,
).filter(str.strip)


@given(NAMES, st.text(st.characters(exclude_categories=["Cs"]), max_size=8))
def test_conditions_that_are_suggested_are_read_back(name, value):
  text = f"{log_checks.quoted(name)} == {log_checks.text(value)}"
  [leaf] = where.parse(text, "LogFiles.where").comparisons()
  assert leaf == where.Comparison(name, "==", value)


def test_a_log_read_as_a_note_says_asks_no_more(tmp_path):
  path = tmp_path / "log.csv"
  kinds = ["view", "view", "purchase"]
  path.write_text(
    "user_id,item_id,timestamp,title,event\n"
    + "".join(
      f"u{i % 3},i{i % 4},{1_700_000_000 + i},Tea,{kinds[i % 3]}\n"
      for i in range(30)
    )
  )
  problems = problems_lib.Problems()
  events, _ = LogFiles(interactions=str(path)).read(problems, ["title"])
  assert len(events) == 30
  [note] = problems.notes()
  problems = problems_lib.Problems()
  source = LogFiles(interactions=str(path), where=condition(note.remedy))
  events, _ = source.read(problems, ["title"])
  assert len(events) == 10
  assert problems.excluded == {'event == "purchase"': 20}
  assert not problems.notes()
