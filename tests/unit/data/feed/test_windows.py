"""Windows: every event but the first is a target once, inside the limits."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calrec_jax.data.feed import windows
from calrec_jax.data.feed.tokenization import TokenCosts
from calrec_jax.data.feed.windows import Histories, Limits

COSTS = TokenCosts(opening=4, between=2, begin=1)
LONGEST_ITEM = 9
# Any target with any one item before it fits.
SHORTEST_ROW = COSTS.opening + COSTS.between + COSTS.begin + 3 * LONGEST_ITEM

histories_of_lengths = st.lists(
  st.lists(st.integers(2, LONGEST_ITEM), min_size=1, max_size=40),
  min_size=1,
  max_size=6,
)
some_limits = st.builds(
  Limits,
  row_tokens=st.integers(SHORTEST_ROW, 200),
  row_slots=st.integers(1, 20),
  max_history=st.none() | st.integers(1, 30),
  context=st.integers(1, 10),
  item_segments=st.booleans(),
)


def _histories(lengths):
  offsets = np.cumsum([0, *map(len, lengths)])
  return Histories(np.concatenate([np.array(at) for at in lengths]), offsets)


def _rows(cut):
  assert cut.slots.tolist() == (cut.stop - cut.first_target).tolist()
  columns = (column.tolist() for column in cut[:5])
  return list(zip(*columns, strict=True))


def _tokens(lengths, limits, start, first_target, stop):
  """A document's tokens, counted one by one."""
  joint = COSTS.opening + sum(lengths[start:stop])
  joint += COSTS.between * (stop - start - 1)
  if not limits.item_segments:
    return joint
  return joint + sum(COSTS.begin + at for at in lengths[first_target:stop])


def _assert_inside(lengths, limits, window):
  _, start, first_target, stop, tokens = window
  assert 0 <= start < first_target < stop <= len(lengths)
  assert tokens == _tokens(lengths, limits, start, first_target, stop)
  assert tokens <= limits.row_tokens
  assert stop - first_target <= limits.row_slots
  if limits.max_history is not None:
    assert stop - 1 - start <= limits.max_history


@given(histories_of_lengths, some_limits, st.floats(0, 1, exclude_max=True))
def test_every_event_but_the_first_is_a_target_once(lengths, limits, uniform):
  cut = windows.cut_all(
    _histories(lengths), limits, COSTS, np.full(len(lengths), uniform)
  )
  targets = []
  for window in _rows(cut):
    history, start, first_target, stop, _ = window
    _assert_inside(lengths[history], limits, window)
    context = first_target - start
    assert context <= limits.context or first_target == 1
    targets += [(history, event) for event in range(first_target, stop)]
  assert sorted(targets) == [
    (history, event)
    for history, events in enumerate(lengths)
    for event in range(1, len(events))
  ]


@given(histories_of_lengths, some_limits)
def test_the_last_target_keeps_as_much_history_as_fits(lengths, limits):
  """Right truncation: long histories lost the target, not the oldest."""
  cut = windows.cut_last(_histories(lengths), limits, COSTS)
  assert cut.history.tolist() == [
    history for history, events in enumerate(lengths) if len(events) > 1
  ]
  for window in _rows(cut):
    history, start, first_target, stop, _ = window
    events = lengths[history]
    _assert_inside(events, limits, window)
    assert first_target == len(events) - 1
    if start:
      longer = _tokens(events, limits, start - 1, first_target, stop)
      at_most = limits.max_history or len(events)
      assert longer > limits.row_tokens or first_target - start == at_most


def test_a_history_that_fits_is_one_document():
  lengths = [3, 4, 5]
  limits = Limits(99, 8, None, 2)
  fits = _tokens(lengths, limits, 0, 1, 3)
  [window] = _rows(
    windows.cut_all(
      _histories([lengths]),
      limits._replace(row_tokens=fits),
      COSTS,
      np.zeros(1),
    )
  )
  assert window == (0, 0, 1, 3, fits)


def test_context_takes_at_most_half_of_the_row():
  lengths = [9] * 60
  limits = Limits(200, 50, None, 50)
  cut = windows.cut_all(_histories([lengths]), limits, COSTS, np.zeros(1))
  later = [window for window in _rows(cut) if window[1] > 0]
  assert len(later) > 5
  for _, start, first_target, _, _ in later:
    context = _tokens(lengths, limits, start, first_target, first_target)
    assert 100 - (9 + COSTS.between) < context <= 100


def test_the_sample_moves_the_windows():
  limits = Limits(100, 50, None, 3)
  histories = _histories([[5] * 60])
  cuts = {
    tuple(windows.cut_all(histories, limits, COSTS, np.array([u])).stop)
    for u in np.linspace(0, 0.99, 9)
  }
  assert len(cuts) > 4


def test_an_event_that_fits_no_row_is_found():
  lengths = [[3, 3], [4, 20, 5], [2, 40]]
  limits = Limits(60, 8, None, 1)
  needed = COSTS.opening + COSTS.between + COSTS.begin + 2 + 2 * 40
  histories = _histories(lengths)
  for last_only in (True, False):
    misfit = windows.first_misfit(histories, limits, COSTS, last_only=last_only)
    assert misfit == (2, 1, needed)
  limits = Limits(needed, 8, None, 1)
  assert windows.first_misfit(histories, limits, COSTS, last_only=False) is None


def test_only_last_events_matter_where_only_they_are_targets():
  histories = _histories([[4, 20, 5], [30]])
  limits = Limits(45, 8, None, 1)
  misfit = windows.first_misfit(histories, limits, COSTS, last_only=False)
  assert misfit == (0, 1, 51)
  assert windows.first_misfit(histories, limits, COSTS, last_only=True) is None


def test_a_target_that_does_not_fit_is_never_truncated():
  histories = _histories([[4, 20, 20]])
  limits = Limits(45, 8, None, 1)
  with pytest.raises(ValueError, match="does not fit"):
    windows.cut_all(histories, limits, COSTS, np.zeros(1))
  with pytest.raises(ValueError, match="does not fit"):
    windows.cut_last(histories, limits, COSTS)


def test_taking_users_keeps_their_events():
  histories = _histories([[1, 2], [3], [4, 5, 6]])
  taken = histories.take(np.array([2, 0, 2]))
  assert taken.lengths.tolist() == [4, 5, 6, 1, 2, 4, 5, 6]
  assert taken.offsets.tolist() == [0, 3, 5, 8]


def test_no_joint_segment_is_longer_than_three_quarters_of_its_row():
  # What `prompts.prompt_limits` takes for granted.
  draw = np.random.default_rng(0)
  lengths = draw.integers(1, 12, size=4000)
  offsets = np.array([0, 1500, 2500, 4000])
  costs = TokenCosts(opening=6, between=4, begin=1)
  limits = Limits(160, 64, None, 1000)
  found = windows.cut_all(
    Histories(lengths, offsets), limits, costs, draw.random(3)
  )
  joint = [
    costs.opening
    + int(lengths[offsets[user] + start : offsets[user] + stop].sum())
    + (stop - start - 1) * costs.between
    for user, start, stop in zip(
      found.history, found.start, found.stop, strict=True
    )
  ]
  assert max(joint) <= 0.75 * 160 + 12
  assert max(joint) > 0.65 * 160
