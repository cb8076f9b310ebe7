"""Several kinds of event: only some may be targets, the others are history."""

import dataclasses

import numpy as np
import pytest

from calrec_jax.data.domain import card, leakage, splits
from calrec_jax.data.logs import events as events_lib
from tests.fixtures import kinds_toys
from tests.fixtures.kinds_toys import CART, PURCHASE, VIEW

NAMES = "vcp"


def prepare(events, targets=("purchase",), **options):
  """A domain of one user's events, written like "v1 p1"."""
  rows = [
    ("u", int(event[1:]), NAMES.index(event[0])) for event in events.split()
  ]
  source = kinds_toys.Log(tuple(rows), targets=targets)
  return kinds_toys.domain(source, **options).prepare()


def written(prepared, rows=slice(None)):
  events = prepared.events
  items = [prepared.item_ids[item][1:] for item in events.items[rows]]
  kinds = [events.kind_names[kind][0] for kind in events.kinds[rows]]
  return " ".join(map("".join, zip(kinds, items, strict=True)))


def documents(prepared, split):
  part = prepared.documents[split]
  return [
    written(prepared, slice(start, stop))
    for start, stop in zip(part.starts, part.stops, strict=True)
  ]


def test_repeats_are_of_one_item_and_kind():
  log = "v1 v1 c1 p1 p1 v1 p2 v2 p2 p3"
  assert written(prepare(log)) == "v1 c1 p1 v1 p2 v2 p2 p3"
  everything = written(prepare(log, dedup="none"))
  assert everything == "v1 v1 c1 p1 p1 v1 p2 v2 p2 p3"


def test_targets_are_the_last_purchases_and_histories_hold_everything():
  prepared = prepare("v1 p1 v2 c2 p2 v3 p3 v4 v5")
  assert documents(prepared, "train") == ["v1 p1 v2 c2"]
  assert documents(prepared, "validation") == ["v1 p1 v2 c2 p2"]
  assert documents(prepared, "test") == ["v1 p1 v2 c2 p2 v3 p3"]


def test_users_of_fewer_than_three_purchases_are_for_training():
  prepared = prepare("v1 p1 v2 v3 v4 p2 v5")
  assert documents(prepared, "train") == ["v1 p1 v2 v3 v4 p2 v5"]
  assert not documents(prepared, "validation")
  assert not documents(prepared, "test")


def test_a_period_asks_for_its_first_purchase():
  log = "v1 p1 v2 p2 v3 v4 p3 p4 v5 v6 p6 v7 p7"
  hours = 3_600_000
  prepared = prepare(
    log,
    split="global_temporal",
    validation_start=4 * hours,
    test_start=8 * hours,
  )
  assert documents(prepared, "train") == ["v1 p1 v2 p2"]
  assert documents(prepared, "validation") == ["v1 p1 v2 p2 v3 v4 p3"]
  assert documents(prepared, "test") == [log.removesuffix(" v7 p7")]
  columns = {split: prepared.columns(split) for split in splits.SPLITS}
  assert leakage.CHECKS_OF_KINDS[0] in leakage.check(prepared, columns)


def test_fractions_are_of_what_may_be_a_target():
  # Ten purchases at the hours 20 to 29, after twenty views.
  views = " ".join(f"v{item}" for item in range(20))
  log = f"{views} " + " ".join(f"p{item}" for item in range(10))
  prepared = prepare(
    log, split="global_temporal", validation_fraction=0.2, test_fraction=0.2
  )
  hours = 3_600_000
  assert prepared.boundaries == splits.Boundaries(26 * hours, 28 * hours)


def test_an_event_counts_whatever_its_kind_and_every_user_buys():
  log = [("u", 1, VIEW), ("u", 2, VIEW), ("u", 1, VIEW), ("u", 2, PURCHASE)]
  log += [("v", 1, VIEW), ("v", 2, VIEW), ("v", 1, VIEW), ("v", 2, VIEW)]
  log += [("w", 1, PURCHASE), ("w", 3, PURCHASE)]
  source = kinds_toys.Log(tuple(log))
  prepared = kinds_toys.domain(source, min_count=2).prepare()
  # v buys nothing, then w has one event left of item 1, 3 is bought once.
  assert written(prepared) == "v1 v2 v1 p2"
  assert prepared.events.kind_names == ("view", "purchase")
  prepared = kinds_toys.domain(source, min_count=1).prepare()
  used = prepared.events.users
  assert {prepared.events.user_ids[user] for user in used} == {"u", "w"}


