"""recipes/own_log.gin as a user has it: two models, fused, within a budget."""

import csv
import json
import pathlib
import shutil

import pytest

from calrec_jax.__main__ import main
from calrec_jax.checkpoint import store
from calrec_jax.train import telemetry
from tests.fixtures import planted_log

GROUPS, USERS = 3, 30
# The recipe with smaller models and rows, and seconds instead of minutes.
_RECIPE = """
include "recipes/own_log.gin"
include "models/debug.gin"

VOCABULARY_SIZE = 320
BATCH_SIZE = 8
TASK_FEATURE_LENGTHS = {"tokens": 128, "slots": 12}
SASRecConfig.width = 16
sasrec/TASK_FEATURE_LENGTHS = {"tokens": 32, "slots": 32}
sasrec/LEARNING_RATE = 3e-2
Domain.min_count = 3
INTERACTIONS = "today.csv"
MIXTURE_OR_TASK_NAME = "shop"
MODEL_DIR = "model"
TRAIN_BUDGET = "8 s"
Validation.patience = None
"""


def write(path, rows):
  with path.open("w", newline="") as stream:
    lines = csv.writer(stream)
    lines.writerow(["user_id", "item_id", "timestamp", "title"])
    lines.writerows(
      [user, item, time, item.replace("-", " ")] for user, item, time in rows
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp("own")
  rows = planted_log.purchases(USERS, GROUPS, seed=0)
  write(folder / "today.csv", rows)
  end = max(time for *_, time in rows)
  ring = [f"tea-{n}" for n in range(planted_log.RING)]
  later = [
    (f"new-{n}", item, end + 86_400 * (k + 1))
    for n in range(4)
    for k, item in enumerate([*ring[:3], "tea-extra"])
  ]
  write(folder / "tomorrow.csv", [*rows, *later])
  (folder / "mine.gin").write_text(_RECIPE)
  return folder


@pytest.fixture(autouse=True)
def _inside(folder, monkeypatch):
  monkeypatch.chdir(folder)


@pytest.fixture(scope="module")
def trained(folder):
  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(folder)
    assert main(["train", "--gin_file=mine.gin"]) == 0
  return folder / "model"


def ends(folder):
  return {
    stage: json.loads((folder / stage / "handover.json").read_text())
    for stage in ("sasrec", "train")
  }


def test_both_models_are_trained_and_end_with_a_validation(trained):
  for stage, end in ends(trained).items():
    rows = telemetry.read_rows(trained / stage / "metrics.jsonl")
    assert rows[-1]["split"] == "validation"
    assert rows[-1]["step"] == end["steps"]
  assert ends(trained)["sasrec"]["member"] is True
  assert "member" not in ends(trained)["train"]


def test_the_fusion_of_both_is_evaluated(trained):
  assert main(["eval", "--gin_file=mine.gin"]) == 0
  path = trained / "train" / "eval" / "shop" / "metrics.json"
  found = json.loads(path.read_text())["recommenders"]
  assert list(found)[:3] == ["fused", "dense", "sasrec"]
  value = {
    name: entry["metrics"]["ndcg@10"]["value"] for name, entry in found.items()
  }
  assert value["fused"] > value["popularity"]


def test_a_log_that_has_grown_is_served_by_the_run_alone(trained, capsys):
  flags = ["--run=model", "--gin.INTERACTIONS='tomorrow.csv'", "--top_k=20"]
  assert main(["infer", *flags, "--user=new-0"]) == 0
  printed = capsys.readouterr()
  assert "by fused" in printed.out
  assert "tea-" in printed.out
  assert "1 of 25 items are new to SASRec" in printed.err


def test_a_larger_budget_goes_on_and_the_same_changes_nothing(trained, capsys):
  before = ends(trained)
  assert main(["train", "--gin_file=mine.gin"]) == 0
  assert ends(trained) == before
  capsys.readouterr()
  used = [
    store.read_json(trained / stage / f"checkpoint_{end['steps']}", "budget")[
      "seconds"
    ]
    for stage, end in before.items()
  ]
  # Of this each stage has a share of 0.4 or more.
  more = f"--gin.TRAIN_BUDGET='{(max(used) + 6) / 0.4:.0f} s'"
  assert main(["train", "--gin_file=mine.gin", more]) == 0
  assert "goes on, as TRAIN_BUDGET is larger" in capsys.readouterr().out
  assert any(
    ends(trained)[stage]["steps"] > before[stage]["steps"] for stage in before
  )


def test_a_run_that_was_moved_has_its_own_members(trained, capsys):
  shutil.copytree(trained, "moved")
  shutil.rmtree("moved/sasrec")  # It must not be that of the run's old place.
  assert main(["infer", "--run=moved", "--user=u0"]) == 1
  printed = capsys.readouterr().err
  assert "moved/train/checkpoint_" in printed
  assert "calrec train --stage=sasrec" in printed


def test_a_budget_may_be_set_for_a_run_that_began_without(trained, capsys):
  flags = ["--gin_file=mine.gin", "--gin.MODEL_DIR='steps'", "--stage=sasrec"]
  no_clock = ["--gin.TRAIN_BUDGET=None", "--gin.Validation.period=5"]
  no_clock += ["--gin.sasrec/TRAIN_STEPS=20", "--gin.CheckpointPolicy.period=5"]
  assert main(["train", *flags, *no_clock]) == 0
  pathlib.Path("steps/sasrec/handover.json").unlink()
  later = [*no_clock, "--gin.TRAIN_BUDGET='5 s'"]
  assert main(["train", *flags, *later]) == 0
  assert "resumes from step 20" in capsys.readouterr().out


def test_the_day_after_goes_on_with_the_same_vocabulary(trained, capsys):
  flags = ["--gin_file=mine.gin", "--gin_file=stages/continue.gin"]
  flags += ["--gin.INITIAL_CHECKPOINT_PATH='model'", "--gin.MODEL_DIR='later'"]
  assert main(["train", *flags, "--gin.INTERACTIONS='tomorrow.csv'"]) == 0
  assert main(["eval", "--run=later", "--gin.Evaluation.users=20"]) == 0
  assert "fused" in capsys.readouterr().out
