"""Files that people have and no one plans: what they become, and what is said.

Of every file, its rows are events, or counted as bad or left out.
"""

import ast
import datetime
import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
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


def timed(write, count=60):
  """A log whose times are written by a function of row and seconds."""
  return [
    (user, item, write(k, int(time)), title)
    for k, (user, item, time, title) in enumerate(rows(count))
  ]


def moment(seconds, pattern="%Y-%m-%dT%H:%M:%S"):
  when = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
  return when.strftime(pattern)


class TestTimes:
  @pytest.mark.parametrize(
    ("one", "two"),
    [
      (str, moment),
      (str, lambda t: str(1000 * t)),
      (str, lambda t: str(10**9 * t)),
      (lambda t: str(1000 * t), moment),
      (lambda t: moment(t, "%d.%m.%Y %H:%M:%S"), str),
    ],
  )
  @pytest.mark.parametrize("turn", [2, 9])
  def test_two_ways_in_a_column_are_both_read(self, tmp_path, one, two, turn):
    content = csv(timed(lambda k, t: one(t) if k % turn else two(t)))
    found, _, problems = read(tmp_path, content)
    assert found == expected(rows(60))
    [note] = notes(problems, "mixes two ways")
    assert note.severity == "info"

  def test_files_may_differ_in_their_unit(self, tmp_path):
    (tmp_path / "more.csv").write_text(
      csv(timed(lambda _, t: str(1000 * t + 7)))
    )
    files = [str(tmp_path / "log.csv"), str(tmp_path / "more.csv")]
    found, _, _ = read(
      tmp_path, csv(timed(lambda _, t: str(t))), interactions=files
    )
    times = [time for _, _, time in found]
    assert times[60:] == [time + 7 for time in times[:60]]

  def test_zeros_are_said_with_a_condition_that_leaves_them_out(self, tmp_path):
    content = csv(timed(lambda k, t: "0" if k % 10 == 3 else str(t)))
    _, _, problems = read(tmp_path, content)
    [note] = notes(problems, "before 1990")
    assert note.remedy == "LogFiles.where = 'timestamp >= \"1990-01-01\"'"
    found, _, problems = read(
      tmp_path, content, where='timestamp >= "1990-01-01"'
    )
    assert len(found) == 54
    assert not problems.notes()

  def test_day_first_and_month_first_in_a_column_are_wrong(self, tmp_path):
    patterns = ("%d/%m/%Y", "%m/%d/%Y")
    content = csv(
      timed(lambda k, t: moment(t + 5 * 86400 * k, patterns[k % 2]))
    )
    _, _, problems = read(tmp_path, content)
    [note] = notes(problems, "mixes two orders")
    assert note.severity == "wrong"

  @pytest.mark.parametrize("pattern", ["%d%m%Y", "%y%m%d", "%Y%m", "%Y"])
  def test_digits_that_may_be_dates_name_their_pattern(self, tmp_path, pattern):
    content = csv(timed(lambda k, t: moment(t + 5 * 86400 * k, pattern)))
    _, _, problems = read(tmp_path, content)
    [note] = notes(problems, "read as positions")
    assert note.remedy == f'LogFiles.time_format = "{pattern}"'
    found, _, _ = read(tmp_path, content, time_format=pattern)
    assert min(time for _, _, time in found) > 1_577_000_000_000

  def test_ticks_of_dot_net_are_no_nanoseconds_of_1990(self, tmp_path):
    content = csv(timed(lambda _, t: str(t * 10**7 + 621_355_968_000_000_000)))
    _, _, problems = read(tmp_path, content)
    assert notes(problems, "ticks of .NET")[0].severity == "wrong"

  def test_a_remedy_that_mends_nothing_is_not_named(self, tmp_path):
    content = csv(timed(lambda k, t: moment(t) if k % 5 else "n/a"))
    _, _, problems = read(tmp_path, content)
    [note] = notes(problems, "12 of 60 times cannot be read")
    assert not note.remedy


