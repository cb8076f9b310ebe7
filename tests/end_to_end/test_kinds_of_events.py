"""Views and carts as history, purchases as targets: from the log to answers.

Users buy what they viewed last; purchases alone say nothing about the next
one. What reads the views knows it, what does not cannot; see `kinds_toys`.
"""

import json

import pytest

from calrec_jax.__main__ import main
from calrec_jax.data.cache.token_cache import TokenCache
from tests.fixtures import kinds_toys

_SASREC = """
include "mesh/cpu.gin"
include "runs/train.gin"
include "runs/eval.gin"
include "models/sasrec.gin"
include "runs/sasrec.gin"

MAX_HISTORY = 8
LEARNING_RATE = 3e-2
SASRecConfig.width = 24
SASRecConfig.dropout = 0.1
TASK_FEATURE_LENGTHS = {"tokens": 64, "slots": 32}
BATCH_SIZE = 8
TRAIN_STEPS = 60
Validation.period = 60
CheckpointPolicy.period = 60
Evaluation.recommenders = ("sasrec", "last_item", "popularity")
"""
_LANGUAGE_MODEL = """
include "models/tiny.gin"
include "mesh/cpu.gin"
include "runs/train.gin"
include "runs/eval.gin"

DecoderConfig.width = 32
DecoderConfig.layers = 2
DecoderConfig.heads = 2
DecoderConfig.kv_heads = 2
DecoderConfig.head_dim = 16
DecoderConfig.mlp_width = 64
DecoderConfig.scan_unroll = 1
DecoderConfig.attention_blocks = 1
BATCH_SIZE = 8
TASK_FEATURE_LENGTHS = {"tokens": 160, "slots": 4}
TRAIN_STEPS = 8
LEARNING_RATE = 1e-2
Validation.period = 4
CheckpointPolicy.period = 8
Evaluation.recommenders = ("dense", "fused", "sequential_rules", "popularity")
Fusion.members = ("constrained", "dense", "last_item")
"""


def recipe(folder, text, **bindings):
  """Writes a recipe; returns the flags of all verbs."""
  folder.mkdir(exist_ok=True)
  file = folder / "kinds.gin"
  bindings = {
    "MODEL_DIR": f"{folder}/model",
    "Dataset.data_dir": f"{folder}/data",
    **bindings,
  }
  lines = [f"{name} = {value!r}" for name, value in bindings.items()]
  file.write_text("\n".join([kinds_toys.DATA, text, *lines]) + "\n")
  return [f"--gin_file={file}"]


def evaluated(folder, flags):
  """Trains and evaluates; NDCG@10 of every recommender."""
  assert main(["train", *flags]) == 0
  assert main(["eval", *flags]) == 0
  [file] = (folder / "model").rglob("metrics.json")
  found = json.loads(file.read_text())["recommenders"]
  return {
    name: one["metrics"]["ndcg@10"]["value"] for name, one in found.items()
  }


def test_who_reads_the_views_knows_the_next_purchase(tmp_path):
  flags = recipe(tmp_path / "views", _SASREC)
  with_views = evaluated(tmp_path / "views", flags)
  flags = recipe(tmp_path / "bare", _SASREC, **{"kinds_log.views": False})
  without = evaluated(tmp_path / "bare", flags)
  # The last item is a candidate: it was viewed, not bought.
  assert with_views["last_item"] == 1
  assert with_views["sasrec"] > 0.95
  assert without["sasrec"] < 0.5
  assert without["last_item"] < 0.5
  # Purchases are counted, which are the same.
  assert with_views["popularity"] == pytest.approx(
    without["popularity"], abs=0.05
  )


@pytest.fixture(scope="module")
def language_model(tmp_path_factory):
  folder = tmp_path_factory.mktemp("kinds") / "text"
  flags = recipe(folder, _LANGUAGE_MODEL)
  return folder, flags, evaluated(folder, flags)


def test_a_language_model_reads_views_and_is_asked_for_purchases(
  language_model, capsys
):
  _, flags, metrics = language_model
  assert set(metrics) == {"dense", "fused", "sequential_rules", "popularity"}
  assert metrics["fused"] > 0.9  # One member repeats the last item.
  assert metrics["sequential_rules"] > 2 * metrics["popularity"]
  assert main(["data", "show", "--quiet", *flags]) == 0
  shown = capsys.readouterr().out
  assert "The first item viewed is as follows. Title: thing" in shown
  assert "The next item added to the cart is as follows. Title: thing" in shown
  prompt = shown.split("-" * 72)[1].rstrip()
  assert prompt.endswith("The next item bought is as follows.")
  assert main(["data", "card", "--quiet", *flags]) == 0
  card = capsys.readouterr().out
  assert "leakage: 7 checks passed" in card
  assert "100.00%  of test targets are the item of the event before" in card


def test_answers_come_from_views_or_from_a_list_of_purchases(
  language_model, tmp_path
):
  folder, flags, _ = language_model
  histories = tmp_path / "new.jsonl"
  histories.write_text('{"user_id": "anna", "items": ["i1", "i2"]}\n')
  lists = {}
  for name, extra in (
    ("log", []),
    ("new", [f"--histories={histories}"]),
  ):
    output = tmp_path / f"{name}.jsonl"
    arguments = ["--recommender=fused", "--top_k=24", f"--output={output}"]
    assert main(["infer", *flags, *arguments, *extra]) == 0
    lists[name] = [json.loads(line) for line in output.read_text().splitlines()]
  # What was bought last is no candidate, without a kind it counts as bought.
  [new] = lists["new"]
  found = {item["item_id"] for item in new["items"]}
  assert "i2" not in found
  assert "i1" in found
  [cache] = (folder / "data" / "caches").glob("toys-*")
  opened = TokenCache.open(cache)
  users = {row["user_id"] for row in lists["log"]}
  assert len(users) == opened.num_documents("test") == 60
