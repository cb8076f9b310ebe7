"""Both splits against plain loops over every user."""

import numpy as np
import pytest

from calrec_jax.data.domain import splits
from calrec_jax.data.logs import events as events_lib


def random_log(seed, by_time=True):
  random = np.random.default_rng(seed)
  users = np.sort(random.integers(0, 60, 200)).astype(np.int32)
  log = events_lib.Events(
    users=users,
    items=random.integers(0, 9, 200).astype(np.int32),
    timestamps=random.integers(0, 100, 200),
    user_ids=[str(user) for user in range(60)],
    num_rows=200,
    by_time=by_time,
  )
  return events_lib.sort(log)


def by_user(log):
  return {
    int(user): np.flatnonzero(log.users == user).tolist()
    for user in np.unique(log.users)
  }


def documents(part):
  return {
    int(user): list(range(start, stop))
    for user, start, stop in zip(
      part.users, part.starts, part.stops, strict=True
    )
  }


@pytest.mark.parametrize("seed", range(3))
def test_leave_one_out(seed):
  log = random_log(seed)
  found = splits.leave_one_out(log)
  users = by_user(log)
  assert min(map(len, users.values())) < 3  # Short users are in the sample.
  assert documents(found["train"]) == {
    user: events[:-2] if len(events) >= 3 else events
    for user, events in users.items()
  }
  long = {user: e for user, e in users.items() if len(e) >= 3}
  assert documents(found["validation"]) == {u: e[:-1] for u, e in long.items()}
  assert documents(found["test"]) == long


@pytest.mark.parametrize("seed", range(3))
def test_global_temporal(seed):
  log = random_log(seed)
  low, high = 60, 80
  found = splits.global_temporal(log, splits.Boundaries(low, high))
  expected = {"train": {}, "validation": {}, "test": {}}
  for user, events in by_user(log).items():
    before = [e for e in events if log.timestamps[e] < low]
    during = [e for e in events if low <= log.timestamps[e] < high]
    after = [e for e in events if log.timestamps[e] >= high]
    if before:
      expected["train"][user] = before
    if before and during:
      expected["validation"][user] = before + during[:1]
    if (before or during) and after:
      expected["test"][user] = before + during + after[:1]
  assert {name: documents(part) for name, part in found.items()} == expected
  assert all(expected.values())


def test_documents_list_their_events():
  log = random_log(0)
  part = splits.leave_one_out(log)["test"]
  expected = [event for events in documents(part).values() for event in events]
  assert part.events().tolist() == expected


def test_keep_last_keeps_the_target_on_top():
  log = random_log(0)
  found = splits.leave_one_out(log)
  train = splits.keep_last(found["train"], 2, target=False)
  test = splits.keep_last(found["test"], 2, target=True)
  for user, events in by_user(log).items():
    if len(events) >= 3:
      assert documents(train)[user] == events[:-2][-2:]
      assert documents(test)[user] == events[-3:]
  assert splits.keep_last(test, None, target=True) is test


def bounds(log, **options):
  return splits.boundaries(
    log,
    **{
      "validation_start": None,
      "test_start": None,
      "validation_fraction": 0.1,
      "test_fraction": 0.1,
    }
    | options,
  )


def test_boundaries_by_fraction():
  log = random_log(0)
  found = bounds(log)
  times = np.sort(log.timestamps)
  assert found == splits.Boundaries(int(times[160]), int(times[180]))


def test_boundaries_by_day():
  log = random_log(0)
  found = bounds(log, validation_start="1970-01-01T00:00:00.050", test_start=70)
  assert found == splits.Boundaries(50, 70)


@pytest.mark.parametrize(
  ("options", "match"),
  [
    ({"validation_start": 70, "test_start": 50}, "in this order"),
    ({"test_start": 10**15}, "in this order"),
    ({"test_start": "someday"}, r"Domain\.test_start"),
    ({"test_fraction": 0.9}, r"Domain\.test_fraction"),
  ],
)
def test_wrong_boundaries_are_refused(options, match):
  with pytest.raises(ValueError, match=match):
    bounds(random_log(0), **options)


def test_positions_cannot_be_split_by_time():
  with pytest.raises(ValueError, match=r"LogFiles\.time_unit"):
    bounds(random_log(0, by_time=False))
