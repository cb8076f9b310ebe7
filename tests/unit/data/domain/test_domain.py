"""A domain from files to documents: the order of operations, and errors."""

import json

import pytest

from calrec_jax.data.domain import domain as domain_lib
from calrec_jax.data.logs import problems as problems_lib
from calrec_jax.data.logs.log_files import LogFiles
from calrec_jax.errors import InputError

ITEMS = [
  {"item_id": "a", "title": "Apple", "price": "$1.00"},
  {"item_id": "b", "title": "Bread", "price": "see page"},
  {"item_id": "a2", "title": "Apple", "price": 1.0},  # Same text as a.
  {"item_id": "e", "title": " \u200b ", "price": None},  # Empty once cleaned.
]


def write(tmp_path, rows, items=ITEMS, **options):
  lines = ["user_id,item_id,timestamp", *rows]
  (tmp_path / "log.csv").write_text("\n".join(lines) + "\n")
  (tmp_path / "items.jsonl").write_text("\n".join(map(json.dumps, items)))
  return LogFiles(
    folder=str(tmp_path),
    interactions="log.csv",
    items="items.jsonl",
    **options,
  )


def domain(source, **options):
  return domain_lib.Domain(
    **{"name": "toys", "source": source, "min_count": 1} | options
  )


def histories(prepared, split="test"):
  part = prepared.documents[split]
  events = prepared.events
  return {
    events.user_ids[user]: [
      prepared.item_ids[item] for item in events.items[start:stop]
    ]
    for user, start, stop in zip(
      part.users, part.starts, part.stops, strict=True
    )
  }


def steps(prepared):
  return {step["step"]: step["events"] for step in prepared.steps}


ROWS = ["u,a,3", "u,a,1", "u,b,2", "u,a,4", "u,a2,5", "u,b,6", "u,e,7"]


def test_consecutive_is_meant_in_order_of_time(tmp_path):
  # In the file's order the first two purchases of a are adjacent.
  source = write(tmp_path, ROWS)
  assert histories(domain(source, dedup="none").prepare()) == {
    "u": ["a", "b", "a", "a", "a2", "b"]
  }
  assert histories(domain(source).prepare()) == {
    "u": ["a", "b", "a", "a2", "b"]
  }
  assert histories(domain(source, dedup="consecutive_text").prepare()) == {
    "u": ["a", "b", "a", "b"]
  }


def test_repeats_go_before_the_k_core(tmp_path):
  # Four purchases of a in a row are one; counted before, u would be retained.
  rows = [f"u,a,{time}" for time in range(4)] + ["v,a,1", "v,b,2", "v,a,3"]
  with pytest.raises(ValueError, match=r"Domain\.min_count = 3"):
    domain(write(tmp_path, rows), min_count=3).prepare()
  rows += ["v,b,4", "v,a,5", "v,b,6"]
  prepared = domain(write(tmp_path, rows), min_count=3).prepare()
  assert histories(prepared) == {"v": ["a", "b", "a", "b", "a", "b"]}
  assert steps(prepared)["consecutive repeats"] == 7


def test_steps_and_problems(tmp_path):
  prepared = domain(write(tmp_path, ROWS)).prepare()
  assert steps(prepared) == {
    "parse": 7,
    "validate": 6,
    "consecutive repeats": 5,
    "k-core": 5,
    "train": 3,
    "validation": 4,
    "test": 5,
  }
  assert {
    p["kind"]: (p["count"], p["first"]) for p in prepared.problems.as_list()
  } == {
    "empty_text": (1, "items.jsonl:4"),
    "event_without_text": (1, "items.jsonl:4"),
    "unreadable_price": (1, "items.jsonl:2"),
  }
  assert prepared.texts == [
    "Title: Apple. Price: 1.00.",
    "Title: Bread. Price: Unknown.",
    "Title: Apple. Price: 1.00.",
  ]
  assert prepared.fractions["twin_texts"] == pytest.approx(1 / 3)
  assert prepared.missing["Price"] == pytest.approx(1 / 3)


