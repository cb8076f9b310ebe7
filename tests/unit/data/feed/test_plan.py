"""The plan: passes, mixture, epochs, and steps found without a history."""

import collections

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calrec_jax.data.feed import plan, windows
from calrec_jax.data.feed.tokenization import TokenCosts
from calrec_jax.data.feed.windows import Histories, Limits

COSTS = TokenCosts(opening=4, between=2, begin=1)
LIMITS = Limits(row_tokens=64, row_slots=8, max_history=None, context=2)
SHUFFLE_OF_EIGHT = [6, 5, 7, 0, 3, 4, 2, 1]


def _histories(users, longest=12, seed=0):
  numbers = np.random.default_rng(seed)
  counts = numbers.integers(1, longest + 1, users)
  counts[0] = longest
  offsets = np.cumsum([0, *counts])
  return Histories(numbers.integers(2, 8, offsets[-1]), offsets)


def _plan(*histories, rows=2, epoch_users=10**6, seed=0, targets="all", **mix):
  return plan.Plan(
    histories,
    [COSTS] * len(histories),
    plan.Settings(
      rows=rows,
      limits=LIMITS,
      targets=targets,
      seed=seed,
      mixing_exponent=mix.get("mixing_exponent", 0.3),
      epoch_users=epoch_users,
    ),
  )


def _targets_by_pass(documents):
  """How often each (domain, pass, user, event) is a target."""
  counts = collections.Counter()
  columns = (column.tolist() for column in documents)
  for domain, user, _, first, stop, _, visit, _ in zip(*columns, strict=True):
    for event in range(first, stop):
      counts[domain, visit, user, event] += 1
  return counts


def _events(histories):
  return {
    (user, event)
    for user, count in enumerate(np.diff(histories.offsets))
    for event in range(1, count)
  }


@settings(max_examples=25)
@given(
  st.lists(st.integers(2, 60), min_size=1, max_size=3),
  st.integers(5, 50),
  st.integers(0, 99),
)
def test_every_event_is_a_target_once_in_every_pass(sizes, epoch_users, seed):
  domains = [_histories(users, seed=seed + i) for i, users in enumerate(sizes)]
  plans = _plan(*domains, epoch_users=epoch_users, seed=seed)
  counts = collections.Counter()
  for epoch in range(3):
    counts.update(_targets_by_pass(plans.epoch(epoch).documents))
  assert set(counts.values()) == {1}
  for domain, histories in enumerate(domains):
    finished = 3 * plans.quotas[domain] // plans.num_users[domain]
    for visit in range(min(finished, 4)):
      seen = {key[2:] for key in counts if key[:2] == (domain, visit)}
      assert seen == _events(histories)


def test_an_epoch_takes_its_quota_of_users():
  plans = _plan(_histories(300), _histories(20, seed=1))
  for epoch in range(3):
    documents = plans.epoch(epoch).documents
    for domain, quota in enumerate(plans.quotas):
      ours = documents.domain == domain
      drawn = set(zip(documents.user[ours], documents.visit[ours], strict=True))
      assert len(drawn) == quota


def test_domains_are_sampled_by_users_to_the_power():
  domains = [_histories(at, longest=3, seed=at) for at in (4000, 500, 60)]
  plans = _plan(*domains)
  wanted = np.array(plans.num_users) ** 0.3
  np.testing.assert_allclose(
    np.array(plans.quotas) / sum(plans.quotas),
    wanted / wanted.sum(),
    atol=1 / sum(plans.quotas),
  )
  even = _plan(*domains, mixing_exponent=0.0)
  assert max(even.quotas) - min(even.quotas) <= 1


