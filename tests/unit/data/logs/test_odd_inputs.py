"""Files that people have and no one plans: what they become, and what is said.

Of every file, its rows are events, or counted as bad or left out.
"""

import pytest

from calrec_jax.data.logs import problems as problems_lib
from calrec_jax.data.logs.log_files import LogFiles
from calrec_jax.errors import InputError

START = 1_600_000_000
NAMES = ("user_id", "item_id", "timestamp", "title")
TITLES = ("Tea", "Pot", "Cup", "Tray", "Jar")


def rows(count=40):
  return [
    (f"u{k % 8}", f"i{k % 5}", str(START + 3600 * k), TITLES[k % 5])
    for k in range(count)
  ]


def csv(rows_, names=NAMES, delimiter=",", end="\n"):
  return "".join(delimiter.join(row) + end for row in (names, *rows_))


def extended(name, values, count=40):
  """A log with one more column, whose values take turns."""
  return csv(
    [(*row, values[k % len(values)]) for k, row in enumerate(rows(count))],
    (*NAMES, name),
  )


def read(tmp_path, content, name="log.csv", **options):
  """The events as (user, item, time), the items and the problems."""
  file = tmp_path / name
  if isinstance(content, str):
    content = content.encode()
  if content is not None:
    file.write_bytes(content)
  problems = problems_lib.Problems()
  source = LogFiles(**{"interactions": str(file)} | options)
  events, items = source.read(problems, ["title"])
  bad = sum(
    each["count"]
    for each in problems.as_list()
    if each["kind"] != "conflicting_item"
  )
  assert events.num_rows == len(events) + bad + sum(problems.excluded.values())
  found = [
    (events.user_ids[user], items.item_ids[item], int(time))
    for user, item, time in zip(
      events.users, events.items, events.timestamps, strict=True
    )
  ]
  return found, items, problems


def expected(rows_):
  return [(user, item, int(time) * 1000) for user, item, time, _ in rows_]


def notes(problems, text):
  """The notes whose message has a text."""
  return [note for note in problems.notes() if text in note.message]


class TestNumbers:
  def test_a_comma_far_into_the_file_begins_decimals_too(self, tmp_path):
    count = 60_000  # Rows of more than one block.
    content = extended("rating", ["4"], count)
    content += "u,i0,1,Tea,4\nu,i0,2,Tea,3\n".replace("4\n", '"4,5"\n')
    found, _, problems = read(tmp_path, content, where="rating >= 4")
    assert len(found) == count + 1
    [note] = notes(problems, "a comma begins the decimals")
    assert "'4,5'" in note.message

  def test_values_that_are_no_numbers_are_said(self, tmp_path):
    content = extended("rating", ["5", "n/a", "4 stars", ""])
    found, _, problems = read(tmp_path, content, where="rating >= 4")
    assert len(found) == 10
    [note] = notes(problems, "no numbers")
    assert note.message.startswith("20 values of the column 'rating'")

  def test_the_refusal_of_all_rows_says_why(self, tmp_path):
    content = extended("rating", ["4/5"])
    with pytest.raises(InputError, match="are no numbers, such as '4/5'"):
      read(tmp_path, content, where="rating >= 4")

  @pytest.mark.parametrize(
    ("value", "sign", "large"),
    [('"1,500"', "comma", 40), ("1.500", "point", 0)],
  )
  def test_one_sign_before_three_digits_is_a_question(
    self, tmp_path, value, sign, large
  ):
    content = extended("n", [value, "3"])
    found, _, problems = read(tmp_path, content, where="n > 2 or n == 1.5")
    assert len(found) == 40
    [note] = notes(problems, f"the {sign} of")
    assert note.remedy == 'LogFiles.decimal = ","'
    found, *_ = read(tmp_path, content, where="n > 9 or n == 3")
    assert len(found) == 20 + large // 2
    found, *_ = read(tmp_path, content, where="n > 9 or n == 3", decimal=",")
    assert len(found) == 40 - large // 2  # The remedy turns it.

  def test_words_are_truth_values(self, tmp_path):
    content = extended("bought", ["True", "FALSE", "true", "false"])
    found, _, problems = read(tmp_path, content, where="bought == True")
    assert len(found) == 20
    assert not notes(problems, "no numbers")
