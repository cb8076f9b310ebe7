"""The benchmarks of searching and matching measure what they say."""

import gzip
import json

import numpy as np

from benchmarks import dense_search, grounding


def test_dense_search_reports_a_row(tmp_path):
  arguments = dense_search._parse(
    [
      *("--width=8", "--users=4", "--depth=5", "--chunk=64"),
      *("--repetitions=1", f"--folder={tmp_path}"),
    ]
  )
  row = dense_search.measure(arguments, 300)
  assert row["items"] == 300
  assert row["approximate"]["recall"] >= 0.8
  assert row["exact"]["users_per_second"] > 0
  assert "300 vectors of width 8" in dense_search.describe(row)
  assert not list(tmp_path.iterdir())


def test_recall_is_the_fraction_of_the_exact_list():
  exact = np.array([[1, 2, 3, 4], [5, 6, 7, 8]])
  found = np.array([[4, 3, 9, 1], [5, 6, 7, 8]])
  assert dense_search.recall(exact, found) == 7 / 8


def test_grounding_reports_a_row(tmp_path, capsys):
  items, output = tmp_path / "items.jsonl.gz", tmp_path / "rows.jsonl"
  with gzip.open(items, "wt", encoding="utf-8") as file:
    for number in range(40):
      item = {"title": f"Soap {number} by {number % 7}", "brand": "Acme"}
      file.write(json.dumps(item) + "\n")
  grounding.main(
    [
      *(f"--items={items}", "--users=6", "--samples=5", "--depth=7"),
      f"--output={output}",
    ]
  )
  row = json.loads(output.read_text("utf-8"))
  assert (row["items"], row["users"]) == (40, 6)
  assert 6 <= row["distinct_texts"] <= row["texts_of_users"] <= 30
  assert "with the same lists" in capsys.readouterr().out
