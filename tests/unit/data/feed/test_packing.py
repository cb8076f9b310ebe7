"""Packing: nothing too full, nothing lost, little wasted."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calrec_jax.data.feed import packing

ROW_TOKENS, ROW_SLOTS = 64, 6

documents = st.lists(
  st.tuples(st.integers(1, ROW_TOKENS), st.integers(1, ROW_SLOTS)),
  min_size=1,
  max_size=60,
)


def _pack(tokens, slots):
  return packing.pack(
    np.asarray(tokens),
    np.asarray(slots),
    row_tokens=ROW_TOKENS,
    row_slots=ROW_SLOTS,
  )


@given(documents)
def test_rows_stay_inside_their_limits(sizes):
  tokens, slots = np.array(sizes).T
  rows, num_rows = _pack(tokens, slots)
  assert np.bincount(rows, tokens).max() <= ROW_TOKENS
  assert np.bincount(rows, slots).max() <= ROW_SLOTS
  assert set(rows) == set(range(num_rows))


def test_hand_made_documents_go_here():
  # Longest first: 40 | 30, 30 | 24 beside 40 | 4 into the fullest that fits.
  rows, num_rows = _pack([30, 24, 40, 4, 30], [1, 1, 1, 1, 1])
  assert num_rows == 2
  assert rows[2] == rows[1] != rows[0] == rows[4] == rows[3]


def test_slots_can_close_a_row_that_has_tokens_left():
  rows, num_rows = _pack([10, 10, 10], [3, 3, 3])
  assert num_rows == 2
  assert np.bincount(rows).tolist() == [2, 1]


def _first_fit(tokens, open_rows=64):
  """Rows that plain first fit takes, in the order of the documents."""
  rooms, rows = [], 0
  for needed in tokens:
    fitting = [at for at, room in enumerate(rooms) if room >= needed]
    if fitting:
      rooms[fitting[0]] -= needed
    else:
      rooms = [*rooms[-(open_rows - 1) :], ROW_TOKENS - needed]
      rows += 1
  return rows


def test_fewer_rows_than_plain_first_fit():
  tokens = np.random.default_rng(0).integers(4, 40, 10_000)
  # A target's own tokens fill a row before its slots do, as in real feeds.
  _, num_rows = packing.pack(
    tokens, np.ones_like(tokens), row_tokens=ROW_TOKENS, row_slots=ROW_TOKENS
  )
  least = -(-tokens.sum() // ROW_TOKENS)
  assert least <= num_rows < _first_fit(tokens)
  assert num_rows < 1.03 * least


def test_a_document_larger_than_a_row_is_an_error():
  with pytest.raises(ValueError, match=r"Document 1 has 65 tokens.*row_tokens"):
    _pack([3, 65], [1, 1])
  with pytest.raises(ValueError, match=r"Document 0 has .* 7 slots.*row_slots"):
    _pack([3], [7])
