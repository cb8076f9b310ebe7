"""The day after: a model of yesterday on the log of today, in one stage.

New users buy in the rings of `planted_log`, some of them a new item.
"""

import csv
import json

import pytest

from calrec_jax.__main__ import main
from tests.fixtures import planted_log

GROUPS, USERS = 2, 24
_RECIPE = """
include "models/debug.gin"
include "mesh/cpu.gin"
include "data/log.gin"
include "runs/train.gin"
include "runs/eval.gin"

VOCABULARY_SIZE = 320
BATCH_SIZE = 8
TASK_FEATURE_LENGTHS = {"tokens": 128, "slots": 12}
Domain.min_count = 3
Domain.fields = (("Title", "title"),)
INTERACTIONS = "yesterday.csv"
MIXTURE_OR_TASK_NAME = "shop"
MODEL_DIR = "runs/yesterday"
TRAIN_STEPS = 6
Validation.period = 1000
CheckpointPolicy.period = 1000
Evaluation.recommenders = ("dense", "popularity")
"""
DAY = 86_400


def write(path, rows):
  with path.open("w", newline="") as stream:
    lines = csv.writer(stream)
    lines.writerow(["user_id", "item_id", "timestamp", "title"])
    for user, item, time in rows:
      title = item.replace("-", " ")
      lines.writerow([user, item, time, "Żółć" if item == "new" else title])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp("shop")
  yesterday = planted_log.purchases(USERS, GROUPS, seed=0)
  end = max(time for *_, time in yesterday)
  ring = [f"tea-{n}" for n in range(planted_log.RING)]
  today = [
    *(
      (f"u{n}", item, end + DAY + k)
      for n in range(6)
      for k, item in enumerate(["new", *ring[:4]])
    ),
    *(("fresh", item, end + DAY + k) for k, item in enumerate(ring[:5])),
    ("once", "tea-1", end + DAY),
    ("cold", "only-once", end + DAY),
  ]
  write(folder / "yesterday.csv", yesterday)
  write(folder / "today.csv", [*yesterday, *today])
  (folder / "mine.gin").write_text(_RECIPE)
  return folder


@pytest.fixture(scope="module", autouse=True)
def _inside(folder):
  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(folder)
    patch.setenv("CALREC_DATA_DIR", str(folder / "data"))
    yield


@pytest.fixture(scope="module")
def yesterday(_inside):
  assert main(["train", "--gin_file=mine.gin"]) == 0


TODAY = "--gin.INTERACTIONS='today.csv'"
CONTINUE = [
  "--gin_file=mine.gin",
  "--gin_file=stages/continue.gin",
  "--gin.INITIAL_CHECKPOINT_PATH='runs/yesterday'",
  "--gin.MODEL_DIR='runs/today'",
  TODAY,
]


@pytest.fixture(scope="module")
def today(yesterday):
  assert main(["train", *CONTINUE]) == 0


def record(run):
  with open(f"runs/{run}/train/lineage.json") as file:
    return json.load(file)


def test_the_same_run_does_not_take_another_log(yesterday, capsys):
  assert main(["train", "--gin_file=mine.gin", TODAY]) == 1
  said = capsys.readouterr().err
  assert "To go on from this model" in said
  assert "INITIAL_CHECKPOINT_PATH" in said
  assert "stages/continue.gin" in said


def test_training_goes_on_with_the_vocabulary_of_yesterday(today, folder):
  parent = record("today")["parent"]
  assert (parent["stage"], parent["checkpoint"]) == ("train", "checkpoint_6")
  files = [
    (folder / f"runs/{run}/train/vocabulary/sentencepiece.model").read_bytes()
    for run in ("yesterday", "today")
  ]
  assert files[0] == files[1]


def test_only_what_is_new_is_a_target(today):
  feed = record("today")["training"]["feed"]
  [(name, trained)] = feed["Feed.since"]["trained"].items()
  assert name == "shop"
  assert trained["held_out"] == 2
  assert "Feed.since" not in record("yesterday")["training"]["feed"]


def test_the_same_command_resumes(today, capsys):
  assert main(["train", *CONTINUE]) == 0
  assert "finished before" in capsys.readouterr().out


@pytest.mark.parametrize(
  "recommender", ["dense", "fused", "generate", "constrained", "popularity"]
)
def test_new_items_and_users_are_served(
  yesterday, folder, tmp_path, monkeypatch, recommender
):
  monkeypatch.chdir(tmp_path)  # From another folder, without a gin file.
  output = tmp_path / "all.jsonl"
  log = folder / "today.csv"
  flags = [
    f"--run={folder}/runs/yesterday",
    f"--gin.INTERACTIONS='{log}'",
    f"--recommender={recommender}",
    "--top_k=17",
    f"--output={output}",
    "--gin.Sampler.samples=2",
    "--gin.Fusion.members=('dense', 'last_item')",
  ]
  assert main(["infer", *flags]) == 0
  answers = map(json.loads, output.read_text().splitlines())
  lines = {line["user_id"]: line for line in answers}
  assert len(lines) == USERS + 3
  listed = [item["item_id"] for item in lines["u0"]["items"]]
  assert "new" in listed or recommender == "generate"
  assert lines["fresh"]["reason"] is None
  assert lines["fresh"]["recommender"] == recommender
  assert lines["once"]["reason"].startswith("below the core: 1 events")
  assert lines["cold"]["reason"].startswith("no known item")
  assert lines["cold"]["recommender"] == "popularity"
  assert all(line["items"] for line in lines.values())


def test_a_run_says_what_it_uses_and_finds_its_log(
  yesterday, folder, tmp_path, monkeypatch, capsys
):
  monkeypatch.chdir(tmp_path)
  flags = ["--user=u0", "--recommender=last_item", "--top_k=1"]
  assert main(["infer", f"--run={folder}/runs/yesterday/train", *flags]) == 0
  captured = capsys.readouterr()
  assert f"relative to {folder}" in captured.err
  assert captured.out.startswith("user u0, by last_item\n   1  ")


def test_both_models_are_compared_on_the_events_of_today(today, capsys):
  for run, flags in (("yesterday", [TODAY]), ("today", [])):
    output = f"--gin.EVAL_OUTPUT_DIR='compared/{run}'"
    assert main(["eval", f"--run=runs/{run}", output, *flags]) == 0
  sides = [f"compared/{run}/shop" for run in ("today", "yesterday")]
  capsys.readouterr()
  assert main(["eval", "--compare", *sides, "--output=compared"]) == 0
  assert "25 users" in capsys.readouterr().out
  with open("compared/compare.json") as file:
    pairs = {pair["a"]: pair for pair in json.load(file)["pairs"]}
  assert set(pairs) == {"dense", "popularity"}
  same = pairs["popularity"]["metrics"]["ndcg@10"]
  assert same["a"] == same["b"] > 0


def test_a_model_of_today_may_know_the_targets_of_yesterday(today, capsys):
  flags = ["--gin.INTERACTIONS='yesterday.csv'", "--gin.EVAL_OUTPUT_DIR='x'"]
  assert main(["eval", "--run=runs/today", *flags]) == 0
  assert "its targets may have been trained on" in capsys.readouterr().err


def test_an_evaluation_of_yesterday_is_untouched_by_the_flag(yesterday, capsys):
  assert main(["eval", "--run=runs/yesterday"]) == 0
  with open("runs/yesterday/train/eval/shop/metrics.json") as file:
    metrics = json.load(file)
  assert metrics["checkpoint"]["checkpoint"] == "checkpoint_6"
