"""The leakage check lets good documents pass and finds every kind of bad."""

import types

import numpy as np
import pytest

from calrec_jax.data import records
from calrec_jax.data.domain import leakage, splits
from calrec_jax.data.logs import events as events_lib


def prepare(split):
  """Six events for each of two users, both splits."""
  log = events_lib.Events(
    users=np.repeat(np.array([0, 1], np.int32), 6),
    items=np.tile(np.array([0, 1, 0, 2, 0, 1], np.int32), 2),
    timestamps=np.tile(np.array([1, 2, 3, 4, 5, 6]), 2),
    user_ids=["u", "v"],
    num_rows=12,
  )
  boundaries = None
  if split == "leave_one_out":
    documents = splits.leave_one_out(log)
  else:
    boundaries = splits.Boundaries(4, 6)
    documents = splits.global_temporal(log, boundaries)
  prepared = types.SimpleNamespace(
    name="toys", events=log, documents=documents, boundaries=boundaries
  )
  return prepared, {
    name: [
      document(prepared, user, start, stop)
      for user, start, stop in zip(
        part.users, part.starts, part.stops, strict=True
      )
    ]
    for name, part in documents.items()
  }


def document(prepared, user, start, stop):
  log = prepared.events
  return types.SimpleNamespace(
    user_id=log.user_ids[user],
    items=log.items[start:stop].copy(),
    timestamps=log.timestamps[start:stop].copy(),
    events=np.arange(start, stop),
  )


def columns(documents):
  """Documents of one split, as their task yields them."""
  empty = np.zeros(0, np.int64)
  return records.DocumentColumns(
    user_ids=[one.user_id for one in documents],
    offsets=np.cumsum([0, *(len(one.events) for one in documents)]),
    **{
      name: np.concatenate([empty, *(getattr(one, name) for one in documents)])
      for name in ("items", "timestamps", "events")
    },
  )


def check(prepared, documents):
  return leakage.check(
    prepared, {split: columns(part) for split, part in documents.items()}
  )


@pytest.mark.parametrize("split", splits.METHODS)
def test_what_the_splits_make_passes(split):
  checks = check(*prepare(split))
  assert len(checks) == len(leakage.CHECKS) - (split == "leave_one_out")


def test_nothing_has_passed_before_every_split_was_checked():
  prepared, documents = prepare("leave_one_out")
  checking = leakage.Check(prepared)
  for split in ("test", "validation"):
    checking.add(split, columns(documents[split]))
  with pytest.raises(RuntimeError, match="train not checked"):
    checking.passed()


def lengthen(name, by):
  def change(prepared, documents):
    one = documents[name][0]
    documents[name][0] = document(
      prepared, 0, one.events[0], one.events[-1] + 1 + by
    )

  return change


def twice(prepared, documents):
  del prepared
  documents["test"].append(documents["test"][0])


def another_users_event(prepared, documents):
  documents["train"][0] = document(prepared, 1, 6, 8)
  documents["train"][0].user_id = "u"


def another_item(prepared, documents):
  del prepared
  documents["train"][0].items[0] += 1


def another_time(prepared, documents):
  del prepared
  documents["train"][0].timestamps[0] += 1


def reversed_order(prepared, documents):
  del prepared
  one = documents["train"][0]
  for name in ("items", "timestamps", "events"):
    setattr(one, name, getattr(one, name)[::-1])


def not_in_the_log(prepared, documents):
  del prepared
  documents["train"][0].events[-1] = 99


@pytest.mark.parametrize(
  ("change", "match"),
  [
    (lengthen("train", 1), "train: event 4 of user 'u' is a validation target"),
    (lengthen("train", 2), "is a validation target"),
    (lengthen("validation", 1), "validation: event 5 .* is a test target"),
    (twice, "two documents"),
    (another_users_event, "belongs to another user"),
    (another_item, "is not what the log has"),
    (another_time, "is not what the log has"),
    (reversed_order, "not after the event before it"),
    (not_in_the_log, "is not in the log"),
  ],
)
def test_leaks_of_leave_one_out_are_found(change, match):
  prepared, documents = prepare("leave_one_out")
  change(prepared, documents)
  with pytest.raises(leakage.LeakageError, match=match):
    check(prepared, documents)


def test_columns_of_different_lengths_are_no_documents():
  prepared, documents = prepare("leave_one_out")
  documents["train"][1].items = documents["train"][1].items[:-1]
  with pytest.raises(leakage.LeakageError, match="different lengths"):
    check(prepared, documents)


def test_a_user_that_the_log_does_not_know():
  prepared, documents = prepare("leave_one_out")
  documents["test"][0].user_id = "nobody"
  with pytest.raises(leakage.LeakageError, match="'nobody' belongs to another"):
    check(prepared, documents)


def test_a_repeated_item_does_not_hide_a_leak_and_is_none_itself():
  # Item 1 is bought twice; only its second purchase is the test target.
  prepared, documents = prepare("leave_one_out")
  assert prepared.events.items[1] == prepared.events.items[5]
  check(prepared, documents)


def test_an_event_after_the_target_is_a_leak():
  prepared, documents = prepare("leave_one_out")
  late = document(prepared, 0, 5, 6)
  documents["train"][0] = late
  documents["test"].pop(0)
  with pytest.raises(leakage.LeakageError, match="not before its user's valid"):
    check(prepared, documents)


def test_leaks_across_the_days_of_a_global_split_are_found():
  prepared, documents = prepare("global_temporal")
  # No user is evaluated on it, yet the event is of the validation period.
  documents["validation"], documents["test"] = [], []
  documents["train"][1] = document(prepared, 1, 6, 10)
  with pytest.raises(leakage.LeakageError, match="after validation began"):
    check(prepared, documents)


def test_a_history_must_end_where_the_period_begins():
  prepared, documents = prepare("global_temporal")
  documents["validation"][0] = document(prepared, 0, 0, 5)
  documents["test"] = []
  with pytest.raises(leakage.LeakageError, match="after validation began"):
    check(prepared, documents)
