"""Published counts compared with a card's, and reasons for differences."""

import pytest

from calrec_tasks import published
from calrec_tasks.published import Published


@pytest.fixture
def card():
  return {
    "domain": "shop",
    "inputs": [{"file": "log.json.gz"}, {"file": "items.json.gz"}],
    "configuration": {"dedup": "consecutive_id", "min_count": 5},
    "steps": [
      {"step": "parse", "item_rows": 50, "events": 1000},
      {"step": "validate", "users": 90, "items": 40, "events": 980},
      {"step": "consecutive repeats", "users": 90, "items": 40, "events": 950},
      {"step": "k-core", "users": 80, "items": 30, "events": 900},
      {"step": "train", "users": 80, "items": 30, "events": 700},
    ],
    "problems": [
      problem("malformed_row", 2, "log.json.gz:3"),
      problem("unknown_item", 15, "log.json.gz:9"),
      problem("duplicate_event", 3, "log.json.gz:11"),
      problem("conflicting_item", 7, "items.json.gz:1"),
      problem("unreadable_price", 7, "items.json.gz:2"),
    ],
  }


def problem(kind, count, first):
  return {"kind": kind, "count": count, "first": first, "meaning": ""}


def one(card, *numbers, **more):
  row = Published("shop", *numbers, "a paper", **more)
  (found,) = published.compare(card, [row])
  return found


def test_the_stages_take_kinds_apart(card):
  assert [tuple(stage) for stage in published.stages(card)] == [
    ("rows of the file", None, None, 1000),
    ("less malformed_row", None, None, 998),
    ("less unknown_item", None, None, 983),
    ("less duplicate_event", 90, 40, 980),
    ("less consecutive repeats", 90, 40, 950),
    ("5-core", 80, 30, 900),
  ]


def test_kinds_that_do_not_add_up_stay_together(card):
  card["problems"][0]["first"] = "items.json.gz:3"
  labels = [stage.label for stage in published.stages(card)]
  assert labels[:2] == ["rows of the file", "less unusable rows"]
  card["problems"] = []
  card["steps"][0]["events"] = 980
  assert published.stages(card)[1].label == "usable events"


@pytest.mark.parametrize(
  ("numbers", "label"),
  [
    ((None, None, 1000), "rows of the file"),
    ((None, None, 983), "less unknown_item"),
    ((90, 40, 950), "less consecutive repeats"),
    ((80, 30, 900), "5-core"),
  ],
)
def test_an_equal_step_is_found(card, numbers, label):
  found = one(card, *numbers)
  assert (found.equal, found.stage.label, found.reasons) == (True, label, ())


def test_rounded_numbers_are_equal_within_their_rounding(card):
  assert one(card, 80, 30, 902, rounded=True).equal
  assert not one(card, 80, 30, 902).equal
  assert not one(card, 81, 30, 900, rounded=True).equal


def test_reasons(card):
  found = one(
    card, 85, 31, 940, min_count=10, extra="only ratings of 3 and more"
  )
  assert not found.equal
  assert found.stage.label == "less consecutive repeats"
  assert found.reasons == (
    "its rows: 5-core file; ours: log.json.gz",
    "it retains consecutive repeats; ours are 30 events "
    "(Domain.dedup = 'consecutive_id')",
    "it takes a 10-core; our 5-core costs 50 events (Domain.min_count = 5)",
    "it also takes only ratings of 3 and more; we do not",
    "these explain the remaining -10 events (-1.06%) to our nearest count",
  )


def test_a_known_dataset_on_its_card(card):
  card["domain"] = "amazon2018_video_games"
  card["steps"][0]["events"] = 497_577
  assert published.lines(card) == [
    "  published: ? / ? / 497,577 (https://nijianmo.github.io/amazon/)",
    "    equal to ours, rows of the file: 497,577 events",
  ]
  card["domain"] = "nobody's"
  assert published.lines(card) == []


def test_every_figure_has_its_source():
  assert len(published.of("amazon2023_gift_cards")) == 1
  for row in published.PUBLISHED:
    assert row.source
    assert row.dedup in ("none", "pairs", "consecutive", "unknown")
