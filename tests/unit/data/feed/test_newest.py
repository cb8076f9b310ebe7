"""The newest events as targets: by time, or by position."""

import numpy as np
import pytest

from calrec_jax.data.feed.feed import Feed
from calrec_jax.data.feed.newest import newest_targets
from tests.fixtures import small_logs, synthetic_caches

DAYS = 8
# One user buys on days 0 to 7, the other on days 4 to 11; the last two of each
# are held out.
ROWS = [("early", "ab"[n % 2], n) for n in range(DAYS)] + [
  ("late", "ab"[n % 2], 4 + n) for n in range(DAYS)
]


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
  return small_logs.build(tmp_path_factory.mktemp("shop"), ROWS, "ab").cache


def days(cache, count, possible=None):
  """The days of the targets, by user."""
  mask = newest_targets(cache, "train", possible, count)
  times = cache.event_times("train")
  _, offsets = cache.event_lengths("train")
  start = 1000 * small_logs.START
  found = {}
  for user, name in enumerate(cache.user_ids("train")):
    at = np.arange(offsets[user], offsets[user + 1])
    at = at[mask[at]]
    day = (times[at] - start) // (1000 * small_logs.DAY)
    found[name] = day.tolist()
  return found


def test_the_newest_of_all_users_are_targets(shop):
  assert days(shop, 4) == {"early": [], "late": [6, 7, 8, 9]}
  assert days(shop, 6) == {"early": [5], "late": [5, 6, 7, 8, 9]}


def test_no_more_than_may_be_targets(shop):
  _, offsets = shop.event_lengths("train")
  possible = np.zeros(offsets[-1], bool)
  possible[[1, 2, 7]] = True
  [early, late] = days(shop, 2, possible).values()
  assert len(early) + len(late) == 2


def test_enough_for_all_changes_nothing(shop):
  assert newest_targets(shop, "train", None, 10) is None
  feed = Feed(row_tokens=512, row_slots=24, rows=2)
  whole = feed.open([shop])
  same = Feed(row_tokens=512, row_slots=24, rows=2, newest=10).open([shop])
  assert whole.stats == same.stats
  fewer = Feed(row_tokens=512, row_slots=24, rows=2, newest=4).open([shop])
  assert fewer.stats.targets == {shop.name: 4}
  assert fewer.fingerprint != whole.fingerprint


def test_by_positions_the_last_of_each_user_are_targets(tmp_path):
  cache = synthetic_caches.write(
    tmp_path,
    name="shop",
    item_lengths=(3, 3, 3),
    histories=((0, 1, 2, 0, 1), (0, 1), (2, 1, 0)),
  )
  mask = newest_targets(cache, "train", None, 3)
  assert mask.tolist() == [
    *(False, False, False, False, True),
    *(False, True),
    *(False, False, True),
  ]
