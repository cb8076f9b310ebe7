"""Amazon's reviews of 2014, 2018 and 2023 as purchases, a domain per category.

The publisher's files are read unmodified. Domains have names such as
`amazon2018_video_games`; all later steps are those of any domain.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import gin

from calrec_jax.data import dataset as dataset_lib
from calrec_jax.data.domain import card
from calrec_jax.data.domain import domain as domain_lib
from calrec_jax.data.logs import events as events_lib
from calrec_jax.data.logs import problems as problems_lib
from calrec_jax.data.logs.columns import id_codes
from calrec_jax.data.logs.columns import text as text_lib
from calrec_jax.data.logs.files import log_paths
from calrec_jax.errors import InputError
from calrec_tasks import (
  amazon_items,
  amazon_releases,
  amazon_reviews,
  download,
  published,
)

_REQUIRED: Any = gin.REQUIRED  # Gin refuses it where it is used.
_ALL = "all"
card.compare_with(published.lines)
_SUFFIXES = (".json.gz", ".jsonl.gz", ".json", ".jsonl", ".parquet")


@gin.configurable
@dataclasses.dataclass(frozen=True, kw_only=True)
class AmazonReviews:
  """One category of one release.

  Columns for `Domain.fields`: `title`, `category` (all of its names),
  `brand` (in 2023 the store, or else the brand among the details) and
  `price`.

  Attributes:
    release: Release, "amazon2014", "amazon2018" or "amazon2023".
    category: Category in the release's spelling, such as "Video_Games".
    manual_dir: Folder with the release's files under the publisher's names, or
      with a subfolder named after the release that has them; None downloads
      them to `$CALREC_DATA_DIR/downloads`.
    core: Whether to read the publisher's 5-core file, where the release has
      one; False reads all reviews.
  """

  default_fields: ClassVar[tuple[text_lib.Field, ...]] = text_lib.DEFAULT_FIELDS

  release: str = _REQUIRED
  category: str = _REQUIRED
  manual_dir: str | None = None
  core: bool = True

  def __post_init__(self) -> None:
    release = amazon_releases.find(self.release)
    category = amazon_releases.category(release, self.category)
    object.__setattr__(self, "category", category)

  def files(self) -> list[str]:
    """The files of reviews and metadata; missing ones are downloaded.

    Raises:
      FileNotFoundError: If one is missing in `manual_dir`.
      download.DownloadError: If one cannot be downloaded.
    """
    release = amazon_releases.find(self.release)
    core = release.core_urls if self.core else ()
    reviews = self._file(core or release.reviews_urls)
    return [reviews, self._file(release.items_urls)]

  def inputs(self) -> list[dict[str, Any]]:
    """The files as JSON, see `Source.inputs`."""
    return log_paths.inputs(map(log_paths.local, self.files()))

  def fingerprint(self) -> dict[str, Any]:
    """Everything that the events depend on."""
    return {
      "release": self.release,
      "inputs": [each["sha256"] for each in self.inputs()],
    }

  def read(
    self, problems: problems_lib.Problems, columns: Sequence[str]
  ) -> tuple[events_lib.Events, events_lib.Items]:
    """Reads the reviews, and the metadata of the reviewed items.

    Several reviews of the same user, item and time are one purchase.
    """
    release = amazon_releases.find(self.release)
    reviews_file, items_file = self.files()
    reviews = amazon_reviews.read(reviews_file, release, problems)
    items, row_of = amazon_items.read(
      items_file, release, columns, reviews.item_ids, problems
    )
    rows = row_of[reviews.items]
    known = rows >= 0
    problems.add_rows("unknown_item", reviews_file, reviews.lines[~known])
    first = amazon_reviews.first_of_each(reviews)
    problems.add_rows(
      "duplicate_event", reviews_file, reviews.lines[known & ~first]
    )
    good = known & first
    events = events_lib.Events(
      users=reviews.users[good],
      items=rows[good],
      timestamps=reviews.timestamps[good],
      user_ids=id_codes.Column(reviews.user_ids),
      num_rows=reviews.num_rows,
    )
    return events, items

  def _file(self, urls: Sequence[str]) -> str:
    """The path of a file with any of the suffixes."""
    urls = [url.format(category=self.category) for url in urls]
    stem = urls[0].rpartition("/")[2].partition(".json")[0]
    if self.manual_dir is None:
      folder = os.path.join(
        dataset_lib.default_folder(), "downloads", self.release
      )
      return _find(folder, stem) or download.fetch(
        urls,
        folder,
        sha256=amazon_releases.checksums(self.release),
        remedy=f"Download {stem} manually and set AmazonReviews.manual_dir "
        "(--manual_dir) to its folder.",
      )
    folder = os.path.expanduser(self.manual_dir)
    subfolder = os.path.join(folder, self.release)
    if path := _find(folder, stem) or _find(subfolder, stem):
      return path
    raise FileNotFoundError(
      f"There is no {stem}{{{','.join(_SUFFIXES)}}} in {folder} or its "
      f"subfolder {self.release} (AmazonReviews.manual_dir, --manual_dir). "
      f"Download it from {urls[0]}, or leave out the folder for an automatic "
      "download."
    )


@gin.configurable(module="amazon")
def categories(
  names: Sequence[str] = _REQUIRED,
) -> tuple[domain_lib.Domain, ...]:
  """Domains of categories, for `Dataset.domains`.

  Args:
    names: Release and category, such as `("amazon2018/Video_Games", …)`;
      `amazon2018/all` is every category of the release.

  Returns:
    One domain per category, with names such as `amazon2018_video_games`; other
    options come from `Domain` and `AmazonReviews`.
  """
  return tuple(
    domain_lib.Domain(
      name=_slug(release, category),
      source=AmazonReviews(release=release.name, category=category),
    )
    for release, category in _categories(names)
  )


@gin.configurable(module="amazon")
def mixtures(
  stage_one: Sequence[str] = _REQUIRED,
) -> dict[str, tuple[str, ...]]:
  """The mixture "stage_one", for `Dataset.mixtures`.

  Args:
    stage_one: Release and category of its domains.
  """
  return {"stage_one": tuple(_slug(*each) for each in _categories(stage_one))}


def _find(folder: str, stem: str) -> str | None:
  paths = [os.path.join(folder, stem + suffix) for suffix in _SUFFIXES]
  return next(filter(os.path.isfile, paths), None)


def domain_name(name: str) -> str:
  """The domain name of a category, such as `amazon2018_gift_cards`."""
  return _slug(*next(_categories([name])))


def _slug(release: amazon_releases.Release, category: str) -> str:
  return domain_lib.slug(f"{release.name}_{category}")


def _categories(
  names: Sequence[str],
) -> Iterator[tuple[amazon_releases.Release, str]]:
  """Release and category of each name; `RELEASE/all` is all categories."""
  for name in names:
    release, slash, category = name.partition("/")
    if not slash:
      raise InputError(
        f"CATEGORIES has {name!r}; a name is a release and a category, such as "
        "amazon2018/Video_Games."
      )
    found = amazon_releases.find(release)
    if category == _ALL:
      yield from ((found, known) for known in found.categories)
    else:
      yield found, amazon_releases.category(found, category)
