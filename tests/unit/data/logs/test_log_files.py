"""Column mappings, times, ids, and bad rows of a log."""

import dataclasses
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from calrec_jax.data.domain import domain as domain_lib
from calrec_jax.data.logs import log_settings
from calrec_jax.data.logs import problems as problems_lib
from calrec_jax.data.logs.files import log_paths
from calrec_jax.data.logs.log_files import LogFiles
from calrec_jax.errors import InputError
from calrec_jax.storage import identity

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
    folder=str(tmp_path),
    interactions="log.csv",
    items="items.jsonl",
    encoding="utf-8",
    time_unit="s",
  )


def test_bad_rows_are_counted_with_their_first_line(log):
  events, items, kinds = read(log)
  assert [events.user_ids[u] for u in events.users] == ["u1", "u2"]
  assert [items.item_ids[i] for i in events.items] == ["a", "b"]
  assert events.timestamps.tolist() == [100_000, 200_500]
  assert events.num_rows == 10
  # The first description stays.
  assert list(items.columns["title"]) == ["A", "B"]
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


def test_an_encoding_that_is_not_bound_is_detected_and_said(log):
  problems = problems_lib.Problems()
  source = dataclasses.replace(log, encoding=None)
  events, _ = source.read(problems, COLUMNS)
  assert list(events.user_ids) == ["u1", "u\xff", "u2"]
  assert not problems.count("broken_encoding")
  [note] = [n for n in problems.notes() if "LogFiles.encoding" in n.remedy]
  assert "cp1252" in note.message


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
  assert {name: list(values) for name, values in items.columns.items()} == {
    "title": ["Ice", "Tape"]
  }
  day = 86_400_000
  assert np.diff(events.timestamps).tolist() == [
    -day,
    day // 24,
    2 * day - day // 24,
    day,
  ]
  assert kinds == {"conflicting_item": (1, "log.csv:5")}


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
  assert list(events.user_ids) == ["1"]
  assert items.item_ids == ["5"]
  assert events.timestamps.tolist() == [1_700_000_000_123]
  assert kinds == {"missing_user": (1, "log.parquet:2")}


def test_a_wrong_unit_names_the_binding(log, tmp_path):
  (tmp_path / "log.csv").write_text(
    "user_id,item_id,timestamp\nu,a,2024-01-01\n"
  )
  with pytest.raises(InputError, match=r"log\.csv:2.*LogFiles\.time_unit"):
    read(log)
  detected = dataclasses.replace(log, time_unit=None)
  assert read(detected)[0].timestamps.tolist() == [1_704_067_200_000]


def test_without_a_time_column_the_rows_are_in_order(tmp_path):
  (tmp_path / "log.csv").write_text("user_id,item_id,title\nu,a,A\nu,b,B\n")
  events, _, _ = read(
    LogFiles(interactions=str(tmp_path / "log.csv"), time_column=None)
  )
  assert events.timestamps.tolist() == [0, 1]
  assert not events.by_time


def test_the_fingerprint_follows_content_and_mapping_not_place(log, tmp_path):
  log = dataclasses.replace(log, encoding=None, time_unit=None)
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
  with pytest.raises(ValueError, match=r"LogFiles\.id_rules"):
    LogFiles(interactions="x.csv", id_rules=("zeros",))
  with pytest.raises(ValueError, match=r"LogFiles\.time_format"):
    LogFiles(interactions="x.csv", time_format="%Q")


@pytest.mark.parametrize(
  "name", [field.name for field in dataclasses.fields(LogFiles)]
)
def test_a_setting_of_a_wrong_type_is_refused_in_one_line(name):
  default = {
    field.name: field.default for field in dataclasses.fields(LogFiles)
  }[name]
  wrong = [5, 2.5, True, [1], {"a": 1}, object(), b"x"]
  if default is not None and name != "time_column":
    wrong.append(None)
  if name not in ("interactions", "items", "orders", *log_settings.LISTS):
    wrong += [["a"], ("a",), []]
  if name in log_settings.LISTS:
    wrong.append("ab")
  for value in wrong:
    with pytest.raises(InputError) as raised:
      LogFiles(**{"interactions": "x.csv", name: value})
    first = str(raised.value).partition("\n")[0]
    assert first.startswith(f"LogFiles.{name} = ")
    assert "must be" in first


