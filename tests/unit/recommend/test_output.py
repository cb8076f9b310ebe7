"""Files of recommendations."""

import json

import pyarrow.parquet as pq

from calrec_jax.recommend import output

ANSWERS = [
  {
    "user_id": "anna",
    "recommender": "dense",
    "reason": None,
    "items": [
      {"item_id": "a", "score": 2.0, "text": "Tea"},
      {"item_id": "b", "score": 1.0, "text": "Soap"},
    ],
  },
  {
    "user_id": None,
    "recommender": "popularity",
    "reason": "bad history: h.jsonl:2: no user id",
    "items": [],
  },
]


def test_json_lines_hold_an_answer_each(tmp_path):
  path = tmp_path / "all.jsonl"
  output.write(ANSWERS, str(path), ".jsonl")
  assert [json.loads(line) for line in path.read_text().splitlines()] == ANSWERS


def test_parquet_has_a_row_for_every_item_and_every_answer(tmp_path):
  for number, answer in enumerate(ANSWERS):
    output.write([answer], str(tmp_path / f"{number}.parquet"), ".parquet")
  files = [tmp_path / f"{number}.parquet" for number in range(2)]
  output.join(files, str(tmp_path / "all.parquet"), ".parquet")
  table = pq.read_table(tmp_path / "all.parquet").to_pydict()
  assert table["user_id"] == ["anna", "anna", None]
  assert table["rank"] == [1, 2, None]
  assert table["item_id"] == ["a", "b", None]
  assert table["reason"] == [None, None, ANSWERS[1]["reason"]]
