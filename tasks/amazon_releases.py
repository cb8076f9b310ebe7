"""The releases of Amazon's reviews: categories, files and columns.

2014: He and McAuley, http://jmcauley.ucsd.edu/data/amazon/. 2018: Ni, Li and
McAuley, https://nijianmo.github.io/amazon/. 2023: Hou et al.,
https://amazon-reviews-2023.github.io/. All are for research.
"""

from __future__ import annotations

import dataclasses

from calrec_jax.errors import InputError, nearest

_2014 = """
Amazon_Instant_Video Apps_for_Android Automotive Baby Beauty Books
CDs_and_Vinyl Cell_Phones_and_Accessories Clothing_Shoes_and_Jewelry
Digital_Music Electronics Grocery_and_Gourmet_Food Health_and_Personal_Care
Home_and_Kitchen Kindle_Store Movies_and_TV Musical_Instruments Office_Products
Patio_Lawn_and_Garden Pet_Supplies Sports_and_Outdoors
Tools_and_Home_Improvement Toys_and_Games Video_Games
"""
_2018 = """
AMAZON_FASHION All_Beauty Appliances Arts_Crafts_and_Sewing Automotive Books
CDs_and_Vinyl Cell_Phones_and_Accessories Clothing_Shoes_and_Jewelry
Digital_Music Electronics Gift_Cards Grocery_and_Gourmet_Food Home_and_Kitchen
Industrial_and_Scientific Kindle_Store Luxury_Beauty Magazine_Subscriptions
Movies_and_TV Musical_Instruments Office_Products Patio_Lawn_and_Garden
Pet_Supplies Prime_Pantry Software Sports_and_Outdoors
Tools_and_Home_Improvement Toys_and_Games Video_Games
"""
_2023 = """
All_Beauty Amazon_Fashion Appliances Arts_Crafts_and_Sewing Automotive
Baby_Products Beauty_and_Personal_Care Books CDs_and_Vinyl
Cell_Phones_and_Accessories Clothing_Shoes_and_Jewelry Digital_Music
Electronics Gift_Cards Grocery_and_Gourmet_Food Handmade_Products
Health_and_Household Health_and_Personal_Care Home_and_Kitchen
Industrial_and_Scientific Kindle_Store Magazine_Subscriptions Movies_and_TV
Musical_Instruments Office_Products Patio_Lawn_and_Garden Pet_Supplies Software
Sports_and_Outdoors Subscription_Boxes Tools_and_Home_Improvement
Toys_and_Games Unknown Video_Games
"""

# The publisher has moved several times. The first address is the newest seen in
# use; the others are fallbacks.
_BASES_2014 = (
  "https://snap.stanford.edu/data/amazon/productGraph/categoryFiles",
)
_BASES_2018 = (
  "https://mcauleylab.ucsd.edu/public_datasets/data/amazon_v2",
  "https://datarepo.eng.ucsd.edu/mcauley_group/data/amazon_v2",
  "http://deepyeti.ucsd.edu/jianmo/amazon",
)
_BASES_2023 = (
  "https://mcauleylab.ucsd.edu/public_datasets/data/amazon_2023",
  "https://datarepo.eng.ucsd.edu/mcauley_group/data/amazon_2023",
)
_HUB_2023 = (
  "https://huggingface.co/datasets/McAuley-Lab/Amazon-Reviews-2023/resolve/main"
)

# The publisher has no checksums; these are of files that were read
# successfully.
_SHA256 = {
  "amazon2018": {
    "Gift_Cards_5.json.gz": (
      "41e1f0e50d3c1c9d7d949fb6315944c8bde51ea6b7429a29fdd0d02cbc07ef25"
    ),
    "meta_Gift_Cards.json.gz": (
      "24ac90af3eb47d9c04458a61a44a76a882419190e027c6ec14ee0a993549c34a"
    ),
  }
}


def _under(bases: tuple[str, ...], path: str) -> tuple[str, ...]:
  return tuple(f"{base}/{path}" for base in bases)


@dataclasses.dataclass(frozen=True)
class Release:
  """Names and formats of one release.

  Attributes:
    name: Name, such as "amazon2018".
    categories: Categories, spelled as in its files.
    core_urls: Addresses of the publisher's 5-core file of reviews, best first;
      empty where it has none.
    reviews_urls: Addresses of all reviews.
    items_urls: Addresses of the metadata.
    user_columns: Columns of the user id; the first with a value counts.
    item_columns: Columns of the item id, in reviews and metadata.
    time_columns: Columns of the time, in seconds or milliseconds.
    brand_columns: Columns of the brand; `a.b` is key `b` of the object `a`.
    category_column: Column of the categories.
    category_depth: Nesting depth of its lists.
    literals: Whether the metadata are Python literals instead of JSON.
  """

  name: str
  categories: tuple[str, ...]
  core_urls: tuple[str, ...]
  reviews_urls: tuple[str, ...]
  items_urls: tuple[str, ...]
  category_column: str
  category_depth: int = 1
  user_columns: tuple[str, ...] = ("reviewerID",)
  item_columns: tuple[str, ...] = ("asin",)
  time_columns: tuple[str, ...] = ("unixReviewTime",)
  brand_columns: tuple[str, ...] = ("brand",)
  literals: bool = False


RELEASES = {
  release.name: release
  for release in (
    Release(
      name="amazon2014",
      categories=tuple(_2014.split()),
      category_column="categories",
      category_depth=2,
      core_urls=_under(_BASES_2014, "reviews_{category}_5.json.gz"),
      reviews_urls=_under(_BASES_2014, "reviews_{category}.json.gz"),
      items_urls=_under(_BASES_2014, "meta_{category}.json.gz"),
      literals=True,
    ),
    Release(
      name="amazon2018",
      categories=tuple(_2018.split()),
      category_column="category",
      core_urls=_under(_BASES_2018, "categoryFilesSmall/{category}_5.json.gz"),
      reviews_urls=_under(_BASES_2018, "categoryFiles/{category}.json.gz"),
      items_urls=_under(_BASES_2018, "metaFiles2/meta_{category}.json.gz"),
    ),
    # Variants of a product have its parent's description. The documentation
    # formerly named the time `sort_timestamp`.
    Release(
      name="amazon2023",
      categories=tuple(_2023.split()),
      user_columns=("user_id",),
      item_columns=("parent_asin", "asin"),
      time_columns=("timestamp", "sort_timestamp"),
      brand_columns=("store", "details.Brand"),
      category_column="categories",
      core_urls=(),
      reviews_urls=(
        *_under(_BASES_2023, "raw/review_categories/{category}.jsonl.gz"),
        f"{_HUB_2023}/raw/review_categories/{{category}}.jsonl",
      ),
      items_urls=(
        *_under(_BASES_2023, "raw/meta_categories/meta_{category}.jsonl.gz"),
        f"{_HUB_2023}/raw/meta_categories/meta_{{category}}.jsonl",
      ),
    ),
  )
}


def find(name: str) -> Release:
  """The release of this name."""
  if name not in RELEASES:
    raise InputError(
      f"AmazonReviews.release = {name!r} is not one of {', '.join(RELEASES)}."
    )
  return RELEASES[name]


def checksums(release: str) -> dict[str, str]:
  """Known sha256 of a release's files, by file name."""
  return _SHA256.get(release, {})


def category(release: Release, name: str) -> str:
  """A category in the release's spelling; case is ignored."""
  for known in release.categories:
    if known.lower() == name.lower():
      return known
  raise InputError(
    f"{release.name} has no category {name!r}."
    + nearest(name, release.categories)
    + f" It has {', '.join(release.categories)}."
  )
