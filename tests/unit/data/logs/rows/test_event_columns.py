"""Rows to events, block by block, against a plain loop over all rows."""

import collections
import itertools

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calrec_jax.data.logs import problems as problems_lib
from calrec_jax.data.logs.files import row_blocks
from calrec_jax.data.logs.rows import event_columns, where
from calrec_jax.errors import InputError

MISSING = ("", "NULL")
NAMES = ("user", "item", "time", "line", "kind", "quantity")


def collect(blocks, *, catalogue=None, **options):
  """Events and problems of (file, rows as dicts, lines) blocks."""
  problems = problems_lib.Problems()
  for name in ("where", "targets"):
    if name in options:
      options[name] = where.parse(options[name], "LogFiles.where")
  columns = event_columns.Columns(
    **{"user": "user", "item": "item", "time": "time", "missing": MISSING}
    | options
  )
  known = None if catalogue is None else pa.array(catalogue, pa.large_string())
  events = event_columns.EventColumns(columns, problems, known)
  for file, rows, lines in blocks:
    names = dict.fromkeys(name for row in rows for name in row) or NAMES
    table = pa.table(
      {
        name: pa.array([row.get(name) for row in rows], pa.large_string())
        for name in names
      }
    )
    events.add(file, row_blocks.Rows(table, np.array(lines, np.int64)))
  return events.finish(), problems


def one(*rows, **options):
  """Events of one block of rows such as ("u", "a", 3)."""
  dicts = [dict(zip(NAMES, map(str, row), strict=False)) for row in rows]
  lines = [*range(2, len(dicts) + 2)]
  return collect([("log.csv", dicts, lines)], **options)


def triples(events):
  return [
    (events.user_ids[user], int(item), int(time))
    for user, item, time in zip(
      events.users, events.items, events.timestamps, strict=True
    )
  ]


def found(problems):
  return {p["kind"]: (p["count"], p["first"]) for p in problems.as_list()}


def test_a_row_has_one_kind_of_problem():
  events, problems = one(
    ("", "", "x"),
    ("u", "", "x"),
    ("u", "zzz", "x"),
    ("u", "zzz", "2"),
    ("v", "a", "NULL"),
    ("u", "a", "3"),
    catalogue=["a"],
    time_unit="order",
  )
  assert found(problems) == {
    "missing_user": (1, "log.csv:2"),
    "missing_item": (1, "log.csv:3"),
    "bad_timestamp": (2, "log.csv:4"),
    "unknown_item": (1, "log.csv:5"),
  }
  assert triples(events) == [("u", 0, 3)]
  assert events.idle_users == ["v"]
  assert events.num_rows == 6
  assert not events.by_time


def test_places_are_those_of_several_files():
  row = {"user": "u", "item": "a", "time": "1"}
  bad = row | {"user": ""}
  events, problems = collect(
    [
      ("one/a.csv", [row, row], [2, 3]),
      ("one/a.csv", [], []),
      ("two/b.csv", [row, bad], [7, 9]),
      ("two/b.csv", [bad, row], [11, 12]),
    ]
  )
  assert found(problems) == {"missing_user": (2, "b.csv:9")}
  assert len(events) == 4


def test_a_column_that_a_block_lacks_is_missing_there():
  events, problems = collect(
    [
      ("a.json", [{"user": "u", "item": "a"}], [1]),
      ("a.json", [{"user": "u", "item": "a", "time": "5"}], [2]),
    ],
    time_unit="s",
  )
  assert found(problems) == {"bad_timestamp": (1, "a.json:1")}
  assert triples(events) == [("u", 0, 5000)]


def test_an_order_column_orders_events_and_rows_without_one_come_last():
  events, _ = one(
    *[("u", "a", 5, ""), ("u", "b", 5, "10"), ("u", "c", 5, "9")],
    *[("u", "d", 5, "1,5"), ("u", "e", 5, "x")],
    order="line",
    time_unit="order",
  )
  assert events.items.tolist() == [3, 2, 1, 0, 4]


def test_rows_that_a_condition_leaves_out_are_counted_by_its_clause():
  rows = [
    ("u", "a", 1, "", "buy", 1),
    ("u", "a", 2, "", "view", 1),
    ("u", "a", 3, "", "buy", 0),
    ("u", "a", 4, "", "buy", -2),
    ("u", "a", 5, "", "view", -2),
    ("", "a", 6, "", "buy", 1),
    ("", "a", 7, "", "view", 1),
  ]
  events, problems = one(*rows, where="kind == 'buy' and quantity > 0")
  assert len(events) == 1
  assert problems.excluded == {
    "kind == 'buy'": 2,
    "kind == 'buy', negative: a return": 1,
    "quantity > 0": 1,
    "quantity > 0, negative: a return": 1,
  }
  assert found(problems) == {"missing_user": (1, "log.csv:7")}
  with pytest.raises(
    InputError, match=r"LogFiles\.where leaves none of 7 rows.*kind == 'x' \(7"
  ):
    one(*rows, where="kind == 'x'")


