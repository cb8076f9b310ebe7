"""What is new to a model that trains on."""

import itertools

import numpy as np
import pytest

from calrec_jax.data.feed import since as since_lib
from calrec_jax.data.feed.feed import Feed
from calrec_jax.data.feed.since import Since, Trained
from calrec_jax.errors import InputError
from tests.fixtures import small_logs

FEED = Feed(row_tokens=512, row_slots=24, rows=2)
DAYS = 8
# Six users buy on days 0 to 7; "new" begins on day 6.
OLD = [(f"u{user}", "abcd"[n % 4], n) for user in range(6) for n in range(DAYS)]
NEW = [("new", "abcd"[n % 4], 6 + n / 9) for n in range(9)]


def day(number):
  return 1000 * (small_logs.START + number * small_logs.DAY)


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
  folder = tmp_path_factory.mktemp("shop")
  return small_logs.build(folder, [*OLD, *NEW], "abcd")


def targets(shop, feed):
  """Positions of the targets in each user's training document, by user."""
  opened, found = feed.open([shop.cache]), {}
  documents = opened._plan.epoch(0).documents
  for user, visit, first, stop in zip(
    documents.user,
    documents.visit,
    documents.first_target,
    documents.stop,
    strict=True,
  ):
    if visit == 0:
      name = shop.cache.document("train", int(user)).user_id
      found.setdefault(name, []).extend(range(first, stop))
  return {name: sorted(at) for name, at in found.items()}


def test_without_a_day_all_but_the_first_event_are_targets(shop):
  assert targets(shop, FEED) == {
    **{f"u{user}": [1, 2, 3, 4, 5] for user in range(6)},
    "new": [1, 2, 3, 4, 5, 6],
  }


@pytest.mark.parametrize("start", [day(4), "2023-11-18T22:13:20"])
def test_from_a_day_on_events_are_targets(shop, start):
  feed = Feed(row_tokens=512, row_slots=24, rows=2, since=start)
  assert targets(shop, feed) == {
    **{f"u{user}": [4, 5] for user in range(6)},
    "new": [1, 2, 3, 4, 5, 6],
  }


def test_all_before_is_history(shop):
  feed = Feed(row_tokens=512, row_slots=24, rows=2, since=day(5))
  documents = feed.open([shop.cache])._plan.epoch(0).documents
  assert set(documents.start.tolist()) == {0}
  assert set(documents.first_target.tolist()) == {1, 5}


def test_what_a_split_held_out_is_new_to_its_checkpoint(shop):
  record = {
    "cards": {
      "shop": {"period": {"first": "-", "last": "2023-11-18T22:13:20"}}
    },
    "training": {"feed": {}},
  }
  feed = Feed(row_tokens=512, row_slots=24, rows=2, since="checkpoint")
  opened = feed.after(record, "yesterday")
  # Of the five events up to day 4 the last two were not trained on.
  assert opened.since == Since({"shop": Trained(day(4) + 1000, 2)})
  assert targets(shop, opened) == {
    **{f"u{user}": [3, 4, 5] for user in range(6)},
    "new": [1, 2, 3, 4, 5, 6],
  }
  record["training"]["feed"]["Feed.split"] = "validation"
  assert targets(shop, feed.after(record, "it"))["u0"] == [4, 5]


def test_a_global_temporal_split_trained_up_to_its_day():
  period = {
    "first": "2023-01-01T00:00:00",
    "last": "2023-06-01T00:00:00",
    "validation_start": "2023-05-01T00:00:00",
    "test_start": "2023-05-15T00:00:00",
  }
  record = {"cards": {"shop": {"period": period}}, "training": {}}
  [trained] = since_lib.after(record).trained.values()
  assert trained == Trained(1682899200000, 0)


def test_the_mask_equals_a_loop_over_users():
  numbers = np.random.default_rng(0)
  for _ in range(50):
    lengths = numbers.integers(0, 7, 9)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    times = np.concatenate(
      [np.sort(numbers.integers(0, 10, n)) for n in lengths]
    ).astype(int)
    possible = numbers.random(len(times)) < 0.7
    later = numbers.integers(0, 3, 9)
    for held_out in (0, 1, 2):
      found = since_lib._known(
        times, offsets, possible, Trained(5, held_out), later
      )
      for user, (start, stop) in enumerate(itertools.pairwise(offsets)):
        asked = [
          row for row in range(start, stop) if times[row] < 5 and possible[row]
        ]
        everything = asked + [None] * later[user]
        if held_out and len(everything) >= 3:
          everything = everything[:-held_out]
        known = [row for row in everything if row is not None]
        if held_out:
          assert all(found[known])
          assert not any(found[asked[len(known) :]])
        else:
          assert all(found[asked])


