"""Random logs with random damage: each row is an event or is counted once."""

import csv
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calrec_jax.data.domain import domain as domain_lib
from calrec_jax.data.logs import problems as problems_lib
from calrec_jax.data.logs.log_files import LogFiles
from calrec_jax.errors import InputError

NAMES = ("user_id", "item_id", "timestamp", "title", "quantity")
OF_ITEMS = {"conflicting_item", "empty_text", "wrong_type", "unreadable_price"}
START = 1_700_000_000

GOOD = st.fixed_dictionaries(
  {
    "user_id": st.sampled_from(["u1", "u2", "u3"]),
    "item_id": st.sampled_from(["i1", "i2", "i3"]),
    "timestamp": st.integers(START, START + 3).map(str),
    "title": st.sampled_from(
      ["Tee", 'Tee "extra"', "Tee, lose", "Öl; kalt", "zwei\nZeilen", "\ttab"]
    ),
    "quantity": st.sampled_from(["1", "2", "0", "-1"]),
  }
)
ROW = st.one_of(
  *[GOOD] * 3,
  st.tuples(GOOD, st.sampled_from(["user_id", "item_id", "timestamp"])).map(
    lambda pair: pair[0] | {pair[1]: ""}
  ),
  GOOD.map(lambda row: row | {"timestamp": "soon"}),
)
DAMAGE = st.sampled_from(
  ["few fields", "many fields", "blank", "quote", "half", "junk"]
)
SURE = dict(zip(NAMES, ("u1", "i1", str(START), "Tee", "1"), strict=True))
LOG = st.tuples(
  st.lists(ROW, max_size=8).map(lambda rows: [SURE, *rows]),
  st.lists(st.tuples(st.integers(0, 8), DAMAGE), max_size=3),
)


def as_text(rows, damage, **dialect):
  """A table as CSV with damaged lines."""
  lines = []
  for row in rows:
    stream = io.StringIO()
    csv.writer(stream, **dialect).writerow([row[name] for name in NAMES])
    lines.append(stream.getvalue())
  mark = dialect["delimiter"]
  for at, kind in damage:
    at = min(at, len(lines))
    text = {
      "few fields": f"u1{mark}i1\n",
      "many fields": mark.join("abcdefgh") + "\n",
      "blank": "\n",
      "quote": f'u1{mark}i"1{mark}{START}{mark}ein " darin{mark}1\n',
      "half": f'u1{mark}i1{mark}{START}{mark}"offen{mark}1\n',
      "junk": "\x00\x07 }{\n",
    }[kind]
    lines.insert(at, text)
  return mark.join(NAMES) + "\n" + "".join(lines)


def as_json(rows, damage):
  lines = [json.dumps(row) + "\n" for row in rows]
  for at, kind in damage:
    at = min(at, len(lines))
    text = {"blank": "\n", "half": '{"user_id": "u1", "it\n', "quote": '"\n'}
    lines.insert(at, text.get(kind, "no json\n"))
  return "".join(lines)


def written(path, form, rows, damage):
  """Writes a log, and returns its physical lines; rows, of Parquet."""
  if form == "parquet":
    table = {name: [row[name] or None for row in rows] for name in NAMES}
    pq.write_table(pa.table(table), path, row_group_size=3)
    return len(rows)
  if form == "jsonl":
    text = as_json(rows, damage)
  elif form == "tsv":
    text = as_text(rows, damage, delimiter="\t", lineterminator="\n")
  else:
    text = as_text(rows, damage, delimiter=",", lineterminator="\n")
  path.write_text(text, "utf-8", newline="")
  return text.count("\n")


@pytest.mark.parametrize("where", [None, "quantity > 0"])
@pytest.mark.parametrize("form", ["csv", "tsv", "jsonl", "parquet"])
@settings(max_examples=25, deadline=None)
@given(LOG)
def test_each_row_is_an_event_or_is_counted_once(
  tmp_path_factory, form, where, log
):
  path = tmp_path_factory.mktemp("log") / f"log.{form}"
  lines = written(path, form, *log)
  domain = domain_lib.Domain(
    name="log",
    source=LogFiles(interactions=str(path), time_unit="s", where=where),
    fields=(("Title", "title"),),
    min_count=1,
    dedup="none",
  )
  try:
    prepared = domain.prepare()
  except InputError:
    if not any(kind in ("half", "quote") for _, kind in log[1]):
      raise
    return  # A quote is never closed, or swallowed all good rows.
  problems = prepared.problems
  [reading] = problems.reading
  assert reading["lines"] == lines
  steps = {step["step"]: step for step in prepared.steps}
  rows = steps["parse"]["events"]
  if form in ("csv", "tsv"):
    accounted = sum(
      reading[f"{kind}_lines"] for kind in ("header", "blank", "quoted", "bad")
    )
    assert accounted + reading["rows"] == lines
    assert reading["rows"] + reading["bad_lines"] == rows
  elif form == "jsonl":
    blank = sum(kind == "blank" for _, kind in log[1])
    assert lines - blank <= rows <= lines  # Blank ones in damage are bad.
  else:
    assert rows == lines
  counted = sum(
    each["count"] for each in problems.as_list() if each["kind"] not in OF_ITEMS
  )
  excluded = sum(problems.excluded.values())
  assert steps["validate"]["events"] + counted + excluded == rows
  assert (excluded > 0) <= (where is not None)


@settings(max_examples=25, deadline=None)
@given(
  st.lists(GOOD, min_size=3, max_size=20), st.randoms(use_true_random=False)
)
def test_all_formats_hold_the_same_log(tmp_path_factory, rows, numbers):
  found = []
  folder = tmp_path_factory.mktemp("log")
  for form in ("csv", "tsv", "jsonl", "parquet"):
    path = folder / f"log.{form}"
    written(path, form, rows, [])
    problems = problems_lib.Problems()
    events, items = LogFiles(
      interactions=str(path), where="quantity > -5"
    ).read(problems, ["title"])
    assert {p["kind"] for p in problems.as_list()} <= {"conflicting_item"}
    titles = list(items.columns["title"])
    found.append(
      [
        (events.user_ids[user], items.item_ids[item], titles[item], time)
        for user, item, time in zip(
          events.users, events.items, events.timestamps.tolist(), strict=True
        )
      ]
    )
  assert len(found[0]) == len(rows)
  for other in found[1:]:
    assert other == found[0]
  parts = folder / "parts"
  parts.mkdir()
  cut = numbers.randint(1, len(rows) - 1)
  for i, part in enumerate((rows[:cut], rows[cut:])):
    written(parts / f"{i}.csv", "csv", part, [])
  events, items = LogFiles(interactions=str(parts)).read(
    problems_lib.Problems(), ["title"]
  )
  assert [items.item_ids[i] for i in events.items] == [e[1] for e in found[0]]
  assert events.timestamps.tolist() == [event[3] for event in found[0]]
