"""Result files: complete, atomic, and readable again."""

import dataclasses
import json
import os

import numpy as np
import pyarrow.parquet as pq
import pytest

from calrec_jax.evaluate import (
  Bootstrap,
  Protocol,
  evaluate,
  format_table,
  read_results,
  table,
  write_results,
)
from tests.fixtures import evaluation_toys as toys


@pytest.fixture(scope="module")
def found():
  items = toys.catalogue(same_text=[(3, 4)])
  return evaluate(
    [toys.popularity(items), toys.by_distance(items)],
    toys.histories(),
    items,
    protocol=Protocol(bootstrap=Bootstrap(resamples=100)),
    data={"name": "toys", "events": np.int64(7)},
    checkpoint={"step": 3},
    progress=False,
  )


def test_metrics_file_follows_the_schema(found, tmp_path):
  write_results(tmp_path, found)
  content = json.loads((tmp_path / "metrics.json").read_text("utf-8"))
  assert list(content) == [
    "schema",
    "protocol",
    "data",
    "checkpoint",
    "recommenders",
  ]
  assert content["schema"] == 1
  assert content["data"] == {"name": "toys", "events": 7}
  entry = content["recommenders"]["near"]
  assert {"metrics", "slices", "validity", "cost"} <= entry.keys()
  value = entry["metrics"]["ndcg@10"]
  assert 0 <= value["low"] <= value["value"] <= value["high"] <= 1


def test_per_user_file_rebuilds_the_metrics(found, tmp_path):
  paths = write_results(tmp_path, found)
  rows = pq.read_table(paths["per_user.parquet"]).to_pylist()
  assert len(rows) == 2 * 3 * 30
  for name, entry in found.recommenders.items():
    for rule, numbers in entry["candidates"].items():
      ranks = [
        row["rank"]
        for row in rows
        if row["recommender"] == name and row["candidates"] == rule
      ]
      hits = [rank is not None and rank <= 10 for rank in ranks]
      assert np.mean(hits) == pytest.approx(
        numbers["metrics"]["recall@10"]["value"]
      )


def test_what_is_written_is_read_again(found, tmp_path):
  write_results(tmp_path, found)
  again = read_results(tmp_path)
  assert again.recommenders == found.recommenders
  assert again.protocol == found.protocol
  assert again.cases == found.cases
  assert again.users["user_id"] == found.users["user_id"]
  for name, rules in found.ranks.items():
    for rule, ranks in rules.items():
      np.testing.assert_array_equal(again.ranks[name][rule], ranks)
      np.testing.assert_allclose(
        again.text_ranks[name][rule], found.text_ranks[name][rule], rtol=1e-6
      )
  for rule, flags in found.excluded.items():
    np.testing.assert_array_equal(again.excluded[rule], flags)


def test_another_schema_is_refused(found, tmp_path):
  write_results(tmp_path, found)
  (tmp_path / "metrics.json").write_text('{"schema": 0}')
  with pytest.raises(ValueError, match="schema 0"):
    read_results(tmp_path)


def test_values_that_json_has_not_are_refused(found, tmp_path):
  broken = dataclasses.replace(found, data={"fraction": float("nan")})
  with pytest.raises(ValueError, match="JSON"):
    write_results(tmp_path, broken)
  assert "metrics.json" not in os.listdir(tmp_path)


def test_table_is_aligned_and_best_first(found):
  lines = format_table(found).splitlines()
  assert "toys · 30 users · 40 items" in lines[0]
  start = next(i for i, line in enumerate(lines) if set(line) == {"─"})
  header, rows = lines[start - 1], lines[start + 1 : start + 3]
  assert max(map(len, lines)) <= 100
  best = max(
    found.recommenders,
    key=lambda name: found.recommenders[name]["metrics"]["ndcg@10"]["value"],
  )
  assert rows[0].startswith(best)
  end = header.index("NDCG@10") + len("NDCG@10")
  assert [row[end - 1 : end + 1] for row in rows] == ["] ", "] "]
  numbers = found.recommenders[best]["metrics"]["ndcg@10"]
  value, low, high = (
    f"{numbers[key]:.4f}".removeprefix("0") for key in ("value", "low", "high")
  )
  assert f"{value} [{low}, {high}]" in rows[0]


@pytest.mark.parametrize(
  ("value", "signed", "text"),
  [
    (0.07884, False, ".0788"),
    (1.0, False, "1.0000"),
    (0.99999, False, "1.0000"),
    (0.0, True, "+.0000"),
    (-0.0123, True, "-.0123"),
    (None, False, "-"),
  ],
)
def test_numbers_are_short_and_equally_wide(value, signed, text):
  assert table.number(value, signed) == text