def test_strict_makes_bad_rows_an_error(tmp_path):
  source = write(tmp_path, ROWS)
  with pytest.raises(
    problems_lib.BadRowsError, match=r"(?s)items\.jsonl:4.*Domain\.strict"
  ):
    domain(source, strict=True).prepare()
  good = write(tmp_path, ["u,a,1", "u,a2,2", "u,a,3"], ITEMS[:1] + ITEMS[2:3])
  assert histories(domain(good, strict=True).prepare())


def test_the_training_text_is_that_of_training_items(tmp_path):
  prepared = domain(write(tmp_path, ["u,a,1", "u,b,2", "u,a2,3"])).prepare()
  assert [prepared.item_ids[row] for row in prepared.train_items()] == ["a"]


def test_global_temporal_through_the_domain(tmp_path):
  rows = [
    f"u{u},{'ab'[t % 2]},{t * 100 + u}" for u in range(3) for t in range(9)
  ]
  prepared = domain(
    write(tmp_path, rows, time_unit="s"),
    split="global_temporal",
    validation_start="1970-01-01T00:08:20",
    test_start=700_000,
  ).prepare()
  assert steps(prepared)["train"] == 15
  assert len(prepared.documents["validation"]) == 3
  assert prepared.boundaries.validation_start == 500_000


def test_small_numbers_are_no_times_unless_their_unit_is_bound(tmp_path):
  rows = [f"u,{'ab'[t % 2]},{t}" for t in range(9)]
  source = write(tmp_path, rows)
  with pytest.raises(
    InputError, match=r"global_temporal.*positions.*LogFiles\.time_unit"
  ):
    domain(source, split="global_temporal").prepare()
  prepared = domain(source).prepare()
  assert prepared.events.timestamps.tolist() == list(range(9))
  [note] = [
    note for note in prepared.problems.notes() if "small numbers" in note[1]
  ]
  assert note.remedy == 'LogFiles.time_unit = "s"'


def test_max_history(tmp_path):
  rows = [f"u,{'ab'[t % 2]},{t}" for t in range(9)]
  prepared = domain(write(tmp_path, rows), max_history=3).prepare()
  lengths = {
    split: int(part.stops[0] - part.starts[0])
    for split, part in prepared.documents.items()
  }
  assert lengths == {"train": 3, "validation": 4, "test": 4}


@pytest.mark.parametrize(
  ("options", "match"),
  [
    ({"name": "Toys"}, r"Domain\.name"),
    ({"dedup": "all"}, r"Domain\.dedup"),
    ({"split": "random"}, r"Domain\.split"),
    ({"min_count": 0}, r"Domain\.min_count"),
    ({"max_history": 0}, r"Domain\.max_history"),
    ({"fields": ()}, r"Domain\.fields"),
    ({"fields": (("T", "title"), ("T", "price"))}, "distinct"),
  ],
)
def test_wrong_options_are_refused(options, match):
  with pytest.raises(ValueError, match=match):
    domain(LogFiles(interactions="x.csv"), **options)


def test_a_chosen_field_must_exist_and_a_default_one_need_not(tmp_path):
  source = write(tmp_path, ROWS)
  assert [f.label for f in domain(source).prepare().fields] == [
    "Title",
    "Price",
  ]
  with pytest.raises(ValueError, match=r"(?s)'titel'.*mean 'title'"):
    domain(source, fields=(("Title", "titel"),)).prepare()


def test_an_input_without_a_usable_event_shows_why(tmp_path):
  with pytest.raises(ValueError, match=r"(?s)unknown_item .*log\.csv:2"):
    domain(write(tmp_path, ["u,zzz,1"])).prepare()


def test_the_fingerprint_follows_what_changes_the_documents(tmp_path):
  source = write(tmp_path, ROWS)
  first = domain(source).fingerprint()
  assert domain(source, strict=True).fingerprint() == first
  changed = [
    domain(source, dedup="none"),
    domain(source, min_count=2),
    domain(source, max_history=9),
    domain(source, name="other"),
    domain(source, fields=(("Title", "title"),)),
    domain(source, split="global_temporal"),
  ]
  assert len({first, *(d.fingerprint() for d in changed)}) == 7
  again = write(tmp_path, ROWS[:-1])
  assert domain(again).fingerprint() != first


def test_slug():
  assert domain_lib.slug("ELECT &PLUMBING") == "elect_plumbing"
