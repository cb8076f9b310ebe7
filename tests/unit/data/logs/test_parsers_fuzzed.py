"""Damaged and hostile files: every row is used or counted, errors name files.

What a reader may do with any bytes at all: give events and problems that add
up to the rows, or raise an error that names the file. Nothing else.
"""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from calrec_jax.data.logs.columns import text
from calrec_jax.data.logs.log_files import LogFiles
from calrec_jax.data.logs.problems import Problems
from calrec_jax.data.logs.reading import tables
from calrec_tasks import amazon
from tests.fixtures import amazon_toys

CATEGORY = "Toys_and_Games"
NAMES = {
  "amazon2014": f"reviews_{CATEGORY}_5.json",
  "amazon2018": f"{CATEGORY}_5.json",
  "amazon2023": f"{CATEGORY}.jsonl",
}
OF_EVENTS = (
  "malformed_row",
  "broken_encoding",
  "missing_user",
  "missing_item",
  "bad_timestamp",
  "unknown_item",
  "duplicate_event",
)

# Pieces that parsers stumble over.
PIECES = st.sampled_from(
  [
    b"\n",
    b"\r\n",
    b"\x00",
    b"\xff",
    b"\xef\xbb\xbf",
    b"\xed\xa0\x80",
    b'"',
    b"'",
    b"\\",
    b"\\ud800",
    b"{",
    b"}",
    b"[" * 2000,
    b"9" * 400,
    b"1e999",
    b"-1",
    b"NaN",
    b"null",
    b"\x1f\x8b",
    b"\xe2\x80\xa8",
    b"PAR1",
    b',"asin":3',
    b"<b>",
    b"x" * 70_000,
  ]
)
# Where, how much is cut away, and what is put there instead.
EDITS = st.lists(
  st.tuples(
    st.integers(0, 10_000), st.integers(0, 60), PIECES | st.binary(max_size=20)
  ),
  min_size=1,
  max_size=4,
)
FEW = settings(
  max_examples=40,
  deadline=None,
  suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def edited(data, edits):
  for at, cut, piece in edits:
    at %= len(data) + 1
    data = data[:at] + piece + data[at + cut :]
  return data


def outcome(source, names):
  """Reads; a refusal must name one of the files."""
  problems = Problems()
  try:
    events, items = source.read(problems, ("title", "category", "price"))
  except (ValueError, OSError) as error:
    refusal = str(error)
  else:
    check(events, items)
    return events, items, problems
  assert any(name in refusal for name in names), refusal
  return None


def check(events, items):
  """Everything that was read can be used."""
  for user, item in zip(events.users, events.items, strict=True):
    assert events.user_ids[user]
    assert items.item_ids[item]
  for values in items.columns.values():
    assert len(values) == len(items.item_ids)
    for value in values:
      text.value_text(value).encode()


@pytest.fixture(scope="module")
def releases(tmp_path_factory):
  """A folder and the two files' contents, by release."""
  made = {}
  for release in NAMES:
    folder = tmp_path_factory.mktemp(release)
    paths = amazon_toys.write_release(folder, release, CATEGORY)
    contents = [gzip.decompress(path.read_bytes()) for path in paths]
    for path in paths:
      path.unlink()
    made[release] = (folder, contents)
  return made


@pytest.mark.parametrize("release", NAMES)
@FEW
@given(edits=EDITS, metadata=st.booleans())
def test_edited_releases(releases, release, edits, metadata):
  folder, (reviews, items) = releases[release]
  if metadata:
    items = edited(items, edits)
  else:
    reviews = edited(reviews, edits)
  (folder / NAMES[release]).write_bytes(reviews)
  suffix = ".jsonl" if release == "amazon2023" else ".json"
  items_file = folder / f"meta_{CATEGORY}{suffix}"
  items_file.write_bytes(items)
  source = amazon.AmazonReviews(
    release=release, category=CATEGORY, manual_dir=str(folder)
  )
  read = outcome(source, (NAMES[release], items_file.name))
  if read is None:
    return
  events, _, problems = read
  of_reviews = sum(
    row["count"]
    for row in problems.as_list()
    if row["kind"] in OF_EVENTS and not row["first"].startswith("meta_")
  )
  rows = sum(bool(line.strip()) for line in reviews.split(b"\n"))
  assert events.num_rows == rows or reviews.startswith(b"\xef\xbb\xbf")
  if not any(
    row["first"].startswith("meta_") and row["kind"] in OF_EVENTS
    for row in problems.as_list()
  ):
    assert len(events) + of_reviews == events.num_rows


@FEW
@given(fraction=st.floats(0, 1), flip=st.integers(0, 7) | st.none())
def test_damaged_gzip_is_never_a_whole_file(tmp_path, fraction, flip):
  paths = amazon_toys.write_release(tmp_path, "amazon2018", CATEGORY)
  whole = paths[0].read_bytes()
  at = int(fraction * (len(whole) - 1))
  if flip is None:
    damaged = whole[:at]
  else:
    damaged = whole[:at] + bytes([whole[at] ^ 1 << flip]) + whole[at + 1 :]
  paths[0].write_bytes(damaged)
  source = amazon.AmazonReviews(
    release="amazon2018", category=CATEGORY, manual_dir=str(tmp_path)
  )
  read = outcome(source, [path.name for path in paths])
  if read is not None:
    # The head holds a name and a time, which no sum covers; where the head's
    # mark itself is gone, nothing of it is a row.
    events, _, problems = read
    expected = len(amazon_toys.purchases())
    assert len(events) in (0, expected)
    assert len(events) == expected or problems.count("malformed_row") or at == 0


@FEW
@given(edits=EDITS)
def test_edited_parquet(tmp_path, edits):
  paths = amazon_toys.write_release(tmp_path, "amazon2018", CATEGORY)
  rows = map(json.loads, gzip.decompress(paths[0].read_bytes()).splitlines())
  columns = ("reviewerID", "asin", "unixReviewTime")
  table = pa.Table.from_pylist([{k: row[k] for k in columns} for row in rows])
  paths[0].unlink()
  path = tmp_path / f"{CATEGORY}_5.parquet"
  pq.write_table(table, path)
  path.write_bytes(edited(path.read_bytes(), edits))
  source = amazon.AmazonReviews(
    release="amazon2018", category=CATEGORY, manual_dir=str(tmp_path)
  )
  outcome(source, [path.name])


LOG = b"user_id,item_id,timestamp,title,price\n" + b"".join(
  b'u%d,i%d,%d,"Tea, ""green""",$%d.5\n' % (i % 5, i % 7, 1_400_000_000 + i, i)
  for i in range(40)
)


@pytest.mark.parametrize("suffix", [".csv", ".tsv.gz", ".jsonl"])
@FEW
@given(edits=EDITS)
def test_edited_logs(tmp_path, suffix, edits):
  data = LOG
  if suffix == ".tsv.gz":
    data = data.replace(b",", b"\t")
  elif suffix == ".jsonl":
    head, *lines = LOG.decode().splitlines()
    names = head.split(",")
    data = b"\n".join(
      json.dumps(dict(zip(names, line.split(","), strict=False))).encode()
      for line in lines
    )
  data = edited(data, edits)
  path = tmp_path / f"log{suffix}"
  path.write_bytes(gzip.compress(data) if suffix.endswith(".gz") else data)
  outcome(LogFiles(interactions=str(path)), [path.name])


@FEW
@given(data=st.binary(max_size=300))
@pytest.mark.parametrize("name", ["x.csv", "x.jsonl", "x.parquet", "x.csv.gz"])
def test_any_bytes_as_any_table(tmp_path, name, data):
  path = tmp_path / name
  path.write_bytes(data)
  refusal = name
  try:
    tables.read(str(path), ["a", "b"], Problems())
  except ValueError as error:
    refusal = str(error)
  assert name in refusal


VALUES = st.recursive(
  st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
  lambda part: (
    st.lists(part, max_size=4) | st.dictionaries(st.text(), part, max_size=3)
  ),
  max_leaves=6,
)


@given(VALUES)
def test_any_value_is_one_clean_line(value):
  for cleaned in (text.value_text(value), text.price_text(value) or ""):
    assert text.clean(cleaned).count("\n") == 0
    assert cleaned == " ".join(cleaned.split())


@given(st.text("0123456789$€£.,- ", max_size=40))
def test_any_price_is_read_or_reported(value):
  price = text.price_text(value)
  if price:
    for amount in price.split(" - "):
      assert float(amount) >= 0
      assert amount == f"{float(amount):.2f}"