FINGERPRINTS = {  # As releases computed them that had these settings only.
  "": "3b0534bf693208383cdc46b0bd680a2ae907a89b7785c8563dd88cc649091d42",
  "items": "801dca7f8a48c2e2d22db637ea684083e3432a30092c0554279e52683e06ba13",
  "ms": "c7c9c24f0cda82da50ab6bafc29c982cc204c7b95c2fc8c564cf3e9f379c1237",
  "iso": "632fb9d23e09e5d43df36b6403955b76f62411b8957294e932c1bbbeedcc2480",
  "order": "ee085aa81d3113df3a88b0349c96ccc92899c3928ecd86d85edd6bc17bb5bd39",
  "no time": "861f8bbd1f05be6eddfd3136e79720bdd0aab4394d85a3fc29b2c609be7844e2",
  "columns": "0fd079b6014c0b3fd0783c5fd67a2210a90ba47db2d8c8fe4ad9ed89a324d0d7",
  ";": "f2fbeffc31ead56c57c6f152d3839a00df8fef52b063abd685ba60c214b320d2",
  "latin-1": "e90337575956616515cf974c453d8a5687d350f8d637921e0824b943675041bc",
}
EARLIER = {
  "": {},
  "items": {"items": "items.jsonl"},
  "ms": {"time_unit": "ms"},
  "iso": {"time_unit": "iso"},
  "order": {"time_unit": "order"},
  "no time": {"time_column": None},
  "columns": {
    "items": "items.jsonl",
    "user_column": "who",
    "item_column": "what",
    "item_id_column": "sku",
    "time_column": "when",
    "time_unit": "iso",
    "text_columns": {"title": "name", "price": "cost"},
  },
  ";": {"delimiter": ";"},
  "latin-1": {"encoding": "latin-1"},
}


@pytest.fixture
def earlier(tmp_path):
  (tmp_path / "log.csv").write_text(
    "user_id,item_id,timestamp,title\nu,a,1700000000,Tea\n"
  )
  (tmp_path / "items.jsonl").write_text('{"item_id": "a", "title": "Tea"}\n')
  return lambda **settings: LogFiles(
    folder=str(tmp_path), interactions="log.csv", **settings
  )


@pytest.mark.parametrize("name", EARLIER)
def test_fingerprints_are_those_of_earlier_releases(earlier, name):
  source = earlier(**EARLIER[name])
  assert identity.fingerprint(source.fingerprint()) == FINGERPRINTS[name]


def test_the_fingerprint_of_a_domain_is_that_of_earlier_releases(earlier):
  domain = domain_lib.Domain(
    name="toys",
    source=earlier(),
    fields=(("Title", "title", 6), ("Price", "price")),
    dedup="none",
    min_count=1,
    split="global_temporal",
    validation_start="2024-01-01",
    test_start="2024-02-01",
    max_history=20,
  )
  assert domain.fingerprint() == (
    "2a7627359c68f65630a7ba278e7ff7c575a6a9cdba0c9804fe3c2806b0a8103b"
  )
  kept = dataclasses.replace(domain, duplicates="keep")
  assert kept.fingerprint() != domain.fingerprint()


def test_each_new_setting_has_a_fingerprint_of_its_own(earlier):
  # What was the default is detected now; who binds it asks for something else.
  settings = {"time_unit": "s", "encoding": "utf-8"} | {
    "time_format": "%Y",
    "order_id_column": "invoice",
    "order_column": "line",
    "event_column": "event",
    "where": "rating >= 4",
    "target_where": "rating >= 4",
    "columns": ("user_id", "item_id"),
    "item_columns": ("item_id", "title"),
    "order_columns": ("user_id", "order_id"),
    "fill_down": ("user_id",),
    "format": "csv",
    "quoting": "none",
    "quote": "'",
    "escape": "\\",
    "decimal": ",",
    "missing": ("-",),
    "id_rules": ("case",),
  }
  known = {field.name for field in dataclasses.fields(LogFiles)} - {
    *("interactions", "items", "orders", "folder", "text_columns"),
    *("user_column", "item_column", "item_id_column", "time_column"),
    "delimiter",
  }
  assert {*settings} == known
  found = [earlier().fingerprint()]
  for name, value in settings.items():
    found.append(earlier(**{name: value}).fingerprint())
  assert len({identity.fingerprint(each) for each in found}) == len(found)
  assert (
    earlier(columns=["user_id", "item_id"]).fingerprint()
    == earlier(columns=("user_id", "item_id")).fingerprint()
  )


def test_files_are_looked_for_once_for_what_is_read(tmp_path, monkeypatch):
  head, row = "user_id,item_id,timestamp,title\n", "u,i,100,A\n"
  (tmp_path / "a.csv").write_text(head + row)
  source = LogFiles(interactions=str(tmp_path))
  looked, expand = [], log_paths.expand
  monkeypatch.setattr(
    log_paths, "expand", lambda *args: looked.append(args) or expand(*args)
  )
  first = source.fingerprint()
  # A file that appears later belongs to the next fingerprint.
  (tmp_path / "b.csv").write_text(head + row)
  events, _, _ = read(source)
  assert len(events) == 1
  assert [one["file"] for one in source.inputs()] == ["a.csv"]
  assert len(looked) == 1
  assert source.fingerprint() != first
  assert [one["file"] for one in source.inputs()] == ["a.csv", "b.csv"]
  assert len(looked) == 2
  assert dataclasses.replace(source) == source