@pytest.mark.parametrize("added", [0, 1, 2, 3])
@pytest.mark.parametrize("split", ["train", "validation"])
def test_only_what_is_new_is_a_target_however_little_is_new(
  tmp_path, added, split
):
  events = [*OLD, *((f"u{n}", "abcd"[n % 4], 20 + n) for n in range(added))]
  events += [("u0", "bd"[n % 2], 30 + n) for n in range(added)]
  shop = small_logs.build(tmp_path, events, "abcd")
  held_out = {"train": 2, "validation": 1}[split]
  feed = Feed(
    row_tokens=512,
    row_slots=24,
    rows=2,
    split=split,
    since=Since({"shop": Trained(day(7) + 1000, held_out)}),
  )
  ids = dict(enumerate(shop.cache.user_ids(feed.documents)))
  total = {f"u{user}": DAYS for user in range(6)}
  for user, *_ in events[len(OLD) :]:
    total[user] += 1
  expected = {}
  for user, count in total.items():
    new = list(range(DAYS - held_out, count - held_out))
    if new:
      expected[user] = new
  if not expected:
    with pytest.raises(InputError, match="is new"):
      feed.open([shop.cache]).batch(0)
    return
  documents = feed.open([shop.cache])._plan.epoch(0).documents
  found = {}
  for user, first, stop in zip(
    documents.user, documents.first_target, documents.stop, strict=True
  ):
    found.setdefault(ids[int(user)], []).extend(range(first, stop))
  assert {user: sorted(set(at)) for user, at in found.items()} == expected


@pytest.mark.parametrize("number", [20240501, 1714521600])
def test_numbers_that_are_no_milliseconds_are_refused(number):
  with pytest.raises(InputError, match=r"as unix milliseconds that is 1970"):
    Feed(row_tokens=512, row_slots=24, rows=2, since=number)


def test_another_domain_is_all_new(shop):
  feed = Feed(
    row_tokens=512, row_slots=24, rows=2, since=Since({"mart": Trained(0)})
  )
  assert targets(shop, feed) == targets(shop, FEED)


def test_the_fingerprint_changes_only_with_the_setting(shop):
  plain = FEED.open([shop.cache])
  assert not any("since" in name for name in plain.settings())
  later = Feed(row_tokens=512, row_slots=24, rows=2, since=day(4))
  text = Feed(row_tokens=512, row_slots=24, rows=2, since="2023-11-18T22:13:20")
  prints = [f.open([shop.cache]).fingerprint for f in (later, text)]
  assert prints[0] == prints[1] != plain.fingerprint


@pytest.mark.parametrize(
  ("given", "said"),
  [
    ("yesterday", "Feed.since = 'yesterday': must be ISO 8601"),
    ("2030-01-01", "Nothing in the train split of shop is new"),
  ],
)
def test_a_day_that_cannot_be_is_refused(shop, given, said):
  with pytest.raises(InputError, match=said):
    targets(shop, Feed(row_tokens=512, row_slots=24, rows=2, since=given))


def test_a_checkpoint_is_needed_that_says_what_it_knows():
  feed = Feed(row_tokens=512, row_slots=24, rows=2, since="checkpoint")
  with pytest.raises(InputError, match="starts from scratch"):
    feed.after(None, "scratch")
  with pytest.raises(InputError, match="does not say of which time"):
    feed.after({"cards": {"shop": {"period": {}}}}, "old")


def test_positions_have_no_days(tmp_path):
  shop = small_logs.build(tmp_path, OLD, "abcd")
  shop.cache.card["period"] = {}
  feed = Feed(row_tokens=512, row_slots=24, rows=2, since=3)
  with pytest.raises(InputError, match="has positions only"):
    feed.open([shop.cache]).batch(0)


def test_a_log_without_a_second_event_names_the_domain(tmp_path):
  events = [(f"u{user}", "ab"[user % 2], user) for user in range(4)]
  shop = small_logs.build(tmp_path, events, "ab", min_count=1)
  with pytest.raises(InputError, match="nothing to train on in shop: no user"):
    FEED.open([shop.cache]).batch(0)