def test_a_condition_on_times_alone():
  events, problems = one(
    *(("u", "a", f"2024-01-0{day}") for day in range(1, 6)),
    where="time >= '2024-01-02' and time < '2024-01-04'",
  )
  assert len(events) == 2
  assert problems.excluded == {
    "time >= '2024-01-02'": 1,
    "time < '2024-01-04'": 2,
  }


def test_kinds_and_targets():
  rows = [
    ("u", "a", 1, "", "view"),
    ("u", "a", 2, "", " buy "),
    ("u", "a", 3, "", "NULL"),
    ("u", "a", 4, "", "view"),
  ]
  events, problems = one(*rows, kind="kind", targets="kind == 'buy'")
  assert events.kind_names == ("view", "buy")
  assert events.kinds.tolist() == [0, 1, 0]
  assert events.kinds.dtype == np.int8
  assert events.targets.tolist() == [False, True, False]
  assert found(problems) == {"missing_kind": (1, "log.csv:4")}
  events, problems = one(*rows, kind="kind")
  assert events.targets is None
  [note] = [n for n in problems.notes() if "may be targets" in n.message]
  assert note.remedy == "LogFiles.target_where = 'kind == \"buy\"'"
  many = [("u", "a", 1, "", f"page {i}") for i in range(200)]
  with pytest.raises(
    InputError, match=r"LogFiles\.event_column = 'kind'.*200 .*'page 0'"
  ):
    one(*many, kind="kind")


def test_the_decimal_sign_is_the_column_s_whatever_the_first_rows_are():
  rows = [
    {"user": "u", "item": "a", "time": "1", "quantity": q}
    for q in ("1.500", "3", "1,5", "2.000,00")
  ]
  blocks = [("a.csv", [row], [i + 2]) for i, row in enumerate(rows)]
  for split in (blocks, [("a.csv", rows, [2, 3, 4, 5])]):
    events, problems = collect(split, where="quantity > 2")
    assert problems.excluded == {"quantity > 2": 1}  # 1500, 3, 1.5, 2000.
    assert len(events) == 3
    events, _ = collect(split, where="quantity > 2", decimal=".")
    assert len(events) == 1


def test_ids_that_are_known_in_another_spelling_are_noted():
  events, problems = one(("u", "1", 1), ("u", "02", 2), catalogue=["01", "02"])
  assert events.items.tolist() == [1]
  [note] = [n for n in problems.notes() if "spelling" in n.message]
  assert "'1' here, '01' there" in note.message
  assert "leading_zeros" in note.remedy


@pytest.mark.parametrize(
  ("options", "said"),
  [
    (
      {"time_unit": "ms"},
      r"log\.csv:2: .*'ms'; the first is '2024-01-01'.*iso",
    ),
    ({"time_format": "%d.%m.%Y"}, r"set LogFiles\.time_unit.*remove .*format"),
  ],
)
def test_times_that_the_settings_do_not_read_say_what_does(options, said):
  with pytest.raises(InputError, match=said):
    one(("u", "a", "2024-01-01"), **options)


def test_times_that_nothing_reads():
  with pytest.raises(InputError, match=r"'soon'.*LogFiles\.time_column"):
    one(("u", "a", "soon"))


# Any blocks, against a plain loop.

ROW = st.fixed_dictionaries(
  {
    "user": st.sampled_from(["u", " u", "v", "w", "", "NULL"]),
    "item": st.sampled_from(["a", "b", "a ", "c", ""]),
    "time": st.sampled_from(["3", "1", "2", "2", "", "soon"]),
    "line": st.sampled_from(["1", "2", "10", "", "x"]),
    "kind": st.sampled_from(["view", "buy", "", "buy"]),
    "quantity": st.sampled_from(["1", "2", "0", "-1", "x", ""]),
  }
)
OPTIONS = st.fixed_dictionaries(
  {},
  optional={
    "catalogue": st.just(["b", "a"]),
    "order": st.just("line"),
    "kind": st.just("kind"),
    "where": st.sampled_from(
      ["quantity > 0", "quantity >= 1 and kind == 'buy'", "item != 'a'"]
    ),
    "targets": st.just("kind == 'buy'"),
    "time": st.none(),
  },
)


