"""Every user falls into one bucket of each slicing, and into the right one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calrec_jax.evaluate import slices
from tests.fixtures import evaluation_toys as toys


def label(slicing, user):
  return slicing.labels[slicing.codes[user]]


def test_buckets_of_known_users():
  items = toys.catalogue(4, train_counts=[30, 20, 10, 0])
  users = [
    toys.history(0, [1, 2], 0),
    toys.history(1, [0] * 5, 1),
    toys.history(2, [2] * 60, 2),
    toys.history(3, [0], 3),
    toys.history(4, [], 0),
  ]
  found = slices.slice_users(users, items)
  columns = {
    "history_length": ["1-4", "5-9", "50+", "1-4", "0"],
    "target_popularity": ["head", "mid", "tail", "tail", "head"],
    "target_training": ["warm", "warm", "warm", "cold", "warm"],
    "target_repeat": ["novel", "novel", "repeat", "novel", "novel"],
  }
  assert {
    name: [label(found[name], user) for user in range(len(users))]
    for name in columns
  } == columns


@given(st.lists(st.integers(0, 50), min_size=1, max_size=40))
@settings(max_examples=100, deadline=None)
def test_popularity_classes_follow_the_events_above(counts):
  counts = np.array(counts)
  classes = slices.popularity_classes(counts)
  for row, count in enumerate(counts):
    above = sum(other for other in counts if other > count)
    third = 3 * above // max(counts.sum(), 1)
    assert classes[row] == (2 if count == 0 else min(third, 2))


def test_items_on_a_third_belong_to_the_rarer_class():
  # Events above: 0, then exactly a third of 9.
  assert slices.popularity_classes(np.array([3, 2, 2, 2])).tolist() == [
    0,
    1,
    1,
    1,
  ]
  # Events above: 0, 4 and then exactly two thirds of 9.
  assert slices.popularity_classes(np.array([4, 2, 1, 1, 1])).tolist() == [
    0,
    1,
    2,
    2,
    2,
  ]


def test_no_training_events_make_everything_tail():
  assert slices.popularity_classes(np.zeros(3, int)).tolist() == [2, 2, 2]


@pytest.mark.parametrize("lengths", [(), (0, 5), (5, 5), (10, 5)])
def test_wrong_buckets_name_their_binding(lengths):
  with pytest.raises(ValueError, match=r"slice_users\.history_lengths"):
    slices.slice_users(
      toys.histories(2), toys.catalogue(), history_lengths=lengths
    )
