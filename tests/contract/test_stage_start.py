"""What a stage begins with may be the best of it, and is handed over then."""

import json
import shutil

import pytest
from test_kill_resume import assert_same_checkpoint, rows_of

from calrec_jax.__main__ import main
from calrec_jax.checkpoint import stage_folder, store
from calrec_jax.train import telemetry
from tests.fixtures import planted_log

pytestmark = pytest.mark.slow

_SETTINGS = (
  "joint/TRAIN_STEPS=2",
  "target/TRAIN_STEPS=3",
  # Ruins what the first stage has learned.
  "target/LEARNING_RATE=10.0",
  "target/warmup_cosine.warmup_steps=0",
  "Stage.log_period=1",
  "CheckpointPolicy.period=1",
  "CheckpointPolicy.best_metric='loss'",
  "CheckpointPolicy.best_is_highest=False",
  "Validation.metrics=()",
)


@pytest.fixture(scope="module", name="train")
def fixture_train(tmp_path_factory):
  recipe = planted_log.write_folders(tmp_path_factory.mktemp("data"))

  def train(model_dir, *flags):
    changes = (*_SETTINGS, f"MODEL_DIR='{model_dir}'")
    settings = [f"--gin.{change}" for change in changes]
    return main(["train", f"--gin_file={recipe}", *settings, *flags])

  return train


def handed_over(folder):
  return json.loads((folder / stage_folder.HANDOVER).read_text())["checkpoint"]


@pytest.fixture(scope="module", name="run")
def fixture_run(tmp_path_factory, train):
  folder = tmp_path_factory.mktemp("run")
  assert train(folder) == 0
  return folder


def test_a_stage_that_becomes_worse_hands_its_start_over(run):
  joint, target = run / "joint", run / "target"
  assert handed_over(target) == "checkpoint_0"
  losses = {
    row["step"]: row["loss"]
    for row in telemetry.read_rows(target / telemetry.METRICS_FILE)
    if row["split"] == "validation"
  }
  assert losses[0] < min(loss for step, loss in losses.items() if step)
  before, after = (
    store.read_arrays(folder / handed_over(folder))
    for folder in (joint, target)
  )
  for path in before:
    if path.startswith("target/"):
      assert before[path].tobytes() == after[path].tobytes(), path


def test_without_its_start_the_best_of_what_it_ruined_is_handed_over(
  tmp_path, train
):
  assert train(tmp_path, "--gin.target/Validation.at_start=False") == 0
  assert handed_over(tmp_path / "target") != "checkpoint_0"


def test_a_run_that_resumes_from_its_start_ends_with_the_same_bits(
  tmp_path, run, train, capsys
):
  """As one that was killed before its first step's checkpoint."""
  again = tmp_path / "again"
  shutil.copytree(run, again)
  (again / "target" / stage_folder.HANDOVER).unlink()
  for step in store.steps(run / "target"):
    if step:
      shutil.rmtree(again / "target" / f"checkpoint_{step}")
  capsys.readouterr()
  assert train(again) == 0
  assert "target: resumes from step 0" in capsys.readouterr().out
  assert rows_of(again / "target") == rows_of(run / "target")
  assert store.steps(again / "target") == store.steps(run / "target")
  for step in store.steps(run / "target"):
    name = f"checkpoint_{step}"
    assert_same_checkpoint(again / "target" / name, run / "target" / name)