class TestJoinedFiles:
  @pytest.mark.parametrize(
    "again",
    [
      '"user_id","item_id","timestamp","title"',
      "User_ID,Item_ID,Timestamp,Title",
      "\ufeffuser_id,item_id,timestamp,title",
    ],
  )
  @pytest.mark.parametrize("time", ["timestamp", None])
  def test_the_header_again_is_no_event_however_it_is_written(
    self, tmp_path, again, time
  ):
    body = csv(rows()).partition("\n")[2]
    content = csv(rows()) + again + "\n" + body
    found, items, problems = read(tmp_path, content, time_column=time)
    assert len(found) == 80
    assert "item_id" not in items.item_ids
    [bad] = problems.as_list()
    assert (bad["kind"], bad["first"]) == ("repeated_header", "log.csv:42")
    [reading] = problems.reading
    assert reading["bad_lines"] == 1
    assert reading["rows"] == 80

  def test_a_user_called_like_the_column_is_a_user(self, tmp_path):
    content = csv([("user_id", "i1", "1600000000", "Pot"), *rows()])
    found, _, problems = read(tmp_path, content)
    assert found[0][0] == "user_id"
    assert not problems.as_list()

  @pytest.mark.parametrize("mark", ["\ufeff", "\u200b", "\u00a0", "\u2060"])
  def test_characters_without_width_are_no_part_of_an_id(self, tmp_path, mark):
    marked = [(mark + user, item + mark, *rest) for user, item, *rest in rows()]
    found, _, _ = read(tmp_path, csv(marked))
    assert found == expected(rows())


class TestRefusals:
  @pytest.mark.parametrize("items", [None, "items.csv"])
  def test_a_header_alone_has_no_rows(self, tmp_path, items):
    content = csv(rows()) if items else csv([])
    if items:
      (tmp_path / items).write_text("item_id,title\n")
      items = str(tmp_path / items)
    named = "items" if items else "interactions"
    with pytest.raises(InputError, match=rf"LogFiles.{named}\): no row"):
      read(tmp_path, content, items=items)

  def test_a_file_packed_twice_is_named(self, tmp_path):
    content = gzip.compress(gzip.compress(csv(rows()).encode()))
    with pytest.raises(InputError, match="packed twice"):
      read(tmp_path, content, "log.csv.gz")


