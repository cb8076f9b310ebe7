"""Amazon's three releases, from files in their true formats."""

import gzip
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from calrec_jax.data.domain.domain import Domain
from calrec_jax.data.logs.problems import Problems
from calrec_tasks import amazon, amazon_releases, amazon_reviews
from tests.fixtures import amazon_toys

CATEGORY = "Toys_and_Games"
ALL = ("title", "category", "brand", "price")


def source(folder, release="amazon2018", **more):
  return amazon.AmazonReviews(
    release=release, category=CATEGORY, manual_dir=str(folder), **more
  )


def by_id(events, items):
  """(user, item, seconds) by ids, in the order of the events."""
  return [
    (events.user_ids[user], items.item_ids[item], milliseconds // 1000)
    for user, item, milliseconds in zip(
      events.users, events.items, events.timestamps, strict=True
    )
  ]


def rows_of(path):
  return list(map(json.loads, gzip.decompress(path.read_bytes()).splitlines()))


def expected():
  return [
    (amazon_toys.USERS[user], amazon_toys.item_id(item), seconds)
    for user, item, seconds in amazon_toys.purchases()
  ]


@pytest.mark.parametrize("release", sorted(amazon_releases.RELEASES))
def test_a_release(tmp_path, release):
  amazon_toys.write_release(tmp_path, release, CATEGORY)
  problems = Problems()
  events, items = source(tmp_path, release).read(problems, ALL)
  assert by_id(events, items) == expected()
  assert not len(problems)
  domain = Domain(name="toys", source=source(tmp_path, release))
  prepared = domain.prepare()
  assert list(prepared.texts) == [
    "Title: Chess & Checkers. Category: Toys & Games, Games. "
    "Brand: Milton's. Price: 1234.56.",
    'Title: Puzzle "Harbour", 500 pieces. Category: Toys & Games, Puzzles. '
    "Brand: Unknown. Price: 12.50.",
    "Title: Kite\u00e9 red. Category: Toys & Games. Brand: Wind <3 Co. "
    "Price: Unknown.",
    "Title: Yo-yo. Category: Unknown. Brand: Duncan. Price: 3.00.",
    "Title: Marbles. Category: Toys & Games. Brand: Jo's \\ Sons. Price: 0.99.",
    "Title: Drum. Category: Toys & Games, Music. Brand: Beat. Price: 30.00.",
  ]
  assert not len(prepared.problems)


def test_bad_rows_are_counted_where_they_are(tmp_path):
  good = amazon_toys.review_2018(0, 0, 1_300_000_000)
  reviews = [
    good | {"reviewerID": None},
    good | {"asin": " "},
    good | {"unixReviewTime": "some day"},
    good | {"unixReviewTime": -1},
    good | {"asin": "B999999999"},
    good,
    good | {"reviewText": "told twice"},
    b"not a review",
    b'{"reviewerID": "\xff", "asin": "x", "unixReviewTime": 1}',
    good | {"unixReviewTime": 1_200_000_000_000},
    good | {"unixReviewTime": "1200000001"},
  ]
  items = [
    amazon_toys.item_2018(0),  # Once more, the same.
    amazon_toys.item_2018(1) | {"title": "Another"},
    amazon_toys.item_2018(2) | {"price": 7},
    {"title": "Nobody's"},
    b"{",
    amazon_toys.item_2018(2) | {"asin": "B000000077", "price": "dear"},
  ]
  amazon_toys.write_release(tmp_path, "amazon2018", CATEGORY, reviews, items)
  problems = Problems()
  events, read = source(tmp_path).read(problems, ALL)
  lines = len(amazon_toys.purchases())
  found = {
    row["kind"]: (row["count"], row["first"]) for row in problems.as_list()
  }
  name = f"{CATEGORY}_5.json.gz"
  assert found == {
    "malformed_row": (2, f"{name}:{lines + 8}"),
    "broken_encoding": (1, f"{name}:{lines + 9}"),
    "missing_user": (1, f"{name}:{lines + 1}"),
    "missing_item": (2, f"{name}:{lines + 2}"),
    "bad_timestamp": (2, f"{name}:{lines + 3}"),
    "unknown_item": (1, f"{name}:{lines + 5}"),
    "duplicate_event": (1, f"{name}:{lines + 7}"),
    "conflicting_item": (2, f"meta_{CATEGORY}.json.gz:8"),
  }
  assert events.num_rows == lines + len(reviews)
  assert read.num_rows == len(amazon_toys.GOODS) + len(items)
  user, item = amazon_toys.USERS[0], amazon_toys.item_id(0)
  assert by_id(events, read) == [
    *expected(),
    (user, item, 1_300_000_000),
    (user, item, 1_200_000_000),
    (user, item, 1_200_000_001),
  ]


def test_titles_that_are_programs_or_of_no_type(tmp_path):
  _, path = amazon_toys.write_release(tmp_path, "amazon2018", CATEGORY)
  rows = rows_of(path)
  rows[3]["title"] = "var aPageStart = (new Date()).getTime();"
  rows[4]["title"] = {"a": 1}
  amazon_toys.write(path, rows)
  problems = Problems()
  _, items = source(tmp_path).read(problems, ALL)
  assert items.columns["title"][3] is None
  assert items.columns["title"][4] is None
  assert problems.count("web_page") == problems.count("wrong_type") == 1


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".jsonl.gz", ".parquet"])
def test_other_suffixes(tmp_path, suffix):
  paths = amazon_toys.write_release(tmp_path, "amazon2018", CATEGORY)
  for path in paths:
    rows = rows_of(path)
    path.unlink()
    other = path.with_name(path.name.removesuffix(".json.gz") + suffix)
    if suffix == ".parquet":
      # As the release of 2023 has it: objects as text.
      for row in rows:
        row.pop("style", None)
        if "rank" in row:
          row |= {
            "rank": str(row["rank"]),
            "details": json.dumps(row["details"]),
          }
      pq.write_table(pa.Table.from_pylist(rows), other)
    else:
      amazon_toys.write(other, rows)
  problems = Problems()
  events, items = source(tmp_path).read(problems, ALL)
  assert by_id(events, items) == expected()
  assert items.columns["brand"][0] == "Milton's"
  assert not len(problems)


