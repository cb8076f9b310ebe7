"""A run resumes in microbatches, and its curve continues as it would have."""

import shutil

import numpy as np
import pytest

from calrec_jax.__main__ import main
from calrec_jax.train import telemetry
from tests.fixtures import planted_log

# Sums in another order, in float32, over four updates.
SAME = 1e-5
LAST, CUT = 6, 2
COMPARED = (
  "loss", "loss_nig_nats", "loss_tt_nats", "loss_ut_nats", "gradient_norm",
  "token_accuracy", "tokens", "examples",
)  # fmt: skip
HITS = ("batch_accuracy_tt", "batch_accuracy_ut")


@pytest.fixture(scope="module")
def train(tmp_path_factory):
  """Trains the first stage into a folder; what `main` returns."""
  folder = tmp_path_factory.mktemp("runs")
  recipe = planted_log.write_folders(folder)

  def run(model_dir, *changes):
    settings = (
      f"MODEL_DIR='{model_dir}'",
      f"joint/TRAIN_STEPS={LAST}",
      "BATCH_SIZE=32",  # Four rows for each of the eight devices.
      "Stage.log_period=1",
      "Validation.metrics=()",
      "CheckpointPolicy.best_metric='loss'",
      "CheckpointPolicy.best_is_highest=False",
      f"CheckpointPolicy.period={CUT}",
      "CheckpointPolicy.keep=3",
      *changes,
    )
    flags = [f"--gin.{setting}" for setting in settings]
    return main(["train", f"--gin_file={recipe}", "--stage=joint", *flags])

  return run


def rows_of(model_dir):
  rows = telemetry.read_rows(model_dir / "joint" / telemetry.METRICS_FILE)
  return [row for row in rows if row["split"] == "train"]


@pytest.mark.slow
def test_a_run_resumes_in_microbatches(train, tmp_path, capsys):
  whole, cut = tmp_path / "whole", tmp_path / "cut"
  assert train(whole) == 0
  shutil.copytree(whole, cut)
  (cut / "joint" / "handover.json").unlink()
  for step in range(2 * CUT, LAST + 1, CUT):
    shutil.rmtree(cut / "joint" / f"checkpoint_{step}")
  assert train(cut, "MICROBATCHES=4") == 0
  assert f"joint: resumes from step {CUT}" in capsys.readouterr().out
  found, wanted = rows_of(cut), rows_of(whole)
  assert len(found) == len(wanted) == LAST
  assert wanted[-1]["loss"] != wanted[0]["loss"]
  for row, other in zip(found, wanted, strict=True):
    for name in COMPARED:
      np.testing.assert_allclose(row[name], other[name], rtol=SAME)
  # From the second update on another of the vectors, which hardly differ yet,
  # may be the nearest.
  for name in HITS:
    for row, other in zip(found[: CUT + 1], wanted, strict=False):
      np.testing.assert_allclose(row[name], other[name], rtol=SAME)


def test_batches_that_cannot_be_split_are_refused(train, tmp_path, capsys):
  assert train(tmp_path, "MICROBATCHES=3") == 1
  said = capsys.readouterr().err
  assert "BATCH_SIZE (Feed.rows) = 32" in said
  assert "MICROBATCHES (Stage.microbatches) = 3" in said
  assert "multiple of 24" in said
