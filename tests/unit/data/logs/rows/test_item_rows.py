"""Rows to one description per item, block by block, against a plain loop."""

import itertools
import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calrec_jax.data.logs import problems as problems_lib
from calrec_jax.data.logs.files import row_blocks
from calrec_jax.data.logs.rows import item_rows

NAMES = {"title": "name", "price": "price"}
COLUMNS = ("id", "name", "price")


def collect(blocks, *, own_files=True, names=NAMES, available=COLUMNS, **rest):
  """Items and problems of (file, columns, lines) blocks."""
  problems = problems_lib.Problems()
  rows = item_rows.ItemRows(
    "id", names, problems, own_files=own_files, missing=("", "NULL"), **rest
  )
  for file, columns, lines in blocks:
    table = pa.table(columns)
    block = row_blocks.Rows(table, np.array(lines, np.int64))
    rows.add(file, block, available)
  return rows.finish(), problems


def described(items):
  return {
    item_id: {name: column[i] for name, column in items.columns.items()}
    for i, item_id in enumerate(items.item_ids)
  }


def found(problems):
  return {p["kind"]: (p["count"], p["first"]) for p in problems.as_list()}


BLOCKS = [
  (
    "one/a.csv",
    {
      "id": ["1", "2", None, "1"],
      "name": ["", "Tee", "x", "Kaffee"],
      "price": [1.5, None, 1.0, math.nan],
    },
    [2, 3, 4, 5],
  ),
  (
    "two/b.csv",
    {
      "id": ["2", "1", "3", "1"],
      "name": ["NULL", "Kakao", "Milch", " "],
      "price": [2.5, 1.5, 3.0, 9.0],
    },
    [2, 3, 4, 6],
  ),
]


@pytest.mark.parametrize("own_files", [True, False])
def test_the_first_value_that_is_there_describes_an_item(own_files):
  items, problems = collect(BLOCKS, own_files=own_files)
  assert described(items) == {
    "1": {"title": "Kaffee", "price": 1.5},
    "2": {"title": "Tee", "price": 2.5},
    "3": {"title": "Milch", "price": 3.0},
  }
  assert items.lines.tolist() == [2, 3, 4]
  assert items.num_rows == 8
  # Rows 3 and 6 of the second file say otherwise of one item.
  expected = {"conflicting_item": (2 if own_files else 1, "b.csv:3")}
  if own_files:
    expected["missing_item"] = (1, "a.csv:4")
  assert found(problems) == expected


def test_a_column_that_no_block_has_is_absent():
  items, _ = collect(
    [("a.csv", {"id": ["1"], "name": ["x"]}, [2])], available=("id", "name")
  )
  assert [*items.columns] == ["title"]
  assert items.available == ("id", "name")
  items, _ = collect(
    [
      ("a.csv", {"id": ["1"], "name": ["x"]}, [2]),
      ("b.csv", {"id": ["2"], "price": ["1"]}, [2]),
    ],
    available=(),
  )
  assert described(items) == {
    "1": {"title": "x", "price": None},
    "2": {"title": None, "price": "1"},
  }


@pytest.mark.parametrize("own_files", [True, False])
def test_blocks_may_have_several_types(own_files):
  items, problems = collect(
    [
      ("a", {"id": [1, 2], "name": [5, 6]}, [1, 2]),
      ("a", {"id": ["1", "3"], "name": ["5", "drei"]}, [3, 4]),
      ("a", {"id": [2.0, 4.0], "name": [6.0, 2.5]}, [5, 6]),
      ("a", {"id": ["5"], "name": pa.nulls(1)}, [7]),
    ],
    own_files=own_files,
    available=("id", "name"),
  )
  assert described(items) == {
    item: {"title": title}
    for item, title in zip(
      "12345", ["5", "6", "drei", "2.5", None], strict=True
    )
  }
  assert not found(problems)


