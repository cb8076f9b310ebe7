"""Chosen weights: what they find out, and what members bring."""

import numpy as np
import pytest

from calrec_jax.recommend.fuse import fuse, fusion_weights
from calrec_jax.recommend.fuse.joined import Joined, join
from tests.fixtures import fusion_toys
from tests.fixtures.fusion_toys import ITEMS, USERS, Drawn, measured


@pytest.fixture(scope="module")
def users():
  return fusion_toys.users()


def chosen(members, users, settings=None):
  """Weights, and the NDCG@10 that they have on these users."""
  joined = join(members, *users, settings or fuse.Fusion())
  weights = fusion_weights.choose(joined)
  return weights, joined.gains(np.array(weights)).mean()


def test_who_misleads_is_left_out(users):
  good = Drawn("good", users[1], 0.8, 1)
  fair = Drawn("fair", users[1], 0.3, 2)
  wrong = Drawn("wrong", users[1], 0.0, 3, favourite=5)
  members = [wrong, fair, good]
  settings = fuse.Fusion()
  weights, value = chosen(members, users, settings)
  assert weights[0] == 0
  assert weights[2] >= weights[1]
  equal = fuse.Chosen((1.0, 1.0, 1.0), "")
  assert value > measured(members, users, settings, equal)
  reached = measured(members, users, settings, fuse.Chosen(weights, ""))
  assert value == pytest.approx(reached, abs=1e-12)


@pytest.mark.parametrize("by", ["ranks", "scores"])
def test_no_change_of_one_weight_helps_beyond_chance(users, by):
  members = [
    Drawn("a", users[1], 0.6, 4),
    Drawn("b", users[1], 0.4, 5),
    Drawn("c", users[1], 0.0, 6),
  ]
  settings = fuse.Fusion(by=by)
  weights, value = chosen(members, users, settings)
  joined = join(members, *users, settings)
  gains = joined.gains(np.array(weights))
  assert gains.mean() == value
  for member in range(3):
    for other in fusion_weights.VALUES:
      trial = np.array(weights)
      trial[member] = other
      more = joined.gains(trial) - gains
      assert more.mean() <= more.std() / USERS**0.5


def test_members_that_say_the_same_stay_equal(users):
  members = [Drawn(name, users[1], 0.5, 1) for name in "ab"]
  weights, _ = chosen(members, users)
  assert weights == (1.0, 1.0)


def test_where_no_member_knows_anything_weights_stay_equal(users):
  wrong = [Drawn(name, users[1], 0.0, 7) for name in "ab"]
  for member in wrong:
    member.scores[np.arange(ITEMS), (np.arange(ITEMS) + 7) % ITEMS] = -1
  weights, value = chosen(wrong, users, fuse.Fusion(places=10))
  assert (weights, value) == ((1.0, 1.0), 0.0)


def test_one_who_knows_among_four_who_do_not_is_found(users):
  good = Drawn("good", users[1], 0.9, 1)
  noise = [Drawn(f"noise {seed}", users[1], 0.0, seed) for seed in range(4)]
  weights, value = chosen([*noise[:2], good, *noise[2:]], users)
  alone = fusion_toys.user_values(good, users).mean()
  assert value >= alone
  assert weights[2] > 3 * max(np.delete(weights, 2))


def test_members_that_mislead_together_do_not_hide_the_best(users):
  good = Drawn("good", users[1], 0.9, 1)
  wrong = [Drawn(name, users[1], 0.0, 3, favourite=5) for name in "abcde"]
  for member in wrong:
    member.scores[:, 10:30] = 60  # Twenty items that nobody buys first.
    member.scores[np.arange(ITEMS), (np.arange(ITEMS) + 7) % ITEMS] = 0
  members = [good, *wrong]
  joined = join(members, *users, fuse.Fusion())
  # From equal weights no change of one weight helps.
  equal = joined.gains(np.ones(6))
  for member in range(6):
    tried = joined.gains_by_value(np.ones(6), member, fusion_weights.VALUES)
    assert (tried - equal).max() == 0
  weights, value = chosen(members, users)
  assert weights == (1.0, 0.0, 0.0, 0.0, 0.0, 0.0)
  alone = fusion_toys.user_values(good, users).mean()
  assert value == pytest.approx(alone, abs=1e-12)
  assert value > 10 * equal.mean()


