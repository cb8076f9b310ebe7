"""Column mappings, times, ids, and bad rows of a log."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calrec_jax.data.logs import log_files, tables
from calrec_jax.data.logs import problems as problems_lib
from calrec_jax.data.logs.id_codes import Column
from calrec_jax.data.logs.log_files import LogFiles

COLUMNS = ("title", "category", "brand", "price")


def read(source):
  problems = problems_lib.Problems()
  events, items = source.read(problems, COLUMNS)
  kinds = {p["kind"]: (p["count"], p["first"]) for p in problems.as_list()}
  return events, items, kinds


@pytest.fixture
def log(tmp_path):
  """A log with every kind of bad row."""
  (tmp_path / "log.csv").write_bytes(
    b"user_id,item_id,timestamp,note\n"
    b'u1,a,100,"fine,\nover two lines"\n'
    b",a,100,no user\n"
    b"u1,,100,no item\n"
    b"u1,a,yesterday,no time\n"
    b"u1,a,nan,no time\n"
    b"u1,zzz,100,not in the catalogue\n"
    b"u1,a,100\n"
    b"u\xff,a,100,broken\n"
    b" u2 , b ,200.5,blanks\n"
    b"u1,a,1e300,no time\n"
  )
  items = [
    {"item_id": "a", "title": "A"},
    {"item_id": "b", "title": "B", "price": 2.5},
    {"item_id": "a", "title": "another A"},
    {"item_id": "b", "title": "B", "price": 2.5},
    {"title": "without an id"},
  ]
  (tmp_path / "items.jsonl").write_text("\n".join(map(json.dumps, items)))
  return LogFiles(
    folder=str(tmp_path), interactions="log.csv", items="items.jsonl"
  )


def test_bad_rows_are_counted_with_their_first_line(log):
  events, items, kinds = read(log)
  assert [events.user_ids[u] for u in events.users] == ["u1", "u2"]
  assert [items.item_ids[i] for i in events.items] == ["a", "b"]
  assert events.timestamps.tolist() == [100_000, 200_500]
  assert events.num_rows == 10
  assert items.columns["title"] == ["A", "B"]  # The first description stays.
  assert items.lines.tolist() == [1, 2]
  assert kinds == {
    "malformed_row": (1, "log.csv:9"),
    "broken_encoding": (1, "log.csv:10"),
    "missing_user": (1, "log.csv:4"),
    "missing_item": (2, "items.jsonl:5"),
    "bad_timestamp": (3, "log.csv:6"),
    "unknown_item": (1, "log.csv:8"),
    "conflicting_item": (1, "items.jsonl:3"),
  }
  counted = sum(kinds[kind][0] for kind in kinds) - 2  # Two are item rows.
  assert counted + len(events) == events.num_rows


def test_one_file_describes_its_items_itself(tmp_path):
  (tmp_path / "log.csv").write_text(
    "customer,sku,name,when\n"
    "1,x,Ice,2024-01-02\n"
    "2,x,Ice,2024-01-01T00:00:00Z\n"
    "2,y,Tape,2024-01-01T03:00:00+02:00\n"
    "2,x,Ice cubes,2024-01-03\n"
    "3,x,Ice cubes,2024-01-04\n"
  )
  events, items, kinds = read(
    LogFiles(
      interactions=str(tmp_path / "log.csv"),
      user_column="customer",
      item_column="sku",
      time_column="when",
      time_unit="iso",
      text_columns={"title": "name"},
    )
  )
  assert items.item_ids == ["x", "y"]
  assert items.columns == {"title": ["Ice", "Tape"]}
  day = 86_400_000
  assert np.diff(events.timestamps).tolist() == [
    -day,
    day // 24,
    2 * day - day // 24,
    day,
  ]
  assert kinds == {"conflicting_item": (1, "log.csv:5")}


@pytest.mark.parametrize("own_file", [True, False])
@given(
  st.lists(
    st.tuples(st.sampled_from(["a", " a", "b", ""]), st.sampled_from("xy")),
    max_size=9,
  )
)
def test_items_in_arrow_are_those_of_python(own_file, rows):
  found = []
  columns = {
    name: [row[i] for row in rows] for i, name in enumerate(("id", "title"))
  }
  for kind in (list, lambda values: Column(pa.array(values, pa.string()))):
    problems = problems_lib.Problems()
    table = tables.Table(
      file="x",
      columns={name: kind(values) for name, values in columns.items()},
      lines=np.arange(len(rows)),
      available=("id", "title"),
      num_rows=len(rows),
    )
    items = log_files._items(
      table, "id", {"title": "title"}, problems, own_file=own_file
    )
    found.append((items.item_ids, items.columns, items.lines.tolist()))
    found[-1] += (problems.as_list(),)
  assert found[0] == found[1]
  item_ids = [item_id.strip() for item_id, _ in rows]
  assert found[0][0] == list(dict.fromkeys(filter(None, item_ids)))
  again = [
    item_id
    for item_id, row in zip(item_ids, rows, strict=True)
    if item_id and row[1] != rows[item_ids.index(item_id)][1]
  ]
  assert problems.count("conflicting_item") == (
    len(again) if own_file else len(set(again))
  )


def test_parquet_times_need_no_unit(tmp_path):
  table = pa.table(
    {
      "user_id": pa.array([1.0, None]),  # A column with holes is of floats.
      "item_id": [5, 5],
      "timestamp": pa.array([1_700_000_000_123_456, 0], pa.timestamp("us")),
      "title": ["t", "t"],
    }
  )
  pq.write_table(table, tmp_path / "log.parquet")
  events, items, kinds = read(
    LogFiles(interactions=str(tmp_path / "log.parquet"))
  )
  assert events.user_ids == ["1"]
  assert items.item_ids == ["5"]
  assert events.timestamps.tolist() == [1_700_000_000_123]
  assert kinds == {"missing_user": (1, "log.parquet:2")}


def test_a_wrong_unit_names_the_binding(log, tmp_path):
  (tmp_path / "log.csv").write_text(
    "user_id,item_id,timestamp\nu,a,2024-01-01\n"
  )
  with pytest.raises(ValueError, match=r"log\.csv:2.*LogFiles\.time_unit"):
    read(log)


def test_without_a_time_column_the_rows_are_in_order(tmp_path):
  (tmp_path / "log.csv").write_text("user_id,item_id,title\nu,a,A\nu,b,B\n")
  events, _, _ = read(
    LogFiles(interactions=str(tmp_path / "log.csv"), time_column=None)
  )
  assert events.timestamps.tolist() == [0, 1]
  assert not events.by_time


def test_the_fingerprint_follows_content_and_mapping_not_place(log, tmp_path):
  first = log.fingerprint()
  other = tmp_path / "elsewhere"
  other.mkdir()
  for name in ("log.csv", "items.jsonl"):
    (other / name).write_bytes((tmp_path / name).read_bytes())
  moved = LogFiles(
    folder=str(other), interactions="log.csv", items="items.jsonl"
  )
  assert moved.fingerprint() == first
  (other / "items.jsonl").write_text('{"item_id": "a", "title": "C"}')
  assert moved.fingerprint() != first
  assert (
    LogFiles(
      folder=str(tmp_path),
      interactions="log.csv",
      items="items.jsonl",
      time_unit="ms",
    ).fingerprint()
    != first
  )


def test_wrong_options_are_refused():
  with pytest.raises(ValueError, match=r"LogFiles\.time_unit"):
    LogFiles(interactions="x.csv", time_unit="days")
  with pytest.raises(ValueError, match=r"LogFiles\.delimiter"):
    LogFiles(interactions="x.csv", delimiter="")
