"""Conditions on rows of real logs: dates, numbers in quotes, odd names."""

from __future__ import annotations

import pytest

from calrec_jax.data.logs import events as events_lib
from calrec_jax.data.logs import problems as problems_lib
from calrec_jax.data.logs.log_files import LogFiles
from calrec_jax.data.logs.rows import where
from calrec_jax.errors import InputError

HEADER = "user_id,item_id,timestamp,title,event type,day,amount,µg,gift\n"
ROWS = (
  "u,a,1,tea,view,31.12.2023,5,1,true\n"
  "u,b,2,rye,buy `now`,02.02.2024,n/a,2,False\n"
  "u,c,3,jam,buy,03.01.2024,7,3,TRUE\n"
)


@pytest.fixture
def chosen(tmp_path):
  path = tmp_path / "log.csv"
  path.write_text(HEADER + ROWS, "utf-8")

  def choose(condition, **settings):
    problems = problems_lib.Problems()
    source = LogFiles(
      interactions=str(path), time_unit="order", where=condition, **settings
    )
    events, items = source.read(problems, ["title"])
    return [items.item_ids[row] for row in events.items], problems

  return choose


@pytest.mark.parametrize(
  ("condition", "expected"),
  [
    ('day >= "2024-01-01"', ["b", "c"]),  # As texts, 31.12.2023 comes last.
    ('day == "2024-01-03"', ["c"]),
    ('`event type` == "buy `now`"', ["b"]),  # A backtick in a text is one.
    ('`event type` in ("view")', ["a"]),
    ("\u00b5g >= 2", ["b", "c"]),  # Python's parser would make it a Greek mu.
    ("gift == True", ["a", "c"]),
    ("gift != True", ["b"]),
    ("gift == False", ["b"]),
  ],
)
def test_a_condition_compares_what_a_column_means(chosen, condition, expected):
  assert chosen(condition)[0] == expected


def test_how_dates_were_read_is_said(chosen):
  _, problems = chosen('day >= "2024-01-01"')
  assert any("'day'" in note.message for note in problems.notes())


def test_values_that_are_no_numbers_are_named(chosen):
  found, problems = chosen("amount >= 1", missing=("n/a",))
  assert found == ["a", "c"]
  assert not [n for n in problems.notes() if "no numbers" in n.message]
  found, problems = chosen("amount >= 1")
  [note] = [n for n in problems.notes() if "no numbers" in n.message]
  assert found == ["a", "c"]
  assert "1 values of the column 'amount'" in note.message
  assert "'n/a'" in note.message


def test_a_condition_that_leaves_nothing_says_what_the_column_holds(chosen):
  with pytest.raises(InputError, match=r"no numbers, such as 'view'"):
    chosen("`event type` > 3")


def test_missing_times_can_be_asked_for(tmp_path):
  path = tmp_path / "log.csv"
  path.write_text("user_id,item_id,timestamp,title\nu,a,5,x\nu,b,,y\n")
  problems = problems_lib.Problems()
  source = LogFiles(interactions=str(path), where="timestamp != None")
  source.read(problems, ["title"])
  assert problems.excluded == {"timestamp != None": 1}
  assert not problems.count("bad_timestamp")


@pytest.mark.parametrize(
  ("condition", "said"),
  [
    ('event type == "buy"', "backticks"),
    ('event-type == "buy"', "backticks"),
    ("kind == buy", "Texts stand in quotes"),
    ('kind == "a" && amount > 3', "and, or, not"),
    ("gift > True", "by == !="),
  ],
)
def test_what_is_no_condition_is_refused_with_the_way_to_write_it(
  condition, said
):
  with pytest.raises(InputError, match=r"LogFiles\.where") as error:
    where.parse(condition, "LogFiles.where")
  assert said in str(error.value)


def test_a_wrong_day_names_the_binding_it_stands_in(tmp_path):
  path = tmp_path / "log.csv"
  path.write_text("user_id,item_id,timestamp,title\nu,a,2024-01-01,x\n")
  source = LogFiles(interactions=str(path), target_where='timestamp > "soon"')
  with pytest.raises(InputError, match=r"^LogFiles\.target_where: "):
    source.read(problems_lib.Problems(), ["title"])


def test_the_suggested_target_is_a_condition_that_can_be_read(tmp_path):
  path = tmp_path / "log.csv"
  rows = "u,a,1,x,view\nu,a,2,x,buy\nu,b,3,y,buy\nu,b,4,y,peek\n"
  path.write_text("user_id,item_id,timestamp,title,event type\n" + rows)
  problems = problems_lib.Problems()
  source = LogFiles(interactions=str(path), event_column="event type")
  source.read(problems, ["title"])
  [remedy] = [n.remedy for n in problems.notes() if "target_where" in n.remedy]
  assert remedy == "LogFiles.target_where = '`event type` == \"buy\"'"


def test_a_column_with_too_many_kinds_is_refused(tmp_path):
  path = tmp_path / "log.csv"
  rows = "".join(f"u,a,{n},x,kind {n}\n" for n in range(200))
  path.write_text("user_id,item_id,timestamp,title,event\n" + rows)
  source = LogFiles(interactions=str(path), event_column="event")
  with pytest.raises(InputError, match="200 different values"):
    source.read(problems_lib.Problems(), ["title"])


def test_a_view_and_a_purchase_of_the_same_day_are_no_duplicates(tmp_path):
  path = tmp_path / "log.csv"
  rows = "u,a,2024-01-01,view\nu,a,2024-01-01,buy\nu,a,2024-01-01,buy\n"
  path.write_text("user_id,item_id,timestamp,event\n" + rows)
  source = LogFiles(interactions=str(path), target_where='event == "buy"')
  events, _ = source.read(problems_lib.Problems(), ["item_id"])
  again = events_lib.duplicates(events_lib.sort(events))
  assert again.tolist() == [False, False, True]
