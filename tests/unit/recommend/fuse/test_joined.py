"""Joined lists give, for any weights, the numbers of the fusion itself."""

import numpy as np
import pytest

from calrec_jax.recommend.fuse import fuse, joined
from tests.fixtures import fusion_toys
from tests.fixtures.fusion_toys import USERS, Drawn, Short


@pytest.fixture(scope="module")
def users():
  return fusion_toys.users()


@pytest.fixture(params=["ranks", "scores"])
def settings(request):
  return fuse.Fusion(by=request.param, places=25)


@pytest.mark.parametrize("chunk", [1, 100, 1 << 14])
@pytest.mark.parametrize(
  "weights",
  [
    (1.0, 1.0, 1.0, 1.0),
    (0.5, 2.0, 0.125, 0.25),
    (0.0, 1.0, 0.0, 3.0),
    (0.0, 0.0, 0.0, 1.0),
    (0.0, 1.0, 0.0, 0.0),
  ],
)
def test_every_user_s_value_is_that_of_an_evaluation(
  users, settings, weights, chunk, monkeypatch
):
  monkeypatch.setattr(joined, "_CHUNK", chunk)
  members = [Drawn(str(seed), users[1], 0.5, seed) for seed in range(3)]
  members.append(Short("short", users[1], 0.4, 9))
  fusion = fuse.Chosen(weights, "")
  found = joined.join(members, *users, settings).gains(np.array(weights))
  fused = fuse.Fused(members, settings=settings, chosen=fusion)
  expected = fusion_toys.user_values(fused, users)
  assert 0 < expected.mean() < 1
  np.testing.assert_allclose(found, expected, atol=1e-12)


def test_a_member_s_values_are_tried_in_one_call(users, settings):
  members = [Drawn(str(seed), users[1], 0.5, seed) for seed in range(2)]
  members.append(Short("short", users[1], 0.4, 9))
  lists = joined.join(members, *users, settings)
  values = (0.0, 0.25, 2.0)
  tried = lists.gains_by_value(np.array([1.0, 0.0, 0.5]), 2, values)
  assert tried.shape == (3, USERS)
  for gains, value in zip(tried, values, strict=True):
    np.testing.assert_array_equal(gains, lists.gains(np.array([1, 0, value])))


def test_only_items_that_may_come_first_are_held(users):
  members = [Drawn(str(seed), users[1], 1.0, seed) for seed in range(3)]
  lists = joined.join(members, *users, fuse.Fusion())
  # Every member puts the next item first: nothing is above it.
  assert len(lists.users) > USERS - 10
  assert lists.contributions.shape == (3, len(lists.users))


@pytest.mark.parametrize(("above", "held"), [(9, USERS), (10, 0)])
def test_users_who_can_gain_nothing_are_not_held(users, above, held):
  """One member knows the next item, behind that many; the other does not."""
  histories, targets = users
  histories = [history[:1] for history in histories]  # None ends in its target.
  knows, other = (Drawn(name, targets, 0.0, 1) for name in "ab")
  rows = np.arange(USERS)[:, None]
  better = (targets[:, None] + 1 + np.arange(above)) % 40
  better += better == rows % 40
  knows.scores[:] = np.random.default_rng(0).random(knows.scores.shape)
  knows.scores[rows, better] = 20 + np.arange(above)
  knows.scores[rows[:, 0], targets] = 10
  other.scores[rows[:, 0], targets] = -1
  lists = joined.join(
    [knows, other], histories, targets, fuse.Fusion(places=39)
  )
  assert len(lists.users) == held


def test_users_whose_next_item_nobody_lists_gain_nothing(users):
  histories, targets = users
  wrong = [Drawn(name, targets, 0.0, 7) for name in "ab"]
  for member in wrong:
    member.scores[np.arange(USERS) % 40, targets] = -1
  lists = joined.join(wrong, histories, targets, fuse.Fusion(places=10))
  assert len(lists.users) == 0
  assert lists.gains(np.ones(2)).tolist() == [0.0] * USERS
