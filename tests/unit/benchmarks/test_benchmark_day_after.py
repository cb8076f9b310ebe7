"""The benchmark of the day after cuts its log by time."""

import csv
import gzip
import json

import pytest

from benchmarks import day_after
from tests.fixtures import planted_log


@pytest.fixture
def data(tmp_path):
  folder = tmp_path / "shop"
  folder.mkdir()
  with gzip.open(folder / "interactions.csv.gz", "wt") as file:
    lines = csv.writer(file)
    lines.writerow(["user_id", "item_id", "timestamp"])
    lines.writerows(planted_log.purchases(24, 2, seed=0))
  with gzip.open(folder / "items.jsonl.gz", "wt") as file:
    file.writelines(json.dumps(item) + "\n" for item in planted_log.items(2))
  return folder


def read(path):
  with gzip.open(path, "rt") as file:
    return list(csv.DictReader(file))


def test_yesterday_ends_before_today_begins(data, tmp_path):
  active = day_after.cut(data, 0.8, tmp_path)
  whole, part = map(
    read, (data / "interactions.csv.gz", tmp_path / "yesterday.csv.gz")
  )
  assert 0.75 < len(part) / len(whole) <= 0.8
  last = max(int(row["timestamp"]) for row in part)
  later = [row for row in whole if int(row["timestamp"]) > last]
  assert len(later) == len(whole) - len(part)
  assert active == sorted({row["user_id"] for row in later})