def test_a_single_domain_has_whole_passes_in_an_epoch():
  few = _plan(_histories(30))
  assert few.quotas[0] % few.num_users[0] == 0
  many = _plan(_histories(4000, longest=4), epoch_users=1000)
  parts = -(-many.num_users[0] // 1000)
  assert many.quotas == (-(-many.num_users[0] // parts),)


def test_users_without_a_target_are_left_out():
  plans = _plan(_histories(200))
  counts = np.diff(_histories(200).offsets)
  assert plans.num_users[0] == (counts > 1).sum() < 200


def test_every_pass_has_another_order_and_other_windows():
  plans = _plan(_histories(50, longest=60))
  documents = plans.epoch(0).documents

  def cuts(visit):
    ours = documents.visit == visit
    columns = zip(documents.user[ours], documents.stop[ours], strict=True)
    return sorted((int(user), int(stop)) for user, stop in columns)

  assert cuts(0) != cuts(1)
  first, second = (
    [row.user.tolist() for row in map(epoch.row, range(epoch.num_rows))]
    for epoch in (plans.epoch(0), plans.epoch(1))
  )
  assert first[:10] != second[:10]


def test_every_pass_has_a_different_order_of_users():
  plans = _plan(_histories(2000, longest=4), epoch_users=250, rows=1)
  parts = -(-plans.num_users[0] // plans.quotas[0])
  first, again = (
    set(plans.epoch(epoch).documents.user.tolist()) for epoch in (0, parts)
  )
  assert len(first & again) < 0.6 * len(first)


def test_rows_are_not_in_the_order_of_packing():
  """Packing takes the longest documents first; training must not."""
  epoch = _plan(_histories(400)).epoch(0)
  longest = np.maximum.reduceat(epoch.documents.tokens, epoch.row_starts[:-1])
  places = np.arange(epoch.num_rows)
  assert abs(np.corrcoef(places, longest)[0, 1]) < 0.1


def test_an_epoch_ends_with_its_last_row():
  plans = _plan(_histories(50), rows=1)
  rows = [plans.epoch(epoch).num_rows for epoch in range(2)]
  assert plans.locate(rows[0] - 1) == (0, 0)
  assert plans.locate(rows[0]) == (1, rows[0])
  assert plans.locate(sum(rows)) == (2, sum(rows))


def test_rows_hold_what_packing_says():
  epoch = _plan(_histories(200)).epoch(0)
  for row in range(epoch.num_rows):
    documents = epoch.row(row)
    assert 0 < documents.tokens.sum() <= LIMITS.row_tokens
    slots = (documents.stop - documents.first_target).sum()
    assert slots <= LIMITS.row_slots
  assert len(epoch.row(epoch.num_rows).user) == 0


def test_the_seed_decides_and_nothing_else():
  histories = _histories(100)
  first, same, other = (
    _plan(histories, seed=seed).epoch(2) for seed in (0, 0, 1)
  )
  for column, again in zip(first.documents, same.documents, strict=True):
    np.testing.assert_array_equal(column, again)
  assert not np.array_equal(first.documents.user, other.documents.user)


def test_steps_are_found_in_any_order():
  histories = _histories(300)
  straight = _plan(histories, epoch_users=40)
  found = [straight.locate(step) for step in range(700)]
  assert found[0] == (0, 0)
  assert found[-1][0] >= 3
  jumping = _plan(histories, epoch_users=40)
  for step in (650, 3, 699, 200, 0):
    assert jumping.locate(step) == found[step]


def test_a_hint_spares_planning_and_changes_nothing():
  histories = _histories(300)
  straight = _plan(histories, epoch_users=40)
  epoch, first_step = straight.locate(650)
  hinted = _plan(histories, epoch_users=40)
  hinted.remember(epoch, first_step)
  planned = []
  plan_epoch = hinted._plan_epoch
  hinted._plan_epoch = lambda at: (planned.append(at), plan_epoch(at))[1]
  for step in (650, 699, 5):
    ours, row = hinted.rows_of_step(step)
    theirs, same_row = straight.rows_of_step(step)
    assert row == same_row
    np.testing.assert_array_equal(ours.documents.user, theirs.documents.user)
    if step == 650:
      assert planned == [epoch]


def test_last_targets_only():
  histories = _histories(60)
  epoch = _plan(histories, targets="last").epoch(0)
  documents = epoch.documents
  first_pass = documents.take(np.flatnonzero(documents.visit == 0))
  ends = np.diff(histories.offsets)
  assert sorted(first_pass.user.tolist()) == np.flatnonzero(ends > 1).tolist()
  np.testing.assert_array_equal(first_pass.stop, ends[first_pass.user])
  np.testing.assert_array_equal(first_pass.first_target, first_pass.stop - 1)


def test_few_rows_of_an_epoch_are_filling():
  plans = _plan(_histories(30), rows=16)
  rows = plans.epoch(0).num_rows
  assert (-rows % 16) / rows < 0.02


def test_parts_add_up():
  assert plan.apportion(10, np.array([0.5, 0.26, 0.24])) == (5, 3, 2)
  assert plan.apportion(3, np.array([0.98, 0.01, 0.01])) == (3, 1, 1)


def test_the_order_is_this_one_on_every_machine():
  """Raw Philox bits: a change here breaks every run that is resumed."""
  assert plan._shuffled(8, 0, "p", 0, 0).tolist() == SHUFFLE_OF_EIGHT


def test_a_domain_without_any_target_is_an_error():
  lonely = Histories(np.array([3, 3]), np.array([0, 1, 2]))
  with pytest.raises(ValueError, match="Domain 1 has no user with two events"):
    _plan(_histories(5), lonely)


def test_windows_come_from_the_users_own_lengths():
  histories = _histories(80, longest=40)
  documents = _plan(histories).epoch(0).documents
  for user, start, first, stop, tokens in zip(
    *(column.tolist() for column in documents[1:6]), strict=True
  ):
    own = histories.take(np.array([user]))
    sums = windows._Sums(own, LIMITS, COSTS)
    assert sums.tokens(start, first, stop) == tokens
