"""Synthetic files of any size in the format of Amazon Reviews 2018.

    python -m benchmarks.amazon_files --reviews=1_000_000 --folder=made

Reviews and metadata have the keys, their order and the irregularities of the
real files: reviews by item, newest first; several on one day; prices as text,
ranges, fragments of a web page or nothing; HTML entities; items described twice
or not at all; duplicate reviews. The number of reviews per item follows Zipf's
law, that per user is log-normal. Everything is a function of the seed. Blocks
are formatted by Arrow and compressed by several processes.
"""

# pyright: reportAttributeAccessIssue=false
# (pyarrow.compute defines its functions at run time.)

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import functools
import multiprocessing
import os
import pathlib
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks import amazon_words

# Names of a real category, so that its source finds the files.
CATEGORY = "Home_and_Kitchen"
REVIEWS, METADATA = f"{CATEGORY}.json.gz", f"meta_{CATEGORY}.json.gz"
_BLOCK = 20_000  # Rows formatted at once.
_DAY = 86_400
_LAST_DAY = 17_805  # 2018-10-01, the end of the release.


@dataclasses.dataclass(frozen=True)
class Size:
  """Size of the synthetic data.

  Attributes:
    reviews: Number of purchases, without duplicates.
    users: Number of users; a few of them may have no review.
    items: Number of items in the catalogue.
    seed: Seed of everything.
  """

  reviews: int
  users: int
  items: int
  seed: int = 0

  @classmethod
  def of(cls, reviews: int, seed: int = 0) -> Size:
    """Ten reviews per user and twenty per item."""
    return cls(reviews, reviews // 10, reviews // 20, seed)


@dataclasses.dataclass(frozen=True, eq=False)
class Purchases:
  """The reviews as columns, by item and newest first, as in the files.

  Attributes:
    users: int32[E], user of each review.
    items: int32[E], item of each review.
    seconds: int64[E], Unix time of the start of the day.
  """

  users: np.ndarray
  items: np.ndarray
  seconds: np.ndarray


def purchases(size: Size) -> Purchases:
  """Samples the purchases."""
  random = np.random.default_rng(size.seed)
  histories = random.lognormal(0, 1.1, size.users)
  users = random.choice(
    size.users, size.reviews, p=histories / histories.sum()
  ).astype(np.int32)
  ranks = np.arange(size.items) + 0.0005 * size.items + 5
  popularity = ranks**-0.9
  items = random.permutation(size.items)[
    random.choice(size.items, size.reviews, p=popularity / popularity.sum())
  ].astype(np.int32)
  # A user arrives on some day and then buys for some years, often several items
  # on one day; sales grow until the end of the release.
  start = _LAST_DAY - random.exponential(900, size.users)
  visit = random.integers(0, 6, size.reviews)
  span = random.exponential(200, size.users)
  days = start[users] + span[users] * visit
  days = np.clip(days, 9_650, _LAST_DAY).astype(np.int64)
  order = np.lexsort((-days, items))
  return Purchases(users[order], items[order], days[order] * _DAY)


def user_ids(numbers: np.ndarray) -> pa.Array:
  """Ids such as `A31UBHTUUIFJUT`, one for each number."""
  return _ids(numbers, b"A", 13, 999_999_999_989)


def item_ids(numbers: np.ndarray) -> pa.Array:
  """Ids such as `B004LLIKVU`, one for each number."""
  return _ids(numbers, b"B0", 8, 1_099_511_627)


def write(
  folder: pathlib.Path, size: Size, *, processes: int = 2, level: int = 1
) -> tuple[pathlib.Path, pathlib.Path]:
  """Writes both files.

  Args:
    folder: Existing folder.
    size: Size of the data.
    processes: Number of processes that format and compress.
    level: Compression level of gzip.

  Returns:
    The files of reviews and of metadata.
  """
  made = purchases(size)
  blocks = range(0, size.reviews, _BLOCK)
  reviews = (
    (
      at,
      size.seed,
      made.users[at : at + _BLOCK],
      made.items[at : at + _BLOCK],
      made.seconds[at : at + _BLOCK],
    )
    for at in blocks
  )
  metadata = (
    (at, min(at + _BLOCK // 4, size.items), size.items, size.seed)
    for at in range(0, size.items, _BLOCK // 4)
  )
  with concurrent.futures.ProcessPoolExecutor(
    processes, multiprocessing.get_context("spawn")
  ) as pool:
    for name, make, jobs in (
      (REVIEWS, review_lines, reviews),
      (METADATA, metadata_lines, metadata),
    ):
      with (folder / name).open("wb") as file:
        for packed in _in_order(
          pool, functools.partial(_packed, make, level), jobs, 2 * processes
        ):
          file.write(packed)
  return folder / REVIEWS, folder / METADATA


def review_lines(
  block: int,
  seed: int,
  users: np.ndarray,
  items: np.ndarray,
  seconds: np.ndarray,
) -> pa.Array:
  """The lines of a block of reviews; one in a thousand is duplicated."""
  random = np.random.default_rng([seed, 1, block])
  num = len(users)
  words = amazon_words.pools(seed)

  def sample(pool: pa.Array) -> pa.Array:
    # Small numbers are more frequent, as short phrases are.
    return pool.take(
      pa.array((random.random(num) ** 2 * len(pool)).astype(int))
    )

  style = np.where(random.random(num) < 0.3, random.integers(1, 40, num), 0)
  votes = np.where(random.random(num) < 0.07, random.integers(2, 60, num), 0)
  stars = random.choice(5, num, p=[0.08, 0.05, 0.08, 0.17, 0.62]) + 1
  verified = pa.array(random.random(num) < 0.87)
  lines = _joined(
    '{"overall": ',
    pa.array([f"{n}.0" for n in range(6)]).take(pa.array(stars)),
    pa.array(["", *(f', "vote": "{n}"' for n in range(1, 60))]).take(
      pa.array(votes)
    ),
    ', "verified": ',
    pc.if_else(verified, "true", "false"),
    ', "reviewTime": "',
    _days(seconds),
    '", "reviewerID": "',
    user_ids(users),
    '", "asin": "',
    item_ids(items),
    '"',
    pa.array(
      ["", *(f', "style": {{"Size:": " {n} Count"}}' for n in range(1, 40))]
    ).take(pa.array(style)),
    ', "reviewerName": "',
    sample(words.names),
    '", "reviewText": "',
    sample(words.reviews),
    '", "summary": "',
    sample(words.summaries),
    '", "unixReviewTime": ',
    pa.array(seconds).cast(pa.string()),
    "}",
  )
  twice = np.repeat(np.arange(num), 1 + (random.random(num) < 0.001))
  return lines.take(pa.array(twice))


def metadata_lines(start: int, stop: int, items: int, seed: int) -> pa.Array:
  """The lines that describe some items.

  Three in a thousand are missing, and one in a hundred is duplicated with
  another price.
  """
  random = np.random.default_rng([seed, 2, start])
  rows = np.flatnonzero(random.random(stop - start) >= 0.003) + start
  twice = rows[random.random(len(rows)) < 0.01]
  rows = np.sort(np.concatenate([rows, twice]))
  num = len(rows)
  words = amazon_words.pools(seed)
  columns = amazon_words.describe(rows, seed)

  def some(pool: pa.Array, most: int) -> pa.Array:
    """JSON lists of up to `most` strings."""
    lengths = random.integers(0, most + 1, num)
    sampled = pool.take(
      pa.array(random.integers(0, len(pool), int(lengths.sum())))
    )
    quoted = _joined('"', sampled, '"')
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    lists = pa.ListArray.from_arrays(pa.array(offsets), quoted)
    return _joined("[", pc.binary_join(lists, ", "), "]")

  def others(most: int) -> pa.Array:
    pool = item_ids(random.integers(0, items, 4 * num + 1))
    return some(pool, most)

  return _joined(
    '{"category": ',
    columns.categories,
    ', "tech1": "", "description": ',
    some(words.reviews, 3),
    ', "fit": "", "title": "',
    columns.titles,
    '", "also_buy": ',
    others(30),
    ', "tech2": "", "brand": "',
    columns.brands,
    '", "feature": ',
    some(words.features, 6),
    ', "rank": [">#',
    pa.array(random.integers(1, 3_000_000, num)).cast(pa.string()),
    " in ",
    columns.main_categories,
    '"], "also_view": ',
    others(30),
    ', "details": {"Shipping Weight:": "3 ounces", "ASIN: ": "',
    item_ids(rows),
    '"}, "main_cat": "',
    columns.main_categories,
    '", "similar_item": "", "date": "", "price": "',
    amazon_words.prices(random, num),
    '", "asin": "',
    item_ids(rows),
    '", "imageURL": ',
    some(words.images, 4),
    ', "imageURLHighRes": ',
    some(words.images, 4),
    "}",
  )


def _ids(numbers: np.ndarray, head: bytes, digits: int, step: int) -> pa.Array:
  """Numbers as `digits` digits of base 36, multiplied by `step` to mix them.

  The step is coprime to 36, so that ids stay distinct.
  """
  left = numbers.astype(np.uint64) * np.uint64(step)
  if digits < 12:
    left %= np.uint64(36**digits)
  text = np.empty((len(numbers), len(head) + digits), np.uint8)
  text[:, : len(head)] = np.frombuffer(head, np.uint8)
  alphabet = np.frombuffer(b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ", np.uint8)
  for at in range(text.shape[1] - 1, len(head) - 1, -1):
    text[:, at] = alphabet[(left % np.uint64(36)).astype(np.int64)]
    left //= np.uint64(36)
  return _strings(text)


def _days(seconds: np.ndarray) -> pa.Array:
  """Days in the reviews' format: `06 2, 2018`."""
  times = pa.array(seconds, pa.timestamp("s"))
  return _joined(
    pc.strftime(times, "%m "),
    pc.day(times).cast(pa.string()),
    ", ",
    pc.year(times).cast(pa.string()),
  )


def _strings(characters: np.ndarray) -> pa.Array:
  """Strings of equal length, from their bytes by row."""
  rows, width = characters.shape
  offsets = np.arange(0, rows * width + 1, width, dtype=np.int32)
  return pa.StringArray.from_buffers(
    rows, pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(characters))
  )


def _joined(*parts: pa.Array | str) -> pa.Array:
  return pc.binary_join_element_wise(*parts, "")


def _packed(make: Callable, level: int, job: Sequence) -> bytes:
  """The lines of a block as a member of a gzip file."""
  lines = make(*job)
  text = "\n".join((*lines.to_pylist(), "")).encode()
  packer = zlib.compressobj(level, zlib.DEFLATED, 31)
  return packer.compress(text) + packer.flush()


def _in_order(
  pool: concurrent.futures.Executor,
  function: Callable,
  jobs: Iterator,
  ahead: int,
) -> Iterator[bytes]:
  """Results of the jobs in order, with a few running at a time."""
  waiting: list[concurrent.futures.Future] = []
  for job in jobs:
    waiting.append(pool.submit(function, job))
    if len(waiting) == ahead:
      yield waiting.pop(0).result()
  for future in waiting:
    yield future.result()


def main(argv: Sequence[str] | None = None) -> int:
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument("--folder", type=pathlib.Path, required=True)
  parser.add_argument("--reviews", type=int, default=100_000)
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--processes", type=int, default=os.cpu_count())
  parser.add_argument("--level", type=int, default=1, help="gzip level")
  options = parser.parse_args(argv)
  options.folder.mkdir(parents=True, exist_ok=True)
  for path in write(
    options.folder,
    Size.of(options.reviews, options.seed),
    processes=options.processes,
    level=options.level,
  ):
    print(f"{path}: {path.stat().st_size:,} bytes")
  return 0


if __name__ == "__main__":
  sys.exit(main())
