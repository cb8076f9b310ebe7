"""Small files in the true formats of Amazon's reviews, made here.

The values are invented; the keys, their order, the types and the oddities are
those of the published files.
"""

import gzip
import json

GOODS = (
  # title, categories, brand, price
  ("Chess &amp; Checkers", ["Toys & Games", "Games"], "Milton's", 1234.56),
  ('Puzzle "Harbour", 500 pieces', ["Toys & Games", "Puzzles"], "", 12.5),
  ("Kite\u00e9 <b>red</b>", ["Toys & Games"], "Wind <3 Co.", None),
  ("Yo-yo", [], "Duncan", 3.0),
  ("Marbles", ["Toys & Games", "</span></span>"], "Jo's \\ Sons", 0.99),
  ("Drum", ["Toys & Games", "Music"], "Beat", 30.0),
)
USERS = tuple(f"A{user:013d}" for user in range(8))
DAY = 86_400


def item_id(item):
  return f"B{item:09d}"


def purchases():
  """(user, item, unix seconds): each user buys every item, each in its turn."""
  return [
    (user, (user + turn) % len(GOODS), 1_400_000_000 + (turn * 9 + user) * DAY)
    for user in range(len(USERS))
    for turn in range(len(GOODS))
  ]


def review_2018(user, item, seconds):
  """A review as the releases of 2014 and 2018 write it."""
  return {
    "overall": 5.0,
    "verified": True,
    "reviewTime": "06 17, 2018",
    "reviewerID": USERS[user],
    "asin": item_id(item),
    "style": {"Size:": " Large"},
    "reviewerName": "N. N.",
    "reviewText": 'Good.\n"Really" \u00e9',
    "summary": "Five Stars",
    "unixReviewTime": seconds,
  }


def review_2023(user, item, seconds):
  return {
    "rating": 5.0,
    "title": "Good",
    "text": "Really.<br />Good.",
    "images": [],
    "asin": f"V{item:09d}",
    "parent_asin": item_id(item),
    "user_id": USERS[user],
    "timestamp": seconds * 1000 + 292,
    "helpful_vote": 0,
    "verified_purchase": True,
  }


def item_2014(item):
  title, categories, brand, price = GOODS[item]
  row = {
    "asin": item_id(item),
    "description": 'It\'s "good"\t\u00e9',
    "title": title,
    "price": price,
    "salesRank": {"Toys & Games": 612379},
    "related": {"also_viewed": ["B0036FO6SI"]},
    "brand": brand,
    "categories": [categories],
  }
  return {key: value for key, value in row.items() if value not in (None, "")}


def item_2018(item):
  title, categories, brand, price = GOODS[item]
  return {
    "category": categories,
    "tech1": "",
    "description": ["It is good."],
    "fit": "",
    "title": title,
    "also_buy": [],
    "brand": brand,
    "feature": [],
    "rank": [] if item % 2 else "5,014 in Toys &amp; Games (",
    "details": {"\n    Product Dimensions: \n    ": "3 x 2 inches"},
    "main_cat": "Toys & Games",
    "date": "",
    "price": "" if price is None else f"${price:,.2f}",
    "asin": item_id(item),
    "imageURL": [],
  }


def item_2023(item):
  title, categories, brand, price = GOODS[item]
  return {
    "main_category": "Toys & Games",
    "title": title,
    "average_rating": 4.5,
    "rating_number": 12,
    "features": ["Good"],
    "description": [],
    # Mostly numbers or null, and now and then a text.
    "price": "from 30.00" if title == "Drum" else price,
    "images": [{"thumb": "https://example.org/1.jpg", "hi_res": None}],
    "store": brand if item % 2 else None,
    "categories": categories,
    "details": {"Brand": brand, "Package Dimensions": "1 x 1 inches"},
    "parent_asin": item_id(item),
    "bought_together": None,
  }


def write(path, rows, dump=json.dumps):
  """Writes rows as lines, packed where the name says so; returns the path."""
  lines = [
    row if isinstance(row, bytes) else dump(row).encode() for row in rows
  ]
  data = b"\n".join(lines) + b"\n"
  path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
  return path


def write_release(folder, release, category, reviews=(), items=()):
  """Writes a category of a release with more rows behind its own.

  Args:
    folder: where to.
    release: "amazon2014", "amazon2018" or "amazon2023".
    category: as the release calls it.
    reviews: more rows, dictionaries or lines as they are.
    items: likewise.

  Returns:
    The two paths.
  """
  review = review_2023 if release == "amazon2023" else review_2018
  describe = {
    "amazon2014": item_2014,
    "amazon2018": item_2018,
    "amazon2023": item_2023,
  }[release]
  reviews_name, items_name = {
    "amazon2014": (f"reviews_{category}_5.json.gz", f"meta_{category}.json.gz"),
    "amazon2018": (f"{category}_5.json.gz", f"meta_{category}.json.gz"),
    "amazon2023": (f"{category}.jsonl.gz", f"meta_{category}.jsonl.gz"),
  }[release]
  return (
    write(
      folder / reviews_name,
      [*(review(*purchase) for purchase in purchases()), *reviews],
    ),
    write(
      folder / items_name,
      [*map(describe, range(len(GOODS))), *items],
      dump=repr if release == "amazon2014" else json.dumps,
    ),
  )
