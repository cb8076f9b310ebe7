"""Items of a text that lists them, a row each, out of any table."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from calrec_jax.data.logs.guessing import guess
from calrec_jax.data.logs.log_files import LogFiles
from calrec_jax.data.logs.problems import Problems

HISTORIES = {
  f"u{n}": [str(100 + n * step % 13) for step in range(1, 2 + n % 5)]
  for n in range(30)
}
BINDING = 'LogFiles.item_column = "items[]"'


def write(path, written):
  rows = [f'{user},"{written(ids)}"' for user, ids in HISTORIES.items()]
  path.write_text("user_id,items\n" + "\n".join(rows) + "\n")
  return str(path)


def read(path, **settings):
  source = LogFiles(interactions=path, time_column=None, **settings)
  problems = Problems()
  events, items = source.read(problems, ["title"])
  found = {}
  for user, item in zip(events.users, events.items, strict=True):
    found.setdefault(events.user_ids[user], []).append(items.item_ids[item])
  return found, problems


@pytest.mark.parametrize(
  "written",
  [
    " ".join,
    "|".join,
    ", ".join,
    str,
    lambda ids: f"[{', '.join(ids)}]",
    lambda ids: f"[{' '.join(ids)}]",
  ],
)
def test_a_column_of_lists_is_guessed_and_read(tmp_path, written):
  path = write(tmp_path / "log.csv", written)
  text = guess.guess([path])
  assert BINDING in text
  assert "LogFiles.time_column = None" in text
  found, problems = read(path, item_column="items[]")
  assert found == HISTORIES
  assert not len(problems)
  assert "lists, split at" in problems.reading[0]["lists"]["items"]


def test_lists_that_are_read_as_ids_are_noted(tmp_path):
  path = write(tmp_path / "log.csv", " ".join)
  _, problems = read(path, item_column="items")
  [note] = [one for one in problems.notes() if one.severity == "wrong"]
  assert note.remedy == BINDING
  assert "looks like lists of items" in note.message


def test_texts_that_are_no_lists_are_counted_with_their_line(tmp_path):
  path = tmp_path / "log.csv"
  path.write_text('user_id,items\na,"[1, 2]"\nb,"[[1], 2]"\nc,\nd,"[3]"\n')
  found, problems = read(str(path), item_column="items[]")
  assert found == {"a": ["1", "2"], "d": ["3"]}
  counted = {one["kind"]: one["first"] for one in problems.as_list()}
  assert counted == {"malformed_row": "log.csv:3", "missing_item": "log.csv:4"}


def test_lists_in_texts_of_parquet(tmp_path):
  texts = [" ".join(ids) for ids in HISTORIES.values()]
  table = pa.table({"user_id": [*HISTORIES], "items": texts})
  pq.write_table(table, tmp_path / "log.parquet")
  path = str(tmp_path / "log.parquet")
  assert BINDING in guess.guess([path])
  assert read(path, item_column="items[]")[0] == HISTORIES
