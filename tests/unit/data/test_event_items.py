"""Histories with kinds: the columns stay beside their rows, or are gone."""

import pickle

import numpy as np
import pytest

from calrec_jax.data.records import EventItems, EventKinds, event_items

ITEMS = EventItems(
  np.array([5, 6, 5, 7]),
  np.array([0, 0, 1, 0], np.int8),
  np.array([False, False, True, False]),
)


@pytest.mark.parametrize(
  "key",
  [
    slice(-2, None),
    slice(None, None, -1),
    slice(0, 0),
    np.array([3, 1]),
    np.array([True, False, True, False]),
  ],
  ids=str,
)
def test_rows_and_columns_are_taken_together(key):
  found = ITEMS[key]
  assert found.tolist() == np.asarray(ITEMS)[key].tolist()
  assert found.kinds.tolist() == ITEMS.kinds[key].tolist()
  assert found.settled.tolist() == ITEMS.settled[key].tolist()


def test_a_single_item_is_a_number():
  assert ITEMS[2] == 5
  assert [int(row) for row in ITEMS] == [5, 6, 5, 7]


@pytest.mark.parametrize(
  "derive",
  [
    lambda rows: rows + 1,
    lambda rows: rows == 5,
    lambda rows: np.concatenate([rows, rows]),
    lambda rows: np.append(rows, 3),
    np.asarray,
  ],
)
def test_results_of_arithmetic_are_plain(derive):
  assert type(derive(ITEMS)) is np.ndarray


@pytest.mark.parametrize("derive", [np.unique, np.sort, np.copy])
def test_no_column_is_left_with_other_rows(derive):
  assert getattr(derive(ITEMS), "kinds", None) is None


@pytest.mark.parametrize(
  "move",
  [event_items, lambda rows: pickle.loads(pickle.dumps(rows))],
)
def test_copies_have_the_columns(move):
  found = move(ITEMS)
  assert isinstance(found, EventItems)
  assert found.dtype == np.int32
  assert found.tolist() == ITEMS.tolist()
  assert found.kinds.tolist() == ITEMS.kinds.tolist()
  assert found.settled.tolist() == ITEMS.settled.tolist()


def test_a_plain_history_stays_plain():
  assert type(event_items(np.array([1, 2]))) is np.ndarray


def test_codes_of_kinds():
  kinds = EventKinds(("view", "cart", "purchase"), ("cart", "purchase"))
  assert kinds.query == 2
  assert kinds.codes(["cart", "view"]).tolist() == [1, 0]
  with pytest.raises(KeyError, match="wish"):
    kinds.codes(["wish"])
