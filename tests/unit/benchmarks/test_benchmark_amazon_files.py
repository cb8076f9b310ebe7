"""Synthetic files look like the 2018 release, and depend on the seed."""

import gzip
import json

import numpy as np
import pytest

from benchmarks import amazon_files, data_at_size
from calrec_jax.data.logs import problems as problems_lib
from calrec_tasks import amazon

SIZE = amazon_files.Size.of(4000, seed=3)

# In the order of the real files; the second ones are not in every review.
REVIEW_KEYS = (
  *("overall", "vote", "verified", "reviewTime", "reviewerID", "asin"),
  *("style", "reviewerName", "reviewText", "summary", "unixReviewTime"),
)
OPTIONAL = {"vote", "style"}
METADATA_KEYS = (
  *("category", "tech1", "description", "fit", "title", "also_buy", "tech2"),
  *("brand", "feature", "rank", "also_view", "details", "main_cat"),
  *("similar_item", "date", "price", "asin", "imageURL", "imageURLHighRes"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp("made")
  amazon_files.write(folder, SIZE, processes=1)
  return folder


def rows(path):
  with gzip.open(path, "rt", encoding="utf-8") as file:
    return [json.loads(line) for line in file]


def test_reviews_have_the_keys_and_the_order_of_the_real_ones(folder):
  reviews = rows(folder / amazon_files.REVIEWS)
  for review in reviews:
    expected = [k for k in REVIEW_KEYS if k in review or k not in OPTIONAL]
    assert list(review) == expected
  assert {key for review in reviews for key in review} == set(REVIEW_KEYS)
  first = reviews[0]
  assert first["reviewerID"][0] == "A"
  assert len(first["reviewerID"]) == 14
  assert first["unixReviewTime"] % 86_400 == 0
  times = [(review["asin"], -review["unixReviewTime"]) for review in reviews]
  assert len(reviews) > SIZE.reviews  # Some appear twice.
  seen = list(dict.fromkeys(asin for asin, _ in times))
  places = {asin: place for place, asin in enumerate(seen)}
  ordered = [(places[asin], time) for asin, time in times]
  assert ordered == sorted(ordered)


def test_metadata_have_the_keys_and_the_oddities_of_the_real_ones(folder):
  metadata = rows(folder / amazon_files.METADATA)
  assert all(tuple(row) == METADATA_KEYS for row in metadata)
  asins = [row["asin"] for row in metadata]
  assert len(set(asins)) < len(asins)  # Described twice.
  assert len(set(asins)) <= SIZE.items
  prices = {row["price"] for row in metadata}
  assert "" in prices
  assert any(" - " in price for price in prices)
  assert any("&amp;" in row["title"] for row in metadata)
  assert any(row["brand"] == "" for row in metadata)


def test_few_items_and_users_have_many_reviews():
  made = amazon_files.purchases(amazon_files.Size.of(100_000))
  for codes, least in ((made.items, 0.3), (made.users, 0.25)):
    counts = np.sort(np.bincount(codes))[::-1]
    fraction = counts[: len(counts) // 20].sum() / counts.sum()
    assert least < fraction < 0.9
    assert counts.max() > 10 * np.median(counts)


def test_the_seed_decides(folder, tmp_path):
  amazon_files.write(tmp_path, SIZE, processes=1)
  other = amazon_files.purchases(amazon_files.Size.of(4000, seed=4))
  assert (other.users != amazon_files.purchases(SIZE).users).any()
  for name in (amazon_files.REVIEWS, amazon_files.METADATA):
    assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_the_source_of_the_release_reads_them(folder):
  problems = problems_lib.Problems()
  source = amazon.AmazonReviews(
    release="amazon2018",
    category=amazon_files.CATEGORY,
    manual_dir=str(folder),
    core=False,
  )
  events, items = source.read(problems, ("title", "brand", "price"))
  kinds = {row["kind"] for row in problems.as_list()}
  assert {"duplicate_event", "conflicting_item"} <= kinds
  assert SIZE.reviews * 0.9 < len(events) <= SIZE.reviews
  assert SIZE.items * 0.9 < len(items.item_ids) <= SIZE.items


def test_ids_are_distinct():
  numbers = np.arange(300_000)
  for ids in (amazon_files.user_ids(numbers), amazon_files.item_ids(numbers)):
    assert len(ids.unique()) == len(numbers)


def test_growth_is_the_ratio_of_sums():
  def row(reviews, *wall):
    steps = [
      {"wall_seconds": w, "cpu_seconds": 2 * w, "peak_all_gib": w} for w in wall
    ]
    return {"reviews": reviews, "steps": steps}

  assert data_at_size.growth(row(10, 1.0, 2.0), row(100, 6.0, 24.0)) == {
    "benchmark": "data_at_size_growth",
    "reviews": 10,
    "wall_seconds": 10,
    "cpu_seconds": 10,
    "peak_all": 12,
  }