def test_lists_describe_items_too():
  blocks = [
    ("a", {"id": ["1", "2"], "name": pa.array([[], []])}, [1, 2]),
    ("a", {"id": ["1", "3"], "name": [["x", "y"], ["z"]]}, [3, 4]),
    ("a", {"id": ["3"], "name": [["other"]]}, [5]),
  ]
  items, problems = collect(blocks, available=("id", "name"))
  assert described(items) == {
    "1": {"title": ["x", "y"]},
    "2": {"title": None},
    "3": {"title": ["z"]},
  }
  assert found(problems) == {"conflicting_item": (1, "a:5")}
  items, problems = collect(blocks, own_files=False, available=("id", "name"))
  assert described(items) == {
    "1": {"title": "x, y"},
    "2": {"title": None},
    "3": {"title": "z"},
  }
  assert found(problems) == {"conflicting_item": (1, "a:5")}


def test_ids_are_spelt_alike_by_rules():
  items, _ = collect(
    [("a", {"id": ["007", "7", " A "], "name": ["x", "y", "z"]}, [1, 2, 3])],
    id_rules=("leading_zeros", "case"),
    available=("id", "name"),
  )
  assert len(items.item_ids) == 2


def test_texts_that_are_none_are_counted():
  items, problems = collect(
    [
      (
        "a.parquet",
        {"id": ["1", "2"], "name": pa.array([b"\xff", b"ok"])},
        [1, 2],
      )
    ],
    available=("id", "name"),
  )
  assert described(items)["1"] == {"title": None}
  assert found(problems) == {"broken_encoding": (1, "a.parquet:1")}


def test_many_blocks_are_made_compact_without_a_loss(monkeypatch):
  blocks = [
    ("a", {"id": [str(i % 3)], "name": [f"t{i % 3}"]}, [i + 2])
    for i in range(50)
  ]
  whole = described(collect(blocks, own_files=False)[0])
  monkeypatch.setattr(item_rows, "_COMPACT_ROWS", 4)
  items, problems = collect(blocks, own_files=False)
  assert described(items) == whole
  assert items.item_ids == ["0", "1", "2"]
  assert items.lines.tolist() == [2, 3, 4]
  assert not found(problems)


def by_loop(rows, own_files):
  """Descriptions, and number and first line of rows that say otherwise."""
  items, conflicts = {}, []
  for line, (item_id, *values) in enumerate(rows, 2):
    if item_id is None or not item_id.strip():
      continue
    item = items.setdefault(item_id.strip(), [None, None])
    values = [
      v if v is None or v.strip() not in ("", "NULL") else None for v in values
    ]
    differs = False
    for i, value in enumerate(values):
      if value is not None:
        differs |= item[i] is not None and item[i] != value
        item[i] = value if item[i] is None else item[i]
    if differs:
      conflicts.append((item_id.strip(), line))
  if not own_files:
    first = {}
    for item_id, line in conflicts:
      first.setdefault(item_id, line)
    conflicts = list(first.items())
  return items, conflicts


VALUE = st.sampled_from(["x", "y", "", " ", "NULL", None])
ROWS = st.lists(
  st.tuples(st.sampled_from(["a", " a", "b", "", None]), VALUE, VALUE),
  max_size=9,
)


@settings(max_examples=120, deadline=None)
@given(ROWS, st.booleans(), st.lists(st.integers(0, 9), max_size=3))
def test_blocks_of_any_size_give_the_items_of_a_loop(rows, own_files, cuts):
  edges = [0, *sorted(min(cut, len(rows)) for cut in cuts), len(rows)]
  blocks = [
    (
      "a.csv",
      {
        name: pa.array([row[i] for row in rows[start:stop]], pa.string())
        for i, name in enumerate(COLUMNS)
      },
      range(start + 2, stop + 2),
    )
    for start, stop in itertools.pairwise(edges)
  ]
  items, problems = collect(blocks, own_files=own_files)
  expected, conflicts = by_loop(rows, own_files)
  assert {k: [*v.values()] for k, v in described(items).items()} == expected
  assert [*items.item_ids] == [*expected]
  assert problems.count("conflicting_item") == len(conflicts)
  if conflicts:
    first = min(line for _, line in conflicts)
    assert found(problems)["conflicting_item"][1] == f"a.csv:{first}"
  missing = sum(not (row[0] or "").strip() for row in rows)
  assert problems.count("missing_item") == (missing if own_files else 0)
