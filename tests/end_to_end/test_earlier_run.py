"""Runs, caches and results of an earlier release are still good.

`tests/fixtures/earlier_run.tar.gz` was made by the release before the library
was parted into rooms: a trained and evaluated chain of two stages in `model/`,
and the same chain in `half/`, preempted at step 10 of its second stage.
"""

import json
import pathlib
import tarfile

import pytest

from calrec_jax.__main__ import main

ARCHIVE = pathlib.Path(__file__).parents[1] / "fixtures/earlier_run.tar.gz"
STEPS = 60
# Another processor and other XLA flags round differently over 60 steps.
LOSS_TOLERANCE = 1e-3
FLAGS = ["--gin_file=shop.gin", "--gin.USE_CACHED_TASKS=True"]
HALF = [*FLAGS, '--gin.MODEL_DIR="half"']


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  path = tmp_path_factory.mktemp("earlier")
  with tarfile.open(ARCHIVE) as archive:
    archive.extractall(path, filter="data")
  return path / "earlier_run"


@pytest.fixture(autouse=True)
def _inside(folder, monkeypatch):
  monkeypatch.chdir(folder)


def last_row(stage):
  return json.loads(
    pathlib.Path(stage, "metrics.jsonl").read_text().splitlines()[-1]
  )


def metrics(path):
  found = json.loads(pathlib.Path(path, "metrics.json").read_text())
  return {
    name: found["recommenders"][name]["metrics"]["ndcg@10"]["value"]
    for name in ("dense", "popularity")
  }


def test_a_finished_run_is_known_as_finished(capsys):
  before = pathlib.Path("model/target/handover.json").read_bytes()
  assert main(["train", *FLAGS]) == 0
  assert pathlib.Path("model/target/handover.json").read_bytes() == before
  assert not list(pathlib.Path("model/target").glob("checkpoint_0"))


def test_a_preempted_run_resumes_to_the_same_losses():
  assert main(["train", *HALF]) == 0
  assert pathlib.Path("half/target", f"checkpoint_{STEPS}").is_dir()
  resumed, whole = last_row("half/target"), last_row("model/target")
  assert resumed["step"] == whole["step"] == STEPS
  assert resumed["loss"] == pytest.approx(whole["loss"], rel=LOSS_TOLERANCE)


def test_it_is_evaluated_to_the_same_figures_and_compared(capsys):
  flags = ["--gin.EVAL_OUTPUT_DIR='again'"]
  assert main(["eval", *FLAGS, *flags]) == 0
  old, new = "model/target/eval/shop", "again/shop"
  assert metrics(new) == pytest.approx(metrics(old), abs=1e-3)
  capsys.readouterr()
  assert main(["eval", "--compare", f"{old}:dense", f"{new}:dense"]) == 0
  assert "ndcg@10" in capsys.readouterr().out.lower()


def test_its_written_configuration_is_read(capsys):
  flags = ["--gin_file=model/target/config.gin", "--dry_run"]
  assert main(["train", *flags]) == 0
  assert "TRAIN_STEPS = 60" in capsys.readouterr().out