def test_duplicates_against_a_loop():
  rng = np.random.default_rng(0)
  columns = rng.integers(0, 4, (3, 300))
  reviews = amazon_reviews.Reviews(
    *columns, lines=np.arange(300), user_ids=None, item_ids=None, num_rows=300
  )
  seen, retained = set(), []
  for row in zip(*columns, strict=True):
    retained.append(row not in seen)
    seen.add(row)
  assert amazon_reviews.first_of_each(reviews).tolist() == retained


def test_a_missing_file_is_named(tmp_path):
  with pytest.raises(FileNotFoundError, match=r"Toys_and_Games_5\{\.json\.gz"):
    source(tmp_path).files()
  with pytest.raises(FileNotFoundError, match=r"no Toys_and_Games\{"):
    source(tmp_path, core=False).files()


def test_names():
  assert amazon.domain_name("amazon2018/gift_cards") == "amazon2018_gift_cards"
  with pytest.raises(ValueError, match="mean 'Video_Games'"):
    amazon.domain_name("amazon2018/VideoGames")
  with pytest.raises(ValueError, match="not one of amazon2014"):
    amazon.domain_name("amazon2017/Books")
  with pytest.raises(ValueError, match="a release and a category"):
    amazon.domain_name("Books")
  sizes = {r.name: len(r.categories) for r in amazon_releases.RELEASES.values()}
  assert sizes == {"amazon2014": 24, "amazon2018": 29, "amazon2023": 34}


def test_what_is_missing_is_fetched(tmp_path, monkeypatch):
  calls = []

  def fetch(urls, folder, **more):
    calls.append((urls, folder, more))
    return "there"

  monkeypatch.setattr(amazon.download, "fetch", fetch)
  monkeypatch.setenv("CALREC_DATA_DIR", str(tmp_path))
  folder = tmp_path / "downloads" / "amazon2018"
  folder.mkdir(parents=True)
  gift_cards = amazon.AmazonReviews(release="amazon2018", category="Gift_Cards")
  assert gift_cards.files() == ["there", "there"]
  assert {folder for _, folder, _ in calls} == {str(folder)}
  assert all(set(more["sha256"]) for *_, more in calls)
  amazon_toys.write_release(folder, "amazon2018", "Gift_Cards")
  assert gift_cards.files() == [
    str(folder / "Gift_Cards_5.json.gz"),
    str(folder / "meta_Gift_Cards.json.gz"),
  ]
  assert len(calls) == 2


@pytest.mark.parametrize(
  ("release", "core", "reviews"),
  [
    ("amazon2014", "reviews_Books_5", "reviews_Books"),
    ("amazon2018", "Books_5", "Books"),
    ("amazon2023", None, "Books"),
  ],
)
def test_addresses_end_in_the_files_names(release, core, reviews):
  found = amazon_releases.find(release)
  for stem, urls in (
    (core, found.core_urls),
    (reviews, found.reviews_urls),
    ("meta_Books", found.items_urls),
  ):
    assert bool(urls) == bool(stem)
    for url in urls:
      name = url.format(category="Books").rpartition("/")[2]
      suffixes = (".json.gz", ".jsonl.gz", ".jsonl")
      assert name.removeprefix(stem) in suffixes
