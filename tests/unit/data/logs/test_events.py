"""Sorting, repeats, duplicates and k-core against plain loops."""

import collections
import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calrec_jax.data.logs import events as events_lib
from calrec_jax.data.logs import problems as problems_lib


def make(users, items, times):
  return events_lib.Events(
    users=np.array(users, np.int32),
    items=np.array(items, np.int32),
    timestamps=np.array(times, np.int64),
    user_ids=[f"u{i}" for i in range(max(users, default=-1) + 1)],
    num_rows=len(users),
  )


def rows(events):
  return list(
    zip(
      events.users.tolist(),
      events.items.tolist(),
      events.timestamps.tolist(),
      strict=True,
    )
  )


def random_log(seed, num_events=400, num_users=20, num_items=25):
  random = np.random.default_rng(seed)
  return make(
    random.integers(0, num_users, num_events),
    random.zipf(1.5, num_events) % num_items,
    random.integers(0, 40, num_events),  # Many ties.
  )


def test_sorting_is_stable_within_a_user():
  log = random_log(0)
  expected = sorted(rows(log), key=lambda row: (row[0], row[2]))
  assert rows(events_lib.sort(log)) == expected


@pytest.mark.parametrize("by_time", [False, True])
@given(
  log=st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 9), st.integers(0, 3)),
    max_size=20,
  )
)
def test_sorting_is_that_of_python(by_time, log):
  if by_time:
    log = sorted(log, key=lambda row: row[2])
  events = events_lib.sort(make(*([row[i] for row in log] for i in range(3))))
  assert rows(events) == sorted(log, key=lambda row: (row[0], row[2]))


def test_ties_keep_the_order_of_the_file():
  log = make([0, 0, 0, 0], [3, 1, 2, 1], [5, 5, 4, 5])
  assert events_lib.sort(log).items.tolist() == [2, 3, 1, 1]


def test_repeats_by_id_and_by_text():
  log = make([0, 0, 0, 0, 1], [0, 0, 1, 2, 2], range(5))
  by_id = events_lib.repeats(log, log.items)
  assert by_id.tolist() == [False, True, False, False, False]
  first_rows = np.array([0, 0, 2])  # Items 0 and 1 have identical text.
  by_text = events_lib.repeats(log, first_rows[log.items])
  assert by_text.tolist() == [False, True, True, False, False]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("min_count", [1, 2, 5])
def test_k_core_equals_a_loop(seed, min_count):
  log = random_log(seed)
  left = rows(log)
  while True:
    users = collections.Counter(user for user, _, _ in left)
    items = collections.Counter(item for _, item, _ in left)
    retained = [
      row
      for row in left
      if users[row[0]] >= min_count and items[row[1]] >= min_count
    ]
    if retained == left:
      break
    left = retained
  core, passes = events_lib.k_core(log, min_count)
  assert rows(core) == left
  assert (passes > 0) == (len(left) < len(log))


def test_k_core_may_leave_nothing():
  core, _ = events_lib.k_core(make([0, 1], [0, 1], [0, 0]), 2)
  assert not len(core)


def test_filters_keep_the_order_so_that_sorting_first_is_sorting_last():
  log = random_log(3)
  first = events_lib.k_core(events_lib.sort(log), 5)[0]
  last = events_lib.sort(events_lib.k_core(log, 5)[0])
  assert rows(first) == rows(last)


EVENT = st.tuples(*(st.integers(0, 2) for _ in range(4)))


@given(st.lists(EVENT, max_size=12), st.booleans())
def test_duplicates_are_those_of_a_set(log, with_kinds):
  users, items, times, kinds = zip(*log, strict=True) if log else [()] * 4
  events = make(users, items, times)
  if with_kinds:
    events = dataclasses.replace(
      events, kinds=np.array(kinds, np.int8), kind_names=("a", "b", "c")
    )
  events = events_lib.sort(events)
  seen, expected = set(), []
  columns = [events.users, events.items, events.timestamps]
  if with_kinds:
    columns.append(events.kinds)
  for event in zip(*(column.tolist() for column in columns), strict=True):
    expected.append(event in seen)
    seen.add(event)
  assert events_lib.duplicates(events).tolist() == expected


def test_strict_names_the_first_bad_row():
  problems = problems_lib.Problems()
  problems.add_rows("missing_user", "/somewhere/log.csv", np.array([2, 7]))
  with pytest.raises(
    problems_lib.BadRowsError, match=r"(?s)2  missing_user.*log\.csv:2.*strict"
  ):
    problems.refuse("toys")


def test_a_problem_must_be_of_a_known_kind():
  with pytest.raises(KeyError):
    problems_lib.Problems().add("typo", "a:1")