def number(text):
  try:
    return float(text)
  except ValueError:
    return None


CLAUSES = {
  "quantity > 0": [
    ("quantity > 0", lambda r: (number(r["quantity"]) or 0) > 0)
  ],
  "quantity >= 1 and kind == 'buy'": [
    ("quantity >= 1", lambda r: (number(r["quantity"]) or 0) >= 1),
    ("kind == 'buy'", lambda r: r["kind"] == "buy"),
  ],
  "item != 'a'": [
    ("item != 'a'", lambda r: r["item"].strip() not in ("", "a"))
  ],
}


def by_loop(rows, options):
  """Events, users without one, and counts, of rows of one file."""
  counts, left, seen = collections.Counter(), [], {}
  for at, row in enumerate(rows):

    def value(name, row=row):
      text = row[name].strip()
      return None if text in MISSING else text

    if value("item"):
      seen.setdefault(value("item"), len(seen))
    known = options.get("catalogue")
    kept = True
    for text, holds in CLAUSES.get(options.get("where"), ()):
      if not holds(row):
        negative = "quantity" in options["where"] and (
          (number(row["quantity"]) or 0) < 0
        )
        counts[text + ", negative: a return" * negative] += 1
        kept = False
        break
    if not kept:
      continue
    for kind, bad in (
      ("missing_user", value("user") is None),
      ("missing_item", value("item") is None),
      ("bad_timestamp", "time" not in options and number(row["time"]) is None),
      ("missing_kind", "kind" in options and value("kind") is None),
      ("unknown_item", known is not None and value("item") not in known),
    ):
      if bad:
        counts[kind] += 1
        break
    else:
      item = known.index(value("item")) if known else seen[value("item")]
      time = at if "time" in options else int(row["time"])
      target = row["kind"] == "buy" if "targets" in options else None
      order = number(row["line"]) if "order" in options else 0
      order = float("inf") if order is None else order
      kind = row["kind"] if "kind" in options else None
      left.append((order, (value("user"), item, time, kind, target)))
  left.sort(key=lambda pair: pair[0])
  events = [event for _, event in left]
  everybody = {row["user"].strip() for row in rows} - {*MISSING}
  return events, everybody - {event[0] for event in events}, dict(counts)


@settings(max_examples=150, deadline=None)
@given(st.lists(ROW, max_size=14), OPTIONS, st.data())
def test_blocks_of_any_size_give_the_events_of_a_loop(rows, options, data):
  expected, idle, counts = by_loop(rows, options)
  cuts = sorted(
    data.draw(st.lists(st.integers(0, len(rows)), max_size=3), "cuts")
  )
  edges = [0, *cuts, len(rows)]
  blocks = [
    ("log.csv", rows[i:j], range(i + 2, j + 2))
    for i, j in itertools.pairwise(edges)
  ]
  if any(number(row["time"]) is not None for row in rows):
    options = {"time_unit": "order"} | options
  elif rows:
    options = {"time": None} | options
    expected, idle, counts = by_loop(rows, options)
  if rows and sum(counts.values()) == len(rows) and options.get("where"):
    texts = {t.partition(", neg")[0] for t in counts}
    clauses = {text for text, _ in CLAUSES[options["where"]]}
    if texts <= clauses:
      with pytest.raises(InputError, match="leaves none of"):
        collect(blocks, **options)
      return
  events, problems = collect(blocks, **options)
  kinds = [None] * len(events)
  if events.kinds is not None:
    kinds = [events.kind_names[kind] for kind in events.kinds]
  targets = [None] * len(events)
  if events.targets is not None:
    targets = events.targets.tolist()
  assert [
    (user, item, time, kind, target)
    for (user, item, time), kind, target in zip(
      triples(events), kinds, targets, strict=True
    )
  ] == expected
  assert {*events.idle_users} == idle
  assert len(events.idle_users) == len(idle)
  said = {p["kind"]: p["count"] for p in problems.as_list()}
  assert said | problems.excluded == counts
  assert len(events) + sum(counts.values()) == len(rows)
  # Users are numbered by their first event, and each has one.
  assert [*dict.fromkeys(events.users.tolist())] == [
    *range(len(events.user_ids))
  ]


def test_users_whose_first_rows_are_dropped_do_not_shift_the_others():
  events, _ = one(("u", "a", "soon"), ("v", "a", 3), ("w", "b", 4))
  assert triples(events) == [("v", 0, 3), ("w", 1, 4)]
  assert list(events.user_ids) == ["v", "w"]
  assert list(events.idle_users) == ["u"]
