"""Published counts of known datasets, and explanations of differences.

A benchmark is a file, some steps, and three counts. The counts of a card after
each of its steps are compared with published ones, which shows a step that was
omitted or added.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

_ROUNDING = 0.005  # Relative error of counts that were published in thousands.


@dataclasses.dataclass(frozen=True)
class Published:
  """Published counts of a dataset.

  Attributes:
    domain: Name of the domain.
    users: Number of users; None if not published, as below.
    items: Number of items.
    events: Number of interactions.
    source: Publication.
    rows: File that it starts from.
    dedup: Kind of repetitions removed: "none", "pairs" (all but one event of a
      user and an item), "consecutive", or "unknown".
    min_count: k of its k-core; 1 is none, None is unknown.
    extra: Extra steps, in words.
    rounded: Whether the counts are rounded.
  """

  domain: str
  users: int | None
  items: int | None
  events: int
  source: str
  rows: str = "5-core file"
  dedup: str = "none"
  min_count: int | None = 1
  extra: str = ""
  rounded: bool = False


class Stage(NamedTuple):
  """A card's counts after one of its steps.

  Attributes:
    label: Description of the steps so far.
    users: Number of users; None before unusable rows are removed.
    items: Number of items, likewise.
    events: Number of events, or of rows.
  """

  label: str
  users: int | None
  items: int | None
  events: int


class Comparison(NamedTuple):
  """A comparison of published counts with a card's.

  Attributes:
    published: Published counts.
    stage: The card's stage with the nearest counts.
    equal: Whether the counts are equal.
    reasons: Differences between the steps.
  """

  published: Published
  stage: Stage
  equal: bool
  reasons: tuple[str, ...]


_UCSD_2018 = "https://nijianmo.github.io/amazon/"
_UCSD_2023 = "https://amazon-reviews-2023.github.io/data_processing/5core.html"
_S3REC = "Zhou et al., S3-Rec, CIKM 2020"

# Counts, rounded to thousands, of the publisher's 5-core of 2023.
_CORES_2023 = """
all_beauty 253 356 2_500
arts_crafts_and_sewing 197_300 90_000 1_800_000
automotive 632_100 267_300 6_100_000
baby_products 150_800 36_000 1_200_000
beauty_and_personal_care 729_600 207_600 6_600_000
books 776_400 495_100 9_500_000
cds_and_vinyl 123_900 89_400 1_600_000
cell_phones_and_accessories 381_000 111_500 2_800_000
gift_cards 377 129 2_400
grocery_and_gourmet_food 404_800 132_900 3_900_000
health_and_household 796_100 184_300 7_200_000
industrial_and_scientific 51_000 25_800 412_900
kindle_store 892_200 466_600 16_100_000
magazine_subscriptions 30 21 176
movies_and_tv 657_200 197_900 7_400_000
musical_instruments 57_400 24_600 511_800
office_products 223_300 77_600 1_800_000
patio_lawn_and_garden 416_600 133_400 3_400_000
pet_supplies 594_800 114_600 5_300_000
software 146_400 17_600 1_300_000
sports_and_outdoors 409_800 156_200 3_500_000
tools_and_home_improvement 842_000 274_700 7_900_000
toys_and_games 432_300 162_000 3_900_000
video_games 94_800 25_600 814_600
"""

PUBLISHED: tuple[Published, ...] = (
  Published("amazon2014_beauty", 22_363, 12_101, 198_502, _S3REC),
  Published("amazon2014_sports_and_outdoors", 35_598, 18_357, 296_337, _S3REC),
  Published("amazon2014_toys_and_games", 19_412, 11_924, 167_597, _S3REC),
  Published(
    "amazon2018_industrial_and_scientific", None, None, 77_071, _UCSD_2018
  ),
  Published(
    "amazon2018_industrial_and_scientific",
    10_716,
    5_014,
    74_837,
    "https://github.com/RUCAIBox/UniSRec/issues/25, with RecBole",
    rows="all ratings",
    dedup="unknown",
    min_count=5,
  ),
  Published("amazon2018_video_games", None, None, 497_577, _UCSD_2018),
  Published(
    "amazon2018_books",
    40_550,
    31_094,
    1_181_294,
    "https://github.com/RUCAIBox/RecBole, benchmark/md/amazon-books_general.md",
    rows="all ratings",
    dedup="unknown",
    min_count=10,
    extra="only ratings of 3 and more, and only after 2017-03-20",
  ),
  *(
    Published(
      f"amazon2023_{name}",
      int(users),
      int(items),
      int(events),
      _UCSD_2023,
      rows="all ratings",
      dedup="pairs",
      min_count=5,
      rounded=True,
    )
    for name, users, items, events in map(
      str.split, _CORES_2023.strip().splitlines()
    )
  ),
)


def of(domain: str) -> list[Published]:
  """Known publications of a domain's counts."""
  return [row for row in PUBLISHED if row.domain == domain]