def test_members_that_know_different_users_stay(users):
  halves = [Drawn(name, users[1], 0.0, seed) for seed, name in enumerate("ab")]
  for half, member in enumerate(halves):
    numbers = np.arange(half, ITEMS, 2)
    member.scores[numbers, (numbers + 7) % ITEMS] = 50
  weights, value = chosen(halves, users)
  assert min(weights) > 0
  for member in halves:
    assert value > 1.2 * fusion_toys.user_values(member, users).mean()


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("num_users", [10, 50, 120, 240])
def test_no_fusion_is_behind_its_best_member(users, seed, num_users):
  few = [np.resize(np.array(part, object), num_users) for part in users]
  draw = np.random.default_rng(seed)
  members = [
    Drawn(str(place), users[1], draw.uniform(0, 0.9), 10 * seed + place)
    for place in range(4)
  ]
  joined = join(members, list(few[0]), few[1].astype(int), fuse.Fusion())
  fused = joined.gains(np.array(fusion_weights.choose(joined)))
  for one in np.eye(4):
    more = joined.gains(one) - fused
    chance = more.std() / num_users**0.5 if num_users < 200 else 1e-12
    assert more.mean() <= chance


def _two_members(num_users, better):
  """Two members for some users; each knows what the other misses.

  Joined equally the first is heard for five users; any more weight of the
  second lets it win, for `better` users more.
  """
  known = 5 + 5 + better
  width = 1 + 20  # The next item, and those that the other member lists.
  contributions = np.zeros((2, known, width))
  contributions[0, :5, 0] = 1.0
  contributions[1, :5, 1:] = 0.9
  contributions[1, 5:, 0] = 1.0
  contributions[0, 5:, 1:] = 1.0
  flat = contributions.reshape(2, -1)
  starts = np.arange(known) * width
  return Joined(num_users, np.arange(known), starts, flat, flat > 0)


def test_of_few_users_one_more_hit_is_chance():
  lucky = _two_members(50, better=1)
  second = lucky.gains(np.array([0.0, 1.0]))
  assert second.mean() > lucky.gains(np.ones(2)).mean()
  assert fusion_weights.choose(lucky) == (1.0, 1.0)
  for certain in (_two_members(50, better=10), _two_members(400, better=1)):
    weights = fusion_weights.choose(certain)
    assert weights[0] < weights[1]


def test_what_members_bring_is_measured_as_an_evaluation_does(users):
  good = Drawn("good", users[1], 0.6, 1)
  fair = Drawn("fair", users[1], 0.4, 2)
  wrong = Drawn("wrong", users[1], 0.0, 3, favourite=5)
  members, settings = [good, fair, wrong], fuse.Fusion()
  weights = (1.0, 0.5, 0.0)
  found = fusion_weights.measure(join(members, *users, settings), weights)
  assert found.users == USERS

  def value(*weights):
    return measured(members, users, settings, fuse.Chosen(weights, ""))

  fused = value(*weights)
  assert found.value.value == pytest.approx(fused)
  for place, member in enumerate(members):
    own = fusion_toys.user_values(member, users)
    assert found.alone[place].value == pytest.approx(own.mean())
    assert found.ahead[place].value == pytest.approx(fused - own.mean())
  assert found.brings[0].value == pytest.approx(fused - value(0, 0.5, 0))
  assert found.brings[1].value == pytest.approx(fused - value(1, 0, 0))
  assert found.brings[2] is None
  for interval in (*found.alone[:2], *found.ahead, *found.brings[:2]):
    assert interval.low < interval.value < interval.high
  # User by user: narrower than the two intervals side by side.
  ahead, alone = found.ahead[0], found.alone[0]
  assert ahead.high - ahead.low < alone.high - alone.low


def test_who_is_joined_alone_brings_everything(users):
  members = [Drawn(name, users[1], 0.5, seed) for seed, name in enumerate("ab")]
  joined = join(members, *users, fuse.Fusion())
  found = fusion_weights.measure(joined, (2.0, 0.0))
  assert found.brings == (found.value, None)
  assert found.ahead[0] == (0.0, 0.0, 0.0)


def test_a_fusion_leaves_out_who_has_no_weight(users):
  members = [Drawn(name, users[1], 0.5, 8) for name in ("one", "two", "three")]
  chosen = fuse.Chosen((2.0, 0.0, 1.0), "chosen by 120 validation users")
  fused = fuse.Fused(members, chosen=chosen)
  fused.recommend(users[0], depth=5)
  assert [member.calls for member in members] == [1, 0, 1]
  description = fused.describe()
  assert (
    "2 x one + three; weights chosen by 120 validation users" in description
  )


def test_given_weights_are_taken_before_chosen_ones(users):
  members = [Drawn(name, users[1], 0.5, 9) for name in ("one", "two")]
  fused = fuse.Fused(
    members,
    settings=fuse.Fusion(weights=()),
    chosen=fuse.Chosen((3.0, 0.0), "chosen"),
  )
  assert fused.describe().endswith("one + two")