class TestFormats:
  def test_commas_at_the_ends_of_lines_add_no_line(self, tmp_path):
    lines = [json.dumps(dict(zip(NAMES, row, strict=True))) for row in rows()]
    for end in (",\n", ",", "\n"):
      content = ",\n".join(lines) + end
      found, _, problems = read(tmp_path, content, "log.jsonl")
      assert found == expected(rows())
      assert problems.reading[0]["lines"] == 40

  @pytest.mark.parametrize("name", ["log.arrow", "log.arrows", "log"])
  def test_a_stream_of_arrow(self, tmp_path, name):
    table = pa.table(dict(zip(NAMES, zip(*rows(), strict=True), strict=True)))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
      writer.write_table(table, max_chunksize=7)
    content = sink.getvalue().to_pybytes()
    found, _, _ = read(tmp_path, content, name)
    assert found == expected(rows())
    with pytest.raises(InputError, match="damaged"):
      read(tmp_path, content[: len(content) // 2], name)


def binding(note):
  """The value of the setting that a note's remedy binds."""
  name, _, value = note.remedy.partition(" = ")
  assert name.startswith("LogFiles.")
  return {name.removeprefix("LogFiles."): ast.literal_eval(value)}


class TestIds:
  @pytest.mark.parametrize(
    "words", [["n/a"], ["N/A", "n/a"], ["-"], ["(null)"], ["NaT", "?"]]
  )
  def test_words_for_no_value_are_said_and_the_remedy_counts_them(
    self, tmp_path, words
  ):
    changed = rows()
    for k in range(0, 40, 5):
      changed[k] = (words[k % len(words)], *changed[k][1:])
    found, _, problems = read(tmp_path, csv(changed))
    assert len(found) == 40
    [note] = notes(problems, "may stand for no value")
    assert "the 8 events" in note.message
    found, _, problems = read(tmp_path, csv(changed), **binding(note))
    assert len(found) == 32
    assert problems.count("missing_user") == 8
    assert not problems.notes()

  @pytest.mark.parametrize("word", ["0", "-1", "guest", "Unknown"])
  def test_a_word_that_may_be_an_id_is_said_if_it_has_many_events(
    self, tmp_path, word
  ):
    some = [(word if k % 3 == 0 else u, *r) for k, (u, *r) in enumerate(rows())]
    _, _, problems = read(tmp_path, csv(some))
    [note] = notes(problems, "may stand for no value")
    found, _, problems = read(tmp_path, csv(some), **binding(note))
    assert len(found) == 26
    assert not problems.notes()
    few = [(word if u == "u0" else u, *r) for u, *r in rows()]
    _, _, problems = read(tmp_path, csv(few))
    assert not problems.notes()

  def test_titles_that_are_words_for_no_value_are_said(self, tmp_path):
    changed = [
      (*row[:3], "n/a" if row[1] == "i3" else row[3]) for row in rows()
    ]
    _, _, problems = read(tmp_path, csv(changed))
    [note] = notes(problems, "the title of 1 items")
    _, items, problems = read(tmp_path, csv(changed), **binding(note))
    assert items.columns["title"][3] is None
    assert not problems.notes()

  @pytest.mark.parametrize(
    ("write", "rule"),
    [
      (lambda user: f"{user}.0", "decimals"),
      (lambda user: f"000{user}", "leading_zeros"),
    ],
  )
  def test_files_that_spell_ids_differently_are_said(
    self, tmp_path, write, rule
  ):
    numbered = [(user.removeprefix("u"), *rest) for user, *rest in rows()]
    later = [
      (write(user), item, str(int(time) + 7), title)
      for user, item, time, title in numbered
    ]
    (tmp_path / "more.csv").write_text(csv(later))
    files = [str(tmp_path / name) for name in ("log.csv", "more.csv")]
    found, _, problems = read(tmp_path, csv(numbered), interactions=files)
    assert len({user for user, *_ in found}) == 16
    [note] = notes(problems, "only in spelling")
    assert binding(note) == {"id_rules": (rule,)}
    found, _, problems = read(
      tmp_path, csv(numbered), interactions=files, **binding(note)
    )
    assert len({user for user, *_ in found}) == 8
    assert not problems.notes()

  def test_one_name_in_two_normal_forms(self, tmp_path):
    names = ["Jos\u00e9", "Jose\u0301"]
    changed = [(names[k % 2], *r) for k, (_, *r) in enumerate(rows())]
    _, _, problems = read(tmp_path, csv(changed))
    [note] = notes(problems, "only in spelling")
    assert binding(note) == {"id_rules": ("accents",)}
    found, _, _ = read(tmp_path, csv(changed), **binding(note))
    assert len({user for user, *_ in found}) == 1

  def test_ids_that_a_spreadsheet_shortened_are_wrong(self, tmp_path):
    changed = [(user, "1.23457E+12", *rest) for user, _, *rest in rows()]
    _, _, problems = read(tmp_path, csv(changed))
    [note] = notes(problems, "shortened")
    assert note.severity == "wrong"

  @pytest.mark.parametrize(("first", "said"), [(2**53, True), (2**40, False)])
  def test_ids_that_are_large_floats_are_wrong(self, tmp_path, first, said):
    columns = dict(zip(NAMES, zip(*rows(), strict=True), strict=True))
    columns["user_id"] = [float(first + k % 8) for k in range(40)]
    pq.write_table(pa.table(columns), tmp_path / "log.parquet")
    found, _, problems = read(tmp_path, None, "log.parquet")
    assert len({user for user, *_ in found}) == (5 if said else 8)
    assert bool(notes(problems, "floating-point")) == said

  def test_a_catalogue_of_other_ids_is_shown(self, tmp_path):
    (tmp_path / "items.csv").write_text("item_id,title\nSKU-i1,Tea\n")
    items = str(tmp_path / "items.csv")
    found, _, problems = read(tmp_path, csv(rows()), items=items)
    assert not found
    [note] = notes(problems, "no item id of the log")
    assert "'i0' here, 'SKU-i1' there" in note.message


class TestAboveAndBeside:
  @pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
  @pytest.mark.parametrize(
    ("above", "count"),
    [
      ("# exported 2020-09-01\n# by the shop\n", 2),
      ("Sales report\n\n", 2),
      ("Sales report{0}{0}{0}\n{0}{0}{0}\r\n", 2),
      ("# exported{0} 2020-09-01\n", 1),
      ("+------+------+\n", 1),
    ],
  )
  def test_lines_above_the_names_are_skipped_and_counted(
    self, tmp_path, delimiter, above, count
  ):
    above = above.format(delimiter)
    content = above + csv(rows(), delimiter=delimiter)
    found, _, problems = read(tmp_path, content)
    assert found == expected(rows())
    [reading] = problems.reading
    assert reading["lines"] == 41 + count
    assert reading["header_lines"] + reading["blank_lines"] == 1 + count
    [note] = notes(problems, "no row of the table")
    assert note.message.startswith("log.csv:1")

  @pytest.mark.parametrize("genres", ["a|b|c", "a|b|c|d"])
  def test_lists_in_the_rows_do_not_make_the_names_a_title(
    self, tmp_path, genres
  ):
    content = csv([(*row, genres) for row in rows()], (*NAMES, "genres"))
    found, _, problems = read(tmp_path, content)
    assert found == expected(rows())
    assert not problems.notes()

  def test_a_name_for_one_of_three_columns_is_no_title_above_data(
    self, tmp_path
  ):
    content = "x\n" + "".join(f"{k},{k % 3},{START + k}\n" for k in range(9))
    with pytest.raises(InputError, match="has no column"):
      read(tmp_path, content)

  @pytest.mark.parametrize("delimiter", [", ", "; "])
  @pytest.mark.parametrize("title", ["Tea, green; fresh", "Tea"])
  def test_blanks_before_quotes(self, tmp_path, delimiter, title):
    quoted = [(*row[:3], f'"{title}"') for row in rows()]
    found, items, problems = read(tmp_path, csv(quoted, delimiter=delimiter))
    assert len(found) == 40
    assert set(items.columns["title"]) == {title}
    assert not problems.as_list()

  def test_blanks_in_quotes_are_no_delimiter(self, tmp_path):
    quoted = [(*row[:3], '"Tea, "", green"') for row in rows()]
    _, items, problems = read(tmp_path, csv(quoted))
    assert set(items.columns["title"]) == {'Tea, ", green'}
    assert problems.reading[0]["delimiter"] == ","


class TestHints:
  def test_single_quotes_name_the_setting_that_reads_them(self, tmp_path):
    quoted = [tuple(f"'{value}'" for value in row) for row in rows()]
    names = tuple(f"'{name}'" for name in NAMES)
    content = csv(quoted, names)
    with pytest.raises(InputError, match=r"Set LogFiles\.quote = \"'\""):
      read(tmp_path, content)
    found, *_ = read(tmp_path, content, quote="'")
    assert found == expected(rows())

  def test_lines_in_quotes_as_a_whole_are_named(self, tmp_path):
    content = "".join(f'"{line}"\n' for line in csv(rows()).splitlines())
    with pytest.raises(InputError, match="quotes enclose whole lines"):
      read(tmp_path, content)

  def test_a_pattern_without_a_match_says_so(self, tmp_path):
    pattern = str(tmp_path / "b*.csv")
    said = r"^no file matches .*'log\.csv'"
    with pytest.raises(FileNotFoundError, match=said):
      read(tmp_path, csv(rows()), interactions=pattern)