def stages(card: Mapping[str, Any]) -> list[Stage]:
  """A card's counts in the order of its steps, with bad rows by kind.

  Args:
    card: Card of `card.build_card`.
  """
  steps = {step["step"]: step for step in card["steps"]}
  rows, usable = steps["parse"]["events"], steps["validate"]["events"]
  found = [Stage("rows of the file", None, None, rows)]
  dropped = _dropped(card, rows - usable)
  for kind, count in dropped[:-1]:
    rows -= count
    found.append(Stage(f"less {kind}", None, None, rows))
  label = f"less {dropped[-1][0]}" if dropped else "usable events"
  for name, words in (
    ("validate", label),
    ("consecutive repeats", "less consecutive repeats"),
    ("k-core", f"{card['configuration']['min_count']}-core"),
  ):
    step = steps[name]
    found.append(Stage(words, step["users"], step["items"], step["events"]))
  return found


def compare(
  card: Mapping[str, Any], published: Sequence[Published] | None = None
) -> list[Comparison]:
  """Compares a card with the published counts of its domain.

  Args:
    card: Card of `card.build_card`.
    published: Published counts; None takes the known ones.

  Returns:
    One comparison per publication.
  """
  ours, found = stages(card), []
  for row in of(card["domain"]) if published is None else published:
    equal = [stage for stage in ours if _equal(stage, row)]
    if equal:
      found.append(Comparison(row, equal[-1], True, ()))
      continue
    near = min(ours, key=lambda stage: abs(stage.events - row.events))
    reasons = tuple(_reasons(card, row, near))
    found.append(Comparison(row, near, False, reasons))
  return found


def lines(card: Mapping[str, Any]) -> list[str]:
  """The comparison as lines for a terminal; empty if nothing is published."""
  found = []
  for row, stage, equal, reasons in compare(card):
    numbers = " / ".join(
      "?" if number is None else f"{number:,}"
      for number in (row.users, row.items, row.events)
    )
    about = "about " if row.rounded else ""
    found.append(f"  published: {about}{numbers} ({row.source})")
    relation = "equal to" if equal else "nearest to"
    found.append(f"    {relation} ours, {stage.label}: {_numbers(stage)}")
    found += [f"    {reason}" for reason in reasons]
  return found


# Kinds of bad rows that cost an event, in any file.
_EVENT_KINDS = (
  *("missing_user", "bad_timestamp", "unknown_item"),
  *("duplicate_event", "event_without_text"),
)
_EITHER_FILE = ("malformed_row", "broken_encoding", "missing_item")


def _dropped(card: Mapping[str, Any], total: int) -> list[tuple[str, int]]:
  """Kinds of bad rows that cost events, and their number; they must add up."""
  log = card["inputs"][0]["file"] if card["inputs"] else ""
  found = [
    (row["kind"], row["count"])
    for row in card["problems"]
    if row["kind"] in _EVENT_KINDS
    or (row["kind"] in _EITHER_FILE and row["first"].startswith(f"{log}:"))
  ]
  if sum(count for _, count in found) != total:
    return [("unusable rows", total)] if total else []
  return found


def _equal(stage: Stage, row: Published) -> bool:
  slack = _ROUNDING if row.rounded else 0
  return all(
    theirs is None
    or (ours is not None and abs(ours - theirs) <= theirs * slack)
    for ours, theirs in (
      (stage.users, row.users),
      (stage.items, row.items),
      (stage.events, row.events),
    )
  )


def _reasons(
  card: Mapping[str, Any], row: Published, nearest: Stage
) -> list[str]:
  """Differences between the steps, with the events that each of ours costs."""
  steps = {step["step"]: step["events"] for step in card["steps"]}
  settings = card["configuration"]
  repeats = steps["validate"] - steps["consecutive repeats"]
  core = steps["consecutive repeats"] - steps["k-core"]
  inputs = ", ".join(entry["file"] for entry in card["inputs"][:1])
  found = [f"its rows: {row.rows}; ours: {inputs}"]
  if row.dedup == "none" and settings["dedup"] != "none":
    found.append(
      f"it retains consecutive repeats; ours are {repeats:,} events "
      f"(Domain.dedup = {settings['dedup']!r})"
    )
  elif row.dedup == "pairs":
    found.append(
      "it retains one event per user and item; we remove "
      f"{repeats:,} consecutive repeats and retain later ones "
      f"(Domain.dedup = {settings['dedup']!r})"
    )
  elif row.dedup == "unknown":
    found.append(
      f"its removal of repeats is unknown; we remove {repeats:,} consecutive "
      "repeats"
    )
  if row.min_count != settings["min_count"]:
    theirs = {None: "its core is unknown", 1: "it takes no further core"}.get(
      row.min_count, f"it takes a {row.min_count}-core"
    )
    found.append(
      f"{theirs}; our {settings['min_count']}-core costs {core:,} events "
      f"(Domain.min_count = {settings['min_count']})"
    )
  if row.extra:
    found.append(f"it also takes {row.extra}; we do not")
  rest = row.events - nearest.events
  if rest:
    found.append(
      f"these explain the remaining {rest:+,} events "
      f"({rest / row.events:+.2%}) to our nearest count"
    )
  return found


def _numbers(stage: Stage) -> str:
  if stage.users is None or stage.items is None:
    return f"{stage.events:,} events"
  return f"{stage.users:,} / {stage.items:,} / {stage.events:,}"