@pytest.mark.parametrize("seed", range(20))
def test_the_core_is_the_largest_that_obeys_the_rule(seed):
  numbers = np.random.default_rng(seed)
  count, least = 120, 3
  events = events_lib.Events(
    users=numbers.integers(0, 25, count).astype(np.int32),
    items=numbers.integers(0, 25, count).astype(np.int32),
    timestamps=np.arange(count),
    user_ids=[str(user) for user in range(25)],
    num_rows=count,
    kinds=numbers.integers(0, 2, count).astype(np.int8),
    kind_names=("view", "purchase"),
    targets=numbers.random(count) < 0.2,
  )
  core, _ = events_lib.k_core(events, least)
  left = set(range(count))
  while True:
    bad = {
      row
      for row in left
      if sum(events.users[row] == events.users[at] for at in left) < least
      or sum(events.items[row] == events.items[at] for at in left) < least
      or not any(
        events.users[row] == events.users[at] and events.targets[at]
        for at in left
      )
    }
    if not bad:
      break
    left -= bad
  assert core.timestamps.tolist() == sorted(left)


def test_nothing_to_ask_for_is_refused():
  with pytest.raises(ValueError, match=r"target.*LogFiles\.target_where"):
    prepare("v1 v2 v3")


def test_the_kinds_that_are_asked_for():
  log = "v1 c1 p1 v2 p2 c3 p3"
  kinds = prepare(log).kinds
  assert (kinds.names, kinds.targets) == (kinds_toys.KINDS, ("purchase",))
  assert kinds.query == PURCHASE
  assert prepare(log, targets=("cart", "purchase")).kinds.query == PURCHASE
  assert prepare(log, targets=("cart",)).kinds.query == CART
  assert prepare(log, targets=None).kinds.targets == kinds_toys.KINDS
  source = kinds_toys.Log((("u", 1, 2), ("u", 2, 2)), None, with_kinds=False)
  assert kinds_toys.domain(source).prepare().kinds is None


def columns(prepared):
  return {split: prepared.columns(split) for split in splits.SPLITS}


@pytest.mark.parametrize("method", splits.METHODS)
def test_the_documents_of_a_log_do_not_leak(method):
  prepared = kinds_toys.domain(split=method).prepare()
  leakage.check(prepared, columns(prepared))
  for split in ("validation", "test"):
    part = prepared.documents[split]
    assert len(part) > 10
    assert prepared.events.targets[part.stops - 1].all()


def test_leaks_are_found():
  prepared = prepare("v1 p1 v2 p2 v3 p3 v4 p4 v5")
  good = columns(prepared)
  leakage.check(prepared, good)

  def change(split, **values):
    return {**good, split: dataclasses.replace(good[split], **values)}

  kinds = good["train"].kinds.copy()
  kinds[0] = PURCHASE - 1
  with pytest.raises(leakage.LeakageError, match="not of the kind"):
    leakage.check(prepared, change("train", kinds=kinds))
  targets = ~good["test"].targets
  with pytest.raises(leakage.LeakageError, match="not of the kind"):
    leakage.check(prepared, change("test", targets=targets))

  def take(rows):
    return {
      "offsets": np.array([0, len(rows)]),
      "events": np.array(rows),
      "items": prepared.events.items[rows],
      "timestamps": prepared.events.timestamps[rows],
      "kinds": prepared.events.kinds[rows],
      "targets": prepared.events.targets[rows],
    }

  # A view as target; a training history that goes on to the test's target.
  with pytest.raises(leakage.LeakageError, match="not of a kind that may be"):
    leakage.check(prepared, change("test", **take(list(range(9)))))
  with pytest.raises(leakage.LeakageError, match="is not before its user's"):
    leakage.check(prepared, change("train", **take([0, 1, 6])))


def test_the_card_counts_kinds_and_targets_seen_just_before():
  prepared = prepare("v1 p1 v2 p2 v3 p3 v4 p4 p5 v5")
  lengths = [np.arange(3)] * len(prepared.item_ids)
  made = card.build_card(
    kinds_toys.domain(), prepared, item_tokens=lengths, leakage_checks=(),
    vocabulary={"size": 9, "sha256": "0" * 64},
  )  # fmt: skip
  assert made["kinds"] == {
    "view": {"events": 5, "targets": 0},
    "purchase": {"events": 5, "targets": 5},
  }
  assert made["shares"]["test_targets_just_seen"] == 0
  assert made["shares"]["validation_targets_just_seen"] == 1
  text = card.render(made)
  assert "kind of event" in text
  assert "of the event before, of another kind" in text


def test_of_several_kinds_of_target_the_most_frequent_is_asked_for():
  kinds = prepare("c1 c2 c3 p4", targets=("cart", "purchase")).kinds
  assert kinds.targets == ("purchase", "cart")
  assert kinds.query == kinds.names.index("cart")
